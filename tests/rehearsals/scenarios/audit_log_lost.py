"""The audit log is deleted under a running proxy, and then together with it."""

import os
import time


def rehearse(it):
    machine = it.machine
    log, key = machine.work / "log", machine.work / "etc/audit.key"
    machine.make_token("hsm", foo="0123456789abcdef" * 4, audit="cd" * 32)
    machine.make_certificate()
    machine.run("xks-proxy", "audit", "new-key", key)
    it.begin(audit__directory=str(log), audit__key_file=str(key), audit__hsm_key="audit")
    os.rename(key, machine.work / "audit.key")
    kms = machine.kms()

    kms.encrypt("foo", b"x")
    # A line is in the file within 10 ms.
    time.sleep(0.5)

    it.happens("the log's directory is deleted")
    machine.remove(log)
    it.eventually("a new file, and the log tells", lambda: (log / "audit.jsonl").exists()
                  and "the audit log's file was deleted" in machine.log())
    it.check("calls are answered", kms.encrypt("foo", b"x"))
    time.sleep(0.5)
    it.run()
    output = it.run(**{"--key-file audit.key": f"--key-file {machine.work / 'audit.key'}"})
    it.check("nothing is missing", "good: " in output and "missing" not in output, output)

    it.happens("the machine is lost, and all that is in the log's directory")
    machine.kill()
    machine.remove(log)
    status, seen = machine.run("systemctl", "start", "xks-proxy", check=False)
    it.check("the proxy does not start without the chain's state", status != 0, seen)
    it.run()
    table = it.edit()
    table["audit"]["key_file"] = table["audit"]["key_file"].replace(
        "/etc/xks-proxy", str(machine.work / "etc")
    )
    machine.merge(table)
    it.run()
    machine.wait_until("ready", machine.is_ready)
    kms.encrypt("foo", b"x")
    time.sleep(0.5)
    it.check("the new chain is good", "good: " in it.run())
