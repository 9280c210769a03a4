"""The course of a scenario: runs the page's steps on a machine, prints and checks."""

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path

from rehearsal import page
from rehearsal.kms import Refused
from rehearsal.machine import Failed, Machine

#: Value of the key foo.
FOO = "0123456789abcdef" * 4
#: Longest output of a command that is printed.
MAX_LINES = 4
#: Lines about the settings of the rehearsal itself.
NOISE = r"\s*$|[^ ]*settings.toml:"


class Course:
    """A scenario under way. Blocks of the page are run in its order, each once."""

    def __init__(self, scenario, work):
        self.work = work
        self.machine = Machine(work / "machine")
        self.steps = page.read(scenario)
        self.left = [(step, block) for step in self.steps for block in step.blocks]
        self.shown = set()

    def begin(self, **members):
        """Starts the machine with a token, a key store, and what the page says to keep."""
        machine = self.machine
        if not any((machine.work / "tokens").iterdir()):
            machine.make_token("hsm", foo=FOO)
        machine.make_certificate()
        machine.set(**members)
        machine.start()
        machine.wait_until("ready", machine.is_ready)
        machine.make_key_store(**{"xks-check": "foo"})
        for step in page.read("be-prepared"):
            for block in step.blocks:
                self.shell(block.text, machine)

    def say(self, text):
        print(f"   {text}", flush=True)

    def happens(self, text):
        """Prints what befalls the machine."""
        print(f"!! {text}", flush=True)

    def check(self, text, is_so, detail=""):
        """Prints an observation; fails if it does not hold."""
        if not is_so:
            raise Failed(f"NOT SO: {text} {detail}\n{self.machine.log()[-3000:]}")
        self.say(f"seen: {text}")

    def eventually(self, text, is_so):
        """Waits for an observation."""
        seconds = self.machine.wait_until(text, is_so)
        self.say(f"seen: {text} (after {seconds:.1f} s)")

    def refused(self, text, status, name, call):
        """Checks that a call is refused so."""
        try:
            call()
        except Refused as refused:
            found = (refused.status, refused.name)
            is_so = refused.status == status and name in refused.name
            self.check(f"{text}: {refused.status} {refused.name}", is_so, found)
        else:
            raise Failed(f"NOT SO: {text}: it was answered")

    def next(self, language):
        """Takes the next block, and prints its step if it is that step's first."""
        if not self.left:
            raise Failed("the page has no further block")
        step, block = self.left.pop(0)
        if block.language != language:
            raise Failed(f"step {step.number} has a block of {block.language} next")
        if step.number not in self.shown:
            self.shown.add(step.number)
            text = step.text if len(step.text) < 90 else step.text[:87] + "..."
            print(f"{step.number}. {text}", flush=True)
        return block

    def run(self, status=0, machine=None, **substitutions):
        """Runs the page's next block of commands as its reader would. Returns the output."""
        machine = machine or self.machine
        block = self.next("sh")
        for line in block.text.splitlines():
            self.say(f"$ {line}")
        output = self.shell(block.text, machine, status, substitutions)
        lines = [line for line in output.splitlines() if not re.match(NOISE, line)]
        for line in lines[-MAX_LINES:]:
            self.say("  " + line.replace(str(machine.work), "")[:120])
        return output

    def shell(self, text, machine, status=0, substitutions=None):
        """Runs commands of the page. Returns their output."""
        for name, value in (self.names(machine) | (substitutions or {})).items():
            text = text.replace(name, str(value))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], env=machine.environment(),
            cwd=machine.work / "etc", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=120,
        )
        output = done.stdout
        if done.returncode != status:
            raise Failed(f"exit code {done.returncode}, not {status}:\n{text}\n{output}")
        return output

    def credential(self, output):
        """Returns the section that `credentials new` printed, for pasting into a store."""
        section = output[output.index("[[external_key_stores.credentials]]"):]
        lines = itertools.takewhile(lambda line: line[:1] and line[0] in "[ncs#", section.splitlines())
        table = tomllib.loads("\n".join(lines))["external_key_stores"]
        return {"credentials": table["credentials"]}

    def edit(self):
        """Returns the page's next block of settings."""
        text = self.next("toml").text
        for line in text.splitlines():
            self.say(f"| {line}")
        return tomllib.loads(text)

    def names(self, machine):
        """What the page's names are on the machine."""
        return {
            "https://xks.example.com/": f"https://localhost:{machine.port}/",
            "https://xks.example.com": f"https://localhost:{machine.port}",
            "xks.example.com:443": f"localhost:{machine.port}",
            "http://127.0.0.1:9443": f"http://127.0.0.1:{machine.admin}",
            "xks-proxy ping --ready": f"xks-proxy ping --ready 127.0.0.1:{machine.ping}",
            "pidof -s xks-proxy": f"cat {machine.work}/pid",
            "-o root -g xks-proxy ": "",
            "chown xks-proxy ": "test -s ",
            "-o xks-proxy -g xks-proxy ": "",
            "-o xks-proxy ": "",
            "/etc/xks-proxy/": f"{machine.work}/etc/",
            "/var/lib/xks-proxy": f"{machine.work}/state",
            "/var/log/xks-proxy": f"{machine.work}/log",
        }

    def end(self):
        if self.left:
            step = self.left[0][0]
            raise Failed(f"the rehearsal leaves out a block of step {step.number}: {step.text}")


@contextlib.contextmanager
def rehearsal(scenario):
    """Rehearses a section of the page. Raises Failed if something does not hold."""
    begin = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=f"xks-{scenario}-"))
    print(f"== {scenario}", flush=True)
    try:
        course = Course(scenario, work)
        yield course
        course.end()
    except Refused as refused:
        raise Failed(f"the proxy answers {refused}") from refused
    finally:
        end_proxies(work)
        shutil.rmtree(work, ignore_errors=True)
    print(f"== {scenario}: the page's promises hold ({time.monotonic() - begin:.1f} s)")


def end_proxies(work):
    """Kills the proxies whose environment names a machine of this rehearsal."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"REHEARSAL={work}/".encode() in environment.read_bytes():
                os.kill(int(environment.parent.name), signal.SIGKILL)
