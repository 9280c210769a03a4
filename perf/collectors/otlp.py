"""OTLP collectors for perf/log-collectors: tests/otlp/receiver.py, well or told to misbehave."""

import json
import os
import subprocess
import sys
import urllib.request

from launcher import programs

WELL = ("receiver",)
BAD = ("down", "slow", "hangs", "refuses")
SENT, LOST = "xks_proxy_otlp_exported_total", "xks_proxy_otlp_dropped_total"
#: A call has a span of its own, and one for each of its parts.
SPANS_PER_CALL = 4


class Receiver:
    """A receiver in a process of its own."""

    def __init__(self, behaviour=None):
        sources = programs.ROOT / "tests/otlp"
        path = subprocess.run([sources / "install.sh"], check=True, capture_output=True, text=True)
        self.process = subprocess.Popen(
            [sys.executable, sources / "receiver.py", "--counts-only"], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path.stdout.strip()},
        )
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        if behaviour:
            body = json.dumps(behaviour).encode()
            urllib.request.urlopen(f"{self.url}/behave", body, timeout=5)

    def counts(self):
        answer = urllib.request.urlopen(f"{self.url}/counts", timeout=20)
        return json.load(answer)["counts"]

    def stop(self):
        self.process.kill()
        self.process.wait()


class Otlp:
    """The cases, and what is asked of each."""

    well, bad, sent, lost = WELL, BAD, SENT, LOST

    def __init__(self, stack):
        def receiver(behaviour=None):
            started = Receiver(behaviour)
            stack.callback(started.stop)
            return started

        (unused,) = programs.free_ports(1)
        self.receiver = receiver()
        self.urls = {
            WELL[0]: self.receiver.url,
            BAD[0]: f"http://127.0.0.1:{unused}",
            BAD[1]: receiver({"delay": 5}).url,
            BAD[2]: receiver({"hang": True}).url,
            BAD[3]: receiver({"status": 400}).url,
        }

    def cases(self):
        """Returns the changes of the settings by case: every call is traced, every line sent."""
        return {
            name: {
                "otlp.endpoint": url, "otlp.traces_per_million": 1_000_000,
                "otlp.metrics_interval_milli": 1_000,
            }
            for name, url in self.urls.items()
        }

    @staticmethod
    def is_full(status):
        """Returns whether lines and calls are being lost."""
        lost = {signal["signal"]: signal["dropped"] for signal in status["otlp"]}
        return lost["logs"] > 0 and lost["traces"] > 0

    def has_all(self, case):
        """Returns whether the receiver has what the proxy has sent, and the proxy has sent all."""
        counts = self.receiver.counts()
        status = case.status()
        sent = {signal["signal"]: signal["exported"] for signal in status["otlp"]}
        return (
            counts.get("spans", 0) == SPANS_PER_CALL * sent["traces"]
            and counts.get("logRecords", 0) == sent["logs"]
            and sent["traces"] >= case.count("xks_proxy_request_queue_duration_seconds_count")
        )
