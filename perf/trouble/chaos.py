"""Random but reproducible faults of all kinds, under load."""

import argparse
import os
import random
import time
from pathlib import Path

from launcher import programs
from launcher.process import status_kib
from launcher.programs import Failed
from trouble.rig import CRYPTO, Rig, toml_list
from trouble.shows import CODES

#: Allowed growth of the process at the end, such as a thread that is being replaced, or a page.
MORE_THREADS = 3
MORE_DESCRIPTORS = 2
MORE_KIB = 48 * 1024
#: Recovery is checked at a low rate and several times: a busy machine may delay an answer past its
#: deadline, but a proxy that has not recovered fails each time.
PEACE_RATE = 200
PEACE_ROUNDS = 3
FUNCTIONS = (*CRYPTO, "C_GenerateRandom", "C_OpenSession", "C_GetSessionInfo", "C_FindObjectsInit")


def fault(choice, slots):
    """Returns a random [[fault]]."""
    functions = toml_list(choice.sample(FUNCTIONS, choice.randint(1, len(FUNCTIONS))))
    slot = choice.choice(slots)
    code = choice.choice(CODES)
    count = choice.choice((1, 3, 20, 200))
    probability = choice.choice((0.01, 0.1, 0.5, 1.0))
    kind = choice.choice(("return", "return", "rare", "hang", "delay", "close", "remove", "flip"))
    lines = {
        "return": [f'return = "{code}"', f"functions = {functions}", f"count = {count}"],
        "rare": [f'return = "{code}"', f"functions = {functions}", f"probability = {probability}"],
        "hang": ["hang = true", f"functions = {functions}", f"count = {choice.choice((1, 2, 8))}"],
        "delay": [f'delay = "0ms, p={probability}:{choice.choice((20, 100, 400))}ms"'],
        "close": ["close_session = true", f"count = {count}"],
        "remove": ["remove_token = true"],
        "flip": ["flip_bit = true", f"probability = {probability}"],
    }[kind]
    return "\n".join(["[[fault]]", f"slot = {slot}", *lines])


def script(seed, seconds, slots):
    """Yields pairs of seconds and settings: faults, with periods without faults in between."""
    choice = random.Random(seed)
    passed = 0.0
    while passed < seconds:
        faults = "\n".join(fault(choice, slots) for _ in range(choice.randint(1, 4)))
        for length, text in (
            (choice.uniform(0.2, 3.0), f"seed = {choice.randrange(1 << 32)}\n{faults}"),
            (choice.uniform(0.0, 1.5), ""),
        ):
            yield length, text
            passed += length


def footprint(rig):
    """Returns the proxy's threads by name, descriptors and KiB of memory."""
    process = Path("/proc") / str(rig.process.pid)
    names = {}
    for task in (process / "task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
        except OSError:
            continue
        names[name] = names.get(name, 0) + 1
    return {
        "threads": sum(names.values()),
        "sessions": sum(count for name, count in names.items() if name.startswith("hsm-")),
        "descriptors": len(os.listdir(process / "fd")),
        "resident KiB": status_kib(rig.process.pid, "VmRSS"),
    }


def more(before, after):
    """Returns the names of figures that grew beyond their limit."""
    limits = {
        "threads": MORE_THREADS,
        "sessions": MORE_THREADS,
        "descriptors": MORE_DESCRIPTORS,
        "resident KiB": MORE_KIB,
    }
    return [name for name, limit in limits.items() if after[name] > before[name] + limit]


def settled(rig, before):
    """Returns the footprint once it is as small as before, or after a time limit."""
    deadline = time.monotonic() + 30
    while True:
        after = footprint(rig)
        if not more(before, after) or time.monotonic() > deadline:
            return after
        time.sleep(0.2)


def main(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, help="replays a run")
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument(
        "--deadline-milli",
        type=int,
        default=1000,
        help="request_deadline_milli; the proxy's own default is too short where the machine is "
        "busy with other work",
    )
    parser.add_argument("--no-build", action="store_true")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    if not arguments.no_build:
        programs.build()
    with Rig(sessions=8, limits=f"request_deadline_milli = {arguments.deadline_milli}") as rig:
        # Sessions are opened on demand and then kept: a slow HSM makes the proxy open all of them.
        rig.set('[[fault]]\ndelay = "40ms"')
        with rig.load(5, rate=arguments.rate) as warm:
            pass
        rig.set("")
        time.sleep(1)
        before = footprint(rig)
        count = 0
        with rig.load(arguments.seconds, rate=arguments.rate) as load:
            for length, text in script(seed, arguments.seconds - 1, rig.slots):
                rig.set(text)
                count += 1
                time.sleep(length)
            rig.set("")
        deadline = time.monotonic() + 30
        while rig.get("/readyz")[0] != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        # Recovery from module-wide trouble takes a moment.
        time.sleep(5)
        for rounds in range(1, PEACE_ROUNDS + 1):
            try:
                with rig.load(5, rate=PEACE_RATE) as peace:
                    pass
            except Failed as failed:
                print(f"FAIL no peace: {failed} (seed {seed})")
                return 1
            if not peace.failed or peace.is_wrong:
                break
        time.sleep(1)
        after = settled(rig, before)
        problems = more(before, after)
        missing = sum(
            number for name, number in load.failures().items() if name.startswith("0 ")
        )
        if missing:
            problems.append(f"{missing} requests without an answer")
        if warm.is_wrong or load.is_wrong or peace.is_wrong:
            problems.append("wrong answers")
        if any("Ciphertext" in name or "KeyNotFound" in name for name in load.failures()):
            problems.append("trouble told as the caller's fault")
        if peace.failed:
            problems.append(f"failures after the trouble was over, in {rounds} rounds")
        if "is a defect" in rig.log():
            problems.append("a panic")
        print(f"{count} settings; {load.line()}")
        print(f"before {before}\nafter  {after}\npeace, round {rounds}: {peace.line()}")
    for problem in problems:
        print(f"FAIL {problem} (seed {seed})")
    return 1 if problems else 0
