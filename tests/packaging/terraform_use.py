"""What the Terraform example and its README promise: two applies, and a secret that stays outside."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

from terraform import facts

PLACE = ("aws", "amazonaws.com", "us-east-1")
KEY_STORE = "cks-0123456789abcdef0"
SECRET = "0123456789012345678901234567890123456789012"
# The key store that the command in the README creates, as the provider reads it.
CREATED = {
    "custom_key_store_name": "xks",
    "custom_key_store_type": "EXTERNAL_KEY_STORE",
    "xks_proxy_connectivity": "VPC_ENDPOINT_SERVICE",
    "xks_proxy_uri_endpoint": "https://xks-private.example.com",
    "xks_proxy_uri_path": "/example/uri/path/prefix/kms/xks/v1",
    "xks_proxy_vpc_endpoint_service_name": "com.amazonaws.vpce.us-east-1.vpce-svc-0123456789abcdef0",
}
STORED = {"aws_kms_custom_key_store": {KEY_STORE: CREATED}}


@contextlib.contextmanager
def copied(schemas, modules, name):
    """Gives Terraform in a copy of a folder of the modules."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(modules, folder, dirs_exist_ok=True)
        with schemas.terraform(Path(folder) / name, facts(*PLACE, **STORED)) as terraform:
            terraform.init()
            yield terraform


def check_each_module(schemas, modules):
    for name in ("endpoint-service", "key-store", "examples/complete"):
        with copied(schemas, modules, name) as terraform:
            terraform.run("validate", "-no-color")
    return []


def check_format(schemas, modules):
    with schemas.terraform(modules, {}) as terraform:
        status, said = terraform.run(
            "fmt", "-check", "-recursive", "-diff", "-no-color", ".", expected=(0, 3)
        )
        return [f"terraform fmt:\n{said}"] if status else []


def check_example(schemas, modules):
    failures = []
    with copied(schemas, modules, "examples/complete") as terraform:
        shutil.copy(terraform.folder / "terraform.tfvars.example", terraform.folder / "terraform.tfvars")
        terraform.apply()
        if any("key_store" in address for address in terraform.resources()):
            failures.append("the first apply makes something of the key store")
        # AWS refuses to delete the load balancer, after Terraform has deleted its listener.
        said = terraform.refused("-destroy")
        if "Instance cannot be destroyed" not in said or "aws_lb.this" not in said:
            failures.append(f"the load balancer could be destroyed:\n{said}")
        stored = f"-var=custom_key_store_id={KEY_STORE}"
        _, said = terraform.apply(stored)
        if "1 imported, 11 added, 0 changed, 0 destroyed" not in said:
            failures.append(f"the second apply should import one and add 11 resources:\n{said}")
        status, said = terraform.plan("-detailed-exitcode", stored, expected=(0, 2))
        if status:
            failures.append(f"the third plan should have no changes:\n{said}")
        for what, option in (("a key", "-var=keys={}"), ("the key store", "-var=name=xks")):
            options = [stored, option] if what == "a key" else [option]
            said = terraform.refused(*options)
            if "Instance cannot be destroyed" not in said:
                failures.append(f"{what} could be destroyed:\n{said}")
    return failures


def with_credential(ephemeral):
    """A root module that has Terraform create the key store."""
    return {
        "variable": {"secret": {"sensitive": True, "ephemeral": ephemeral, "type": "string"}},
        "module": {
            "key_store": {
                "source": "./key-store",
                "name": "xks",
                "uri_endpoint": "https://xks.example.com",
                "uri_path": "/kms/xks/v1",
                "topic_arn": "arn:aws:sns:us-east-1:111122223333:pager",
                "proxy_credential": {
                    "access_key_id": "ABCDEFGHIJKLMNOPQRST",
                    "raw_secret_access_key": "${var.secret}",
                },
            }
        },
    }


def check_secret(schemas, modules):
    """The provider keeps the secret in the state, and takes no ephemeral value: the README says so.

    If this fails with a newer provider, it has a write-only argument: use that.
    """
    failures = []
    store = schemas.by_kind["resource"]["aws_kms_custom_key_store"]
    credential = store["blocks"]["xks_proxy_authentication_credential"]["block"]
    if set(credential["attributes"]) != {"access_key_id", "raw_secret_access_key"}:
        failures.append(f"the credential has other arguments now: {sorted(credential['attributes'])}")
    with copied(schemas, modules, ".") as terraform:
        root = terraform.folder / "root.tf.json"
        root.write_text(json.dumps(with_credential(ephemeral=True)))
        terraform.init()
        said = terraform.refused(f"-var=secret={SECRET}")
        if "Ephemeral value not allowed" not in said and "Invalid use of ephemeral" not in said:
            failures.append(f"an ephemeral secret is not refused as such:\n{said}")
        root.write_text(json.dumps(with_credential(ephemeral=False)))
        _, said = terraform.apply(f"-var=secret={SECRET}")
        if SECRET in said:
            failures.append("apply prints the secret")
        if SECRET not in (terraform.folder / "terraform.tfstate").read_text():
            failures.append("the secret is not in the state any more: the README says that it is")
        rotated = f"-var=secret={SECRET[::-1]}"
        status, said = terraform.plan("-detailed-exitcode", rotated, expected=(0, 2))
        if status:
            failures.append(f"another secret is a change:\n{said}")
    return failures


def check(schemas, modules):
    failures = []
    for part in (check_format, check_each_module, check_example, check_secret):
        failures += part(schemas, modules)
    return failures
