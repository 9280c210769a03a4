# The same resources as packaging/cloudformation/template.yaml; tests/packaging/templates.sh compares
# them. ../../target-group.md explains the attributes of the target group.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  kms_service_principal = coalesce(
    var.kms_service_principal,
    "cks.kms.${data.aws_region.current.region}.${data.aws_partition.current.dns_suffix}",
  )
  key_store_is_elsewhere = (
    var.key_store_account != null && var.key_store_account != data.aws_caller_identity.current.account_id
  )
  tags = merge({ Name = var.name }, var.tags)
}

# No ingress rules: connections through the endpoint service are not subject to them (see the load
# balancer), and no others are allowed.
resource "aws_security_group" "load_balancer" {
  name_prefix = "${var.name}-load-balancer-"
  description = "Network Load Balancer of the external key store"
  vpc_id      = var.vpc_id
  tags        = local.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "load_balancer_requests" {
  security_group_id = aws_security_group.load_balancer.id
  description       = "Requests of KMS"
  ip_protocol       = "tcp"
  from_port         = var.proxy_port
  to_port           = var.proxy_port
  cidr_ipv4         = var.proxy_network
}

resource "aws_vpc_security_group_egress_rule" "load_balancer_health_checks" {
  security_group_id = aws_security_group.load_balancer.id
  description       = "Health checks"
  ip_protocol       = "tcp"
  from_port         = var.ping_port
  to_port           = var.ping_port
  cidr_ipv4         = var.proxy_network
}

resource "aws_security_group" "proxies" {
  name_prefix = "${var.name}-proxies-"
  description = "Access of the load balancer to the proxies of the external key store"
  vpc_id      = var.vpc_id
  tags        = local.tags

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "proxies_requests" {
  security_group_id            = aws_security_group.proxies.id
  description                  = "Requests of KMS"
  ip_protocol                  = "tcp"
  from_port                    = var.proxy_port
  to_port                      = var.proxy_port
  referenced_security_group_id = aws_security_group.load_balancer.id
}

resource "aws_vpc_security_group_ingress_rule" "proxies_health_checks" {
  security_group_id            = aws_security_group.proxies.id
  description                  = "Health checks"
  ip_protocol                  = "tcp"
  from_port                    = var.ping_port
  to_port                      = var.ping_port
  referenced_security_group_id = aws_security_group.load_balancer.id
}

# To the HSM, among others. EC2 gives every new group this rule; the provider takes it away.
resource "aws_vpc_security_group_egress_rule" "proxies_all" {
  security_group_id = aws_security_group.proxies.id
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_lb" "this" {
  name               = var.name
  load_balancer_type = "network"
  internal           = true
  ip_address_type    = "ipv4"
  subnets            = var.subnet_ids
  security_groups    = [aws_security_group.load_balancer.id]
  # The endpoint service's list of principals restricts who may connect: KMS, and the key store's
  # account if that is another one.
  enforce_security_group_inbound_rules_on_private_link_traffic = "off"
  # A zone without a ready proxy uses those of other zones.
  enable_cross_zone_load_balancing = true
  enable_deletion_protection       = true
  tags                             = local.tags

  # AWS would refuse, but only after Terraform has deleted listener and endpoint service.
  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_lb_target_group" "this" {
  name_prefix = "xks-"
  vpc_id      = var.vpc_id
  # Addresses of instances, of pods, or of machines in a data centre.
  target_type          = "ip"
  protocol             = "TCP"
  port                 = var.proxy_port
  deregistration_delay = tostring(var.deregistration_delay_seconds)
  # The proxy itself ends its connections, in good order, before it stops.
  connection_termination = false
  preserve_client_ip     = "false"
  proxy_protocol_v2      = var.proxy_protocol
  tags                   = local.tags

  health_check {
    protocol = "HTTP"
    port     = tostring(var.ping_port)
    # 200 while an HSM is usable and the proxy is not draining.
    path                = "/readyz"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }

  # A proxy that shuts down fails the health checks while it serves: its connections must not be reset
  # for that. The interval exceeds drain_delay_milli plus drain_timeout_milli (75 s in the packages'
  # settings).
  target_health_state {
    enable_unhealthy_connection_termination = false
    unhealthy_draining_interval             = 80
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_lb_listener" "this" {
  load_balancer_arn = aws_lb.this.arn
  # Not TLS: the proxy terminates it, with the certificate that KMS verifies.
  protocol = "TCP"
  port     = 443
  tags     = local.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this.arn
  }
}

resource "aws_vpc_endpoint_service" "this" {
  # KMS cannot wait until somebody accepts its connection.
  acceptance_required        = false
  network_load_balancer_arns = [aws_lb.this.arn]
  supported_ip_address_types = ["ipv4"]
  private_dns_name           = var.private_dns_name
  tags                       = local.tags

  # The key store knows it by its name, which another one would not have.
  lifecycle {
    prevent_destroy = true
  }

  depends_on = [aws_lb_listener.this]
}

# The argument is named for ARNs; EC2 takes the name of a service too.
resource "aws_vpc_endpoint_service_allowed_principal" "kms" {
  vpc_endpoint_service_id = aws_vpc_endpoint_service.this.id
  principal_arn           = local.kms_service_principal
}

# Without it, the creator of the key store would not see the endpoint service.
resource "aws_vpc_endpoint_service_allowed_principal" "key_store" {
  count = local.key_store_is_elsewhere ? 1 : 0

  vpc_endpoint_service_id = aws_vpc_endpoint_service.this.id
  principal_arn           = "arn:${data.aws_partition.current.partition}:iam::${var.key_store_account}:root"
}

resource "aws_route53_record" "verification" {
  count = var.public_zone_id == null ? 0 : 1

  zone_id = var.public_zone_id
  name    = local.private_dns_record.name
  type    = "TXT"
  ttl     = 300
  records = [local.private_dns_record.value]
}

resource "aws_vpc_endpoint_service_private_dns_verification" "this" {
  count = var.public_zone_id == null ? 0 : 1

  service_id            = aws_vpc_endpoint_service.this.id
  wait_for_verification = true

  depends_on = [aws_route53_record.verification]
}

locals {
  private_dns_record = var.private_dns_name == null ? null : {
    name  = aws_vpc_endpoint_service.this.private_dns_name_configuration[0].name
    type  = aws_vpc_endpoint_service.this.private_dns_name_configuration[0].type
    value = aws_vpc_endpoint_service.this.private_dns_name_configuration[0].value
  }
}
