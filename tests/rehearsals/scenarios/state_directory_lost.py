"""The state directory is deleted under a running proxy, then an old copy is taken for the truth."""

import re
import shutil

LIMIT = {"encryption_count__at_limit": "refuse"}
ENCRYPTIONS = 40


def rehearse(it):
    machine = it.machine
    machine.make_token("hsm", foo="0123456789abcdef" * 4)
    machine.make_certificate()
    machine.write_settings()
    machine.run("xks-proxy", "keys", "usage", "--set", "foo", "0")
    it.begin(**LIMIT)
    machine.stop()
    state = machine.work / "state"
    shutil.copytree(state, machine.work / "old-state")
    machine.start()
    machine.wait_until("ready", machine.is_ready)
    kms = machine.kms()

    it.happens("the state directory is deleted")
    machine.remove(state)
    for _ in range(ENCRYPTIONS):
        kms.encrypt("foo", b"x")
    it.check(f"{ENCRYPTIONS} calls are answered", True)
    seen = it.run()
    number = int(re.search(r'\{key="foo"\} (\d+)', seen)[1])
    it.check(f"the metric has them all: {number}", number >= ENCRYPTIONS)

    it.happens("somebody restores an old copy, and the process is killed")
    machine.kill()
    shutil.copytree(machine.work / "old-state", state)
    shown = machine.run("xks-proxy", "keys", "usage")[1]
    count = int(re.search(r"\nfoo +(\d+)", shown)[1])
    it.check(f"keys usage shows {count}, too low, and nothing says so", count < ENCRYPTIONS)
    machine.remove(state)

    it.happens("it is taken away again")
    it.check("the imported witnesses prove the key", "proven" in it.run())
    status, seen = machine.run("systemctl", "start", "xks-proxy", check=False)
    it.check("the proxy does not start with an unknown count", status and "incomplete" in seen, seen)
    it.run(**{"300000000": number + 1000})
    it.eventually("/readyz is 200", machine.is_ready)
    it.check("the count is complete", ">=" not in it.run())
    kms.encrypt("foo", b"x")
    seen = machine.get("/metrics")
    now = int(re.search(r'xks_proxy_hsm_key_encryptions\{key="foo"\} (\d+)', seen)[1])
    it.check(f"the count goes on from the stated one: {now}", now > number + 1000)
