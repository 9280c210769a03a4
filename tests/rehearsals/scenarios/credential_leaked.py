"""A stranger has the key store's credential; it is replaced without a failed call of KMS."""

from launcher.settings import CREDENTIAL
from rehearsal.callers import Callers


def rehearse(it):
    machine = it.machine
    machine.make_token("hsm", foo="0123456789abcdef" * 4, audit="cd" * 32)
    machine.make_certificate()
    machine.run("xks-proxy", "audit", "new-key", machine.work / "etc/audit.key")
    it.begin(
        audit__directory=str(machine.work / "log"),
        audit__key_file=str(machine.work / "etc/audit.key"),
        audit__hsm_key="audit",
    )
    stranger = machine.kms()

    it.happens("a stranger has the credential, and uses it")
    stranger.encrypt("foo", b"a stranger's", CREDENTIAL)
    it.check("the proxy cannot tell: it answers", True)
    callers = Callers(machine)

    section = it.run()
    machine.merge(it.credential(section), into=machine.store)
    it.run()
    stranger.health(CREDENTIAL)
    it.check("both credentials are accepted", True)
    it.run()
    machine.kms().health()
    it.check("the key store is still CONNECTED", machine.kms().state["store"]["code"] is None)
    it.run()

    for member in ("sigv4_access_key_id", "sigv4_secret_access_key"):
        del machine.store[member]
    machine.write_settings()
    it.run()
    it.refused(
        "the stranger's call", 401, "AuthenticationFailedException",
        lambda: stranger.encrypt("foo", b"x", CREDENTIAL),
    )
    seen = it.run()
    it.check("the audit log has the calls with the leaked credential", "127.0.0.1" in seen, seen)
    seen = it.run()
    it.check("the leaked credential is not listed", CREDENTIAL[0] not in seen, seen)
    it.check("the old ciphertext decrypts", '"dGVzdA=="' in seen)
    calls, failed = callers.end()
    it.check(f"of {calls} calls of KMS meanwhile, none failed", calls > 0 and not failed, failed)
