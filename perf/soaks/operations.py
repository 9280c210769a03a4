"""Changes that an operator makes, drawn from a seed."""

import contextlib
import os
import random
import signal
import string
import time

from launcher.programs import Failed
from launcher.settings import CREDENTIAL, PREFIX, settings
from soaks.rig import EXTRA_KEY, ROTATED_KEY, ROTATED_PREFIX, SESSIONS, STEADY_KEY

#: Seconds in which a change must show, with time for a fault that hides it.
VISIBLE_SECONDS = 90
#: Seconds in which a new process takes over and the old one drains.
UPGRADE_SECONDS = 90


def new_credential(choice):
    letters = string.ascii_uppercase + "234567"
    name = "".join(choice.choices(letters, k=24))
    return name, "".join(choice.choices(string.ascii_letters + string.digits, k=48))


class Operations:
    """The track of reloads, upgrades and signals."""

    def __init__(self, rig, diary, choice, upgrade_every):
        self.rig, self.diary, self.choice = rig, diary, choice
        self.upgrade_every = upgrade_every
        self.last_upgrade = time.monotonic()
        self.counts = {}

    def step(self, is_over):
        kinds = (self.keys, self.certificate, self.log_file, self.broken_file, self.limits, self.sessions)
        act = self.choice.choice(kinds)
        if time.monotonic() > self.last_upgrade + self.upgrade_every:
            self.last_upgrade = time.monotonic()
            act = self.upgrade
        name = act.__name__.replace("_", " ")
        self.counts[name] = self.counts.get(name, 0) + 1
        with self.rig.changing, self.diary.event("operation", name):
            try:
                act()
            except (Failed, OSError) as error:
                self.diary.problem(f"{name}: {error}")

    def expect(self, what, find, expected):
        deadline = time.monotonic() + VISIBLE_SECONDS
        while True:
            found = None
            with contextlib.suppress(OSError):
                found = find()
            if found == expected:
                return
            if time.monotonic() > deadline:
                raise Failed(f"{what}: {found}, not {expected}")
            time.sleep(0.2)

    def keys(self):
        has_extra = EXTRA_KEY not in self.rig.key_set
        self.rig.key_set = [STEADY_KEY, EXTRA_KEY] if has_extra else [STEADY_KEY]
        self.rig.reload()
        self.expect("extra key", lambda: self.rig.call(CREDENTIAL, EXTRA_KEY), 200 if has_extra else 404)

    def certificate(self):
        names = ("certificates", "certificates-2")
        self.rig.certificates = names[self.rig.certificates == names[0]]
        self.rig.reload()
        file = "".join((self.rig.work / self.rig.certificates / "server.pem").read_text().split())
        self.expect(
            "the new certificate",
            lambda: "".join(self.rig.serves_certificate().split()) in file, True,
        )

    def log_file(self):
        log = self.rig.log_file()
        moved = log.with_suffix(f".log.{time.monotonic_ns()}")
        log.rename(moved)
        os.kill(self.rig.served_by(), signal.SIGUSR1)
        self.expect("a new log file", log.exists, True)

    def broken_file(self):
        good = settings(self.rig.changed_settings())
        (self.rig.work / "settings.toml").write_text(good + "\n[[[")
        try:
            code = self.rig.command("reload")[0]
            if code != 78:
                raise Failed(f"reload of a broken file ended with {code}")
            os.kill(self.rig.served_by(), signal.SIGHUP)
            time.sleep(0.5)
        finally:
            self.rig.write_settings()

    def limits(self):
        self.rig.more_limits = {
            "idle_timeout_milli": self.choice.choice((30_000, 75_000)),
            "head_timeout_milli": self.choice.choice((2000, 10_000)),
            "max_tls_handshakes_per_sec": self.choice.choice((500, 2000)),
        }
        self.rig.log_level = self.choice.choice(("WARN", "INFO"))
        self.rig.reload()

    def sessions(self):
        self.rig.sessions = self.choice.choice((SESSIONS // 2, SESSIONS, 2 * SESSIONS))
        self.rig.reload()

    def upgrade(self):
        before = self.rig.served_by()
        os.kill(before, signal.SIGUSR2)
        self.expect("another process", lambda: self.rig.served_by() != before, True)
        self.rig.wait_until_gone(before, UPGRADE_SECONDS)
        if (code := self.rig.exit_codes.get(before)) != 0:
            raise Failed(f"process {before} ended with {code}")

    def restore(self):
        """Puts the first settings into force again."""
        with self.rig.changing:
            self.rig.key_set, self.rig.certificates = [STEADY_KEY], "certificates"
            self.rig.more_limits, self.rig.log_level, self.rig.sessions = {}, "WARN", SESSIONS
            self.rig.reload()


class Credentials:
    """The track of credential rotation, each credential with a load of its own."""

    def __init__(self, rig, diary, choice, rate, end):
        self.rig, self.diary, self.choice, self.rate, self.end = rig, diary, choice, rate, end
        self.loads = []
        self.current = None

    def load(self, seconds):
        name = f"rotated-{len(self.loads)}"
        # The generator reads the settings too, which must not be broken meanwhile.
        with self.rig.changing:
            load = self.rig.start_load(
                name, seconds, self.rate, ROTATED_PREFIX, ROTATED_KEY, self.rig.credentials[-1]
            )
            load.wait_until_measured()
        self.loads.append(load)
        return load

    def step(self, is_over):
        left = self.end - time.monotonic()
        if left < 10:
            is_over.wait(left)
            return
        life = min(self.choice.uniform(20, 60), left - 5)
        load = self.load(life)
        is_over.wait(life - 2)
        if self.end - time.monotonic() > 20:
            with self.diary.event("operation", "credential added"):
                with self.rig.changing:
                    self.rig.credentials.append(new_credential(self.choice))
                    self.rig.reload()
        load.wait()
        if len(self.rig.credentials) > 1:
            with self.diary.event("operation", "credential removed"):
                with self.rig.changing:
                    removed = self.rig.credentials.pop(0)
                    self.rig.reload()
                status = self.rig.call(removed, ROTATED_KEY, ROTATED_PREFIX)
                if status not in (0, 401):
                    self.diary.problem(f"a removed credential got {status}")
