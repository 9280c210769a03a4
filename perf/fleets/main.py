"""The command: arguments, order of the trials, output."""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from fleets import apart, balancer, outcome
from fleets.balancer import Checks
from fleets.stage import NotAvailable
from fleets.trials import TRIALS
from launcher import programs
from launcher.programs import Failed

#: Attempts at a trial that fails while the generator itself is late.
ATTEMPTS = 3
MAX_LATE_MILLI = 50


def arguments(description):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--list", action="store_true", help="print the trials' names")
    add("--only", default="", metavar="REGEX", help="trials whose name has this in it")
    add("--seconds", type=float, help="of trouble, in place of each trial's own")
    add_common(add, rate=450)
    add("--rounds", type=int, default=1, help="times that each trial is made [1]")
    add("--other", action="append", default=[], metavar="NAME=PATH",
        help="another proxy, in turns; it is not judged")
    add("--keep-sessions", action="store_true",
        help="the balancer leaves sessions open when it marks a replica down (no "
        "on-marked-down shutdown-sessions)")
    add("--shut-draining", action="store_true",
        help="the balancer takes a replica that drains for one that is down (no error-status L7OKC)")
    options = parser.parse_args()
    options.checks = Checks(
        shuts_sessions=not options.keep_sessions, knows_draining=not options.shut_draining
    )
    options.chosen = {
        name: trial for name, trial in TRIALS.items() if re.search(options.only, name)
    }
    if not options.chosen:
        parser.error("no trial has that name: see --list")
    options.programs = {"xks-proxy": options.binary}
    for other in options.other:
        name, _, path = other.partition("=")
        if not path or name in options.programs:
            parser.error("--other is NAME=PATH, each name once")
        options.programs[name] = Path(path)
    for path in filter(None, options.programs.values()):
        if not path.is_file():
            parser.error(f"{path} is not there")
    return options


def add_common(add, rate):
    """Adds the arguments of all scripts with a fleet."""
    add("--rate", type=float, default=rate, help=f"requests a second, over all replicas [{rate}]")
    add("--connections", type=int, default=192, help="of the clients, over all replicas [192]")
    add("--new-connections", type=float, default=40,
        help="a second, each in the place of an older one [40]")
    add("--binary", type=Path, metavar="PATH", help="the proxy [target/dist/xks-proxy]")
    add("--nice", type=int, default=0, metavar="N",
        help="of replicas, balancer and generator: below 0 where the machine has other work [0]")
    add("--json", type=Path, metavar="FILE", help="all figures")
    add("--logs", type=Path, metavar="DIR",
        help="keep the logs of replicas and balancer, of the last time that a trial was made")
    add("--no-build", action="store_true", help="do not build first")


def main(description):
    options = arguments(description)
    if options.list:
        for name, trial in options.chosen.items():
            print(f"{name:26} {trial.about} ({trial.seconds:g} s)")
        return 0
    return run_in_namespaces(options, run_all)


def run_in_namespaces(options, run):
    """Prepares everything, and runs `run` in namespaces. Returns the exit code."""
    try:
        if apart.is_apart():
            apart.settle_in()
            os.nice(options.nice)
            return run(options)
        balancer.install()
        if not options.no_build:
            programs.build()
        return apart.run_apart()
    except (Failed, subprocess.CalledProcessError) as error:
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        return 1


def run_all(options):
    paths = {
        name: path.resolve() if path else programs.binary("xks-proxy")
        for name, path in options.programs.items()
    }
    print(f"{balancer.version()}: {options.checks.line()}")
    print(
        f"{options.rate:g} requests/s over {options.connections} connections, "
        f"{options.new_connections:g} new ones a second, TLS", flush=True,
    )
    kept = []
    is_right = True
    for name, trial in options.chosen.items():
        print(f"## {name}: {trial.about}", flush=True)
        for _ in range(options.rounds):
            for program, path in paths.items():
                found = one_undisturbed(trial, program, path, options)
                kept.append({"trial": name, "program": program, **found})
                is_right &= program != "xks-proxy" or not found["problems"]
                if options.json:
                    options.json.write_text(json.dumps(kept, indent=1) + "\n")
    return 0 if is_right else 1


def one_undisturbed(trial, program, path, options):
    """Repeats a trial that failed while the machine was busy; the last one counts."""
    logs = options.logs and options.logs / program / trial.name
    for _ in range(ATTEMPTS):
        found = one(trial, path, options, logs)
        tell(program, found)
        late = found.get("generator_late_ms", {"p99_9": 0})["p99_9"]
        if not found["problems"] or late <= MAX_LATE_MILLI:
            break
        print("     ! the generator was late: the machine is busy", flush=True)
    return found


def one(trial, path, options, logs):
    started = time.monotonic()
    try:
        found = outcome.run(trial, path, options, logs)
    except NotAvailable as missing:
        return {"not_available": str(missing), "problems": []}
    except (Failed, OSError, subprocess.SubprocessError) as error:
        found = {"problems": [f"the trial could not be made: {error}"]}
    return {**found, "took_seconds": time.monotonic() - started}


def tell(program, found):
    if "not_available" in found:
        print(f"--   {program}: not available: {found['not_available']}", flush=True)
        return
    verdict = "FAIL" if found["problems"] else "ok  "
    print(f"{verdict} {program} ({found['took_seconds']:.0f} s)")
    if "requests" in found:
        for line in outcome.lines(found):
            print(f"       {line}")
    for problem in found["problems"]:
        print(f"     ! {problem}")
    sys.stdout.flush()
