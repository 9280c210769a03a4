output "endpoint_service_id" {
  description = "For modify-vpc-endpoint-service-configuration."
  value       = aws_vpc_endpoint_service.this.id
}

output "endpoint_service_name" {
  description = "For create-custom-key-store."
  value       = aws_vpc_endpoint_service.this.service_name
}

output "endpoint_service_owner" {
  description = "Account of the endpoint service, for a key store in another account."
  value       = aws_security_group.load_balancer.owner_id
}

output "private_dns_record" {
  description = "Name, type and value of the TXT record that proves that you own the domain of private_dns_name."
  value       = local.private_dns_record
}

output "target_group_arn" {
  description = "Register the proxies here."
  value       = aws_lb_target_group.this.arn
}

output "load_balancer_arn" {
  description = "The load balancer."
  value       = aws_lb.this.arn
}

output "proxy_security_group_id" {
  description = "For instances and pods that are proxies."
  value       = aws_security_group.proxies.id
}
