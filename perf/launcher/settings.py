"""Settings files, made from tests/common/settings.toml by changing some of its members.

    python3 perf/launcher/settings.py server.port=8443 'tls.tls_cert_pem="/path"' >settings.toml

prints such a file. A value is TOML; an empty one leaves the member out.
"""

import datetime
import json
import sys
import tomllib
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parents[2] / "tests/common/settings.toml"
PREFIX = "/example/uri/path/prefix"
#: Access key id and secret access key of the template's key store.
CREDENTIAL = ("BETWEEN2TENAND3TENCHARACTERS", "PleaseReplaceThisWithSomeSecretOfLength43To64")


def store(prefix, keys, credential=CREDENTIAL, **others):
    """A member of external_key_stores."""
    return {
        "uri_path_prefix": prefix,
        "sigv4_access_key_id": credential[0],
        "sigv4_secret_access_key": credential[1],
        "xks_key_id_set": list(keys),
        **others,
    }


def settings(changes):
    """Returns the text of a file with these values by dotted name; None leaves a member out."""
    table = tomllib.loads(TEMPLATE.read_text())
    for name, value in changes.items():
        *sections, member = name.split(".")
        section = table
        for each in sections:
            section = section.setdefault(each, {})
        if value is None:
            section.pop(member, None)
        else:
            section[member] = value
    return "".join(f"{line}\n" for line in lines(table))


def section(name, text):
    """Returns changes that set the members in the TOML `text` in the section."""
    return {f"{name}.{member}": value for member, value in tomllib.loads(text).items()}


def lines(table, name=""):
    """Returns the TOML of a table and its subtables."""
    nested = {}
    for member, value in table.items():
        if is_table(value) or is_tables(value):
            nested[f"{name}.{member}" if name else member] = value
        else:
            yield f"{member} = {value_text(value)}"
    for path, value in nested.items():
        for each in value if is_tables(value) else [value]:
            yield f"[[{path}]]" if is_tables(value) else f"[{path}]"
            yield from lines(each, path)


def is_table(value):
    return isinstance(value, dict)


def is_tables(value):
    return isinstance(value, list) and bool(value) and all(is_table(each) for each in value)


def value_text(value):
    if isinstance(value, list):
        return "[" + ", ".join(value_text(each) for each in value) + "]"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    # JSON's escapes are valid in TOML, except for those of surrogates.
    return json.dumps(str(value), ensure_ascii=False)


def main(arguments):
    changes = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        changes[name] = tomllib.loads(f"value = {value}")["value"] if value else None
    print(settings(changes), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
