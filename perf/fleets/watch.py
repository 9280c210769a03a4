"""Recording of changes during a trial, with their times."""

import socket
import time

from trouble.background import Background


class Watch(Background):
    """Polls a value in a thread and records when it changed. `look` takes no arguments and
    returns the current value."""

    def __init__(self, look, every_seconds):
        super().__init__()
        self.look, self.every_seconds = look, every_seconds
        #: Pairs of seconds since 1970 and the value from then on.
        self.seen = []

    def run(self):
        while True:
            found = self.look()
            if not self.seen or self.seen[-1][1] != found:
                self.seen.append((time.time(), found))
            if self.is_over.wait(self.every_seconds):
                return

    def first(self, is_it, since):
        """Seconds from `since` until `is_it` first held; 0 if it already did; None if never."""
        at_first = [found for at, found in self.seen if at <= since]
        if at_first and is_it(at_first[-1]):
            return 0.0
        for at, found in self.seen:
            if at > since and is_it(found):
                return at - since
        return None

    def changes(self, since):
        return sum(1 for at, _ in self.seen[1:] if at >= since)


class Readiness:
    """Checks whether a replica is ready by /readyz, reusing one connection while it lasts."""

    REQUEST = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def __init__(self, replica, timeout_seconds):
        self.replica, self.timeout_seconds = replica, timeout_seconds
        self.connection = None

    def __call__(self):
        for _ in range(2):
            is_new = self.connection is None
            try:
                return self.ask()
            except OSError:
                self.close()
                if is_new:
                    break
        return False

    def ask(self):
        if self.connection is None:
            address = ("127.0.0.1", self.replica.ping_port)
            with self.replica.namespace.entered():
                self.connection = socket.create_connection(address, self.timeout_seconds)
        self.connection.sendall(self.REQUEST)
        answer = self.connection.recv(4096)
        if not answer:
            raise ConnectionResetError
        if b"onnection: close" in answer:
            self.close()
        return answer.startswith(b"HTTP/1.1 200")

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None
