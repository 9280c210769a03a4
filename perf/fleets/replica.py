"""One of the proxies behind the balancer, in its own namespace."""

import datetime
import re
import signal
from collections import Counter

from launcher.programs import Failed
from launcher.settings import PREFIX
from trouble.rig import Rig

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
        for at, status, name, rest in ERROR.findall(self.log()):
            if seconds(at) >= since and f"externalKeyId={but_of} " not in rest:
                found[f"{status} {name}"] += 1
                last = seconds(at)
        return found, last

    def changes(self, since):
        """Returns how often its HSM came into or went out of use, according to its log."""
        return sum(1 for at in CHANGE.findall(self.log()) if seconds(at) >= since)


def seconds(text):
    """Converts a time in the log to seconds since 1970."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
