"""The return codes that the proxy knows, with what it takes them for: read from its source."""

import re

from launcher.programs import ROOT, Failed

SOURCE = ROOT / "src/hsm/pkcs11/codes.rs"
#: Numbers of vendors' own, which the source takes for "Ambiguous".
VENDOR_CODES = ("0x80000001", "0x80000066", "0x8000ffff")
#: What is not the caller's fault, nor a token that has too much to do: a key that goes on failing
#: so gets a breaker. (src/hsm/pkcs11/trouble.rs)
FAULTS = ("Ambiguous", "Session", "Login", "KeyHandle", "Token", "Module", "Pin")
#: What is an answer, or passes: no breaker opens.
NO_FAULTS = ("BadCiphertext", "AmbiguousRequest", "KeyUsage", "Busy", "Request")


def known():
    """Pairs of a code, as the interposer takes it, and its class."""
    text = SOURCE.read_text()
    table = re.search(r"const TABLE: &\[Row\] = table! \{\n(.*?)\n\};", text, re.DOTALL)
    if not table:
        raise Failed(f"{SOURCE} has no table of codes any more")
    found = []
    for line in table[1].splitlines():
        row = re.fullmatch(r"\s*(CKR_\w+) => (\w+),", line)
        if not row or row[2] not in FAULTS + NO_FAULTS:
            raise Failed(f"{SOURCE}: not a code of a known class: {line.strip()}")
        found.append((row[1], row[2]))
    return found + [(code, "Ambiguous") for code in VENDOR_CODES]


def one_of_each_class():
    """The first code of each class, and a vendor's."""
    first = {}
    for code, name in known():
        first.setdefault(name, code)
    return [(code, name) for name, code in first.items()] + [(VENDOR_CODES[0], "Ambiguous")]


def value(code):
    """As a value of TOML."""
    return code if code.startswith("0x") else f'"{code}"'
