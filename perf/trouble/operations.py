"""Operations on a running proxy, with figures of their effect on callers."""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import time
from pathlib import Path

from launcher import calls
from launcher.programs import Failed, binary, make_certificates, softhsm2_module
from launcher.settings import CREDENTIAL, PREFIX, settings
from trouble import cases
from trouble.rig import Rig

OLD = CREDENTIAL
NEW = ("THENEWCREDENTIALSACCESSKEYID", "AnotherSecretAccessKeyOfALengthOf43To64Chars")


class Served(Rig):
    """A proxy as in production: TLS, a log file, an admin listener, a pid file."""

    is_tls = True
    log_level = "INFO"

    def __init__(self):
        super().__init__(tokens=("one",), sessions=16, keys=("foo", "bar"), has_admin=True)
        self.credentials = [OLD]
        self.key_set = ["foo"]
        self.certificates = "certificates"
        self.sockets = []

    def prepare(self):
        super().prepare()
        make_certificates(self.work / "certificates-2")
        cas = [self.work / name / "ca.pem" for name in ("certificates", "certificates-2")]
        (self.work / "ca.pem").write_text("".join(path.read_text() for path in cas))

    def changed_settings(self):
        certificates = self.work / self.certificates
        credentials = [
            {"sigv4_access_key_id": name, "sigv4_secret_access_key": secret}
            for name, secret in self.credentials
        ]
        return {
            **super().changed_settings(),
            "server.pid_file": self.work / "pid",
            "server.drain_delay_milli": 1000,
            "server.drain_timeout_milli": 20000,
            "tracing.is_stdout_writer_enabled": False,
            "tracing.is_file_writer_enabled": True,
            "tracing.directory": self.work / "log",
            "tracing.file_prefix": "xks-proxy.log",
            "tracing.rotation_kind": "NEVER",
            "tls.tls_cert_pem": certificates / "server.pem",
            "tls.tls_key_pem": certificates / "server.key",
            "external_key_stores": [
                {"uri_path_prefix": PREFIX, "xks_key_id_set": self.key_set, "credentials": credentials}
            ],
            "pkcs11.PKCS11_HSM_MODULE": softhsm2_module(),
        }

    def call(self, credential, key):
        """Calls GetKeyMetadata; returns the status."""
        url = f"https://localhost:{self.port}{PREFIX}/kms/xks/v1/keys/{key}/metadata"
        ca = self.work / self.certificates / "ca.pem"
        return calls.call(url, credential, ca, calls.describe())[0]

    def serves_certificate(self):
        """Returns the certificate that a new connection gets."""
        return ssl.get_server_certificate(("127.0.0.1", self.port))

    def log_file(self):
        return self.work / "log/xks-proxy.log"

    def served_by(self):
        return int((self.work / "pid").read_text())

    def load_with(self, credential, seconds, rate):
        """Runs the generator with that credential."""
        return self.load(
            seconds,
            *("--ca", self.work / "ca.pem", "--access-key-id", credential[0]),
            *("--secret-access-key", credential[1], "--key-id", "foo", "--poisson"),
            rate=rate,
        )

    def listen(self):
        """Opens the listening sockets, as systemd does, for processes to inherit."""
        for port in (self.port, self.ping_port):
            listener = socket.create_server(("127.0.0.1", port), backlog=4096)
            listener.set_inheritable(True)
            self.sockets.append(listener)

    def start(self, must_be_ready=True):
        if not self.sockets:
            return super().start(must_be_ready)
        # Descriptors must start at 3 (sd_listen_fds(3)); first they are moved to avoid conflicts.
        moves = "".join(f" 1{n}<&{s.fileno()}" for n, s in enumerate(self.sockets))
        places = "".join(f" {3 + n}<&1{n} 1{n}<&-" for n in range(len(self.sockets)))
        script = f"exec{moves}; exec{places}; LISTEN_FDS={len(self.sockets)} LISTEN_PID=$$ exec $0"
        self.launch(
            ["bash", "-c", script, binary("xks-proxy")], self.environment,
            pass_fds=[listener.fileno() for listener in self.sockets],
        )

    def stop(self):
        super().stop()
        # A process that has taken over is not our child.
        with contextlib.suppress(OSError, ValueError):
            pid = self.served_by()
            if "xks-proxy" in Path(f"/proc/{pid}/comm").read_text():
                os.kill(pid, signal.SIGTERM)
                wait_for(lambda: not Path(f"/proc/{pid}").exists(), 30)


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed("it takes too long")
        time.sleep(0.02)


def judged(load, may_close):
    """Returns the line of a load, and whether its callers were unaffected."""
    counts = load.found["connection_counts"]
    total = load.found["total"]
    line = (
        f"{load.line()}; in 250 ms: {total['ok_in_250_ms']}; connections: {counts['opened']} opened, "
        f"{counts['lost']} lost, {counts['closed_by_server']} closed by the proxy"
    )
    is_right = load.failed == 0 and not load.is_wrong and counts["lost"] == 0
    return line, is_right and (may_close or counts["closed_by_server"] == 0)


class Expect:
    """Conditions that must hold during a case."""

    def __init__(self):
        self.wrong = []

    def __call__(self, what, found, expected):
        if found != expected:
            self.wrong.append(f"{what}: {found}, not {expected}")


def change(seconds):
    """Credentials, certificate, keys and log changed, and a broken file offered"""
    expect = Expect()
    half = seconds / 2
    with Served() as rig:

        def steps(pause, number):
            """Adds and removes a key, changes certificate and log, and offers a broken file."""
            rig.key_set = ["foo", "bar"]
            expect("bar before", rig.call(rig.credentials[0], "bar"), 404)
            rig.reload()
            expect("bar added", rig.call(rig.credentials[0], "bar"), 200)
            time.sleep(pause)
            before = rig.serves_certificate()
            rig.certificates = ("certificates-2", "certificates")[number % 2]
            rig.reload()
            served = rig.serves_certificate().split()
            file = (rig.work / rig.certificates / "server.pem").read_text()
            expect("another certificate", served != before.split(), True)
            expect("the file's certificate", "".join(served) in "".join(file.split()), True)
            time.sleep(pause)
            rig.key_set = ["foo"]
            rig.reload()
            expect("bar removed", rig.call(rig.credentials[0], "bar"), 404)
            time.sleep(pause)
            rig.log_file().rename(rig.log_file().with_suffix(f".log.{number}"))
            os.kill(rig.process.pid, signal.SIGUSR1)
            wait_for(lambda: rig.log_file().exists() and rig.log_file().stat().st_size > 0, 10)
            time.sleep(pause)
            good = settings(rig.changed_settings())
            (rig.work / "settings.toml").write_text(good.replace('"foo"', '"foo", 7') + "\n[[[")
            expect("the command's word on a broken file", rig.command("reload")[0], 78)
            # Directly to the process, bypassing the command.
            os.kill(rig.process.pid, signal.SIGHUP)
            wait_for(lambda: "new settings are refused" in rig.log_file().read_text(), 10)
            rig.write_settings()
            time.sleep(pause)

        pause = max((half - 25) / 6, 0.5)
        with rig.load_with(OLD, half, 1000) as first:
            expect("the new one, before", rig.call(NEW, "foo"), 401)
            steps(pause, 0)
            rig.credentials = [OLD, NEW]
            rig.reload()
            expect("the new one, beside the old one", rig.call(NEW, "foo"), 200)
            expect("the old one, beside the new one", rig.call(OLD, "foo"), 200)
            with rig.load_with(NEW, half, 1000) as second:
                first.wait()
                rig.credentials = [NEW]
                rig.reload()
                expect("the old one, removed", rig.call(OLD, "foo"), 401)
                expect("the new one, alone", rig.call(NEW, "foo"), 200)
                steps(pause, 1)
        for name, load in (("old credential", first), ("new credential", second)):
            line, is_right = judged(load, may_close=False)
            yield f"{name}: {line}", is_right
        yield f"on the way: {expect.wrong or 'all as it has to be'}", not expect.wrong


def restart(seconds):
    """The process stopped and started again, its sockets held by systemd (played by this script)"""
    with Served() as rig:
        rig.stop()
        rig.listen()
        rig.start()
        wait_for(lambda: rig.get("/readyz")[0] == 200, 30)
        restarts, away = 0, []
        with rig.load_with(OLD, seconds, 1000) as load:
            end = time.monotonic() + seconds - 5
            while time.monotonic() < end:
                os.kill(rig.process.pid, signal.SIGTERM)
                rig.process.wait(30)
                stopped = time.monotonic()
                rig.start()
                wait_for(lambda: rig.get("/readyz")[0] == 200, 30)
                away.append(time.monotonic() - stopped)
                restarts += 1
                time.sleep(max(seconds / 10 - 2, 1))
        line, is_right = judged(load, may_close=True)
        yield f"{restarts} restarts, ready after at most {max(away):.2f} s: {line}", is_right


def upgrade(seconds):
    """SIGUSR2 again and again: a new process takes over all listeners while the old one drains"""
    with Served() as rig:
        upgrades = 0
        with rig.load_with(OLD, seconds, 1000) as load:
            end = time.monotonic() + seconds - 10
            while time.monotonic() < end:
                before = rig.served_by()
                os.kill(before, signal.SIGUSR2)
                wait_for(lambda: rig.served_by() != before, 30)
                if before == rig.process.pid:
                    rig.process.wait(40)
                wait_for(lambda: not Path(f"/proc/{before}").exists(), 40)
                upgrades += 1
                time.sleep(max(seconds / 10 - 3, 1))
        line, is_right = judged(load, may_close=True)
        yield f"{upgrades} upgrades: {line}", is_right


CASES = {"change": change, "restart": restart, "upgrade": upgrade}


def main(description):
    if not shutil.which("curl"):
        raise SystemExit("curl is not installed: apt-get install curl")
    return cases.run(description, CASES, seconds=300)
