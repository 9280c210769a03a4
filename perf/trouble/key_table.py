"""One key that fails with each code, among healthy keys: a row of a few seconds for each."""

import contextlib
import itertools
import re
import statistics
import time
from dataclasses import dataclass, field

from trouble import codes
from trouble.keys import (
    BAD, BREAKERS_OPEN, BREAKER_OPENINGS, GOOD, SESSIONS_OPENED, KeyRig, Watch, last_failure,
)
from trouble.rig import CRYPTO, toml_list

GOOD_RATE, BAD_RATE = 1000, 200
GOOD_CONNECTIONS, BAD_CONNECTIONS = 64, 16
#: Rate of the bad key's requests in the direction that does not fail.
OTHER_WAY_RATE = 50
#: Seconds after which the breaker of a failing key must be open.
OPENING = 1.5
#: Seconds that the load continues after the fault is over.
RECOVERY = 2.5
MAX_P99_RATIO = 1.5
MAX_SESSIONS_PER_SECOND = 1
MAX_ANSWER_MS = 5
MAX_CALLS_PER_SECOND = 2
#: Calls of a single attempt, which may fall at either end of the counting window.
CALLS_OF_A_TRY = 2
MAX_BACK_SECONDS = 2
#: Rows between two undisturbed runs; rows are compared with the latest few of these.
ROWS_PER_BASELINE = 8
BASELINES = 3
#: Beyond this 99th percentile of the generator's own delay, the machine was busy with other work.
MAX_LATE_MS = 10
BUSY_ATTEMPTS = 2
#: Attempts at a row whose latency is too high.
ATTEMPTS = 5

#: Tokens, and the number of them on which the key is bad.
SHAPES = {"one": (("one",), 1), "two": (("one", "two"), 2), "half": (("one", "two"), 1)}


@dataclass
class Row:
    shape: str
    function: str
    code: str
    class_: str
    acted: int = 0
    others: int = 0
    others_failed: int = 0
    p99: float = 0.0
    ratio: float | None = None
    outages: int = 0
    sessions_per_second: float = 0.0
    bad: int = 0
    bad_failed: int = 0
    other_way_failed: int = 0
    answer_p99: float = 0.0
    calls_per_second: float = 0.0
    breakers_open: float | None = None
    openings: float | None = None
    back: float | None = None
    late: float = 0.0
    broken: list = field(default_factory=list)

    @property
    def is_quiet(self):
        """Whether nothing was wrong and the machine was not busy."""
        return not self.broken and self.late <= MAX_LATE_MS

    @property
    def is_fault(self):
        return self.class_ in codes.FAULTS


def direction(function):
    """Returns the operation that fails, and the other one."""
    return ("encrypt", "decrypt") if "Encrypt" in function else ("decrypt", "encrypt")


def faults(rig, shape, function, code):
    """Returns settings in which the key fails, preceded by counters of its calls by token."""
    failing = [name for name in CRYPTO if direction(name) == direction(function)]
    key = f'key = "{rig.bad[0]}"'
    text = "".join(
        f'[[fault]]\n{key}\nslot = {slot}\nfunctions = {toml_list(failing)}\ndelay = "0ms"\n'
        for slot in rig.slots
    )
    for slot in rig.slots[: SHAPES[shape][1]]:
        text += f"[[fault]]\n{key}\nslot = {slot}\nfunctions = {toml_list([function])}\n"
        text += f"return = {codes.value(code)}\n"
    return text


def run(rig, row, seconds, text):
    """Fills a row with the figures while `text` is in force, which is "" without faults."""
    fails, other_way = direction(row.function)
    good = [(GOOD_RATE, seconds), (GOOD_RATE, RECOVERY)]
    rate = BAD_RATE + OTHER_WAY_RATE
    bad = [(rate, OPENING), (rate, seconds - OPENING), (rate, RECOVERY)]
    mix = f"{fails}={BAD_RATE},{other_way}={OTHER_WAY_RATE}"
    with contextlib.ExitStack() as stack:
        others = rig.load_of(GOOD, good, "decrypt=1,encrypt-cdiv=1", GOOD_CONNECTIONS)
        stack.callback(others.kill)
        key = rig.load_of(BAD, bad, mix, BAD_CONNECTIONS)
        stack.callback(key.kill)
        watch = stack.enter_context(Watch(rig))
        others.wait_until_measured()
        key.wait_until_measured()
        rig.set(text)
        before, early = sleep_until(key.measured_from + OPENING), rig.counts().get("fault", [])
        after, counts = sleep_until(key.measured_from + seconds), rig.counts().get("fault", [])
        is_open = watch.latest.total(BREAKERS_OPEN)
        cleared = time.monotonic()
        rig.set("")
        key.wait()
        others.wait()
    row.others, row.others_failed = others.found["total"]["requests"], others.failed
    row.p99 = others.found["phases"][0]["latency_ms"]["p99"]
    row.late = max(load.found["generator"]["lateness_ms"]["p99"] for load in (others, key))
    row.outages = watch.outages
    row.sessions_per_second = watch.more(SESSIONS_OPENED) / watch.seconds
    row.bad, row.bad_failed = of(key, fails, "requests"), of(key, fails, "failed")
    row.other_way_failed = of(key, other_way, "failed")
    row.answer_p99 = key.found["phases"][1]["failed_latency_ms"]["p99"]
    # The first faults count the key's calls, one for each token.
    more = [late["fitted"] - soon["fitted"] for soon, late in zip(early, counts)][: len(rig.slots)]
    row.calls_per_second = max(more, default=0) / (after - before)
    row.acted = sum(fault["acted"] for fault in counts[len(rig.slots) :])
    row.breakers_open, row.openings = is_open, watch.more(BREAKER_OPENINGS)
    last = last_failure(key)
    row.back = max(0.0, last - cleared) if last else 0.0
    row.broken = ["wrong answers"] if others.is_wrong or key.is_wrong else []


def of(load, operation, name):
    return load.found["operations"].get(operation, {}).get(name, 0)


def sleep_until(moment):
    time.sleep(max(0.0, moment - time.monotonic()))
    return time.monotonic()


def judge(row, seconds):
    """Returns the bounds that a row exceeds."""
    window = seconds - OPENING
    most_calls = MAX_CALLS_PER_SECOND + CALLS_OF_A_TRY / window
    is_served_elsewhere = row.shape == "half" and row.is_fault
    bounds = {
        "the fault did not act": row.acted > 0,
        "others failed": row.others_failed == 0,
        "nothing to compare the p99 with": row.ratio is not None,
        "p99": row.ratio is None or row.ratio <= MAX_P99_RATIO,
        "circuit opened": row.outages == 0,
        "sessions reopened": row.sessions_per_second <= MAX_SESSIONS_PER_SECOND,
        "the key's other direction failed": row.other_way_failed == 0,
        "the key is not back": row.back <= MAX_BACK_SECONDS,
        "slow answers": not row.is_fault or row.answer_p99 < MAX_ANSWER_MS,
        "calls of the key": not row.is_fault or row.calls_per_second <= most_calls,
        "no breaker open": not row.is_fault or row.breakers_open != 0,
        "a breaker opened": row.is_fault or not row.openings,
        "not served by the other token": not is_served_elsewhere or row.bad_failed == 0,
    }
    row.broken += [name for name, is_kept in bounds.items() if not is_kept]


class Table:
    """Rows of one shape, which share a proxy."""

    def __init__(self, shape, seconds, options):
        self.shape, self.seconds, self.options = shape, seconds, options
        self.rig = None
        self.baselines = []

    def __enter__(self):
        self.restart()
        return self

    def __exit__(self, *_):
        self.rig.__exit__()

    def restart(self):
        if self.rig:
            self.rig.__exit__()
        self.rig = KeyRig(tokens=SHAPES[self.shape][0], **self.options).__enter__()
        # Sessions are opened on demand: this makes it happen before the first row, not in it.
        self.baselines = []
        self.baseline()
        self.baselines = []

    def ready(self):
        """Waits for the proxy to recover from a row; starts a new one if it does not."""
        deadline = time.monotonic() + 10
        while self.rig.process.poll() is None and time.monotonic() < deadline:
            if self.rig.get("/readyz")[0] == 200:
                return
            time.sleep(0.05)
        self.restart()

    def baseline(self):
        """Runs the same load without faults; repeats it if the machine was busy."""
        for _ in range(1 + BUSY_ATTEMPTS):
            row = Row(self.shape, "C_EncryptInit", "-", "undisturbed")
            run(self.rig, row, self.seconds, "")
            if row.late <= MAX_LATE_MS:
                break
        row.broken = ["others failed"] if row.others_failed or row.bad_failed else []
        # Compared with a disturbed run, any latency would pass.
        if row.is_quiet:
            self.baselines = [*self.baselines, row.p99][-BASELINES:]
        return row

    def row(self, function, code, class_):
        """Runs a row. If only its latency is wrong, it is repeated in turns with undisturbed runs,
        and medians are compared; if the machine was busy, it is repeated."""
        p99s, undisturbed = [], list(self.baselines)
        for attempt in range(ATTEMPTS):
            self.ready()
            if attempt or not self.baselines:
                baseline = self.baseline()
                undisturbed += [baseline.p99] if baseline.is_quiet else []
            row = Row(self.shape, function, code, class_)
            run(self.rig, row, self.seconds, faults(self.rig, self.shape, function, code))
            p99s.append(row.p99)
            row.p99 = statistics.median(p99s)
            row.ratio = row.p99 / statistics.median(undisturbed) if undisturbed else None
            judge(row, self.seconds)
            was_busy = row.late > MAX_LATE_MS and attempt < BUSY_ATTEMPTS
            if row.broken != ["p99"] and not (row.broken and was_busy):
                break
        return row


HEADER = (
    "     tokens function      code                             class             others failed"
    "    p99 ratio  out sess/s |  key failed  p99 ms calls/s open other-way back s"
)


def line(row):
    optional = lambda value, form: "-" if value is None else format(value, form)  # noqa: E731
    text = (
        f"{'FAIL' if row.broken else 'ok  '} {row.shape:6} {row.function:13} {row.code:32} "
        f"{row.class_:16} {row.others:7} {row.others_failed:6} {row.p99:6.1f} "
        f"{optional(row.ratio, '.2f'):>5} {row.outages:4} {row.sessions_per_second:6.1f} | "
        f"{row.bad:4} {row.bad_failed:6} {row.answer_p99:7.2f} {row.calls_per_second:7.1f} "
        f"{optional(row.breakers_open, '.0f'):>4} {row.other_way_failed:9} "
        f"{optional(row.back, '.2f'):>6}"
    )
    if row.late > MAX_LATE_MS:
        text += f"  (the machine was busy: generator late by {row.late:.0f} ms)"
    return text + (f"  {', '.join(row.broken)}" if row.broken else "")


def rows(shapes, only, is_quick):
    chosen = codes.one_of_each_class() if is_quick else codes.known()
    for shape, function, (code, class_) in itertools.product(shapes, CRYPTO, chosen):
        if not only or re.search(only, f"{shape} {function} {code} {class_}"):
            yield shape, function, code, class_


def table(shapes, only, is_quick, seconds, options):
    """Yields rows, including undisturbed ones."""
    chosen = list(rows(shapes, only, is_quick))
    for shape, of_shape in itertools.groupby(chosen, key=lambda row: row[0]):
        with Table(shape, seconds, options) as proxy:
            for number, (_, function, code, class_) in enumerate(of_shape):
                if number % ROWS_PER_BASELINE == 0:
                    proxy.ready()
                    yield proxy.baseline()
                yield proxy.row(function, code, class_)
