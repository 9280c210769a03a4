"""The trials. Each starts with a complete fleet under load, and ends with one that can recover. Its
docstring describes it.

To add a trial, write a function with `@trial`: default duration of the trouble in seconds, bound on
its cost (from `bounds`), and additional seconds of load.
"""

import dataclasses
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from fleets import bounds
from fleets.fleet import BAD_KEY, GOOD_KEY
from fleets.replica import FAKETIME
from fleets.setup import ORDINARY, PLANNED, Setup
from fleets.stage import NotAvailable, counted
from launcher import calls
from launcher.programs import Failed
from launcher.settings import CREDENTIAL

TRIALS = {}
#: Requests per second for the bad key, a few compared with those of the others.
BAD_KEY_RATE = 12
NEXT_CREDENTIAL = ("NEXT2TENAND3TENCHARACTERSNEXT", "AnotherSecretOfLength43To64ThatReplacesTheOldOne")
#: Difference of a wrong clock, twice that from which on signatures are refused.
WRONG_BY_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class Trial:
    name: str
    steps: Callable
    seconds: float
    bound: Callable
    more_seconds: Callable
    setup: Setup

    @property
    def about(self):
        return self.steps.__doc__


def until_back(checks):
    """Time for HSM or process, /readyz and balancer to recover, followed by some load."""
    return checks.seconds_until_in + 8


def trial(seconds, bound, more_seconds=until_back, setup=ORDINARY):
    def add(steps):
        name = steps.__name__.replace("_", "-")
        TRIALS[name] = Trial(name, steps, seconds, bound, more_seconds, setup)
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
        replica.kill()
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


@trial(seconds=10, bound=bounds.until_checked_out)
def network_drops(stage):
    """All packets from and to one replica are silently dropped, then pass again."""
    if not shutil.which("nft"):
        raise NotAvailable("there is no nft: apt-get install nftables")
    replica = stage.replicas[0]
    with stage.trouble(replica):
        replica.namespace.drop_packets("balancer")
        stage.wait()
        replica.namespace.pass_packets()


@trial(seconds=150, bound=bounds.until_clock_is_noticed, setup=Setup(has_own_clock=True))
def clock_wrong(stage):
    """One replica's clock is stepped ahead by ten minutes, then right again."""
    if not Path(FAKETIME).exists():
        raise NotAvailable(f"there is no {FAKETIME}: apt-get install libfaketime")
    replica = stage.replicas[0]
    with stage.trouble(replica):
        replica.set_clock(WRONG_BY_SECONDS)
        stage.wait()
        replica.set_clock(0)


def restart_each(stage):
    for replica in stage.replicas:
        with stage.trouble(replica):
            stage.stop(replica)
            replica.start(must_be_ready=False)
        stage.fleet.wait_until_whole(30)
        stage.wait()


@trial(seconds=1, bound=bounds.no_request, more_seconds=for_each_replica, setup=PLANNED)
def rolling_restart(stage):
    """Each replica in turn is stopped by SIGTERM and restarted, once all others are back."""
    restart_each(stage)


@trial(
    seconds=1, bound=bounds.no_request, more_seconds=for_each_replica,
    setup=dataclasses.replace(PLANNED, milli_away=20),
)
def rolling_restart_from_afar(stage):
    """The same, with 20 ms between clients and balancer in each direction."""
    restart_each(stage)


@trial(seconds=1, bound=bounds.no_request, more_seconds=for_each_replica, setup=PLANNED)
def rolling_upgrade(stage):
    """Each replica in turn is upgraded by SIGUSR2."""
    for replica in stage.replicas:
        with stage.trouble(replica):
            replica.upgrade()
        stage.fleet.wait_until_whole(30)
        stage.wait()


@trial(seconds=5, bound=bounds.no_request, more_seconds=until_back, setup=PLANNED)
def scale_in(stage):
    """One replica is stopped by SIGTERM and then removed from the balancer's configuration."""
    replica = stage.replicas[-1]
    with stage.trouble(replica):
        stage.stop(replica)
        stage.fleet.leave(replica)
        stage.fleet.balancer.reload(without=[replica.name])
    stage.wait()


@trial(seconds=3, bound=bounds.no_request, more_seconds=lambda _: 20, setup=PLANNED)
def credential_rotation(stage):
    """All replicas accept a second credential, the clients change to it, and the first is removed."""
    for replica in stage.replicas:
        replica.accept(CREDENTIAL, NEXT_CREDENTIAL)
        stage.wait()
    stage.outlasts_load = True
    before = list(stage.loads.values())
    key_id, secret = NEXT_CREDENTIAL
    of_next = ("--access-key-id", key_id, "--secret-access-key", secret)
    seconds = max(load.ends_in() for load in before) + 4 * stage.seconds
    with stage.fleet.loads(seconds, *of_next) as loads:
        stage.loads |= {f"{name}, next credential": load for name, load in loads.items()}
        for load in before:
            load.wait()
        for replica in stage.replicas:
            replica.accept(NEXT_CREDENTIAL)
            status, _ = replica.call(GOOD_KEY, "metadata", calls.describe(), CREDENTIAL)
            if status != 401:
                stage.problems.append(f"{replica.name} answers {status} to the removed credential")
            time.sleep(1)
        if any(load.process.poll() is not None for load in loads.values()):
            stage.problems.append("the load was over before the credential was removed")


@trial(seconds=3, bound=bounds.no_request, more_seconds=lambda checks: 6 + until_back(checks), setup=PLANNED)
def balancer_reload(stage):
    """The balancer is reloaded three times, then a replica restarted, to which its old processes have connections."""
    for _ in range(3):
        stage.fleet.balancer.reload()
        stage.wait()
    replica = stage.replicas[0]
    with stage.trouble(replica):
        stage.stop(replica)
        replica.start(must_be_ready=False)
