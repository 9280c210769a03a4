"""HAProxy in front of the replicas: TCP mode, PROXY protocol, health by /readyz."""

import contextlib
import csv
import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path

from launcher.programs import Failed

POLICY = Path("/usr/sbin/policy-rc.d")
DRAINING_RULE = "http-check expect error-status L7OKC ! string draining"
#: How a session ended, by the first letter of HAProxy's termination state.
ENDS = {
    "C": "by the client",
    "D": "by the balancer, as a replica was marked down",
    "L": "by the balancer itself",
    "P": "by the balancer, against the protocol",
    "R": "by the balancer, out of resources",
    "S": "by the replica",
    "c": "by the client's time-out",
    "s": "by the replica's time-out",
}


def install():
    """Installs Debian's package if there is no HAProxy, without starting its service."""
    if shutil.which("haproxy"):
        return
    if not shutil.which("apt-get"):
        raise Failed("HAProxy is not installed, and there is no apt-get")
    is_ours = not POLICY.exists()
    if is_ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            ["apt-get", "install", "-qy", "--no-install-recommends", "haproxy"],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            check=True, stdout=subprocess.DEVNULL,
        )
    finally:
        if is_ours:
            POLICY.unlink()


def version():
    said = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout
    return " ".join(said.split()[:3])


@dataclasses.dataclass(frozen=True)
class Checks:
    """The balancer's health checks, and its reaction when a replica fails them."""

    inter_seconds: float = 2
    fall: int = 2
    rise: int = 2
    timeout_seconds: float = 1
    shuts_sessions: bool = True
    #: Whether a replica that says that it is draining keeps its open connections.
    knows_draining: bool = True

    @property
    def seconds_until_out(self):
        """Maximum time from a negative /readyz until the replica gets no more connections."""
        return self.inter_seconds * self.fall + self.timeout_seconds

    @property
    def seconds_until_in(self):
        return self.inter_seconds * self.rise + self.timeout_seconds

    def line(self):
        sessions = (
            "on-marked-down shutdown-sessions" if self.shuts_sessions
            else "open sessions stay when a replica is marked down"
        )
        if self.knows_draining:
            sessions += f", {DRAINING_RULE}"
        return (
            f"TCP mode, leastconn, send-proxy-v2, GET /readyz (inter {self.inter_seconds:g}s fall "
            f"{self.fall} rise {self.rise}, timeout check {self.timeout_seconds:g}s), {sessions}"
        )


class Balancer:
    """A HAProxy that listens on `address` in the namespace. Its servers are names with pairs of
    address and port."""

    def __init__(self, namespace, work, address, checks):
        self.namespace, self.work, self.checks = namespace, work, checks
        self.address = address
        self.process = None
        self.servers, self.ping_port = {}, None

    def configuration(self, servers, ping_port):
        checks = self.checks
        shut = "on-marked-down shutdown-sessions" if checks.shuts_sessions else ""
        # A server that drains gets no new connections; it is not down, so its sessions are not shut.
        draining = f"    {DRAINING_RULE}\n" if checks.knows_draining else ""
        lines = "".join(
            f"    server {name} {ip}:{port} check port {ping_port}\n"
            for name, (ip, port) in servers.items()
        )
        # The client and server time-outs exceed the proxy's idle_timeout_milli, so that the proxy
        # ends idle connections. A connection that a replica refuses goes to another.
        return f"""\
global
    maxconn 2000
    log stderr format raw local0
    stats socket {self.work / "haproxy.sock"} mode 600 expose-fd listeners

defaults
    mode tcp
    log global
    option tcplog
    option dontlog-normal
    option redispatch 1
    retries 3
    timeout connect 1s
    timeout client 90s
    timeout server 90s
    timeout check {checks.timeout_seconds:g}s

frontend api
    bind {self.address[0]}:{self.address[1]}
    default_backend replicas

backend replicas
    balance leastconn
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host localhost
{draining}    http-check expect status 200
    default-server inter {checks.inter_seconds:g}s fall {checks.fall} rise {checks.rise} send-proxy-v2 {shut}
{lines}"""

    def start(self, servers, ping_port):
        file = self.work / "haproxy.cfg"
        self.servers, self.ping_port = dict(servers), ping_port
        file.write_text(self.configuration(servers, ping_port))
        with open(self.work / "haproxy.txt", "ab") as output:
            self.process = subprocess.Popen(
                [*self.namespace.prefix, "haproxy", "-W", "-db", "-f", file],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            )
        self.wait_until(lambda: set(self.states().values()) == {"UP"}, "start")

    def reload(self, without=()):
        """Has a new process take over the listening sockets, with a configuration without these
        servers. The old one keeps its connections until they end."""
        for name in without:
            del self.servers[name]
        before = self.worker()
        (self.work / "haproxy.cfg").write_text(self.configuration(self.servers, self.ping_port))
        self.process.send_signal(signal.SIGUSR2)
        self.wait_until(lambda: self.worker() not in (before, None), "reload")

    def wait_until(self, is_it, what):
        deadline = time.monotonic() + 10
        while not is_it():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"HAProxy does not {what}: {self.log()[-600:]}")
            time.sleep(0.05)

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            # To the master process, which ends the others.
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def log(self):
        return (self.work / "haproxy.txt").read_text(errors="replace")

    def ask(self, command):
        """Returns the answer to a command; an empty one if HAProxy does not answer."""
        said = b""
        try:
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as asked:
                asked.settimeout(2)
                asked.connect(str(self.work / "haproxy.sock"))
                asked.sendall(command + b"\n")
                while part := asked.recv(65536):
                    said += part
        except OSError:
            return ""
        return said.decode()

    def worker(self):
        """Returns the id of the process that has the listening sockets, None if it does not answer."""
        found = re.search(r"^Pid: (\d+)$", self.ask(b"show info"), re.M)
        return found and int(found[1])

    def states(self):
        """Returns UP, NOLB (while it drains) or DOWN by server; nothing if HAProxy does not answer."""
        rows = csv.DictReader(self.ask(b"show stat").removeprefix("# ").splitlines())
        # "UP 1/2" is going down, "DOWN 1/2" is coming up.
        return {
            row["svname"]: row["status"].split()[0]
            for row in rows if row["pxname"] == "replicas" and row["svname"] != "BACKEND"
        }

    def unusual_ends(self):
        """Counts sessions that ended abnormally, by server and by the side that ended them."""
        found = re.findall(
            r" replicas/(\S+) [-\d]+/[-\d]+/\+?[-\d]+ \d+ (\w)\S (?:\d+/){4}(\+?)", self.log()
        )
        # A plus means that the session had first been sent to another server: which one ended it
        # is unknown.
        return Counter(
            ("redispatched:" if is_second else f"{server}:", ENDS.get(state, state))
            for server, state, is_second in found
        )
