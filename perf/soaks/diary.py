"""Events of a soak with their times, and problems."""

import bisect
import contextlib
import dataclasses
import threading
import time


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
    """Notices when the machine gives this process no time."""

    TICK, LONG = 0.05, 0.5

    def __init__(self):
        super().__init__(daemon=True)
        #: Pairs of beginning and end, in seconds since 1970.
        self.found = []

    def run(self):
        last = time.time()
        while True:
            time.sleep(self.TICK)
            now = time.time()
            if now - last > self.LONG:
                self.found.append((last, now))
            last = now

    def overlaps(self, began, ended):
        place = bisect.bisect_right(self.found, (ended, float("inf")))
        return any(end >= began for _, end in self.found[max(0, place - 8) : place])
