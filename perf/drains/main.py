"""The command: rows, their course, the table."""

import argparse
import dataclasses
import json
import re
import signal
import subprocess
import time
import tomllib

from drains.nlb import Habits, NetworkLoadBalancer
from fleets.fleet import LISTEN_PORT, NETWORK, Fleet
from fleets.main import ATTEMPTS, MAX_LATE_MILLI, add_common, run_in_namespaces
from fleets.balancer import Checks
from fleets.replica import PING_PORT, PORT, Replica
from launcher import programs
from launcher.programs import ROOT, Failed

LEAD_SECONDS, SPARE_SECONDS = 3, 5
#: Time for the HSM's sessions and the logs, beyond the drain.
STOP_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Row:
    """A shutdown. `hook` is the preStop's time, in which the target is deregistered; None without
    Kubernetes, where the process is just stopped."""

    name: str
    delay_milli: int
    timeout_milli: int
    hook: float | None
    habits: Habits
    #: Whether requests must be lost; None where either may be.
    loses: bool | None


def shipped(path):
    server = tomllib.loads((ROOT / path).read_text())["server"]
    return server["drain_delay_milli"], server["drain_timeout_milli"]


def rows():
    packaged, kubernetes = shipped("packaging/settings.toml"), shipped("packaging/kubernetes/base/settings.toml")
    deployment = (ROOT / "packaging/kubernetes/base/deployment.yaml").read_text()
    hook = int(re.search(r"preStop:\s+sleep:\s+seconds: (\d+)", deployment)[1])
    resetting = Habits(terminates=True)
    return [
        Row("default-5s", 5000, 5000, None, Habits(), True),
        Row("packaged", *packaged, None, Habits(), False),
        Row("packaged-resetting", *packaged, None, resetting, None),
        Row("pod-90s", 90_000, 5000, 0, Habits(), True),
        Row("kubernetes", *kubernetes, hook, Habits(draining_interval=200), False),
    ]


class DrainReplica(Replica):
    def __init__(self, name, namespace, address, program, fleet):
        self.row = fleet.row
        super().__init__(name, namespace, address, program, fleet)

    @property
    def server(self):
        row = self.row
        return f"drain_delay_milli = {row.delay_milli}\ndrain_timeout_milli = {row.timeout_milli}\n"


class DrainFleet(Fleet):
    replica_class = DrainReplica

    def __init__(self, program, options, row):
        self.row = row
        super().__init__(program, options)

    def start_balancer(self, stack):
        listen = NETWORK.format(0, 1)
        self.link_clients(stack, listen)
        balancer = NetworkLoadBalancer(
            self.namespaces["balancer"], (listen, LISTEN_PORT), self.row.habits
        )
        stack.callback(balancer.stop)
        balancer.start({it.name: (it.address, PORT) for it in self.replicas}, PING_PORT)
        return balancer


def rehearse(program, options, row):
    drain = (row.delay_milli + row.timeout_milli) / 1000
    # Long enough that connections to a target that has gone are noticed.
    habits = row.habits
    lag = habits.deregistered_lag if row.hook is not None else (
        habits.interval * habits.threshold + habits.unhealthy_lag
    )
    course = max((row.hook or 0) + drain, lag)
    with DrainFleet(program, options, row) as fleet:
        fleet.wait_until_whole(30)
        replica, target = fleet.replicas[0], fleet.balancer.targets[fleet.replicas[0].name]
        seconds = LEAD_SECONDS + course + STOP_SECONDS + SPARE_SECONDS
        with fleet.good_load(seconds) as load:
            load.wait_until_measured()
            time.sleep(LEAD_SECONDS)
            began = time.time()
            if row.hook is not None:
                fleet.balancer.deregister(replica.name)
                time.sleep(row.hook)
            replica.process.send_signal(signal.SIGTERM)
            code = replica.process.wait(drain + STOP_SECONDS)
            ended = time.time()
        total = load.found["total"]
        return {
            "row": row.name, "requests": total["requests"], "failed": total["failed"],
            "failures": load.failures(), "refused": len(target.refused), "resets": target.resets,
            "opened_after": sum(at > began for at in target.opened),
            "last_opened_after_seconds": max(target.opened) - began,
            "ended_after_seconds": ended - began, "exit_code": code,
            "late_ms": load.found["generator"]["lateness_ms"]["p99_9"],
        }


def verdict(row, found):
    if found["exit_code"] != 0:
        return f"the proxy ended with {found['exit_code']}"
    if row.loses is False and (found["failed"] or found["refused"]):
        return "a request was lost"
    if row.loses and not found["refused"]:
        return "nothing was refused: the rehearsal shows nothing"
    return None


def run(options):
    program = options.binary.resolve() if options.binary else programs.binary("xks-proxy")
    print(
        f"{options.rate:g} requests/s over {options.connections} connections, "
        f"{options.new_connections:g} new ones a second, TLS", flush=True,
    )
    kept = []
    for row in options.chosen:
        for _ in range(ATTEMPTS):
            found = rehearse(program, options, row)
            problem = verdict(row, found)
            tell(row, found, problem)
            if not problem or found["late_ms"] <= MAX_LATE_MILLI:
                break
            print("     ! the generator was late: the machine is busy", flush=True)
        kept.append({**found, "problem": problem})
        if options.json:
            options.json.write_text(json.dumps(kept, indent=1) + "\n")
    return 1 if any(found["problem"] for found in kept) else 0


def tell(row, found, problem):
    print(
        f"{'FAIL' if problem else 'ok  '} {row.name}: drain of {row.delay_milli / 1000:g} + "
        f"{row.timeout_milli / 1000:g} s; {found['requests']} requests, {found['failed']} failed "
        f"{found['failures'] or ''}; {found['opened_after']} connections to the proxy after the beginning, "
        f"the last after {found['last_opened_after_seconds']:.0f} s, {found['refused']} refused; "
        f"{found['resets']} reset by the balancer; the process ended after "
        f"{found['ended_after_seconds']:.0f} s" + (f": {problem}" if problem else ""), flush=True,
    )


def arguments(description):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser.add_argument, rate=450)
    parser.add_argument("--only", default="", metavar="REGEX", help="rows whose name has this in it")
    options = parser.parse_args()
    options.checks = Checks()
    options.chosen = [row for row in rows() if re.search(options.only, row.name)]
    if not options.chosen:
        parser.error("no row has that name: " + ", ".join(row.name for row in rows()))
    return options


def main(description):
    options = arguments(description)
    try:
        return run_in_namespaces(options, run)
    except (Failed, subprocess.SubprocessError) as error:
        print(error)
        return 1
