# The same alarms as packaging/cloudformation/alarms.yaml; tests/packaging/templates.sh compares
# them. A metric with more dimensions than the key store's id is summed up by a Metrics Insights
# query. A period without a value is one without a call, or without an error, so it is no alarm.

locals {
  custom_key_store_id = aws_kms_custom_key_store.this.id
  runbook             = "docs/operations.md#kmss-own-metrics"
}

resource "aws_cloudwatch_composite_alarm" "failing" {
  alarm_name        = "${var.name}-failing"
  alarm_description = "Calls of KMS to the proxy fail or are about to: page somebody. ${local.runbook}"
  alarm_rule = join(" OR ", [for alarm in [
    aws_cloudwatch_metric_alarm.non_retryable_errors,
    aws_cloudwatch_metric_alarm.retryable_errors,
    aws_cloudwatch_metric_alarm.latency,
    aws_cloudwatch_metric_alarm.no_active_key_manager,
  ] : "ALARM(\"${alarm.alarm_name}\")"])
  alarm_actions = [var.topic_arn]
  ok_actions    = [var.topic_arn]
  tags          = var.tags
}

resource "aws_cloudwatch_metric_alarm" "non_retryable_errors" {
  alarm_name          = "${var.name}-non-retryable-errors"
  alarm_description   = "The proxy refuses KMS's calls: credential, path, key, policy or data. ${local.runbook}"
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.non_retryable_errors_per_minute
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  tags                = var.tags

  metric_query {
    id          = "errors"
    expression  = "SELECT SUM(XksProxyErrors) FROM \"AWS/KMS\" WHERE CustomKeyStoreId = '${local.custom_key_store_id}' AND ErrorType = 'Non-retryable'"
    period      = 60
    return_data = true
  }
}

resource "aws_cloudwatch_metric_alarm" "retryable_errors" {
  alarm_name          = "${var.name}-retryable-errors"
  alarm_description   = "The proxy does not answer KMS in time, or says that it cannot. ${local.runbook}"
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.retryable_errors_per_minute
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  treat_missing_data  = "notBreaching"
  tags                = var.tags

  metric_query {
    id          = "errors"
    expression  = "SELECT SUM(XksProxyErrors) FROM \"AWS/KMS\" WHERE CustomKeyStoreId = '${local.custom_key_store_id}' AND ErrorType = 'Retryable'"
    period      = 60
    return_data = true
  }
}

resource "aws_cloudwatch_metric_alarm" "latency" {
  alarm_name          = "${var.name}-latency"
  alarm_description   = "The proxy answers KMS late. ${local.runbook}"
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.average_latency_milliseconds
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  tags                = var.tags

  metric_query {
    id          = "latency"
    expression  = "SELECT AVG(XksProxyLatency) FROM \"AWS/KMS\" WHERE CustomKeyStoreId = '${local.custom_key_store_id}'"
    period      = 300
    return_data = true
  }
}

resource "aws_cloudwatch_metric_alarm" "no_active_key_manager" {
  alarm_name          = "${var.name}-no-active-key-manager"
  alarm_description   = "No token of the proxy that KMS asked is healthy. ${local.runbook}"
  namespace           = "AWS/KMS"
  metric_name         = "XksExternalKeyManagerStates"
  statistic           = "Maximum"
  period              = 300
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  evaluation_periods  = 1
  # KMS does not ask a key store that is disconnected.
  treat_missing_data = "missing"
  tags               = var.tags

  dimensions = {
    CustomKeyStoreId           = local.custom_key_store_id
    XksExternalKeyManagerState = "Active"
  }
}

resource "aws_cloudwatch_metric_alarm" "unavailable_key_manager" {
  alarm_name          = "${var.name}-unavailable-key-manager"
  alarm_description   = "A token is out of service; others serve. ${local.runbook}"
  namespace           = "AWS/KMS"
  metric_name         = "XksExternalKeyManagerStates"
  statistic           = "Maximum"
  period              = 300
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.topic_arn]
  tags                = var.tags

  dimensions = {
    CustomKeyStoreId           = local.custom_key_store_id
    XksExternalKeyManagerState = "Unavailable"
  }
}

resource "aws_cloudwatch_metric_alarm" "degraded_key_manager" {
  alarm_name          = "${var.name}-degraded-key-manager"
  alarm_description   = "A token serves with trouble. ${local.runbook}"
  namespace           = "AWS/KMS"
  metric_name         = "XksExternalKeyManagerStates"
  statistic           = "Maximum"
  period              = 300
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.topic_arn]
  tags                = var.tags

  dimensions = {
    CustomKeyStoreId           = local.custom_key_store_id
    XksExternalKeyManagerState = "Degraded"
  }
}

resource "aws_cloudwatch_metric_alarm" "throttled" {
  alarm_name          = "${var.name}-throttled"
  alarm_description   = "KMS refuses calls above the key store's quota before they reach the proxy. ${local.runbook}"
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.throttled_requests_per_minute
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.topic_arn]
  tags                = var.tags

  metric_query {
    id          = "throttled"
    expression  = "SELECT SUM(ExternalKeyStoreThrottle) FROM \"AWS/KMS\" WHERE CustomKeyStoreId = '${local.custom_key_store_id}'"
    period      = 60
    return_data = true
  }
}

resource "aws_cloudwatch_metric_alarm" "certificate_expiring" {
  alarm_name          = "${var.name}-certificate-expiring"
  alarm_description   = "The certificate that KMS was shown expires soon. ${local.runbook}"
  comparison_operator = "LessThanThreshold"
  threshold           = var.certificate_days
  evaluation_periods  = 1
  treat_missing_data  = "ignore"
  alarm_actions       = [var.topic_arn]
  tags                = var.tags

  metric_query {
    id          = "days"
    expression  = "SELECT MIN(XksProxyCertificateDaysToExpire) FROM \"AWS/KMS\" WHERE CustomKeyStoreId = '${local.custom_key_store_id}'"
    period      = 300
    return_data = true
  }
}

resource "aws_cloudwatch_metric_alarm" "credential_old" {
  alarm_name          = "${var.name}-credential-old"
  alarm_description   = "KMS has used the same credential for long: rotate it. ${local.runbook}"
  namespace           = "AWS/KMS"
  metric_name         = "XksProxyCredentialAge"
  statistic           = "Maximum"
  period              = 86400
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.credential_days
  evaluation_periods  = 1
  treat_missing_data  = "ignore"
  alarm_actions       = [var.topic_arn]
  tags                = var.tags

  dimensions = {
    CustomKeyStoreId = local.custom_key_store_id
  }
}
