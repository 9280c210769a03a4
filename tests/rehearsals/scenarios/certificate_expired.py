"""The certificate expires while the proxy runs."""

from rehearsal.kms import Refused


def rehearse(it):
    machine = it.machine
    it.begin()
    authority = machine.authority
    tls = machine.work / "etc/tls"
    authority.issue(tls / "server_cert.pem", tls / "server_key.pem", seconds=4)
    machine.run("systemctl", "reload", "xks-proxy")
    kms = machine.kms()
    kms.health()
    it.check("KMS connects with a certificate that is valid for four seconds", True)

    it.happens("the certificate expires")
    it.eventually("KMS refuses the certificate", lambda: tls_fails(kms))
    kms.connect()
    code = machine.kms().state["store"]["code"]
    it.check(f"the key store's code is {code}", code == "XKS_PROXY_INVALID_TLS_CONFIGURATION")
    it.check("openssl shows the date", "notAfter" in it.run())
    status, seen = machine.run("xks-proxy", "check", check=False)
    it.check("check says so", "server_cert" not in seen and "expired" in seen, seen)

    new = machine.work / "etc/new"
    new.mkdir()
    authority.issue(new / "server_cert.pem", new / "server_key.pem", seconds=90 * 86400)
    it.refused("before the reload, KMS's connection", 0, "expired", kms.health)
    it.run()
    kms.health()
    it.check("KMS connects", True)
    it.run()
    seen = it.run()
    it.check("the key store is CONNECTED", '"CONNECTED"' in seen, seen)
    it.check("the old ciphertext decrypts", '"dGVzdA=="' in seen, seen)


def tls_fails(kms):
    try:
        kms.health()
    except Refused as refused:
        return "expired" in refused.name
    return False
