"""A failing token with a single key, so without others to compare: this program and another."""

import contextlib
import math
import statistics
import time

from trouble.keys import BAD, KeyRig, last_failure
from trouble.rig import toml_list

RATE = 200
CONNECTIONS = 32
#: Seconds without faults after the trouble.
RECOVERY = 8.0
#: The time of a retry is partly random, so that two trials of one program differ by up to a second.
#: The criterion is whether one program's trials are significantly worse (one-sided Mann-Whitney
#: rank sum test, 1 %).
WORSE = 2.33
#: Minimum number of rounds for the test to be meaningful.
MIN_ROUNDS = 5
#: Seconds by which the trouble is longer in each round, so that its end falls at different points
#: of the proxies' periodic work.
MORE_EACH_ROUND = 0.3
KEY = 'key = "bad-000"'
OPERATIONS = toml_list(("C_Encrypt", "C_Decrypt"))
#: 30 % of the calls fail, half of them with each code.
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
    """Returns failed requests, seconds until requests stopped failing, and the load."""
    options = {**options, "proxy": proxy, "tokens": ("one",), "sessions": 8}
    # Like an nShield at FIPS 140 level 3, where no key for comparison can be made.
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
    """Yields lines, and whether the first program is at least as good as the second."""
    found = {name: [] for name in proxies}
    for number in range(rounds):
        # In turns, so that other work on the machine affects both.
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
    """Returns whether our figures are significantly higher than the others."""
    above = sum((one > other) + (one == other) / 2 for one in ours for other in others)
    pairs = len(ours) * len(others)
    deviation = math.sqrt(pairs * (len(ours) + len(others) + 1) / 12)
    return (above - pairs / 2) / deviation > WORSE
