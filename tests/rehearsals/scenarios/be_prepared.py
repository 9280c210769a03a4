"""What the page says to keep is of use later: a witness, and a ciphertext."""


def rehearse(it):
    machine = it.machine
    it.begin()
    it.run()
    it.check("the file has the key's witness", "foo" in (machine.work / "etc/witnesses").read_text())
    it.run()
    blob = (machine.work / "etc/check.blob").read_bytes()
    it.check("the ciphertext is kept, and is not the text", blob and b"dGVzdA" not in blob)
