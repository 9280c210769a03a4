# An example of a policy in Rego (https://www.openpolicyagent.org/docs/latest/policy-language).
# To use it:
#
#   [security]
#   secondary_auth = "Rego"
#   [security.rego]
#   policy_file = "/etc/xks-proxy/policy.rego"
#
# The package is xks. A call is allowed if the rule `allow` is true; false, undefined or anything
# else is a denial. The value of the rule `decided_by` (one or several strings), if there is such a
# rule, is logged with the decision. The file is one module of Rego v1, without data. The built-in
# functions for clocks, random numbers, HTTP, tokens and cryptography are not available.
#
# The input: call ("metadata", "encrypt" or "decrypt"), store (its uri_path_prefix),
# externalKeyId, the members of requestMetadata under their own names, each a string and missing
# if KMS did not send it, and kmsKey, with kmsKeyArn's parts: partition, region, account, keyId.
# Test changes before you use them:
#
#   xks-proxy policy test policy.rego policy_request.json
package xks

default allow := false

allow if {
	count(permits) > 0
	count(forbids) == 0
}

decided_by := permits if allow

decided_by := forbids if count(forbids) > 0

# Only KMS keys of our account in our Regions: a KMS key that somebody creates for the same
# external key in another account is refused.
permits contains "our-account" if {
	input.call in {"encrypt", "decrypt"}
	input.kmsKey.partition == "aws"
	input.kmsKey.account == "123456789012"
	input.kmsKey.region in {"us-east-2", "us-west-2"}
}

# To create and describe KMS keys, KMS requests the external key's metadata.
permits contains "metadata" if {
	input.call == "metadata"
	input.kmsOperation in {"CreateKey", "DescribeKey"}
}

# AWS services that may use keys on somebody's behalf.
forbids contains "services" if {
	not input.kmsViaService in {"ebs", "s3", "secretsmanager"}
	input.kmsViaService
}

# Direct decryption, without a service, must come from our VPC or through our endpoint.
forbids contains "our-network" if {
	input.call == "decrypt"
	not input.kmsViaService
	not our_network
}

our_network if input.awsSourceVpc == "vpc-1234567890abcdef0"

our_network if input.awsSourceVpce == "vpce-1234567890abcdef0"

# One external key is for a single role.
forbids contains "payroll" if {
	input.externalKeyId == "payroll"
	not startswith(input.awsPrincipalArn, "arn:aws:sts::123456789012:assumed-role/payroll/")
}

# And one store is for a single user.
forbids contains "archive" if {
	input.store == "/archive/store"
	input.awsPrincipalArn != "arn:aws:iam::123456789012:user/Archivist"
}
