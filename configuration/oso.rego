# The sample proxy's policy for Oso (configuration/oso.polar), in Rego: each of its rules is one
# rule here. To keep using it:
#
#   [security]
#   secondary_auth = "Rego"
#   [security.rego]
#   policy_file = "configuration/oso.rego"
#
# Nothing is added to it: GenerateDataKey, ReEncrypt and CreateKey are denied, and so are calls for
# AWS services other than EBS. policy.rego is a better example for new rules. The sample's rule
# for "health" is left out, because the XKS specification exempts that call from secondary
# authorization.
package xks

default allow := false

allow if count(decided_by) > 0

decided_by contains "oso-encrypt" if {
	input.call == "encrypt"
	input.store != ""
	# one caller only: input.awsPrincipalArn == "arn:aws:iam::123456789012:user/alice"
	input.kmsOperation == "Encrypt"
	via_service_fits
}

decided_by contains "oso-decrypt" if {
	input.call == "decrypt"
	input.store != ""
	input.kmsOperation in {"Encrypt", "Decrypt"}
	via_service_fits
}

decided_by contains "oso-metadata" if {
	input.call == "metadata"
	input.store != ""
	input.kmsOperation == "DescribeKey"
}

# In Oso, `x = nil` is true if the member is missing; here this is `not x`.
via_service_fits if not input.kmsViaService

# `"ebs" in x` compares with the optional string x, if there is one.
via_service_fits if input.kmsViaService == "ebs"
