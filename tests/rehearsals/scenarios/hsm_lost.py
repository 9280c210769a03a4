"""One of two HSMs is lost, then the last one; a third gets the keys from the backup."""

from rehearsal.callers import Callers
from rehearsal.course import FOO


def rehearse(it):
    machine = it.machine
    tokens = machine.work / "tokens"
    machine.make_token("hsm-1", foo=FOO)
    first = set(tokens.iterdir())
    machine.make_token("hsm-2", foo=FOO)
    it.begin(pkcs11__tokens=[{"label": "hsm-1"}, {"label": "hsm-2"}])
    kms = machine.kms()

    it.happens("hsm-2 is lost")
    callers = Callers(machine)
    for token in set(tokens.iterdir()) - first:
        machine.remove(token)
    it.eventually("hsm-2 is UNAVAILABLE", lambda: state(machine, 1) == "unavailable")
    seen = it.run()
    it.check("the metric is 0 for hsm-2 alone", ' 0' in line_with(seen, "hsm-2"), seen)
    machine.changes["pkcs11.tokens"] = []
    machine.merge(it.edit()["pkcs11"], into=machine.section("pkcs11"))
    it.run()
    it.check("it serves with hsm-1 alone", len(machine.status()["tokens"]) == 1)
    calls, failed = callers.end()
    it.check(f"of {calls} calls meanwhile, none failed", calls > 20 and not failed, failed)

    it.happens("hsm-1, the last one, is lost too")
    machine.lose_hsm()
    it.eventually("/readyz is 503", lambda: not machine.is_ready())
    it.refused("encrypt", 503, "DependencyTimeoutException", lambda: kms.encrypt("foo", b"x"))

    it.happens("hsm-3 gets the keys from the backup")
    machine.make_token("hsm-3", foo=FOO)
    machine.merge(it.edit()["pkcs11"], into=machine.section("pkcs11"))
    it.run()
    it.eventually("/readyz is 200", machine.is_ready)
    it.check("the old ciphertext decrypts", '"dGVzdA=="' in it.run())


def state(machine, token):
    return machine.status()["tokens"][token]["state"]


def line_with(text, word):
    return next(line for line in text.splitlines() if word in line)
