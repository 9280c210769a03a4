"""The return codes that the proxy knows and their classes, read from its source."""

import re

from launcher.programs import ROOT, Failed

SOURCE = ROOT / "src/hsm/pkcs11/codes.rs"
#: Vendor-defined codes, which the source classifies as "Ambiguous".
VENDOR_CODES = ("0x80000001", "0x80000066", "0x8000ffff")
#: Classes that blame neither the caller nor an overloaded token: the breaker of a key that keeps
#: failing this way opens. (src/hsm/pkcs11/trouble.rs)
FAULTS = ("Ambiguous", "Session", "Login", "KeyHandle", "Token", "Module", "Pin")
#: Classes of answers or temporary conditions, for which no breaker opens.
NO_FAULTS = ("BadCiphertext", "AmbiguousRequest", "KeyUsage", "Busy", "Request")


def known():
    """Returns pairs of a code, in the interposer's form, and its class."""
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
    """Returns the first code of each class, and a vendor-defined one."""
    first = {}
    for code, name in known():
        first.setdefault(name, code)
    return [(code, name) for name, code in first.items()] + [(VENDOR_CODES[0], "Ambiguous")]


def value(code):
    """Returns the code as a TOML value."""
    return code if code.startswith("0x") else f'"{code}"'
