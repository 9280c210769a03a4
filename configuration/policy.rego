# A model for a policy in Rego (https://www.openpolicyagent.org/docs/latest/policy-language), in
# use with
#
#   [security]
#   secondary_auth = "Rego"
#   [security.rego]
#   policy_file = "/etc/xks-proxy/policy.rego"
#
# The package is xks. A call is allowed if the rule `allow` is true; false, undefined or anything
# else is a denial. What the rule `decided_by` gives (a string, or several), if there is such a
# rule, is in the log beside it. The file is one module of Rego v1, without data; the built-in
# functions for clocks, random numbers, HTTP, tokens and cryptography are not there.
#
# The input: call ("metadata", "encrypt" or "decrypt"), store (its uri_path_prefix),
# externalKeyId, the members of requestMetadata under their own names, each a string and absent
# where KMS did not send it, and kmsKey, which has kmsKeyArn's parts: partition, region, account,
# keyId. Try changes before they count:
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

# KMS keys of our account in our Regions, and no others: whoever makes a KMS key of the same
# external key in another account gets nothing.
permits contains "our-account" if {
	input.call in {"encrypt", "decrypt"}
	input.kmsKey.partition == "aws"
	input.kmsKey.account == "123456789012"
	input.kmsKey.region in {"us-east-2", "us-west-2"}
}

# To make and show KMS keys, KMS asks what the external key is.
permits contains "metadata" if {
	input.call == "metadata"
	input.kmsOperation in {"CreateKey", "DescribeKey"}
}

# Which AWS services may use keys for somebody.
forbids contains "services" if {
	not input.kmsViaService in {"ebs", "s3", "secretsmanager"}
	input.kmsViaService
}

# Whoever decrypts without a service between comes from our VPC or through our endpoint.
forbids contains "our-network" if {
	input.call == "decrypt"
	not input.kmsViaService
	not our_network
}

our_network if input.awsSourceVpc == "vpc-1234567890abcdef0"

our_network if input.awsSourceVpce == "vpce-1234567890abcdef0"

# One external key is for one role.
forbids contains "payroll" if {
	input.externalKeyId == "payroll"
	not startswith(input.awsPrincipalArn, "arn:aws:sts::123456789012:assumed-role/payroll/")
}

# And one store for one user.
forbids contains "archive" if {
	input.store == "/archive/store"
	input.awsPrincipalArn != "arn:aws:iam::123456789012:user/Archivist"
}
