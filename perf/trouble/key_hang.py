"""Keys whose calls hang: some among others whose calls do not, and all of them."""

import contextlib
import time

from trouble.background import Background
from trouble.keys import BAD, GOOD, HUNG, KeyRig, Watch, last_failure
from trouble.rig import CRYPTO, Pinger, toml_list

GOOD_RATE, BAD_RATE = 500, 50
GOOD_CONNECTIONS, BAD_CONNECTIONS = 64, 16
SESSIONS = 8
#: Threads that may be stuck: half of the sessions, plus the calls that reveal that a key hangs.
MAX_STUCK = SESSIONS // 2 + 4
MAX_BACK_SECONDS = 2
#: Seconds that the load continues after calls return.
RECOVERY = 4.0
MAX_UNREADY_SECONDS = 2
#: Beyond this 99th percentile of the generator's own delay, a failed trial is repeated.
MAX_LATE_MS = 20
ATTEMPTS = 3
#: exit_when_wedged: WEDGED_TIME in src/limits/hsm.rs, plus detection and the drain.
WEDGED_SECONDS = (35, 45)
WEDGED_PATIENCE = 60
WEDGED_CODE = 75


class Stuck(Background):
    """Number of hanging calls according to the interposer, even if unknown to the proxy."""

    def __init__(self, rig):
        super().__init__()
        self.rig, self.most = rig, 0

    def run(self):
        while not self.is_over.wait(0.5):
            self.most = max(self.most, self.rig.counts().get("hung", 0))


def hanging(functions, extra=""):
    """Returns settings in which these functions hang, or all if none is given."""
    named = f"functions = {toml_list(functions)}\n" if functions else ""
    return f'[[fault]]\n{named}{extra}hang = "120s"\n'


def listed(functions):
    return ", ".join(functions) or "every function"


def unless_busy(trial):
    """Returns a trial's result. A failed trial is repeated if the generator was late, since the
    machine was then busy with other work."""
    for _ in range(ATTEMPTS):
        line, is_right, load = trial()
        if is_right or load.found["generator"]["lateness_ms"]["p99"] <= MAX_LATE_MS:
            break
    return line, is_right


def some(good, bad, functions, seconds, options):
    """Some keys hang at these functions."""
    options = {"sessions": SESSIONS, "tokens": ("one",), **options}
    with KeyRig(good=good, bad=bad, **options) as rig, contextlib.ExitStack() as stack:
        mix = "decrypt=1,encrypt=1"
        good_phases = [(GOOD_RATE, seconds), (GOOD_RATE, RECOVERY)]
        bad_phases = [(BAD_RATE, seconds), (BAD_RATE, RECOVERY)]
        others = rig.load_of(GOOD, good_phases, mix, GOOD_CONNECTIONS, warm_up=1)
        stack.callback(others.kill)
        keys = rig.load_of(BAD, bad_phases, mix, BAD_CONNECTIONS, warm_up=1)
        stack.callback(keys.kill)
        others.wait_until_measured()
        keys.wait_until_measured()
        watch = stack.enter_context(Watch(rig))
        stuck = stack.enter_context(Stuck(rig))
        rig.set(hanging(functions, 'key_prefix = "bad-"\n'))
        time.sleep(max(0.0, keys.measured_from + seconds - time.monotonic()))
        cleared = time.monotonic()
        rig.set("")
        keys.wait()
        others.wait()
    written_off = watch.most.get(HUNG, 0)
    last = last_failure(keys)
    back = max(0.0, last - cleared) if last else 0.0
    is_right = others.failed == 0 and not others.is_wrong and not keys.is_wrong
    is_right &= max(stuck.most, written_off) <= MAX_STUCK
    is_right &= watch.outages == 0 and back <= MAX_BACK_SECONDS
    line = (
        f"{listed(functions)}: others: {others.line()}; stuck: {stuck.most} calls, "
        f"{written_off:.0f} threads written off (at most {MAX_STUCK}); circuit opened "
        f"{watch.outages} times; hanging keys: {keys.failed} of "
        f"{keys.found['total']['requests']} failed, back after {back:.2f} s"
    )
    return line, is_right, others


def one(seconds, options):
    """One key's encryptions hang for 120 s each, at 50/s next to 500/s of good keys"""
    yield unless_busy(lambda: some(8, 1, ("C_EncryptInit",), seconds, options))


def one_both_ways(seconds, options):
    """One key hangs in both directions, where the HSM computes"""
    yield unless_busy(lambda: some(8, 1, ("C_Encrypt", "C_Decrypt"), seconds, options))


def ten(seconds, options):
    """10 keys hang among 200 good ones"""
    yield unless_busy(lambda: some(200, 10, ("C_EncryptInit",), seconds, options))


def hundred(seconds, options):
    """100 keys hang among 200 good ones"""
    yield unless_busy(lambda: some(200, 100, ("C_EncryptInit",), seconds, options))


def hundred_both_ways(seconds, options):
    """100 keys hang in both directions among 200 good ones, where the HSM computes"""
    yield unless_busy(lambda: some(200, 100, ("C_Encrypt", "C_Decrypt"), seconds, options))


def shown(seconds):
    return "never" if seconds is None else f"after {seconds:.2f} s"


def wait_for_ready(rig, status, seconds):
    """Returns the seconds until /readyz has that status; None after a timeout."""
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        if rig.get("/readyz")[0] == status:
            return time.monotonic() - started
        time.sleep(0.01)
    return None


def all_keys(functions, options):
    """Every key hangs at these functions, for a while."""
    options = {"sessions": SESSIONS, "tokens": ("one",), **options}
    with KeyRig(good=8, **options) as rig, contextlib.ExitStack() as stack:
        hung, after = 15, 4
        phases = [(GOOD_RATE, hung), (GOOD_RATE, after), (GOOD_RATE, 4)]
        load = rig.load_of(GOOD, phases, "decrypt=1,encrypt=1", GOOD_CONNECTIONS, warm_up=1)
        stack.callback(load.kill)
        load.wait_until_measured()
        pings = stack.enter_context(Pinger(rig))
        stuck = stack.enter_context(Stuck(rig))
        rig.set(hanging(functions))
        out = wait_for_ready(rig, 503, 10)
        time.sleep(max(0.0, load.measured_from + hung - time.monotonic()))
        rig.set("")
        back = wait_for_ready(rig, 200, 30)
        load.wait()
    peace = load.found["phases"][2]["failed"]
    is_right = out is not None and out <= MAX_UNREADY_SECONDS
    is_right &= back is not None and back <= MAX_BACK_SECONDS and peace == 0
    is_right &= pings.failures == 0 and not load.is_wrong
    line = (
        f"{listed(functions)}: /readyz 503 {shown(out)}, {stuck.most} calls stuck; calls "
        f"return: /readyz 200 {shown(back)}, {peace} failed from {after} s on; {load.line()}"
    )
    return line, is_right, load


def every(_seconds, options):
    """Every key hangs: /readyz 503 within 2 s, and recovery without help when calls return"""
    for functions in (("C_EncryptInit", "C_DecryptInit"), CRYPTO, ()):
        yield unless_busy(lambda functions=functions: all_keys(functions, options))


def wedged(_seconds, options):
    """Every key hangs and exit_when_wedged is on: the process ends in time, with the right code"""
    pkcs11 = options.get("pkcs11", "") + "\nexit_when_wedged = true"
    options = {"sessions": SESSIONS, "tokens": ("one",), **options, "pkcs11": pkcs11}
    for functions in (CRYPTO, ()):
        with KeyRig(good=8, **options) as rig, contextlib.ExitStack() as stack:
            phases = [(GOOD_RATE, WEDGED_PATIENCE)]
            load = rig.load_of(GOOD, phases, "decrypt=1,encrypt=1", GOOD_CONNECTIONS, warm_up=1)
            stack.callback(load.kill)
            load.wait_until_measured()
            rig.set(hanging(functions))
            started = time.monotonic()
            out = wait_for_ready(rig, 503, 10)
            while rig.process.poll() is None and time.monotonic() < started + WEDGED_PATIENCE:
                time.sleep(0.05)
            ended, code = time.monotonic() - started, rig.process.poll()
            hung = rig.counts().get("hung")
            if code is None:
                # While calls hang, ending the process by a signal would be slow.
                rig.set("")
        is_right = code == WEDGED_CODE and WEDGED_SECONDS[0] <= ended <= WEDGED_SECONDS[1]
        what = "still runs" if code is None else f"ended with {code}"
        unready = f"/readyz 503 {shown(out)}, stuck {hung}"
        yield f"{listed(functions)}: {unready}; {what} after {ended:.1f} s", is_right


CASES = {
    "one": one,
    "one-both-ways": one_both_ways,
    "ten": ten,
    "hundred": hundred,
    "hundred-both-ways": hundred_both_ways,
    "every": every,
    "wedged": wedged,
}
