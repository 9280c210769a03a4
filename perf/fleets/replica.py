"""One of the proxies behind the balancer, in a namespace of its own."""

import datetime
import re
import signal
from collections import Counter

from matrix.proxy import Failed
from trouble.rig import Rig

PORT, PING_PORT = 8443, 8080
ANSWERED = re.compile(r"^(\S+) \w+ call=\w+ status=(?!200)(\d+) .*?errorName=(\w+)", re.M)
CHANGED = re.compile(r"^(\S+) \w+ HSM token (in use|out of use)|^(\S+) \w+ .*?\"HSM token", re.M)


class Replica(Rig):
    """As in production: TLS, PROXY protocol, a line for each call in the log."""

    ip = "0.0.0.0"
    log_level = "INFO"
    is_tls = True

    def __init__(self, name, namespace, address, program, fleet):
        super().__init__(tokens=(f"hsm-{name}",), keys=fleet.keys)
        self.name, self.namespace, self.address = name, namespace, address
        self.path = program
        self.certificates = fleet.work / "certificates"
        self.balancer_address = fleet.balancer_address(name)

    @property
    def server(self):
        return f"""\
proxy_protocol_from = ["{self.balancer_address}/32"]
fleet_size = 3
pid_file = "{self.work / "pid"}"
"""

    def ports(self):
        return PORT, PING_PORT

    def program(self):
        return [*self.namespace.prefix, self.path]

    def prepare(self):
        # KMS sees one certificate, whoever answers.
        (self.work / "certificates").symlink_to(self.certificates)
        super().prepare()

    def get(self, path, timeout=5):
        with self.namespace.entered():
            return super().get(path, timeout)

    def upgrade(self):
        """A new process takes over, the old one drains and ends."""
        self.process.send_signal(signal.SIGUSR2)
        if self.process.wait(60) != 0:
            raise Failed(f"the old process of {self.name} ended with {self.process.returncode}")
        # Nobody's child any more, the new one is that of the process namespace's first process:
        # ours.
        self.process.pid = int((self.work / "pid").read_text())
        self.process.returncode = None

    def errors(self, since):
        """Calls that were not answered with 200, by status and name, and when the last one was."""
        found = Counter()
        last = None
        for at, status, name in ANSWERED.findall(self.log()):
            if seconds(at) >= since:
                found[f"{status} {name}"] += 1
                last = seconds(at)
        return found, last

    def changes(self, since):
        """Times at which its HSM came into use or went out of it, by its log."""
        return [
            seconds(line.split(" ", 1)[0])
            for line in self.log().splitlines()
            if re.search(r"HSM token (in|out of) use", line)
            and seconds(line.split(" ", 1)[0]) >= since
        ]


def seconds(text):
    """Of a time in the log, since 1970."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
