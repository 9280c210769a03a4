"""Shows that tests notice defects: changes one line of the program after the other in a copy of the
tree, and runs the tests, which must fail each time within a minute. A line that is no longer there is
an error.

The copy, with its build, is in target/mutations.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
COPY = ROOT / "target/mutations/tree"
LIMIT_SECONDS = 60


class Tests:
    """Tests that must fail: the arguments of `cargo test` that build them, those that choose among
    them, the environment, and a function that finds the reason of a failure in their output."""

    def __init__(self, built_by, chosen_by, environment, reason):
        self.built_by = built_by
        self.chosen_by = chosen_by
        self.environment = environment
        self.reason = reason

    def cargo(self, *arguments, **options):
        # Incremental: each build differs from the last one by two lines.
        environment = os.environ | self.environment | {
            "CARGO_TARGET_DIR": str(COPY.parent / "build"),
            "CARGO_INCREMENTAL": "1",
        }
        return subprocess.run(
            ["cargo", "test", "--quiet", "--locked", *self.built_by, *arguments],
            cwd=COPY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def run(self):
        """Builds and runs the tests; returns whether they failed, their output and their seconds."""
        built = self.cargo("--no-run")
        if built.returncode != 0:
            sys.exit(f"the mutation does not build:\n{built.stdout}")
        start = time.monotonic()
        try:
            run = self.cargo(*self.chosen_by, timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            sys.exit(f"the tests take longer than {LIMIT_SECONDS} s")
        return run.returncode != 0, run.stdout, time.monotonic() - start

    def notice(self, name, path, old, new):
        """Applies a mutation, and returns whether the tests fail."""
        file = COPY / path
        text = file.read_text()
        if text.count(old) != 1:
            sys.exit(f"{name}: {path} has the line {text.count(old)} times:\n{old}")
        file.write_text(text.replace(old, new))
        try:
            has_failed, output, seconds = self.run()
        finally:
            file.write_text(text)
        verdict = self.reason(output) if has_failed else "NOT NOTICED"
        print(f"{seconds:5.1f} s  {name}: {verdict}", flush=True)
        return has_failed


def copy_tree():
    """Updates the copy, and keeps its build."""
    COPY.mkdir(parents=True, exist_ok=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(command, cwd=ROOT).decode().split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, COPY / name
        if not source.is_file():
            continue
        if target.is_file() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def main(tests, mutations):
    """Tries the mutations (name, file, line, replacement) that the program's arguments name; all of
    them without arguments."""
    chosen = [it for it in mutations if len(sys.argv) == 1 or it[0] in sys.argv[1:]]
    if not chosen:
        sys.exit("there is no such mutation")
    copy_tree()
    has_failed, output, seconds = tests.run()
    if has_failed:
        sys.exit(f"the tests fail without a mutation:\n{output}")
    print(f"{seconds:5.1f} s  without a mutation: no failure", flush=True)
    noticed = [tests.notice(*mutation) for mutation in chosen]
    print(f"{sum(noticed)} of {len(noticed)} mutations were noticed")
    sys.exit(0 if all(noticed) else 1)
