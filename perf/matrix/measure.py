"""Measurements of one scenario on one running proxy."""

import dataclasses
import json
import subprocess
import time
from pathlib import Path

from launcher import programs
from launcher.process import status_kib

from .scenarios import SECONDS

#: Anything shorter is meaningless.
QUICK_SECONDS = 2
#: Rate after an overload, which every proxy can handle, and its duration.
AFTER_RATE = 100
AFTER_SECONDS = 5
#: Number of requests in a "calls" measurement.
COUNTED_REQUESTS = 6000
COUNTED_CIPHERTEXTS = 8
EXIT_WRONG_ANSWERS = 2


def measure(running, scenario, options, name, output):
    """Loads a running proxy. Returns the generator's results and additional figures."""
    measurements = {
        "load": load,
        "own-cost": load,
        "overload": overload,
        "own-overload": own_overload,
        "calls": calls,
        "idle": idle,
    }
    results = measurements[scenario.kind](running, scenario, options, name, output)
    results["start_seconds"] = running.start_seconds
    return results


def seconds(scenario, options):
    if options.quick:
        return QUICK_SECONDS
    return options.seconds or scenario.seconds or SECONDS


def generator(running, scenario, name, output, arguments):
    """Runs xks-load and reads its results."""
    command = [
        programs.binary("xks-load"),
        *("run", "--quiet"),
        *("--name", name),
        *("--settings", running.settings),
        *("--ca", running.work / "certificates/ca.pem"),
        *("--mix", scenario.mix),
        *("--connections", scenario.connections),
        *("--idle-connections", scenario.idle_connections),
        *(part for pid in running.pids for part in ("--pid", pid)),
        *("--json", output),
        *running.load_arguments,
        *arguments,
    ]
    Path(output).unlink(missing_ok=True)
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode not in (0, EXIT_WRONG_ANSWERS):
        raise programs.Failed(f"{done.stderr.strip()}; {running.last_words()}")
    results = json.loads(Path(output).read_text())
    results["has_wrong_answers"] = done.returncode == EXIT_WRONG_ANSWERS
    return results


def load(running, scenario, options, name, output):
    arguments = ["--seconds", seconds(scenario, options)]
    if scenario.rate:
        arguments += ["--rate", scenario.rate]
    if scenario.ramp:
        arguments += ["--ramp", scenario.ramp]
    if not options.quick:
        arguments += ["--warm-up", "2"]
    return generator(running, scenario, name, output, arguments)


def overload(running, scenario, options, name, output, rate=None):
    """Offers the rate and then a low one, to see how soon the proxy recovers."""
    rate = rate or scenario.rate
    steps = f"{rate}x{seconds(scenario, options)},{AFTER_RATE}x{AFTER_SECONDS}"
    # Half as many requests as the proxy can have under way are answered before they can all
    # be sent; warming up at the full rate would be an overload too.
    arguments = ["--steps", steps, "--warm-up", "0", "--interval-milli", "100"]
    results = generator(running, scenario, name, output, arguments)
    results["offered"] = rate
    results["after_p99_ms"] = max(
        (
            point["p99_ms"]
            for point in results["over_time"]
            if point["seconds"] >= seconds(scenario, options) + 1 and point["ok"]
        ),
        default=None,
    )
    return results


def own_overload(running, scenario, options, name, output):
    """Offers twice the rate that the proxy reaches in a closed loop."""
    probe = dataclasses.replace(scenario, connections=64, mix=scenario.mix)
    arguments = ["--seconds", min(5, seconds(scenario, options))]
    capacity = generator(running, probe, name, output, arguments)["total"]["ok_per_second"]
    results = overload(running, scenario, options, name, output, max(1, round(2 * capacity)))
    results["capacity"] = capacity
    return results


def calls(running, scenario, options, name, output):
    """Counts PKCS#11 calls per request, in steady state."""
    # A first run makes the proxy open sessions and find keys.
    generator(running, scenario, name, output, ["--seconds", 1, "--samples", 0])
    before = running.pkcs11_calls()
    arguments = ["--requests", COUNTED_REQUESTS, "--warm-up", 0, "--seconds", 600]
    arguments += ["--samples", 0, "--ciphertexts", COUNTED_CIPHERTEXTS]
    results = generator(running, scenario, name, output, arguments)
    after = running.pkcs11_calls()
    ended = results["total"]["requests"]
    if scenario.mix == "decrypt":
        # The ciphertexts were encrypted beforehand by requests that are in the counts.
        ended += COUNTED_CIPHERTEXTS
    made = {call: count - before.get(call, 0) for call, count in after.items()}
    results["calls_per_request"] = {
        call: count / ended for call, count in sorted(made.items()) if count / ended >= 0.001
    }
    return results


def idle(running, _scenario, options, name, _output):
    """Measures memory, threads and wake-ups without requests."""
    time.sleep(1 if options.quick else 10)
    before, start = switches(running.pid), time.monotonic()
    time.sleep(QUICK_SECONDS if options.quick else 20)
    after, elapsed = switches(running.pid), time.monotonic() - start
    return {
        "name": name,
        "resident_kib": status_kib(running.pid, "VmRSS"),
        "wake_ups_per_second": (after - before) / elapsed,
        "threads": len(list(Path(f"/proc/{running.pid}/task").iterdir())),
        "has_wrong_answers": False,
    }


def switches(pid):
    """Returns how often threads went to sleep voluntarily, and so how often they woke up."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total
