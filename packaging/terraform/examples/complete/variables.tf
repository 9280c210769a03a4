variable "region" {
  description = "Region of the external key store."
  type        = string
}

variable "name" {
  description = "Name of the load balancer and of the key store."
  type        = string
  default     = "xks"
}

variable "vpc_id" {
  description = "VPC of the load balancer."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets in at least two Availability Zones."
  type        = set(string)
}

variable "proxy_network" {
  description = "Network of the proxies."
  type        = string
}

variable "private_dns_name" {
  description = "Name that KMS calls."
  type        = string
}

variable "public_zone_id" {
  description = "Public hosted zone with private_dns_name's domain."
  type        = string
  default     = null
}

variable "uri_path" {
  description = "XksProxyUriPath of the file that xks-proxy kms-config writes."
  type        = string
}

variable "custom_key_store_id" {
  description = "The key store, once it is created and connected."
  type        = string
  default     = null

  validation {
    condition     = var.custom_key_store_id == null || can(regex("^cks-[0-9a-z]{1,60}$", var.custom_key_store_id))
    error_message = "custom_key_store_id must be an id such as cks-0123456789abcdef0."
  }
}

variable "keys" {
  description = "KMS keys: see the module key-store."
  type = map(object({
    xks_key_id              = string
    description             = optional(string, "")
    policy                  = optional(string)
    deletion_window_in_days = optional(number, 30)
  }))
  default = {}
}

variable "topic_arn" {
  description = "SNS topic that the alarms notify."
  type        = string
}

variable "tags" {
  description = "Tags of all resources."
  type        = map(string)
  default     = {}
}
