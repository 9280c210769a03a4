"""What a trial has in its hands, and what is written down of it."""

import contextlib
import dataclasses
import time


class NotAvailable(Exception):
    """The trial cannot be made with these tools; says why."""


@dataclasses.dataclass
class Trouble:
    """What befell one replica. Times are seconds since 1970."""

    replica: str
    began: float
    ended: float | None = None


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a trial may cost: failed requests, where the number is from, and how often each
    replica's HSM may come into use and go out of it."""

    failed: float
    why: str
    changes: int | None = None


class Stage:
    def __init__(self, fleet, seconds):
        self.fleet, self.seconds = fleet, seconds
        self.troubles = []
        #: More for the report, by name.
        self.notes = {}
        self.problems = []

    @property
    def replicas(self):
        return self.fleet.replicas

    def wait(self):
        time.sleep(self.seconds)

    @contextlib.contextmanager
    def trouble(self, replica):
        """In the block the replica is in trouble, in which the block puts it and out of it."""
        trouble = Trouble(replica.name, time.time())
        self.troubles.append(trouble)
        try:
            yield
        finally:
            trouble.ended = time.time()

    @contextlib.contextmanager
    def fault(self, replica, text):
        """In the block the replica's HSM has these faults."""
        with self.trouble(replica):
            replica.set(text)
            yield
            replica.set("")


def counted(counts):
    return ", ".join(f"{name} {count}" for name, count in counts.items())
