"""Distance between two namespaces: each packet takes a given time, in either direction.

Two TUN interfaces take the place of a pair of veth interfaces, and a process of its own carries packets
from one to the other, since not every kernel has netem.
"""

import collections
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

#: From linux/if_tun.h.
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MAX_PACKET_BYTES = 65536


def tun(namespace, name):
    """Makes an interface in the namespace. Returns its descriptor; the interface lasts as long."""
    with namespace.entered():
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    request = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI)
    fcntl.ioctl(descriptor, TUNSETIFF, request)
    return descriptor


class Distance:
    """Interfaces in two namespaces, each named after the other, `milli` apart in each direction."""

    def __init__(self, namespace, other, milli):
        ends = [tun(namespace, other.name), tun(other, namespace.name)]
        command = [sys.executable, __file__, *(str(end) for end in ends), str(milli)]
        self.process = subprocess.Popen(command, pass_fds=ends)
        for end in ends:
            os.close(end)

    def remove(self):
        self.process.kill()
        self.process.wait()


def carry(ends, seconds):
    """Carries packets between the descriptors until this process is killed."""
    to = {ends[0]: ends[1], ends[1]: ends[0]}
    #: Time at which it is due, destination, packet. All take the same time, so the order is that of arrival.
    under_way = collections.deque()
    while True:
        wait = max(0, under_way[0][0] - time.monotonic()) if under_way else None
        readable, _, _ = select.select(ends, [], [], wait)
        now = time.monotonic()
        for end in readable:
            under_way.extend((now + seconds, to[end], packet) for packet in packets(end))
        while under_way and under_way[0][0] <= time.monotonic():
            _, destination, packet = under_way.popleft()
            try:
                os.write(destination, packet)
            except OSError:
                # A full queue, or an interface that is not up yet, loses packets, as a network does.
                pass


def packets(end):
    while True:
        try:
            yield os.read(end, MAX_PACKET_BYTES)
        except OSError:
            return


if __name__ == "__main__":
    carry([int(sys.argv[1]), int(sys.argv[2])], float(sys.argv[3]) / 1000)
