#!/usr/bin/env python3
"""Hostile peers: keeps thousands of slow, unresponsive or half-open connections.

Loads this machine only. Prints its figures as one line of JSON when it is stopped.
"""

import argparse
import json
import os
import resource
import select
import signal
import socket
import ssl
import time

HEAD = b"POST /kms/xks/v1/health HTTP/1.1\r\nHost: localhost\r\n"
#: Data sent before a slow body slows down, enough to make the proxy use its largest buffer.
BODY = HEAD + b"Content-Length: 30000\r\n\r\n" + b"x" * 20_000
PINGS = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500
#: Request without a valid signature, for peers that send one after another.
UNSIGNED = (
    b"POST /example/uri/path/prefix/kms/xks/v1/keys/foo/encrypt HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 400\r\n\r\n" + b"x" * 400
)
#: Seconds between two bytes of a slow peer.
DRIP_SECONDS = 5
#: Connections opened per second in modes without their own rate.
RAMP_PER_SECOND = 2000


def client_hello():
    """Returns a complete ClientHello, the first message of any TLS client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


class Peers:
    """Keeps `count` connections; each one that ends is replaced."""

    def __init__(self, options):
        self.options = options
        self.address = ("127.0.0.1", options.port)
        self.hello = client_hello()
        self.poll = select.epoll()
        self.open = {}
        self.begun = self.ended = self.failed = self.answered = 0
        self.longest_open = 0

    def source(self):
        return (f"127.0.0.{1 + self.begun % self.options.sources}", 0)

    def begin(self):
        peer = socket.socket()
        peer.setblocking(False)
        if self.options.mode == "never-read":
            # The sooner this buffer is full, the sooner the proxy has to buffer its answers.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            if self.options.sources > 1:
                peer.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
                peer.bind(self.source())
            peer.connect(self.address)
        except BlockingIOError:
            pass
        except OSError:
            self.failed += 1
            peer.close()
            return
        self.begun += 1
        self.open[peer.fileno()] = peer
        self.poll.register(peer.fileno(), select.EPOLLOUT)

    def end(self, descriptor):
        self.open.pop(descriptor).close()
        self.ended += 1

    def first(self):
        mode = self.options.mode
        if mode == "slow-head":
            return HEAD
        if mode == "slow-body":
            return BODY
        if mode == "half-open":
            return self.hello[: len(self.hello) // 2]
        if mode == "handshakes":
            return self.hello
        if mode == "unsigned":
            return UNSIGNED
        return PINGS

    def on_event(self, descriptor, event):
        peer = self.open.get(descriptor)
        if peer is None:
            return
        try:
            if event & select.EPOLLOUT:
                peer.send(self.first())
                if self.options.mode != "never-read":
                    self.poll.modify(descriptor, select.EPOLLIN | select.EPOLLRDHUP)
            elif event & (select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
                # After a ClientHello, the server's handshake messages; otherwise an error answer or
                # the end of the connection.
                is_answer = bool(peer.recv(1 << 16))
                self.answered += is_answer
                if is_answer and self.options.mode == "unsigned":
                    peer.send(UNSIGNED)
                else:
                    self.end(descriptor)
        except BlockingIOError:
            pass
        except OSError:
            self.end(descriptor)

    def drip(self):
        piece = {"slow-head": b"A: b\r\n", "slow-body": b"x"}.get(self.options.mode)
        if piece is None:
            return
        for descriptor, peer in list(self.open.items()):
            try:
                peer.send(piece)
            except BlockingIOError:
                pass
            except OSError:
                self.end(descriptor)

    def run(self):
        started = time.monotonic()
        rate = self.options.rate or RAMP_PER_SECOND
        allowance, last, dripped = 0.0, started, started
        is_ending = []
        signal.signal(signal.SIGTERM, lambda *_: is_ending.append(True))
        while not is_ending:
            now = time.monotonic()
            allowance = min(allowance + (now - last) * rate, rate / 10)
            last = now
            while allowance >= 1 and len(self.open) < self.options.count:
                allowance -= 1
                self.begin()
            self.longest_open = max(self.longest_open, len(self.open))
            if now - dripped > DRIP_SECONDS:
                dripped = now
                self.drip()
            for descriptor, event in self.poll.poll(0.005, 1024):
                self.on_event(descriptor, event)
        report = {
            "seconds": round(time.monotonic() - started, 1),
            "open": len(self.open),
            "most_open": self.longest_open,
            "begun": self.begun,
            "ended": self.ended,
            "answered": self.answered,
            "failed": self.failed,
        }
        print(json.dumps(report), flush=True)
        # Do not spend time on closing thousands of sockets.
        os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    modes = ("slow-head", "slow-body", "never-read", "half-open", "handshakes", "unsigned")
    parser.add_argument("mode", choices=modes)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, default=5000, help="connections at a time")
    parser.add_argument("--rate", type=int, help="connections begun in a second")
    parser.add_argument("--sources", type=int, default=1, help="addresses, from 127.0.0.1 on")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Peers(parser.parse_args()).run()


if __name__ == "__main__":
    main()
