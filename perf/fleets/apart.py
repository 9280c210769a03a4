"""Network, process and mount namespaces for the script.

Nothing made inside them affects the rest of the machine, and the kernel removes it all when the
script ends, for whatever reason.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from launcher.programs import Failed

VARIABLE = "XKS_FLEET_IS_APART"
CLONE_NEWNET = 0x40000000
#: Name of the table of nftables that drops packets.
CUT = "xks-fleet-cut"


def is_apart():
    return VARIABLE in os.environ


def run_apart():
    """Runs this script again in separate namespaces. Returns its exit code."""
    if os.geteuid() != 0:
        raise Failed("network namespaces need root")
    with tempfile.TemporaryDirectory(prefix="xks-fleet") as directory:
        command = [
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, *sys.argv),
        ]
        environment = {**os.environ, VARIABLE: "yes", "TMPDIR": directory}
        # Only this process receives the terminal's Ctrl-C; it then ends the other.
        child = subprocess.Popen(command, env=environment, start_new_session=True)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, end)
        try:
            return child.wait()
        finally:
            kill(child)


def end(number, _):
    raise SystemExit(128 + number)


def kill(unshare):
    """Kills the processes in the namespaces and waits for all of them: the first process of a PID
    namespace ends after all others."""
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
    with contextlib.suppress(OSError):
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        unshare.wait(5)
    unshare.kill()
    unshare.wait()


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


def settle_in():
    """Sets up the namespaces. To be called once, inside them."""
    if not is_apart():
        raise Failed("not apart")
    names = Path("/run/netns")
    names.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "xks-fleet", names], check=True)


class Namespace:
    """A network namespace. Its interfaces are named after the namespaces that they lead to."""

    def __init__(self, name):
        self.name = name
        self.full_name = f"xks-fleet-{name}"
        ip("netns", "add", self.full_name)
        ip("-n", self.full_name, "link", "set", "lo", "up")

    def remove(self):
        ip("netns", "del", self.full_name)

    @property
    def prefix(self):
        """Prefix for a command that is to run in the namespace."""
        return ("ip", "netns", "exec", self.full_name)

    def link(self, own_address, other, address):
        """Connects this namespace to another by a pair of interfaces."""
        peer = ("peer", "name", self.name, "netns", other.full_name)
        ip("-n", self.full_name, "link", "add", "name", other.name, "type", "veth", *peer)
        self.set_up(own_address, other, address)

    def set_up(self, own_address, other, address):
        """Gives the interfaces between this namespace and another their addresses."""
        for here, there, its_address in ((self, other, own_address), (other, self, address)):
            ip("-n", here.full_name, "address", "add", f"{its_address}/30", "dev", there.name)
            ip("-n", here.full_name, "link", "set", "dev", there.name, "up")

    def set_link(self, interface, state):
        """Sets an interface up or down."""
        ip("-n", self.full_name, "link", "set", "dev", interface, state)

    def drop_packets(self, interface):
        """Silently drops all packets from and to an interface."""
        self.nft(
            f"add table inet {CUT}; "
            f"add chain inet {CUT} in {{ type filter hook input priority 0; }}; "
            f"add chain inet {CUT} out {{ type filter hook output priority 0; }}; "
            f"add rule inet {CUT} in iifname {interface} drop; "
            f"add rule inet {CUT} out oifname {interface} drop"
        )

    def pass_packets(self):
        """Ends `drop_packets`."""
        self.nft(f"delete table inet {CUT}")

    def nft(self, commands):
        subprocess.run([*self.prefix, "nft", commands], check=True)

    @contextlib.contextmanager
    def entered(self):
        """Enters the namespace for the block; sockets that the thread makes there stay in it."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            its = os.open(f"/run/netns/{self.full_name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                enter(its)
            finally:
                os.close(its)
            try:
                yield
            finally:
                enter(own)
        finally:
            os.close(own)


def enter(descriptor):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
