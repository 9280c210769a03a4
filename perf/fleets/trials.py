"""The trials. Each starts with a complete fleet under load, and ends with one that can recover. Its
docstring describes it.

To add a trial, write a function with `@trial`: default duration of the trouble in seconds, bound on
its cost (from `bounds`), and additional seconds of load.
"""

import dataclasses
import signal
from collections.abc import Callable

from fleets import bounds
from fleets.fleet import BAD_KEY
from fleets.stage import NotAvailable, counted
from launcher.programs import Failed

TRIALS = {}
#: Requests per second for the bad key, a few compared with those of the others.
BAD_KEY_RATE = 12


@dataclasses.dataclass(frozen=True)
class Trial:
    name: str
    steps: Callable
    seconds: float
    bound: Callable
    more_seconds: Callable

    @property
    def about(self):
        return self.steps.__doc__


def until_back(checks):
    """Time for HSM or process, /readyz and balancer to recover, followed by some load."""
    return checks.seconds_until_in + 8


def trial(seconds, bound, more_seconds=until_back):
    def add(steps):
        name = steps.__name__.replace("_", "-")
        TRIALS[name] = Trial(name, steps, seconds, bound, more_seconds)
        return steps

    return add


def for_each_replica(checks):
    """Time for three replicas in turn to drain, stop, start and return to rotation."""
    return 3 * (5 + until_back(checks))


def none(_):
    return 0


@trial(seconds=20, bound=bounds.nothing, more_seconds=none)
def undisturbed(stage):
    """Nothing happens."""
    stage.wait()


@trial(seconds=20, bound=bounds.until_out)
def replica_hsm_hangs(stage):
    """All calls to one replica's HSM hang, then return."""
    with stage.fault(stage.replicas[0], "[[fault]]\nhang = true"):
        stage.wait()


@trial(seconds=40, bound=bounds.until_out)
def replica_hsm_slow(stage):
    """One replica's HSM takes 400 ms a call, more than the request's deadline."""
    with stage.fault(stage.replicas[0], "hsm_milli = 400"):
        stage.wait()


@trial(seconds=20, bound=bounds.until_out)
def replica_hsm_dead(stage):
    """One replica's HSM fails every call with CKR_DEVICE_ERROR."""
    with stage.fault(stage.replicas[0], '[[fault]]\nreturn = "CKR_DEVICE_ERROR"'):
        stage.wait()


@trial(seconds=20, bound=bounds.nothing)
def one_bad_key(stage):
    """One key, used 12 times a second, fails at C_EncryptInit on all replicas; others do not."""
    fault = (
        f'[[fault]]\nkey = "{BAD_KEY}"\nfunctions = ["C_EncryptInit"]\n'
        'return = "CKR_FUNCTION_FAILED"'
    )
    try:
        for replica in stage.replicas:
            replica.set(fault)
    except Failed as failed:
        if "unknown field `key`" in str(failed):
            raise NotAvailable("the interposer has no faults of one key") from failed
        raise
    load = {"rate": BAD_KEY_RATE, "mix": "encrypt=1", "connections": BAD_KEY_RATE}
    with stage.fleet.load(stage.seconds, "--key-id", BAD_KEY, **load) as bad:
        pass
    for replica in stage.replicas:
        replica.set("")
    slowest = max((failure["latency_ms"]["max"] for failure in bad.found["failures"]), default=0)
    stage.notes["the bad key"] = f"{counted(bad.failures())}; {slowest:.0f} ms at most"
    if bad.found["total"]["ok"]:
        stage.problems.append("the bad key was served")


@trial(seconds=10, bound=bounds.in_flight)
def kill_9(stage):
    """One replica's process is killed and restarted."""
    replica = stage.replicas[0]
    with stage.trouble(replica):
        replica.process.kill()
        replica.process.wait()
        stage.wait()
        replica.start(must_be_ready=False)


@trial(seconds=10, bound=bounds.until_checked_out)
def process_stops(stage):
    """One replica's process is suspended by SIGSTOP, then continues."""
    replica = stage.replicas[0]
    with stage.trouble(replica):
        replica.process.send_signal(signal.SIGSTOP)
        stage.wait()
        replica.process.send_signal(signal.SIGCONT)


@trial(seconds=10, bound=bounds.until_checked_out)
def network_cut(stage):
    """One replica's link to the balancer is down, then up again."""
    replica = stage.replicas[0]
    with stage.trouble(replica):
        replica.namespace.set_link("balancer", "down")
        stage.wait()
        replica.namespace.set_link("balancer", "up")


@trial(seconds=1, bound=bounds.no_request, more_seconds=for_each_replica)
def rolling_restart(stage):
    """Each replica in turn is stopped by SIGTERM and restarted, once all others are back."""
    for replica in stage.replicas:
        with stage.trouble(replica):
            replica.stop()
            if replica.process.returncode != 0:
                stage.problems.append(f"{replica.name} ended with {replica.process.returncode}")
            replica.start(must_be_ready=False)
        stage.fleet.wait_until_whole(30)
        stage.wait()


@trial(seconds=1, bound=bounds.no_request, more_seconds=for_each_replica)
def rolling_upgrade(stage):
    """Each replica in turn is upgraded by SIGUSR2."""
    for replica in stage.replicas:
        with stage.trouble(replica):
            replica.upgrade()
        stage.fleet.wait_until_whole(30)
        stage.wait()
