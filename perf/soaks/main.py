"""The tracks of a soak, its load, and its verdict."""

import argparse
import random
import threading
import time
from collections import Counter

from launcher import programs
from launcher.programs import ROOT
from launcher.settings import CREDENTIAL, PREFIX
from soaks import rig as rigs
from soaks import samples, verdict
from soaks.clients import Clients
from soaks.diary import Diary, Stalls
from soaks.faults import Faults, clear
from soaks.operations import Credentials, Operations

#: Faults that the verdict must notice, as settings of the interposer.
DELIBERATE = {
    "flip": '[[fault]]\nflip_bit = true\nfunctions = ["C_Encrypt"]\nprobability = 0.001\n',
    "leak": '[[fault]]\nleak_bytes = 20000\nfunctions = ["C_Encrypt"]\nprobability = 0.2\n',
}
#: Seconds between two steps of a track: least and most.
PAUSES = {"faults": (2, 12), "operations": (3, 15), "clients": (0.5, 5), "credentials": (0, 0.1)}
#: Share of the requests that go to the store whose credentials are rotated.
ROTATED_SHARE = 1 / 3
#: A soak has an upgrade this often, in seconds: rarely enough to see the memory of each process.
UPGRADE_SECONDS = (75, 480)


def track(name, act, diary, choice, is_over):
    """Calls `act.step` with pauses until the soak is over."""
    while not is_over.wait(choice.uniform(*PAUSES[name])):
        try:
            act.step(is_over)
        except Exception as error:
            diary.problem(f"{name}: {type(error).__name__}: {error}")


def soak(options, diary):
    seconds = options.minutes * 60
    kept = DELIBERATE.get(options.deliberate, "")
    choices = {name: random.Random(f"{options.seed} {name}") for name in PAUSES}
    with rigs.SoakRig() as rig:
        before = samples.at_rest(rig, options.rate)
        diary.say(f"at rest: {before}")
        rig.set(kept)
        is_over, end = threading.Event(), time.monotonic() + seconds
        upgrade_every = min(max(seconds / 6, UPGRADE_SECONDS[0]), UPGRADE_SECONDS[1])
        rate = options.rate * ROTATED_SHARE
        acts = {
            "faults": Faults(rig, diary, choices["faults"], kept),
            "operations": Operations(rig, diary, choices["operations"], upgrade_every),
            "clients": Clients(rig, diary, choices["clients"]),
            "credentials": Credentials(rig, diary, choices["credentials"], rate, end),
        }
        steady = rig.start_load(
            "steady", seconds, options.rate - rate, PREFIX, rigs.STEADY_KEY, CREDENTIAL
        )
        steady.wait_until_measured()

        def processes():
            loads = [steady, *acts["credentials"].loads[-2:]]
            return [rig.served_by(), *(load.process.pid for load in loads)]

        stalls = Stalls(processes)
        stalls.start()
        threads = [
            threading.Thread(target=track, args=(name, act, diary, choices[name], is_over))
            for name, act in acts.items()
        ]
        with samples.Sampler(rig, diary) as sampler:
            for thread in threads:
                thread.start()
            while time.monotonic() < end:
                time.sleep(min(30, max(0, end - time.monotonic())))
                progress(diary, sampler)
            is_over.set()
            for thread in threads:
                thread.join()
        clear(rig, "")
        loads = finished([steady, *acts["credentials"].loads], diary)
        acts["operations"].restore()
        time.sleep(5)
        problems, after = samples.end_problems(rig, before, options.rate)
        for problem in problems:
            diary.problem(problem)
        for problem, at in samples.memory_problems(sampler.found):
            diary.problem(problem, at)
        expected = judge_loads(loads, rig, diary, stalls)
        rig.stop()
        judge_process(rig, diary)
        return summary(acts, loads, sampler, expected, before, after, stalls)


def finished(loads, diary):
    """Returns the loads that have results. That one has none is a problem, and hides none of the others'."""
    done = []
    for load in loads:
        try:
            load.wait()
            done.append(load)
        except programs.Failed as error:
            diary.problem(f"{load.name}: {error}")
    return done


def progress(diary, sampler):
    for pid, found in list(sampler.found.items())[-1:]:
        sample = {name: value for name, value in found[-1].items() if name != "at"}
        diary.say(f"process {pid}: {sample}, {len(diary.problems)} problems")


def judge_loads(loads, rig, diary, stalls):
    expected = Counter()
    for load in loads:
        file = rig.work / f"{load.name}.failures"
        expected += verdict.judge(load.name, file, diary, stalls)
        if load.is_wrong:
            diary.problem(f"{load.name}: wrong answers: {load.found['wrong_encrypts'] or load.failures()}")
    return expected


def judge_process(rig, diary):
    for pid, code in rig.exit_codes.items():
        if code != 0:
            diary.problem(f"process {pid} ended with {code}")
    texts = [rig.log(), *(file.read_text(errors="replace") for file in (rig.work / "log").glob("*"))]
    for line in (line for text in texts for line in text.splitlines() if "is a defect" in line):
        diary.problem(f"a panic: {line}")


def summary(acts, loads, sampler, expected, before, after, stalls):
    """Yields lines of text."""
    total = Counter()
    for load in loads:
        counts = load.found["connection_counts"]
        total.update({"requests": load.found["total"]["requests"], "right": load.found["total"]["ok"]})
        total.update({"encrypts decrypted afterwards": load.found["verified_encrypts"]})
        total.update({f"connections {name}": count for name, count in counts.items()})
    yield ", ".join(f"{count} {name}" for name, count in total.items())
    for name in ("operations", "clients"):
        yield f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in acts[name].counts.items())
    for (why, kind), count in sorted(expected.items()):
        yield f"explained by {why}: {count} times {kind}"
    for pid, found in sampler.found.items():
        later = samples.warm(found)
        anon = [it["anon"] for it in later]
        more = samples.growth(found)
        trend = "too short for a trend" if more is None else f"trend {more:+.0f} KiB"
        yield (
            f"process {pid}: {found[-1]['at'] - found[0]['at']:.0f} s, RssAnon {min(anon)} to {max(anon)} KiB "
            f"({trend}), {max(it['descriptors'] for it in found)} descriptors and "
            f"{max(it['threads'] for it in found)} threads at most"
        )
    yield f"at rest before: {before}"
    yield f"at rest after:  {after}"
    yield f"a thread had no processor for more than {stalls.LONG} of {stalls.TICK} s: {len(stalls.found)} times"


def main(description):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, help="repeats the order of events of a run")
    parser.add_argument("--rate", type=float, default=300, help="requests a second")
    parser.add_argument(
        "--deliberate", choices=DELIBERATE,
        help="a defect that the verdict must notice: one bit of an answer flipped now and then, or "
        "memory and descriptors leaked in the process",
    )
    parser.add_argument("--no-build", action="store_true")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.randrange(1 << 32)
    if not options.no_build:
        programs.build()
    rigs.be_subreaper()
    directory = ROOT / "perf/out"
    directory.mkdir(exist_ok=True)
    path = directory / f"soak-{options.seed}.txt"
    with open(path, "w") as file:
        diary = Diary(options.seed, file)
        print(f"seed {options.seed}, {options.minutes:g} minutes; events are in {path}", flush=True)
        try:
            lines = list(soak(options, diary))
        except Exception as failed:
            diary.problem(f"{type(failed).__name__}: {failed}")
            lines = []
        for line in [*lines, *diary.problems, "FAILED" if diary.problems else "ok"]:
            print(line, flush=True)
            print(line, file=file)
    return 1 if diary.problems else 0
