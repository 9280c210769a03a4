"""The means that a trial has, and the record of its course."""

import contextlib
import dataclasses
import time


class NotAvailable(Exception):
    """The trial is not possible with these tools, for the reason in the message."""


@dataclasses.dataclass
class Trouble:
    """A period of trouble at one replica. Times are seconds since 1970."""

    replica: str
    began: float
    ended: float | None = None


@dataclasses.dataclass(frozen=True)
class Bound:
    """Upper bounds on a trial's cost: failed requests, with the reason for the number, and how
    often each replica's HSM may come into or go out of use."""

    failed: float
    why: str
    changes: int | None = None


class Stage:
    def __init__(self, fleet, seconds):
        self.fleet, self.seconds = fleet, seconds
        self.troubles = []
        #: Loads by the name of their clients; a trial may add some.
        self.loads = {}
        #: The trial itself waits for the end of the load.
        self.outlasts_load = False
        #: Additional entries for the report, by name.
        self.notes = {}
        self.problems = []

    @property
    def replicas(self):
        return self.fleet.replicas

    def wait(self):
        time.sleep(self.seconds)

    @contextlib.contextmanager
    def trouble(self, replica):
        """Records trouble at the replica during the block, which causes and ends the trouble."""
        trouble = Trouble(replica.name, time.time())
        self.troubles.append(trouble)
        try:
            yield
        finally:
            trouble.ended = time.time()

    def stop(self, replica):
        """Has the replica drain and end, which it must do by itself."""
        replica.stop()
        if replica.process.returncode != 0:
            self.problems.append(f"{replica.name} ended with {replica.process.returncode}")

    @contextlib.contextmanager
    def fault(self, replica, text):
        """Applies these faults to the replica's HSM during the block."""
        with self.trouble(replica):
            replica.set(text)
            yield
            replica.set("")


def counted(counts):
    return ", ".join(f"{name} {count}" for name, count in counts.items())
