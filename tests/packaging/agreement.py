"""Whether the CloudFormation templates and the Terraform modules describe the same resources.

Both are brought into one form: for each logical id of CloudFormation, values by the path of a
property there. Every value of a shared resource is compared, unless it is listed here as one that
need not agree: an attribute that neither list has is a failure.
"""

import re

# Terraform's names of shared resources, and CloudFormation's. Alarms have the same name in both.
SHARED = {
    "aws_security_group.load_balancer": "LoadBalancerSecurityGroup",
    "aws_security_group.proxies": "ProxySecurityGroup",
    "aws_lb.this": "LoadBalancer",
    "aws_lb_target_group.this": "TargetGroup",
    "aws_lb_listener.this": "Listener",
    "aws_vpc_endpoint_service.this": "EndpointService",
    "aws_vpc_endpoint_service_allowed_principal.kms": "EndpointServicePermissions",
    "aws_vpc_endpoint_service_allowed_principal.key_store": "EndpointServicePermissions",
}

# Resources that CloudFormation has not got, or that need something outside of the template.
TERRAFORM_ONLY = {
    "aws_route53_record",
    "aws_vpc_endpoint_service_private_dns_verification",
    "aws_kms_custom_key_store",
    "aws_kms_key",
}

# CloudFormation makes up names. Tags are for their owner to choose.
NOT_COMPARED = {"name", "name_prefix", "alarm_name", "tags", "tags_all", "Tags"}

RULES = {
    "description": "Description",
    "ip_protocol": "IpProtocol",
    "from_port": "FromPort",
    "to_port": "ToPort",
    "cidr_ipv4": "CidrIp",
    "referenced_security_group_id": "SourceSecurityGroupId",
}

ALARMS = {
    "alarm_description": "AlarmDescription",
    "alarm_actions": "AlarmActions",
    "ok_actions": "OKActions",
    "insufficient_data_actions": "InsufficientDataActions",
    "actions_enabled": "ActionsEnabled",
}

# Paths in Terraform, and in CloudFormation.
PATHS = {
    "aws_security_group": {"description": "GroupDescription", "vpc_id": "VpcId"},
    "aws_lb": {
        "load_balancer_type": "Type",
        "internal": "Scheme",
        "ip_address_type": "IpAddressType",
        "subnets": "Subnets",
        "security_groups": "SecurityGroups",
        "enforce_security_group_inbound_rules_on_private_link_traffic": "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic",
        "enable_cross_zone_load_balancing": "LoadBalancerAttributes/load_balancing.cross_zone.enabled",
        "enable_deletion_protection": "LoadBalancerAttributes/deletion_protection.enabled",
    },
    "aws_lb_target_group": {
        "vpc_id": "VpcId",
        "target_type": "TargetType",
        "protocol": "Protocol",
        "port": "Port",
        "health_check/protocol": "HealthCheckProtocol",
        "health_check/port": "HealthCheckPort",
        "health_check/path": "HealthCheckPath",
        "health_check/interval": "HealthCheckIntervalSeconds",
        "health_check/timeout": "HealthCheckTimeoutSeconds",
        "health_check/healthy_threshold": "HealthyThresholdCount",
        "health_check/unhealthy_threshold": "UnhealthyThresholdCount",
        "health_check/matcher": "Matcher/HttpCode",
        "deregistration_delay": "TargetGroupAttributes/deregistration_delay.timeout_seconds",
        "connection_termination": "TargetGroupAttributes/deregistration_delay.connection_termination.enabled",
        "preserve_client_ip": "TargetGroupAttributes/preserve_client_ip.enabled",
        "proxy_protocol_v2": "TargetGroupAttributes/proxy_protocol_v2.enabled",
        "target_health_state/enable_unhealthy_connection_termination": "TargetGroupAttributes/target_health_state.unhealthy.connection_termination.enabled",
        "target_health_state/unhealthy_draining_interval": "TargetGroupAttributes/target_health_state.unhealthy.draining_interval_seconds",
    },
    "aws_lb_listener": {
        "load_balancer_arn": "LoadBalancerArn",
        "protocol": "Protocol",
        "port": "Port",
        "tcp_idle_timeout_seconds": "ListenerAttributes/tcp.idle_timeout.seconds",
        "default_action/type": "DefaultActions/Type",
        "default_action/target_group_arn": "DefaultActions/TargetGroupArn",
    },
    "aws_vpc_endpoint_service": {
        "acceptance_required": "AcceptanceRequired",
        "network_load_balancer_arns": "NetworkLoadBalancerArns",
        "supported_ip_address_types": "SupportedIpAddressTypes",
        "private_dns_name": "PrivateDnsName",
    },
    "aws_vpc_endpoint_service_allowed_principal": {
        "vpc_endpoint_service_id": "ServiceId",
        "principal_arn": "AllowedPrincipals",
    },
    "aws_cloudwatch_composite_alarm": ALARMS | {"alarm_rule": "AlarmRule"},
    "aws_cloudwatch_metric_alarm": ALARMS
    | {
        "namespace": "Namespace",
        "metric_name": "MetricName",
        "statistic": "Statistic",
        "extended_statistic": "ExtendedStatistic",
        "period": "Period",
        "comparison_operator": "ComparisonOperator",
        "threshold": "Threshold",
        "evaluation_periods": "EvaluationPeriods",
        "datapoints_to_alarm": "DatapointsToAlarm",
        "treat_missing_data": "TreatMissingData",
        "dimensions/CustomKeyStoreId": "Dimensions/CustomKeyStoreId",
        "dimensions/XksExternalKeyManagerState": "Dimensions/XksExternalKeyManagerState",
        "metric_query/id": "Metrics/Id",
        "metric_query/expression": "Metrics/Expression",
        "metric_query/period": "Metrics/Period",
        "metric_query/return_data": "Metrics/ReturnData",
    },
}

# Lists whose items are resources of their own in Terraform.
LISTS = {"AllowedPrincipals"}

# A value of Terraform's that CloudFormation has in other words.
WORDS = {("aws_lb", "internal"): {"true": "internal", "false": "internet-facing"}}


def text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def flatten(value, path=""):
    """Returns scalars by path. Of a list with one mapping, the mapping; [{Key, Value}] by key."""
    if value is None or value == [] or value == {}:
        return {}
    if isinstance(value, list) and isinstance(value[0], dict):
        for key in ("Key", "Name"):
            if all(set(item) == {key, "Value"} for item in value):
                return flatten({item[key]: item["Value"] for item in value}, path)
        if len(value) > 1:
            value = {str(number): item for number, item in enumerate(value)}
        else:
            (value,) = value
    if isinstance(value, dict):
        return {
            inner_path: scalar
            for name, inner in value.items()
            for inner_path, scalar in flatten(inner, f"{path}/{name}".lstrip("/")).items()
        }
    if isinstance(value, list):
        return {path: ", ".join(sorted(text(item) for item in value))}
    return {path: text(value)}


def of_cloudformation(resources):
    """Takes (type, properties) by logical id."""
    found = {}
    for logical, (type_, properties) in resources.items():
        properties = {name: value for name, value in properties.items() if name not in NOT_COMPARED}
        if type_ == "AWS::EC2::SecurityGroup":
            # EC2's default for a group that says nothing.
            properties.setdefault(
                "SecurityGroupEgress", [{"IpProtocol": "-1", "CidrIp": "0.0.0.0/0"}]
            )
            for name in ("SecurityGroupIngress", "SecurityGroupEgress"):
                rules = properties.get(name, [])
                properties[name] = {rule.get("Description", "all"): rule for rule in rules}
        found[logical] = flatten(properties)
    return found


def logical_id(address):
    """Returns the id of a shared resource, or None."""
    type_, name = re.sub(r"\[\d+\]$", "", address).split(".")[-2:]
    if type_ in ("aws_cloudwatch_metric_alarm", "aws_cloudwatch_composite_alarm"):
        return "".join(word.title() for word in name.split("_"))
    return SHARED.get(f"{type_}.{name}")


def references(resources):
    """Returns the logical ids by the values that only AWS knows, and by the alarms' names."""
    found = {}
    for address, values in resources.items():
        type_ = address.split(".")[-2]
        for name in ("id", "arn"):
            if str(values.get(name)).startswith(f"{type_}:{name}:"):
                found[values[name]] = f"<{logical_id(address)}>"
        if "alarm_name" in values:
            found[f'"{values["alarm_name"]}"'] = f'"<{logical_id(address)}>"'
    return found


def shared_values(address, values, known):
    """Returns the values of a resource by paths of CloudFormation's, and what is not listed."""
    type_ = address.split(".")[-2]
    paths = RULES if type_.endswith("gress_rule") else PATHS[type_]
    result, unlisted = {}, []
    for path, value in flatten(values).items():
        own = re.match(rf"{type_}:[\w.]+:\d+$", value) or path in ("id", "arn", "service_name")
        if own or path.split("/")[0] in NOT_COMPARED or path == "security_group_id":
            continue
        for made_up, reference in known.items():
            value = value.replace(made_up, reference)
        value = WORDS.get((type_, path), {}).get(value, value)
        if path in paths:
            result[paths[path]] = value
        else:
            unlisted.append(f"{address}: {path} = {value} is not compared")
    return result, unlisted


def join(values, others):
    """Adds the values of another resource that is a part of the same one in CloudFormation."""
    for path, value in others.items():
        items = [values[path], value] if path in values else [value]
        if path not in LISTS:
            items = set(items)
        values[path] = ", ".join(sorted(items))


def of_terraform(resources):
    """Takes values by address. Returns values by logical id and path, and failures."""
    known = references(resources)
    # The longest first: one made-up value may be the beginning of another.
    known = dict(sorted(known.items(), key=lambda item: -len(item[0])))
    found, failures = {}, []
    for address, values in sorted(resources.items()):
        type_ = address.split(".")[-2]
        if type_ in TERRAFORM_ONLY:
            continue
        result, unlisted = shared_values(address, values, known)
        failures += unlisted
        rule = re.search(r"_(in|e)gress_rule$", type_)
        if rule:
            group = known[values["security_group_id"]].strip("<>")
            list_ = "SecurityGroupIngress" if rule[1] == "in" else "SecurityGroupEgress"
            key = values["description"] or "all"
            result = {f"{list_}/{key}/{path}": value for path, value in result.items()}
            found.setdefault(group, {}).update(result)
        elif logical_id(address):
            join(found.setdefault(logical_id(address), {}), result)
        else:
            failures.append(f"{address} has no counterpart: see SHARED and TERRAFORM_ONLY")
    return found, failures


def differences(cloudformation, terraform):
    """Takes what the two functions above return. Returns each difference as a line."""
    terraform, failures = terraform
    for logical in sorted(set(cloudformation) | set(terraform)):
        ours = cloudformation.get(logical, {})
        theirs = terraform.get(logical, {})
        for path in sorted(set(ours) | set(theirs)):
            if ours.get(path) != theirs.get(path):
                failures.append(
                    f"{logical}: {path} is {ours.get(path)} in CloudFormation,"
                    f" {theirs.get(path)} in Terraform"
                )
    return failures
