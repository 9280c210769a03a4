"""Events of a soak with their times, and problems."""

import bisect
import contextlib
import dataclasses
import threading
import time
from pathlib import Path


@dataclasses.dataclass
class Event:
    """`kind` is a group of events, `text` says more. Times are in seconds since 1970."""

    kind: str
    text: str
    began: float
    ended: float = float("inf")


class Diary:
    """Prints and keeps what happens, also to a file."""

    def __init__(self, seed, file):
        self.seed, self.file = seed, file
        self.started = time.time()
        self.lock = threading.Lock()
        self.events, self.problems = [], []

    def say(self, text, at=None):
        at = time.time() if at is None else at
        with self.lock:
            line = f"{at - self.started:8.1f} s  {text}"
            print(line, file=self.file, flush=True)
            return line

    @contextlib.contextmanager
    def event(self, kind, text):
        event = Event(kind, text, time.time())
        with self.lock:
            self.events.append(event)
        self.say(f"{kind}: {text}")
        try:
            yield event
        finally:
            event.ended = time.time()
            self.say(f"{kind}: over after {event.ended - event.began:.1f} s")

    def during(self, began, ended):
        """Returns the events that overlap with this time."""
        with self.lock:
            return [it for it in self.events if it.began <= ended and began <= it.ended]

    def problem(self, text, at=None):
        """Records a violation, with what happened at that time."""
        at = time.time() if at is None else at
        around = ", ".join(f"{it.kind} {it.text}" for it in self.during(at - 2, at + 0.5))
        line = self.say(f"FAIL {text} (seed {self.seed}; {around or 'nothing else'})", at)
        with self.lock:
            self.problems.append(line)


class Stalls(threading.Thread):
    """Notices when the machine gives threads of the proxy or of the generators no time."""

    TICK, LONG = 0.25, 0.2

    def __init__(self, processes):
        """`processes` returns process ids."""
        super().__init__(daemon=True)
        self.processes = processes
        #: Pairs of beginning and end, in seconds since 1970, in the order of their ends.
        self.found = []
        self.waited = {}

    def run(self):
        while True:
            time.sleep(self.TICK)
            with contextlib.suppress(OSError, ValueError):
                for pid in self.processes():
                    self.look(Path(f"/proc/{pid}/task"))

    def look(self, tasks):
        for task in tasks.iterdir():
            with contextlib.suppress(OSError):
                # Nanoseconds on a processor, and waiting for one (Documentation/scheduler/sched-stats).
                waited = int((task / "schedstat").read_text().split()[1]) / 1e9
                more = waited - self.waited.get(task, waited)
                self.waited[task] = waited
                if more > self.LONG:
                    now = time.time()
                    self.found.append((now - more - self.TICK, now))

    def overlaps(self, began, ended):
        place = bisect.bisect_left(self.found, began, key=lambda it: it[1])
        return any(start <= ended for start, _ in self.found[place:])
