output "endpoint_service" {
  description = "What create-custom-key-store, register-targets and the DNS zone need."
  value       = module.endpoint_service
}

output "key_store" {
  description = "The key store's id, and the ARNs of keys and pager alarm."
  value       = one(module.key_store[*])
}
