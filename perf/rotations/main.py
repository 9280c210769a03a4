"""The command: arguments, both loads, the table."""

import argparse
import json
import re
import shutil
import subprocess

from fleets import balancer
from fleets.balancer import Checks
from fleets.main import ATTEMPTS, MAX_LATE_MILLI, add_common, run_in_namespaces
from launcher import programs
from launcher.programs import Failed
from rotations.course import NEXT, ORIGINAL, Course
from rotations.replica import RotatingFleet

#: Part of a load's ciphertexts that need not have been decrypted when it ends.
MAX_NOT_DECRYPTED = 0.02


def arguments(description):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser.add_argument, rate=1000)
    parser.add_argument("--pause", type=float, default=2, metavar="SECONDS",
        help="of load after each change of a replica [2]")
    parser.add_argument("--careless", action="store_true",
        help="version 2 is not listed on the last replica: must fail")
    options = parser.parse_args()
    options.checks = Checks()
    if options.binary and not options.binary.is_file():
        parser.error(f"{options.binary} is not there")
    return options


def main(description):
    options = arguments(description)
    if not shutil.which("curl"):
        raise SystemExit("curl is not installed: apt-get install curl")
    return run_in_namespaces(options, run)


def run(options):
    path = options.binary.resolve() if options.binary else programs.binary("xks-proxy")
    print(f"{balancer.version()}: {options.checks.line()}")
    print(
        f"{options.rate:g} requests/s (1 encrypt, 3 decrypts) over {options.connections} connections, "
        f"{options.new_connections:g} new ones a second, TLS", flush=True,
    )
    for _ in range(ATTEMPTS):
        found = one(path, options)
        for line in lines(found):
            print(line)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
        if not found["problems"] or found["late_ms"] <= MAX_LATE_MILLI:
            break
        print("! the generator was late: the machine is busy", flush=True)
    return 1 if found["problems"] else 0


def one(path, options):
    """Rotates once. Returns the outcome."""
    courses = []
    problems = []
    try:
        with RotatingFleet(path, options) as fleet:
            try:
                rotate(fleet, options, courses)
            finally:
                if options.logs:
                    fleet.copy_logs(options.logs)
            for replica in fleet.replicas:
                if re.search("is a defect", replica.log()):
                    problems.append(f"{replica.name}: a panic")
    except (Failed, OSError, subprocess.SubprocessError) as error:
        problems.append(f"the rotation could not be made: {error}")
    done = [course for course in courses if course.load and course.load.found]
    return {
        "rows": [row for course in done for row in course.rows()],
        "by_version": [course.by_version() for course in done],
        "failures": [course.load.failures() for course in done],
        "latency": [course.load.found["total"]["latency_ms"] for course in done],
        "late_ms": max((lateness(course)["p99_9"] for course in done), default=0),
        "problems": [*problems, *(problem for course in courses for problem in judged(course))],
    }


def rotate(fleet, options, courses):
    """The whole rotation, under two loads: the second one has no ciphertexts of version 1."""
    fleet.wait_until_whole(20)
    fleet.old = fleet.replicas[0].encrypt()
    for steps in (
        (Course.list_next, Course.switch, Course.roll_back, Course.switch_again),
        (Course.retire, Course.take_back, Course.retire),
    ):
        courses.append(Course(fleet, options.pause, options.careless))
        courses[-1].run(steps)
        if courses[-1].problems:
            return


def judged(course):
    """Yields what is wrong with a load."""
    yield from course.problems
    found = course.load and course.load.found
    if not found:
        return
    if failed := course.load.failed:
        yield f"{failed} requests failed: {course.load.failures()}"
    encrypts = sum(counts["encrypts"] for counts in course.by_version().values())
    if found["not_decrypted"] > MAX_NOT_DECRYPTED * encrypts:
        yield f"{found['not_decrypted']} of {encrypts} ciphertexts were not decrypted"
    # Without these, a load has not shown anything.
    needed = {NEXT} if any("retired" in step.name for step in course.steps) else {ORIGINAL, NEXT}
    if set(course.by_version()) != needed:
        yield f"ciphertexts of the versions {list(course.by_version())}, not {list(needed)}"
    for version, counts in course.by_version().items():
        if not counts["decrypts"]:
            yield f"nothing of version {version} was decrypted"


def lateness(course):
    return course.load.found["generator"]["lateness_ms"]


def lines(found):
    """Yields the outcome as lines of text."""
    yield f"{'step':22}{'seconds':>9}{'requests':>10}{'failed':>8}{'worst ms':>10}"
    for row in found["rows"]:
        yield (
            f"{row['step']:22}{row['seconds']:9.1f}{row['requests']:10}{row['failed']:8}"
            f"{row['max_ms']:10.1f}"
        )
    total = sum(row["requests"] for row in found["rows"])
    failed = sum(row["failed"] for row in found["rows"])
    yield f"{'all':22}{sum(row['seconds'] for row in found['rows']):9.1f}{total:10}{failed:8}"
    for number, by_version in enumerate(found["by_version"]):
        latency = found["latency"][number]
        counts = "; ".join(
            f"version {version}: {counts['encrypts']} encrypts, {counts['decrypts']} decrypts"
            for version, counts in by_version.items()
        )
        yield f"load {number + 1}: {counts}; p50 {latency['p50']:.2f}, p99 {latency['p99']:.1f} ms"
    yield f"generator late: p99.9 {found['late_ms']:.1f} ms"
    for problem in found["problems"]:
        yield f"! {problem}"
    yield "FAIL" if found["problems"] else "ok"
