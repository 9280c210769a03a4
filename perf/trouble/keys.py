"""A proxy with failing keys in a separate store, next to keys that do not fail."""

import re
import time
import urllib.request

from trouble.background import Background
from trouble.rig import Load, Rig

GOOD = "/good/keys"
BAD = "/bad/keys"
#: Seconds between two readings of the proxy's metrics.
LOOK = 0.2
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
BREAKERS_OPEN = "xks_proxy_hsm_key_breakers_open"
BREAKER_OPENINGS = "xks_proxy_hsm_key_breaker_openings_total"
HUNG = "xks_proxy_hsm_sessions_hung"
STATE = "xks_proxy_hsm_token_state"
SESSIONS_OPENED = "xks_proxy_hsm_sessions_opened_total"


def labels(name, count):
    return tuple(f"{name}-{number:03}" for number in range(count))


def scrape(port, timeout=5):
    """Returns metrics: a list of values by name, one for each set of labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=timeout) as answer:
        text = answer.read().decode()
    found = {}
    for name, _, value in SAMPLE.findall(text):
        found.setdefault(name, []).append(float(value))
    return found


class KeyRig(Rig):
    """Two stores, one for good keys and one for bad ones."""

    def __init__(self, good=4, bad=1, **others):
        self.good, self.bad = labels("good", good), labels("bad", bad)
        stores = tuple(store for store in ((GOOD, self.good), (BAD, self.bad)) if store[1])
        super().__init__(keys=self.good + self.bad, stores=stores, has_admin=True, **others)

    def load_of(self, prefix, phases, mix, connections, *options, warm_up=0.5):
        """Starts the generator on all keys of a store; `phases` are pairs of rate and seconds."""
        keys = dict(self.stores)[prefix]
        steps = ",".join(f"{rate:g}x{seconds:g}" for rate, seconds in phases)
        command = [*("--prefix", prefix, "--steps", steps, "--warm-up", str(warm_up)), "--announce"]
        command += ["--connections", str(connections), "--interval-milli", "20"]
        command += ["--ciphertexts", str(max(64, 2 * len(keys)))]
        for key in keys:
            command += ["--key-id", key]
        seconds = warm_up + sum(seconds for _, seconds in phases)
        # Verifying samples afterwards would collide with the faults of the next row.
        return Load(self, seconds, (*command, *options), mix, samples=0)

    def metrics(self):
        """Metrics, summed by name over all labels."""
        values = scrape(self.admin_port)
        sums = {name: sum(of_name) for name, of_name in values.items()}
        return Metrics(sums, {name: min(of_name) for name, of_name in values.items()})


class Metrics:
    def __init__(self, sums, lowest):
        self.sums, self.lowest = sums, lowest

    def total(self, name):
        """Returns the sum over all tokens; None if there is no such metric."""
        return self.sums.get(name)


class Watch(Background):
    """Reads the metrics periodically and keeps the worst values."""

    def __init__(self, rig):
        super().__init__()
        self.rig = rig
        self.most = {}
        self.lowest_state = float("inf")
        self.outages = 0

    def __enter__(self):
        self.first = self.latest = self.rig.metrics()
        self.began = time.monotonic()
        self.log_bytes = len(self.rig.log())
        return super().__enter__()

    def __exit__(self, *_):
        super().__exit__()
        self.look()
        self.seconds = time.monotonic() - self.began
        # Times that a token was put out of use: according to the log, which misses none, and to
        # the metrics.
        said = self.rig.log()[self.log_bytes :].count("HSM token out of use")
        self.outages = max(said, int(self.lowest_state == 0))

    def run(self):
        while not self.is_over.wait(LOOK):
            self.look()

    def look(self):
        try:
            self.latest = self.rig.metrics()
        except OSError:
            return
        for name, value in self.latest.sums.items():
            self.most[name] = max(self.most.get(name, 0.0), value)
        self.lowest_state = min(self.lowest_state, self.latest.lowest.get(STATE, float("inf")))

    def more(self, name):
        """Returns the increase of a counter; None if there is no such metric."""
        if self.latest.total(name) is None:
            return None
        return self.latest.total(name) - (self.first.total(name) or 0.0)


def last_failure(load):
    """Returns when the last failed request ended, by time.monotonic(); None if none failed."""
    over_time = load.found["over_time"]
    failed = [point["seconds"] for point in over_time if point["failed"]]
    # The time of an interval is that of its start.
    return load.measured_from + failed[-1] + 0.02 if failed else None
