"""The process of a proxy."""

import os
import signal
import subprocess
import time
from pathlib import Path

from launcher.programs import Failed

STOP_SECONDS = 20


def environment(work, softhsm2_configuration):
    """Returns the environment of a proxy whose settings.toml is in `work`."""
    variables = {
        **os.environ,
        "SOFTHSM2_CONF": str(softhsm2_configuration),
        "XKS_PROXY_SETTINGS_TOML": str(work / "settings.toml"),
    }
    # Would override the settings.
    variables.pop("PKCS11_HSM_MODULE", None)
    return variables


def status_kib(pid, member):
    """Returns a size in /proc/PID/status, such as VmRSS, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{member}:"))


class ProxyProcess:
    """A proxy that runs in the directory `work`; its output is in output.txt, its logs are in log/."""

    process = None

    def launch(self, command, environment, **options):
        with open(self.work / "output.txt", "ab") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, **options
            )

    def wait_until(self, is_ready, seconds):
        deadline = time.monotonic() + seconds
        while not is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the proxy does not get ready: {self.last_words()}")
            time.sleep(0.01)

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def last_words(self):
        """Returns how the process ended, and the ends of its logs and output."""
        try:
            # A crashed proxy's sockets are closed slightly before the process can be waited for.
            ended = f"the proxy ended with {self.process.wait(0.5)}; "
        except subprocess.TimeoutExpired:
            ended = ""
        words = b"".join(file.read_bytes()[-300:] for file in (self.work / "log").glob("*"))
        words += (self.work / "output.txt").read_bytes()[-600:]
        return ended + words.decode(errors="replace").strip()
