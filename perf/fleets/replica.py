"""One of the proxies behind the balancer, in its own namespace."""

import datetime
import re
import signal
import time
from collections import Counter

from launcher import calls
from launcher.programs import Failed
from launcher.settings import CREDENTIAL, PREFIX, store
from trouble.rig import Rig

#: Debian's library that gives a process another clock.
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
#: Seconds for which it remembers what the file says.
FAKETIME_CACHE_SECONDS = 1
PORT, PING_PORT, ADMIN_PORT = 8443, 8080, 9443
#: Time, status, error and remaining fields of a call that was not answered with 200.
ERROR = re.compile(r"^(\S+) \w+ call=\w+ status=(?!200)(\d+) errorName=(\w+) (.*)$", re.M)
CHANGE = re.compile(r"^(\S+) \w+ HSM token (?:in|out of) use ", re.M)


class Replica(Rig):
    """A proxy as in production: TLS, PROXY protocol, one log line per call."""

    ip = "0.0.0.0"
    log_level = "INFO"
    is_tls = True

    def __init__(self, name, namespace, address, program, fleet):
        stores = ((PREFIX, tuple(fleet.keys)),)
        super().__init__(tokens=(f"hsm-{name}",), keys=fleet.keys, stores=stores, proxy=program)
        self.name, self.namespace, self.address = name, namespace, address
        self.certificates = fleet.work / "certificates"
        self.balancer_address = fleet.balancer_address(name)
        #: Access key ids and secret access keys that are accepted.
        self.credentials = [CREDENTIAL]
        self.has_own_clock = fleet.has_own_clock(name)
        #: Seconds that its clock was ahead at most.
        self.ahead_seconds = 0

    @property
    def server(self):
        return f"""\
proxy_protocol_from = ["{self.balancer_address}/32"]
load_balancer = "other"
fleet_size = 3
pid_file = "{self.work / "pid"}"
"""

    def ports(self):
        return PORT, PING_PORT, ADMIN_PORT

    def program(self):
        return [*self.namespace.prefix, self.proxy]

    def prepare(self):
        # KMS sees the same certificate, whichever replica answers.
        (self.work / "certificates").symlink_to(self.certificates)
        super().prepare()
        if self.has_own_clock:
            self.set_clock(0)
            self.environment |= {
                "LD_PRELOAD": FAKETIME,
                "FAKETIME_TIMESTAMP_FILE": str(self.work / "clock"),
                "FAKETIME_CACHE_DURATION": str(FAKETIME_CACHE_SECONDS),
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }

    def set_clock(self, ahead_seconds):
        """Steps the wall clock of the process to that many seconds ahead of the machine's; requires
        `has_own_clock`."""
        self.ahead_seconds = max(self.ahead_seconds, ahead_seconds)
        new = self.work / "clock.new"
        new.write_text(f"+{ahead_seconds}\n")
        new.rename(self.work / "clock")

    def changed_settings(self):
        changes = super().changed_settings()
        first, *others = self.credentials
        more = [
            {"sigv4_access_key_id": key_id, "sigv4_secret_access_key": secret}
            for key_id, secret in others
        ]
        # An empty list would be a value, not tables.
        credentials = {"credentials": more} if more else {}
        changes["external_key_stores"] = [store(PREFIX, self.keys, first, **credentials)]
        return changes

    def accept(self, *credentials):
        """Accepts these credentials and no others, by a reload."""
        self.credentials = list(credentials)
        self.reload()

    def call(self, key, name, body, credential=CREDENTIAL):
        """Makes a call past the balancer. Returns status and answer."""
        url = f"https://localhost:{PORT}{PREFIX}/kms/xks/v1/keys/{key}/{name}"
        return calls.call(url, credential, self.certificates / "ca.pem", body, self.namespace.prefix)

    def get(self, path, timeout=5):
        with self.namespace.entered():
            return super().get(path, timeout)

    def upgrade(self):
        """Has a new process take over; the old one drains and ends."""
        self.process.send_signal(signal.SIGUSR2)
        if self.process.wait(60) != 0:
            raise Failed(f"the old process of {self.name} ended with {self.process.returncode}")
        # Orphaned, the new process became a child of the first process in the PID namespace, which
        # is this one.
        self.process.pid = int((self.work / "pid").read_text())
        self.process.returncode = None

    def errors(self, since, but_of):
        """Returns the number of calls not answered with 200, by status and name, and the time of
        the last one. Calls of one key are left out."""
        found, last = Counter(), None
        for text, status, name, rest in ERROR.findall(self.log()):
            at = self.true_time(text)
            if at >= since and f"externalKeyId={but_of} " not in rest:
                found[f"{status} {name}"] += 1
                last = at
        return found, last

    def true_time(self, text):
        """Converts a time in the log to seconds since 1970, by the machine's clock."""
        at = seconds(text)
        return at - self.ahead_seconds if at > time.time() + 1 else at

    def changes(self, since):
        """Returns how often its HSM came into or went out of use, according to its log."""
        return sum(1 for at in CHANGE.findall(self.log()) if self.true_time(at) >= since)


def seconds(text):
    """Converts a time in the log to seconds since 1970."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
