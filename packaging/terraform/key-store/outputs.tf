output "custom_key_store_id" {
  description = "For connect-custom-key-store and update-custom-key-store."
  value       = aws_kms_custom_key_store.this.id
}

output "key_arns" {
  description = "ARNs of the KMS keys, by the names in keys."
  value       = { for name, key in aws_kms_key.this : name => key.arn }
}

output "failing_alarm_arn" {
  description = "The alarm that pages."
  value       = aws_cloudwatch_composite_alarm.failing.arn
}
