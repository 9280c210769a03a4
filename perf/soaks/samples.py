"""Memory, descriptors, threads and gauges of the process that serves, over time."""

import os
import statistics
import time
from pathlib import Path

from launcher.process import status_kib
from launcher.programs import Failed
from launcher.settings import CREDENTIAL, PREFIX
from soaks.rig import STEADY_KEY
from trouble.background import Background
from trouble.rig import toml_list

SECONDS = 2
#: Allowed growth within one process of its anonymous memory after warm-up, in KiB.
MORE_ANON_KIB = 3 * 1024
#: Allowed growth of the same from the first process to the last, at the same age, in KiB.
MORE_ANON_LAST_KIB = 3 * 1024
#: Allowed growth of descriptors and threads from the start to the end, both without load.
MORE_DESCRIPTORS, MORE_THREADS = 2, 3
#: A process's first seconds, or third of its life if that is shorter, which do not count.
WARM_UP_SECONDS = 60
MIN_SAMPLES = 9

GAUGES_THAT_END_AT_ZERO = (
    "xks_proxy_connections", "xks_proxy_requests_in_flight", "xks_proxy_hsm_sessions_busy",
    "xks_proxy_hsm_sessions_hung", "xks_proxy_hsm_queue_length", "xks_proxy_hsm_key_breakers_open",
    "xks_proxy_hsm_keys_differing", "xks_proxy_draining",
)
COUNTERS_AT_ZERO = (
    "xks_proxy_panics_total", "xks_proxy_log_dropped_lines_total",
    "xks_proxy_hsm_cdiv_mismatches_total",
)


def footprint(pid):
    process = Path("/proc") / str(pid)
    return {
        "anon": status_kib(pid, "RssAnon"),
        "threads": len(os.listdir(process / "task")),
        "descriptors": len(os.listdir(process / "fd")),
    }


class Sampler(Background):
    def __init__(self, rig, diary):
        super().__init__()
        self.rig, self.diary = rig, diary
        #: Samples by process, in the order of the processes.
        self.found = {}
        self.not_zero = set()

    def run(self):
        while not self.is_over.wait(SECONDS):
            try:
                self.look()
            except (OSError, ValueError, KeyError):
                pass

    def look(self):
        pid = self.rig.served_by()
        sample = {"at": time.time(), **footprint(pid)}
        metrics = self.rig.metrics()
        for name in ("xks_proxy_connections", "xks_proxy_hsm_queue_length"):
            sample[name] = sum(metrics.get(name, ()))
        self.found.setdefault(pid, []).append(sample)
        for name in COUNTERS_AT_ZERO:
            if sum(metrics.get(name, ())) and (pid, name) not in self.not_zero:
                self.not_zero.add((pid, name))
                self.diary.problem(f"{name} of process {pid} is not 0")


def warm(samples):
    """Returns the samples after warm-up."""
    age = samples[-1]["at"] - samples[0]["at"]
    begin = samples[0]["at"] + min(WARM_UP_SECONDS, age / 3)
    return [it for it in samples if it["at"] >= begin]


def growth(samples):
    """Returns how much the median of the last third is above that of the first, in KiB; None for a
    process that was too short."""
    later = warm(samples)
    if len(later) < MIN_SAMPLES:
        return None
    third = len(later) // 3
    first, last = (
        statistics.median(it["anon"] for it in part) for part in (later[:third], later[-third:])
    )
    return last - first


def memory_problems(found):
    """Yields violations, with their time, in samples by process."""
    long = []
    for pid, samples in found.items():
        more = growth(samples)
        if more is None:
            continue
        long.append(warm(samples))
        if more > MORE_ANON_KIB:
            yield f"process {pid}: RssAnon grew by {more:.0f} KiB", samples[-1]["at"]
    if len(long) > 1:
        count = min(len(long[0]), len(long[-1]))
        first, last = (
            statistics.median(it["anon"] for it in part[:count]) for part in (long[0], long[-1])
        )
        if last - first > MORE_ANON_LAST_KIB:
            yield f"RssAnon of the last process is {last - first:.0f} KiB above the first's", long[-1][0]["at"]


def at_rest(rig, rate):
    """Returns the footprint without load, once all sessions were needed."""
    rig.set('[[fault]]\ndelay = "40ms"\nfunctions = ' + toml_list(("C_Encrypt", "C_Decrypt")))
    rig.start_load("rest", 5, rate, PREFIX, STEADY_KEY, CREDENTIAL).wait()
    rig.set("")
    time.sleep(3)
    return footprint(rig.served_by())


def end_problems(rig, before, rate):
    """Yields violations of a proxy that is to be at rest."""
    limits = {"descriptors": MORE_DESCRIPTORS, "threads": MORE_THREADS}
    at_rest(rig, rate)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        after = footprint(rig.served_by())
        metrics = rig.metrics()
        problems = [
            f"{name}: {before[name]} before, {after[name]} at the end"
            for name, more in limits.items()
            if after[name] > before[name] + more
        ]
        for name in GAUGES_THAT_END_AT_ZERO:
            if name not in metrics:
                raise Failed(f"there is no metric {name}")
            if any(metrics[name]):
                problems.append(f"{name} is {metrics[name]} at the end")
        if not problems:
            break
        time.sleep(1)
    return problems, after
