"""The HSM comes back as it was before the newest version of a key was made."""

from rehearsal.course import FOO

VERSIONS = {
    "id": "foo",
    "versions": [{"label": "foo"}, {"version": 2, "label": "foo-2"}],
    "encrypt_with": 2,
}


def rehearse(it):
    machine = it.machine
    machine.make_token("hsm", foo=FOO, withdrawn="ab" * 32)
    it.begin()
    machine.run("xks-proxy", "keys", "usage", "--set", "foo", "1000")
    machine.back_up_hsm("backup")

    machine.destroy_key("hsm", "withdrawn")
    machine.run("xks-proxy", "keys", "new", "foo-2", "--yes")
    machine.run("xks-proxy", "keys", "usage", "--set", "foo-2", "0")
    machine.store["xks_key_id_set"] = []
    machine.store["keys"] = [VERSIONS]
    machine.write_settings()
    machine.run("systemctl", "restart", "xks-proxy")
    machine.wait_until("ready", machine.is_ready)
    kms = machine.kms()
    newer = kms.encrypt("foo", b"with version 2")
    it.check("version 2 encrypts", bool(newer.get("ciphertextMetadata")))
    before = count(machine, "foo")

    it.happens("the HSM is restored from a backup older than version 2")
    it.run()
    machine.restore_hsm("backup")
    it.check("check --hsm names the missing key", "foo-2" in it.run())
    machine.merge(it.edit(), into=machine.store["keys"][0])
    it.check("the other key is the one that it was", "proven" in it.run())
    it.check("the deleted key is back", "withdrawn" in it.run())
    machine.destroy_key("hsm", "withdrawn")
    seen = it.run()
    it.check("the old ciphertext decrypts", '"dGVzdA=="' in seen)
    after = count(machine, "foo")
    it.check(f"the count of foo is not lower: {before} before, {after} now", after >= before)
    it.check("version 1 encrypts", not kms.encrypt("foo", b"x").get("ciphertextMetadata"))
    it.refused(
        "what version 2 encrypted is lost", 404, "KeyNotFoundException", lambda: kms.decrypt(newer)
    )


def count(machine, key):
    """Returns the encryptions of a key that `keys usage` shows."""
    text = machine.run("xks-proxy", "keys", "usage")[1]
    line = next(line for line in text.splitlines() if line.startswith(key + " "))
    return int(line.removeprefix(key).replace(">=", "").split()[0])
