variable "name" {
  description = "Name of the load balancer, and beginning of the names of the other resources."
  type        = string
  default     = "xks"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9]([A-Za-z0-9-]{0,22}[A-Za-z0-9])?$", var.name)) && !startswith(var.name, "internal-") && !startswith("${var.name}-", "sg-")
    error_message = "name must have 1 to 24 letters, digits and hyphens, neither begin nor end with a hyphen, and not begin with internal- (a load balancer's) or sg- (a security group's)."
  }
}

variable "vpc_id" {
  description = "VPC in the Region of the external key store."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "vpc_id must be an id such as vpc-0123456789abcdef0."
  }
}

variable "subnet_ids" {
  description = "Private subnets in at least two Availability Zones."
  type        = set(string)
  nullable    = false

  validation {
    condition     = length(var.subnet_ids) >= 2 && alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "subnet_ids must have two or more ids such as subnet-0123456789abcdef0."
  }
}

variable "private_dns_name" {
  description = "Name that KMS calls and that the proxies' certificate is for. If null, set it with modify-vpc-endpoint-service-configuration."
  type        = string
  default     = null

  validation {
    condition     = var.private_dns_name == null || can(regex("^[A-Za-z0-9-]+(\\.[A-Za-z0-9-]+)+$", var.private_dns_name))
    error_message = "private_dns_name must be a name such as xks-private.example.com."
  }
}

variable "public_zone_id" {
  description = "Public hosted zone in Route 53 with private_dns_name's domain. With it, the TXT record that proves that you own the domain is published, and the verification is started and waited for. If null, publish the record of the output private_dns_record yourself."
  type        = string
  default     = null

  validation {
    condition     = var.public_zone_id == null || var.private_dns_name != null
    error_message = "public_zone_id needs private_dns_name."
  }
}

variable "kms_service_principal" {
  description = "Principal that KMS connects as. If null, cks.kms.REGION followed by the partition's DNS suffix; docs/operations.md#partitions-of-aws has where that is unconfirmed."
  type        = string
  default     = null

  validation {
    condition     = var.kms_service_principal == null || can(regex("^cks\\.kms\\.[a-z0-9.-]+$", var.kms_service_principal))
    error_message = "kms_service_principal must begin with cks.kms."
  }
}

variable "key_store_account" {
  description = "Account of the external key store, if it is another one than the provider's. It becomes an allowed principal of the endpoint service, beside KMS."
  type        = string
  default     = null

  validation {
    condition     = var.key_store_account == null || can(regex("^[0-9]{12}$", var.key_store_account))
    error_message = "key_store_account must be an account id of 12 digits."
  }
}

variable "proxy_port" {
  description = "[server] port of the proxies."
  type        = number
  default     = 443
  nullable    = false

  validation {
    condition     = var.proxy_port >= 1 && var.proxy_port <= 65535 && floor(var.proxy_port) == var.proxy_port
    error_message = "proxy_port must be 1 to 65535."
  }
}

variable "ping_port" {
  description = "[server] port_http_ping of the proxies."
  type        = number
  default     = 80
  nullable    = false

  validation {
    condition     = var.ping_port >= 1 && var.ping_port <= 65535 && floor(var.ping_port) == var.ping_port
    error_message = "ping_port must be 1 to 65535."
  }

  validation {
    condition     = var.ping_port != var.proxy_port
    error_message = "ping_port must differ from proxy_port, because health checks are plain HTTP."
  }
}

variable "proxy_network" {
  description = "Network of the proxies (the VPC's, or your data centre's). The load balancer can connect to no other."
  type        = string
  nullable    = false

  validation {
    condition     = can(cidrnetmask(var.proxy_network)) && try(cidrhost(var.proxy_network, 0) == split("/", var.proxy_network)[0], false) && !endswith(var.proxy_network, "/0")
    error_message = "proxy_network must be an IPv4 network by its first address, such as 10.0.0.0/16, and not all addresses."
  }
}

variable "deregistration_delay_seconds" {
  description = "Time for which a deregistered proxy is draining. Users report that it gets new connections for 120 s, whatever is set here."
  type        = number
  default     = 120
  nullable    = false

  validation {
    condition     = var.deregistration_delay_seconds >= 0 && var.deregistration_delay_seconds <= 3600 && floor(var.deregistration_delay_seconds) == var.deregistration_delay_seconds
    error_message = "deregistration_delay_seconds must be 0 to 3600."
  }
}

variable "proxy_protocol" {
  description = "Send the endpoint's address (PROXY protocol, version 2). First set [server] proxy_protocol_from, and proxy_protocol to accept, on the proxies; afterwards set it to require."
  type        = bool
  default     = false
  nullable    = false
}

variable "tags" {
  description = "Tags of all resources."
  type        = map(string)
  default     = {}
  nullable    = false
}
