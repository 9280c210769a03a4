#!/usr/bin/env python3
"""Summarises the findings of a TLS scanner (the JSON of sslyze or testssl.sh), and exits with 1 if
there is a weakness among them."""

import argparse
import json
import sys

#: The suites named in the XKS Proxy API specification.
SUITES = {
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
}
OLD = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")
NEW = ("tls_1_2", "tls_1_3")
#: Findings that testssl.sh rates above INFO, and why they are no weakness here.
EXPECTED = {
    "cert_revocation": "no CRL and no OCSP in a private authority's certificate",
    "DNS_CAArecord": "localhost has none",
    "HSTS": "for browsers",
    "security_headers": "for browsers",
}


def sslyze(results):
    """Returns notes on what the server accepts, and its weaknesses."""
    [server] = results["server_scan_results"]
    assert server["scan_status"] == "COMPLETED", server["scan_status"]
    scan = server["scan_result"]

    def found(command):
        attempt = scan[command]
        if attempt["status"] != "COMPLETED":
            wrong.append(f"{command}: {attempt['status']} {attempt['error_reason']}")
            return None
        return attempt["result"]

    wrong, notes = [], []
    for version in (*OLD, *NEW):
        result = found(f"{version}_cipher_suites")
        suites = [it["cipher_suite"]["name"] for it in result["accepted_cipher_suites"]]
        if version in OLD and suites:
            wrong.append(f"{version} is accepted")
        wrong += [f"{version}: {suite}" for suite in suites if suite not in SUITES]
        if suites:
            notes.append(f"{version}: {', '.join(suites)}")
    curves = found("elliptic_curves")
    notes.append("curves: " + ", ".join(it["name"] for it in curves["supported_curves"]))
    robot = found("robot")["robot_result"]
    if not robot.startswith("NOT_VULNERABLE"):
        wrong.append(f"ROBOT: {robot}")
    for command, member, good in (
        ("tls_compression", "supports_compression", False),
        ("tls_1_3_early_data", "supports_early_data", False),
        ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", False),
        ("tls_fallback_scsv", "supports_fallback_scsv", None),
        ("heartbleed", "is_vulnerable_to_heartbleed", False),
        ("session_renegotiation", "supports_secure_renegotiation", True),
        ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", False),
        ("tls_extended_master_secret", "supports_ems_extension", True),
    ):
        result = found(command)
        value = result and result[member]
        notes.append(f"{member}: {value}")
        if result and good is not None and value != good:
            wrong.append(f"{command}: {member} is {value}")
    [deployment] = found("certificate_info")["certificate_deployments"]
    own = [
        it
        for it in deployment["path_validation_results"]
        if it["trust_store"]["name"] == "Supplied CA file"
    ]
    if not own or not all(it["was_validation_successful"] for it in own):
        wrong.append(f"the certificate chain does not verify: {own}")
    if not deployment["received_chain_has_valid_order"]:
        wrong.append("the certificate chain is out of order")
    return notes, wrong


def testssl(results):
    """Returns notes, and the unexpected findings rated above INFO."""
    rated = [it for it in results if it["severity"] not in ("OK", "INFO", "DEBUG")]
    notes = [f"{len(results)} findings"]
    wrong = []
    for finding in rated:
        text = f"{finding['severity']} {finding['id']}: {finding['finding']}"
        known = EXPECTED.get(finding["id"].split(" ")[0])
        (notes if known else wrong).append(f"{text} ({known})" if known else text)
    return notes, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--testssl", action="store_true")
    parser.add_argument("name")
    parser.add_argument("file")
    options = parser.parse_args()
    with open(options.file) as file:
        results = json.load(file)
    notes, wrong = (testssl if options.testssl else sslyze)(results)
    scanner = "testssl.sh" if options.testssl else f"sslyze {results['sslyze_version']}"
    print(f"== {scanner}, {options.name} certificate")
    for note in notes:
        print(f"   {note}")
    for weakness in wrong:
        print(f"   WEAKNESS: {weakness}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
