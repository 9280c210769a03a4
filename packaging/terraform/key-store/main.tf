# What CloudFormation has no resource for: the external key store; and its keys.

resource "aws_kms_custom_key_store" "this" {
  custom_key_store_name               = var.name
  custom_key_store_type               = "EXTERNAL_KEY_STORE"
  xks_proxy_connectivity              = var.vpc_endpoint_service_name == null ? "PUBLIC_ENDPOINT" : "VPC_ENDPOINT_SERVICE"
  xks_proxy_uri_endpoint              = var.uri_endpoint
  xks_proxy_uri_path                  = var.uri_path
  xks_proxy_vpc_endpoint_service_name = var.vpc_endpoint_service_name

  # The argument is neither write-only nor sensitive. An imported key store needs no block.
  dynamic "xks_proxy_authentication_credential" {
    for_each = nonsensitive(var.proxy_credential == null) ? [] : [0]

    content {
      access_key_id         = var.proxy_credential.access_key_id
      raw_secret_access_key = var.proxy_credential.raw_secret_access_key
    }
  }

  lifecycle {
    # Without it the keys cannot be used, nor what they encrypted. The provider also calls a key
    # store deleted that KMS refuses to delete.
    prevent_destroy = true
    # Rotated with update-custom-key-store, so that no new secret gets into the state.
    ignore_changes = [xks_proxy_authentication_credential]
  }
}

resource "aws_kms_key" "this" {
  for_each = var.keys

  description             = each.value.description
  custom_key_store_id     = aws_kms_custom_key_store.this.id
  xks_key_id              = each.value.xks_key_id
  policy                  = each.value.policy
  deletion_window_in_days = each.value.deletion_window_in_days
  # KMS has no other kind in an external key store, and cannot rotate it.
  customer_master_key_spec = "SYMMETRIC_DEFAULT"
  key_usage                = "ENCRYPT_DECRYPT"
  enable_key_rotation      = false
  multi_region             = false
  tags                     = var.tags

  lifecycle {
    # A name that is missing in keys by mistake does not schedule the deletion of its key.
    prevent_destroy = true
  }
}
