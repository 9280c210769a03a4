"""Programs and libraries that measurements use."""

import errno
import os
import random
import resource
import socket
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOFTHSM2_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
#: Ports of servers begin here: fixed ones of other programs are below.
FIRST_PORT = 10_000
#: Cargo profile, by default that of the packages.
PROFILE = os.environ.get("PERF_PROFILE", "dist")


class Failed(Exception):
    """A measurement could not be made; the message says why."""


def softhsm2_module():
    for path in SOFTHSM2_MODULES:
        if Path(path).exists():
            return path
    raise Failed("SoftHSM2 is not installed: apt-get install softhsm2")


def built(name):
    return ROOT / "target" / PROFILE / name


def binary(name):
    path = built(name)
    if not path.exists():
        raise Failed(f"{path} is missing: run without --no-build")
    return path


def build(*features):
    # The whole workspace, since with fewer packages cargo would select other features and rebuild.
    command = ["cargo", "build", "--profile", PROFILE, "--locked", "--workspace", *features]
    subprocess.run(command, cwd=ROOT, check=True)


def raise_open_files():
    """Raises the limit on descriptors: each idle connection needs one in the proxy and one in the
    generator."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def make_certificates(directory):
    if not (directory / "ca.pem").exists():
        subprocess.run([binary("xks-load"), "make-cert", directory], check=True)


def free_ports(count):
    """Returns ports on which nothing listens. They are not among those that the kernel gives to clients:
    a server that starts again would find its port taken by one."""
    clients = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    candidates = range(FIRST_PORT, int(clients[0])) or (0,)
    sockets = []
    while len(sockets) < count:
        try:
            sockets.append(socket.create_server(("127.0.0.1", random.choice(candidates))))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
