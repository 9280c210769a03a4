variable "name" {
  description = "Name of the external key store in KMS, and beginning of the alarms' names."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9._-]{1,200}$", var.name))
    error_message = "name must have 1 to 200 letters, digits, dots, hyphens and underscores."
  }
}

variable "uri_endpoint" {
  description = "https:// and the name that KMS calls: the private DNS name, or a public one."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^https://[a-zA-Z0-9.-]{2,120}$", var.uri_endpoint))
    error_message = "uri_endpoint must be such as https://xks-private.example.com, without a port or a path."
  }
}

variable "uri_path" {
  description = "XksProxyUriPath of the file that xks-proxy kms-config writes."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(/[a-zA-Z0-9/_-]+)?/kms/xks/v[0-9]{1,2}$", var.uri_path)) && length(var.uri_path) <= 128
    error_message = "uri_path must be such as /example/uri/path/prefix/kms/xks/v1."
  }
}

variable "vpc_endpoint_service_name" {
  description = "Name of the endpoint service (output endpoint_service_name). If null, connectivity is public."
  type        = string
  default     = null

  validation {
    condition     = var.vpc_endpoint_service_name == null || can(regex("^([a-z]+\\.)+amazonaws\\.vpce\\.[a-z0-9-]+\\.vpce-svc-[0-9a-z]+$", var.vpc_endpoint_service_name))
    error_message = "vpc_endpoint_service_name must be such as com.amazonaws.vpce.us-east-1.vpce-svc-0123456789abcdef0."
  }
}

variable "proxy_credential" {
  description = "Credential with which Terraform is to create the key store. It ends up in Terraform's state, so leave it null and import the key store instead: README.md has the commands."
  type = object({
    access_key_id         = string
    raw_secret_access_key = string
  })
  default   = null
  sensitive = true

  validation {
    condition     = var.proxy_credential == null || can(regex("^[A-Z2-7]{20,30}$", var.proxy_credential.access_key_id))
    error_message = "access_key_id must have 20 to 30 of the characters A-Z and 2-7."
  }

  validation {
    condition     = var.proxy_credential == null || can(regex("^[a-zA-Z0-9/+=]{43,64}$", var.proxy_credential.raw_secret_access_key))
    error_message = "raw_secret_access_key must have 43 to 64 letters, digits, and the characters / + =."
  }
}

variable "keys" {
  description = "KMS keys by a name of your choice. xks_key_id is the external key id: the label (CKA_LABEL) of the key in the HSM. policy is the key policy as JSON; if it is null, KMS's default lets the account's IAM policies decide. The key store must be connected."
  type = map(object({
    xks_key_id              = string
    description             = optional(string, "")
    policy                  = optional(string)
    deletion_window_in_days = optional(number, 30)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for key in var.keys : can(regex("^[a-zA-Z0-9_.-]{1,128}$", key.xks_key_id))])
    error_message = "xks_key_id must have 1 to 128 letters, digits, hyphens, dots and underscores."
  }

  validation {
    condition     = length(distinct([for key in var.keys : key.xks_key_id])) == length(var.keys)
    error_message = "KMS refuses a second KMS key for the same external key of a key store."
  }

  validation {
    condition     = alltrue([for key in var.keys : key.deletion_window_in_days >= 7 && key.deletion_window_in_days <= 30])
    error_message = "deletion_window_in_days must be 7 to 30."
  }
}

variable "topic_arn" {
  description = "SNS topic that the alarms notify."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:.+$", var.topic_arn))
    error_message = "topic_arn must be the ARN of an SNS topic."
  }
}

variable "non_retryable_errors_per_minute" {
  description = "More than this in a minute is an alarm."
  type        = number
  default     = 5
  nullable    = false

  validation {
    condition     = var.non_retryable_errors_per_minute >= 0
    error_message = "non_retryable_errors_per_minute must be 0 or more."
  }
}

variable "retryable_errors_per_minute" {
  description = "More than this in three of five minutes is an alarm."
  type        = number
  default     = 5
  nullable    = false

  validation {
    condition     = var.retryable_errors_per_minute >= 0
    error_message = "retryable_errors_per_minute must be 0 or more."
  }
}

variable "average_latency_milliseconds" {
  description = "A longer average over five minutes is an alarm. KMS gives up after 250 ms, and counts such a call as 250."
  type        = number
  default     = 100
  nullable    = false

  validation {
    condition     = var.average_latency_milliseconds >= 1 && var.average_latency_milliseconds <= 250
    error_message = "average_latency_milliseconds must be 1 to 250."
  }
}

variable "throttled_requests_per_minute" {
  description = "More than this in three of five minutes is an alarm."
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.throttled_requests_per_minute >= 0
    error_message = "throttled_requests_per_minute must be 0 or more."
  }
}

variable "certificate_days" {
  description = "Fewer days until the certificate expires are an alarm."
  type        = number
  default     = 14
  nullable    = false

  validation {
    condition     = var.certificate_days >= 1
    error_message = "certificate_days must be 1 or more."
  }
}

variable "credential_days" {
  description = "More days since KMS was given its credential are an alarm."
  type        = number
  default     = 365
  nullable    = false

  validation {
    condition     = var.credential_days >= 1
    error_message = "credential_days must be 1 or more."
  }
}

variable "tags" {
  description = "Tags of all resources that can have them. The key store cannot."
  type        = map(string)
  default     = {}
  nullable    = false
}
