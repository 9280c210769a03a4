"""A token with one key and nothing to compare it with, in trouble: this program and another."""

import contextlib
import math
import statistics
import time

from trouble.keys import BAD, KeyRig, last_failure
from trouble.rig import toml_list

RATE = 200
CONNECTIONS = 32
#: Seconds of peace after the trouble.
RECOVERY = 8.0
#: When a token is tried again is partly chance, so that two trials of one program differ by a
#: second: what counts is whether one program's trials are the worse ones by and large (the rank
#: sum of Mann and Whitney, one-sided, 1 %).
WORSE = 2.33
#: Fewer cannot show that.
MIN_ROUNDS = 5
#: Trouble is longer each round by this: what the proxies do at intervals meets its end elsewhere.
MORE_EACH_ROUND = 0.3
KEY = 'key = "bad-000"'
OPERATIONS = toml_list(("C_Encrypt", "C_Decrypt"))
#: 30 % of the calls fail: half of them so, half of them otherwise.
THROTTLED = (
    f'[[fault]]\n{KEY}\nfunctions = {OPERATIONS}\nreturn = "CKR_DEVICE_MEMORY"\nprobability = 0.15\n'
    f'[[fault]]\n{KEY}\nfunctions = {OPERATIONS}\nreturn = "CKR_FUNCTION_FAILED"\n'
    f"probability = {0.15 / 0.85}\n"
)
TROUBLES = {
    "dies": '[[fault]]\nreturn = "CKR_DEVICE_ERROR"\n',
    "removed": "[[fault]]\nslot = {slot}\nremove_token = true\n",
    "hangs": "[[fault]]\nhang = true\n",
    "key operations hang": f"[[fault]]\n{KEY}\nhang = true\n",
    "throttles": THROTTLED,
}


def trial(proxy, trouble, seconds, options):
    """Failed requests, seconds until none failed any more, and the load."""
    options = {**options, "proxy": proxy, "tokens": ("one",), "sessions": 8}
    # As an nShield of FIPS 140 level 3: no key can be made for the purpose.
    interposer = f"{options.pop('interposer')}\nno_session_keys = true"
    with KeyRig(good=0, interposer=interposer, **options) as rig:
        phases = [(RATE, seconds), (RATE, RECOVERY)]
        with contextlib.ExitStack() as stack:
            load = rig.load_of(BAD, phases, "decrypt=1,encrypt=1", CONNECTIONS, warm_up=1)
            stack.callback(load.kill)
            load.wait_until_measured()
            rig.set(trouble.replace("{slot}", str(rig.slots[0])))
            time.sleep(max(0.0, load.measured_from + seconds - time.monotonic()))
            cleared = time.monotonic()
            rig.set("")
            load.wait()
    last = last_failure(load)
    return load.failed, max(0.0, last - cleared) if last else 0.0, load


def compare(trouble, proxies, seconds, rounds, options):
    """Lines, and whether the first of the programs is at least as good as the second."""
    found = {name: [] for name in proxies}
    for number in range(rounds):
        # In turns, so that what else the machine does befalls both.
        for name, proxy in proxies.items():
            failed, back, load = trial(proxy, trouble, seconds + number * MORE_EACH_ROUND, options)
            found[name].append((failed, back))
            yield f"{name}: back after {back:.2f} s; {load.line()}", not load.is_wrong
    medians = {
        name: [statistics.median(of_one) for of_one in zip(*trials)]
        for name, trials in found.items()
    }
    text = "; ".join(
        f"{name}: {failed:.0f} failed, back after {back:.2f} s"
        for name, (failed, back) in medians.items()
    )
    is_right = True
    if len(found) == 2:
        ours, others = (list(zip(*trials)) for trials in found.values())
        is_right = not any(is_worse(*pair) for pair in zip(ours, others))
    yield f"medians: {text}", is_right


def is_worse(ours, others):
    """Whether ours are higher than others, beyond chance."""
    above = sum((one > other) + (one == other) / 2 for one in ours for other in others)
    pairs = len(ours) * len(others)
    deviation = math.sqrt(pairs * (len(ours) + len(others) + 1) / 12)
    return (above - pairs / 2) / deviation > WORSE
