"""A key store is made in another Region, with the same keys in an HSM there."""

from rehearsal.machine import Machine


def rehearse(it):
    it.begin()
    first = it.machine
    encrypted = first.kms().encrypt("foo", b"at the proxy of the first Region")
    second = Machine(it.work / "second", region="us-west-2")
    first.copy_hsm_to(second)
    second.make_certificate()
    (second.work / "etc/witnesses").write_bytes((first.work / "etc/witnesses").read_bytes())

    it.happens("the Region us-east-1 is lost, with its proxy")
    first.kill()
    second.changes["server.region"] = None
    second.merge(it.edit())
    section = it.run(machine=second)
    for member in ("sigv4_access_key_id", "sigv4_secret_access_key"):
        del second.store[member]
    second.merge(it.credential(section), into=second.store)
    it.check("the witnesses prove the same key there", "proven" in it.run(machine=second))
    it.eventually("/readyz is 200", second.is_ready)
    kms = second.kms()
    kms.state = {"ca": str(second.work / "ca.pem"), "keys": {}}
    kms.save()
    it.run(machine=second, **{"target-key-id KEY": "target-key-id new"})
    seen = it.run(machine=second)
    it.check("the key store is CONNECTED, and its key encrypts", '"CONNECTED"' in seen, seen)

    kms = second.kms()
    it.check("the HSM's key is the same", kms.decrypt(encrypted).startswith(b"at the proxy"))
    kms.state["store"]["region"] = "us-east-1"
    it.refused("a call signed for us-east-1", 401, "AuthenticationFailedException", kms.health)
