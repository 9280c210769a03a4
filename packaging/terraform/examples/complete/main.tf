# Endpoint service and key store in one account. README.md has the steps: the first apply makes the
# endpoint service; the second, with custom_key_store_id, takes over the key store that you created
# and connected meanwhile, and makes keys and alarms.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0"
    }
  }

  # Even without the secret, the state says which keys exist: keep it in an encrypted backend.
}

provider "aws" {
  region = var.region
}

module "endpoint_service" {
  source = "../../endpoint-service"

  name             = var.name
  vpc_id           = var.vpc_id
  subnet_ids       = var.subnet_ids
  proxy_network    = var.proxy_network
  private_dns_name = var.private_dns_name
  public_zone_id   = var.public_zone_id
  tags             = var.tags
}

module "key_store" {
  source = "../../key-store"
  count  = var.custom_key_store_id == null ? 0 : 1

  name                      = var.name
  uri_endpoint              = "https://${var.private_dns_name}"
  uri_path                  = var.uri_path
  vpc_endpoint_service_name = module.endpoint_service.endpoint_service_name
  keys                      = var.keys
  topic_arn                 = var.topic_arn
  tags                      = var.tags
}

import {
  for_each = var.custom_key_store_id == null ? [] : [var.custom_key_store_id]
  to       = module.key_store[0].aws_kms_custom_key_store.this
  id       = each.value
}
