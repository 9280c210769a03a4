"""A KMS key is scheduled for deletion; then its key in the HSM is deleted, and a wrong one made."""

from rehearsal.kms import Refused


def rehearse(it):
    machine = it.machine
    it.begin()
    machine.back_up_hsm("backup")
    kms = machine.kms()

    it.happens("the KMS key is scheduled for deletion")
    kms.state["keys"]["alias/xks-check"]["state"] = "PendingDeletion"
    kms.save()
    it.run()
    it.check("it is enabled", machine.kms().state["keys"]["alias/xks-check"]["state"] == "Enabled")

    it.happens("the key is deleted in the HSM")
    old = kms.encrypt("foo", b"before")
    machine.destroy_key("hsm", "foo")
    it.eventually("calls get 404 KeyNotFoundException", lambda: outcome(kms, "foo") == 404)
    it.check("the log says so", "HSM keys were deleted" in machine.log())

    it.happens("the deleted key is imported from the backup")
    machine.restore_hsm("backup")
    it.run()
    it.eventually("encrypts succeed, without a reload", lambda: outcome(kms, "foo") == 200)
    it.check("the old ciphertext decrypts", '"dGVzdA=="' in it.run())
    it.check("and so does the other", kms.decrypt(old) == b"before")

    it.happens("the key is deleted again, and somebody makes a new one under its label")
    machine.destroy_key("hsm", "foo")
    machine.add_key("hsm", "foo", "ef" * 32)
    it.eventually("encrypts get 400 InvalidStateException", lambda: outcome(kms, "foo") == 400)
    it.refused("decrypt", 400, "InvalidStateException", lambda: kms.decrypt(old))
    status, seen = machine.run("xks-proxy", "keys", "prove", check=False)
    it.check("keys prove exits with 69", status == 69 and "DIFFERS" in seen, seen)


def outcome(kms, key):
    """Returns the status of an encrypt."""
    try:
        kms.encrypt(key, b"x")
    except Refused as refused:
        return refused.status
    return 200
