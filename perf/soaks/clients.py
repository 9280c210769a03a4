"""Clients that misbehave, drawn from a seed."""

import random
import socket
import ssl
import struct
import time

from hostile.peers import UNSIGNED, client_hello
from launcher.settings import CREDENTIAL
from soaks.rig import MAX_CONNECTIONS, STEADY_KEY

WRONG_SECRET = "ThisIsNotTheSecretAccessKeyOfAnyStoreInTheFile"
HEAD = b"POST /example/uri/path/prefix/kms/xks/v1/keys/foo/encrypt HTTP/1.1\r\nHost: localhost\r\n"
TIMEOUT = 10


def tcp(rig):
    return socket.create_connection(("127.0.0.1", rig.port), TIMEOUT)


def tls(rig):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(tcp(rig), server_hostname="localhost")


def reset(peer):
    """Closes a socket with a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def status(peer):
    """Returns the status of the next answer; 0 if there is none."""
    received = b""
    while b"\r\n" not in received:
        found = peer.recv(4096)
        if not found:
            return 0
        received += found
    return int(received.split(b" ", 2)[1])


def half_handshakes(rig, choice):
    hello = client_hello()
    peers = [tcp(rig) for _ in range(10)]
    for peer in peers:
        peer.sendall(hello[: choice.randrange(1, len(hello))])
    time.sleep(choice.uniform(0, 2))
    for peer in peers:
        choice.choice((reset, socket.socket.close))(peer)


def abandoned_handshakes(rig, choice):
    for _ in range(20):
        peer = tcp(rig)
        peer.sendall(client_hello())
        if choice.random() < 0.5:
            peer.recv(1 << 16)
        choice.choice((reset, socket.socket.close))(peer)


def garbage(rig, choice):
    for make in (tcp, tls) * 3:
        peer = make(rig)
        peer.sendall(choice.randbytes(choice.randrange(1, 5000)))
        time.sleep(choice.uniform(0, 0.2))
        reset(peer)


def half_requests(rig, choice):
    request = UNSIGNED
    for _ in range(10):
        peer = tls(rig)
        peer.sendall(request[: choice.randrange(1, len(request))])
        time.sleep(choice.uniform(0, 0.2))
        choice.choice((reset, socket.socket.close))(peer)


def slow_writers(rig, choice):
    peers = [tls(rig) for _ in range(8)]
    for byte in UNSIGNED[: choice.randrange(20, 80)]:
        for peer in peers:
            peer.sendall(bytes([byte]))
        time.sleep(0.05)
    for peer in peers:
        peer.close()


def oversized(rig, choice):
    with tls(rig) as peer:
        length = choice.choice((200_000, 10_000_000, 10**12))
        peer.sendall(HEAD + f"Content-Length: {length}\r\n\r\n".encode())
        found = status(peer)
        return None if found in (0, 400, 401, 413) else f"an oversized body got {found}"


def unread_answers(rig, choice):
    with tls(rig) as peer:
        peer.settimeout(2)
        peer.sendall(UNSIGNED * choice.choice((5, 50, 200)))
        time.sleep(choice.uniform(0, 1))


def unsigned(rig, choice):
    with tls(rig) as peer:
        peer.sendall(UNSIGNED)
        found = status(peer)
        return None if found in (0, 400, 401) else f"an unsigned request got {found}"


def wrong_signatures(rig, choice):
    for _ in range(5):
        found = rig.call((CREDENTIAL[0], WRONG_SECRET), STEADY_KEY)
        if found not in (0, 401):
            return f"a wrong signature got {found}"
    return None


def crowd(rig, choice):
    """More connections than allowed."""
    peers = []
    try:
        for _ in range(MAX_CONNECTIONS + 50):
            peers.append(tcp(rig))
        if choice.random() < 0.5:
            hello = client_hello()
            for peer in peers:
                try:
                    peer.sendall(hello)
                except OSError:
                    pass
        time.sleep(choice.uniform(0.5, 2))
    finally:
        for peer in peers:
            peer.close()


KINDS = (
    half_handshakes, abandoned_handshakes, garbage, half_requests, slow_writers, oversized,
    unread_answers, unsigned, wrong_signatures, crowd,
)
CROWD = crowd.__name__


class Clients:
    """The track of clients."""

    def __init__(self, rig, diary, choice):
        self.rig, self.diary, self.choice = rig, diary, choice
        self.counts = {}

    def step(self, is_over):
        act = self.choice.choice(KINDS)
        own = random.Random(self.choice.randrange(1 << 32))
        self.counts[act.__name__] = self.counts.get(act.__name__, 0) + 1
        with self.diary.event("clients", act.__name__):
            try:
                problem = act(self.rig, own)
            # The proxy may refuse or cut them at any point.
            except OSError as error:
                name = f"{act.__name__} cut by {type(error).__name__}"
                self.counts[name] = self.counts.get(name, 0) + 1
                return
        if problem:
            self.diary.problem(problem)
