terraform {
  # 1.9: a variable's validation may look at other variables.
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # 6.0: aws_kms_custom_key_store has the arguments of external key stores.
      version = ">= 6.0"
    }
  }
}
