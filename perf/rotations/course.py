"""A rotation's steps, and what they cost the callers."""

import dataclasses
import time

from launcher.programs import Failed
from rotations.replica import version_of

#: Seconds that a reload may take, with the HSM's sessions opened anew.
RELOAD_SECONDS = 1
#: Seconds of load after the last step.
SPARE_SECONDS = 2
ORIGINAL, NEXT = 1, 2


@dataclasses.dataclass
class Step:
    """A step, with its begin and end in seconds of the load's measured time."""

    name: str
    began: float
    ended: float


class Course:
    """One load with its steps. Steps are given in advance, so that the load outlasts them."""

    def __init__(self, fleet, pause, is_careless):
        self.fleet, self.pause, self.is_careless = fleet, pause, is_careless
        self.steps = []
        self.problems = []
        self.load = None

    @property
    def replicas(self):
        return self.fleet.replicas

    def run(self, steps):
        """Runs functions of this class under load."""
        changes = len(self.replicas) * len(steps)
        seconds = changes * (self.pause + RELOAD_SECONDS) + self.pause + SPARE_SECONDS
        options = ("--round-trips", "--interval-milli", "100")
        mix = "encrypt-cdiv=1,decrypt=3"
        with self.fleet.good_load(seconds, *options, mix=mix) as self.load:
            self.load.wait_until_measured()
            with self.step("before"):
                time.sleep(self.pause)
            try:
                for step in steps:
                    step(self)
            except Failed as failed:
                self.problems.append(str(failed))
            if self.load.process.poll() is not None:
                self.problems.append("the load was over before the steps were")
        if self.load.is_wrong:
            self.problems.append(f"wrong answers: {self.load.found['wrong_encrypts'][:3]}")
        return self

    def step(self, name):
        return Recorded(self, name)

    def for_each(self, name, change):
        """Makes a change on each replica in turn, as one step."""
        with self.step(name):
            for replica in self.replicas:
                change(replica)
                time.sleep(self.pause)

    def expect(self, what, found, expected):
        if found != expected:
            self.problems.append(f"{what}: {found}, not {expected}")

    def expect_encrypts_with(self, version):
        other = ORIGINAL + NEXT - version
        for replica in self.replicas:
            found = version_of(replica.encrypt().get("ciphertextMetadata"))
            self.expect(f"{replica.name} encrypts with version", found, version)
            states = {version: "encrypts", other: "decrypts"}
            # Listing is left out on the last one.
            if not self.is_careless:
                self.expect(f"{replica.name} says of its versions", replica.states(), states)

    def expect_decrypt(self, answer, expected, state):
        for replica in self.replicas:
            self.expect(f"{replica.name} decrypts version 1", replica.decrypt(answer), expected)
            self.expect(f"{replica.name} says of version 1", replica.states().get(ORIGINAL), state)

    def list_next(self):
        def change(replica):
            # Without its listing, a switch elsewhere must cost requests here.
            if not (self.is_careless and replica is self.replicas[-1]):
                replica.list_versions()

        self.for_each("version 2 listed", change)
        self.expect_encrypts_with(ORIGINAL)

    def switch(self):
        def change(replica):
            replica.list_versions(encrypt_with=NEXT)

        self.for_each("version 2 encrypts", change)
        self.expect_encrypts_with(NEXT)

    def roll_back(self):
        def change(replica):
            replica.list_versions(encrypt_with=ORIGINAL)

        self.for_each("rolled back to 1", change)
        self.expect_encrypts_with(ORIGINAL)

    def switch_again(self):
        def change(replica):
            replica.list_versions(encrypt_with=NEXT)

        self.for_each("version 2 again", change)
        self.expect_encrypts_with(NEXT)

    def retire(self):
        def change(replica):
            replica.list_versions(encrypt_with=NEXT, is_retired=True)

        self.for_each("version 1 retired", change)
        self.expect_decrypt(self.fleet.old, "InvalidStateException", "retired")

    def take_back(self):
        def change(replica):
            replica.list_versions(encrypt_with=NEXT)

        self.for_each("version 1 taken back", change)
        self.expect_decrypt(self.fleet.old, "ok", "decrypts")

    def rows(self):
        """Returns name, seconds, requests, failures and worst latency of each step, and of the rest
        of the load's time."""
        points = self.load.found["over_time"]
        ends = [step.began for step in self.steps[1:]] + [self.steps[-1].ended, float("inf")]
        names = [step.name for step in self.steps] + ["after"]
        begin = 0.0
        for name, end in zip(names, ends):
            inside = [point for point in points if begin <= point["seconds"] < end]
            yield {
                "step": name,
                "seconds": len(inside) / 10,
                "requests": sum(point["ok"] + point["failed"] for point in inside),
                "failed": sum(point["failed"] for point in inside),
                "max_ms": max((point["max_ms"] for point in inside), default=0),
            }
            begin = end

    def by_version(self):
        """Returns the encrypts and decrypts of each version."""
        found = self.load.found["by_metadata"]
        return {version_of(metadata): counts for metadata, counts in sorted(found.items())}


class Recorded:
    """Records a step during its block."""

    def __init__(self, course, name):
        self.course, self.name = course, name

    def __enter__(self):
        now = time.monotonic() - self.course.load.measured_from
        self.course.steps.append(Step(self.name, now, now))

    def __exit__(self, *_):
        self.course.steps[-1].ended = time.monotonic() - self.course.load.measured_from
