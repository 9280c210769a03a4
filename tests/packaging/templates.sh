#!/usr/bin/env bash
# Checks the CloudFormation templates and Terraform modules as far as possible without an AWS
# account, and that both describe the same resources. Tools from PyPI are installed below target/.
# --thorough changes each line of the modules in turn too, which takes minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/packaging/tools.sh

echo 'CloudFormation: cfn-lint'
"$tools/bin/cfn-lint" --regions us-east-1 us-gov-west-1 eusc-de-east-1 cn-north-1 \
    --template packaging/cloudformation/*.yaml
echo 'Terraform: formatting, schemas, both applies of the example, agreement with CloudFormation'
"$tools/bin/python" -B tests/packaging/templates.py "$@" "$schema"
echo 'not checked, for want of it: AWS, and the checks of values that its Terraform provider has'
