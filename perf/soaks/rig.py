"""The proxy of a soak: TLS, two tokens behind the interposer, two stores, a process that changes."""

import ctypes
import os
import signal
import threading
import time
from pathlib import Path

from launcher import calls
from launcher.programs import Failed, binary
from launcher.settings import CREDENTIAL, PREFIX, store
from trouble.keys import scrape
from trouble.operations import Served
from trouble.rig import Load, Rig

#: Store whose credentials are rotated. The other one keeps its own.
ROTATED_PREFIX = "/rotated/uri/path/prefix"
STEADY_KEY, ROTATED_KEY, EXTRA_KEY = "foo", "bar", "baz"
SESSIONS = 8
#: Low, so that a crowd of clients is soon above it.
MAX_CONNECTIONS = 150
#: request_deadline_milli: long, so that a busy machine causes no failures.
DEADLINE_MILLI = 5000
GENERATOR_TIMEOUT_MILLI = 15000
STOP_SECONDS = 40
#: prctl(2)
PR_SET_CHILD_SUBREAPER = 36


def be_subreaper():
    """Makes this process the parent of processes whose parents have ended, so that it learns their
    exit codes."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class SoakRig(Served):
    log_level = "WARN"
    load_options = ("--timeout-milli", str(GENERATOR_TIMEOUT_MILLI))

    def __init__(self):
        Rig.__init__(
            self, sessions=SESSIONS, keys=(STEADY_KEY, ROTATED_KEY, EXTRA_KEY), has_admin=True
        )
        #: Of the rotated store.
        self.credentials = [CREDENTIAL]
        self.key_set = [STEADY_KEY]
        self.certificates = "certificates"
        self.sockets = []
        self.more_limits = {}
        self.exit_codes = {}
        #: Held while settings, signals or processes change.
        self.changing = threading.RLock()

    def changed_settings(self):
        changes = super().changed_settings()
        rotated = [
            {"sigv4_access_key_id": name, "sigv4_secret_access_key": secret}
            for name, secret in self.credentials
        ]
        limits = {
            "max_connections": MAX_CONNECTIONS,
            "request_deadline_milli": DEADLINE_MILLI,
            **self.more_limits,
        }
        return {
            **changes,
            "pkcs11.PKCS11_HSM_MODULE": binary("libxks_interposer.so"),
            "tracing.level": self.log_level,
            "external_key_stores": [
                store(PREFIX, self.key_set),
                {
                    "uri_path_prefix": ROTATED_PREFIX,
                    "xks_key_id_set": [ROTATED_KEY],
                    "credentials": rotated,
                },
            ],
            **{f"limits.{name}": value for name, value in limits.items()},
        }

    def call(self, credential, key, prefix=PREFIX):
        """Calls GetKeyMetadata; returns the status, 0 if there was no answer."""
        url = f"https://localhost:{self.port}{prefix}/kms/xks/v1/keys/{key}/metadata"
        # Not both CAs, which have the same name: curl would try one of them only.
        ca = self.work / self.certificates / "ca.pem"
        return calls.call(url, credential, ca, calls.describe())[0]

    def start_load(self, name, seconds, rate, prefix, key, credential):
        """Starts the generator, which writes its failed requests to a file of that name."""
        options = (
            *("--ca", self.work / "ca.pem", "--prefix", prefix, "--key-id", key, "--poisson"),
            *("--access-key-id", credential[0], "--secret-access-key", credential[1]),
            *("--connections", "32", "--requests-per-connection", "300", "--round-trips"),
            *("--rate", str(rate), "--seconds", str(seconds), "--warm-up", "1"),
            *("--ciphertexts", "16", "--announce"),
            *("--failures", self.work / f"{name}.failures"),
        )
        load = Load(self, seconds, options, "decrypt=5,encrypt=1,encrypt-cdiv=2,metadata=1", samples=100)
        load.name = name
        return load

    def metrics(self):
        """Returns metrics as `scrape` does."""
        return scrape(self.admin_port, timeout=10)

    def is_gone(self, pid):
        """Returns whether a process has ended, whose exit code is then in `exit_codes`."""
        if self.process is not None and pid == self.process.pid:
            if self.process.poll() is None:
                return False
            self.exit_codes[pid] = self.process.returncode
            return True
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            # Its parent has not ended yet, or something else has taken its code.
            return not Path(f"/proc/{pid}").exists()
        if found:
            self.exit_codes[pid] = os.waitstatus_to_exitcode(status)
        return bool(found)

    def wait_until_gone(self, pid, seconds):
        deadline = time.monotonic() + seconds
        while not self.is_gone(pid):
            if time.monotonic() > deadline:
                raise Failed(f"process {pid} has not ended after {seconds} s")
            time.sleep(0.05)

    def stop(self):
        try:
            pid = self.served_by()
            os.kill(pid, signal.SIGTERM)
            self.wait_until_gone(pid, STOP_SECONDS)
        except (OSError, ValueError):
            pass
        Rig.stop(self)
