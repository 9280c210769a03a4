"""A proxy with one or two SoftHSM2 tokens behind the interposer, for load and faults."""

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

from launcher import interposer, tokens
from launcher.process import ProxyProcess, environment
from launcher.programs import Failed, binary, free_ports, make_certificates, softhsm2_module
from launcher.settings import PREFIX, section, settings, store, value_text
from launcher.tokens import PIN, random_keys
from trouble.background import Background

RATE = 1000
CRYPTO = ("C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt")


def toml_list(strings):
    return value_text(list(strings))


class Loadable:
    """Target for the generator, with a directory `work` that contains `settings.toml`, and an
    `environment`."""

    #: Prefix of the generator's command.
    load_prefix = ()
    #: Options of all its runs.
    load_options = ("--timeout-milli", "10000")

    @contextlib.contextmanager
    def load(self, seconds, *options, rate=RATE, mix="decrypt=1,encrypt-cdiv=1", connections=256):
        """Runs the generator during the block; its results are in `found` afterwards."""
        pace = ("--rate", str(rate), "--seconds", str(seconds), "--warm-up", "1")
        load = Load(self, seconds, ("--connections", str(connections), *pace, *options), mix)
        # The generator first encrypts ciphertexts for its decrypts, then warms up.
        time.sleep(2)
        try:
            yield load
            load.wait()
        finally:
            load.kill()


class Rig(ProxyProcess, Loadable):
    """A proxy that runs for the duration of the `with` block; its directory is then removed."""

    ip = "127.0.0.1"
    log_level = "WARN"
    #: Additional members of [server].
    server = "drain_delay_milli = 100"
    is_tls = False
    #: Directory in which tokens are kept for reuse, since making many keys takes minutes.
    token_directory = None

    def __init__(
        self, tokens=("one", "two"), sessions=8, pin=PIN, pkcs11="", capabilities=None, limits="",
        keys=("foo",), stores=((PREFIX, ("foo",)),), has_admin=False, proxy=None, interposer="",
    ):
        """`stores`: prefixes and key ids. `proxy`: path of another binary. `interposer`: settings
        that are always in force."""
        self.tokens = tokens
        self.sessions = sessions
        self.pin = pin
        self.pkcs11 = pkcs11
        self.capabilities = capabilities or 'profile = "softhsm2"'
        self.limits = limits
        #: Labels and values. Several rigs may have the same ones.
        self.keys = keys if isinstance(keys, dict) else random_keys(keys)
        self.stores = stores
        self.has_admin = has_admin
        self.proxy = proxy or binary("xks-proxy")
        self.interposer = interposer
        self.step = 0

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.work = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="xks-trouble")))
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        self.stack.close()

    def prepare(self):
        work = self.work
        (work / "tokens").mkdir()
        (work / "log").mkdir()
        tokens.configure(work / "softhsm2.conf", work / "tokens")
        make_certificates(work / "certificates")
        self.environment = {
            **environment(work, work / "softhsm2.conf"),
            "XKS_INTERPOSER_MODULE": softhsm2_module(),
            "XKS_INTERPOSER_CONFIG": str(work / "faults.toml"),
            "XKS_INTERPOSER_COUNTS": str(work / "counts.toml"),
        }
        self.make_tokens()
        slots = tokens.slots(work / "softhsm2.conf")
        self.slots = [slots[token] for token in self.tokens]
        (work / "faults.toml").write_text(self.interposer)
        self.port, self.ping_port, self.admin_port = self.ports()
        (work / "settings.toml").write_text(settings(self.changed_settings()))

    def make_tokens(self):
        kept = self.token_directory
        if kept and kept.exists():
            shutil.copytree(kept, self.work / "tokens", dirs_exist_ok=True)
            return
        for token in self.tokens:
            tokens.make_token(self.work / "softhsm2.conf", token, self.keys)
        if kept:
            shutil.copytree(self.work / "tokens", kept)

    def ports(self):
        """Returns the ports of the API, of /ping and of the admin listener."""
        return free_ports(3)

    def program(self):
        """Returns the command that starts the proxy."""
        return [self.proxy]

    def changed_settings(self):
        """Returns the settings that differ from tests/common/settings.toml."""
        changes = {
            "server.ip": self.ip,
            "server.port": self.port,
            "server.port_http_ping": self.ping_port,
            **section("server", self.server),
            "tracing.level": self.log_level,
            "security.is_tls_enabled": self.is_tls,
            "tls.tls_cert_pem": self.work / "certificates/server.pem",
            "tls.tls_key_pem": self.work / "certificates/server.key",
            "external_key_stores": [store(prefix, keys) for prefix, keys in self.stores],
            "pkcs11.session_pool_max_size": self.sessions,
            "pkcs11.user_pin": self.pin,
            "pkcs11.PKCS11_HSM_MODULE": binary("libxks_interposer.so"),
            "pkcs11.tokens": [{"label": token} for token in self.tokens],
            **section("pkcs11", self.pkcs11),
            "hsm_capabilities": tomllib.loads(self.capabilities),
            **section("limits", self.limits),
        }
        if self.has_admin:
            changes["admin"] = {"ip": "127.0.0.1", "port": self.admin_port}
        return changes

    def start(self, must_be_ready=True):
        self.launch(self.program(), self.environment)
        path = "/readyz" if must_be_ready else "/ping"
        self.wait_until(lambda: self.get(path)[0] == 200, 30)

    def write_settings(self):
        """Replaces the file atomically, as an operator's editor does."""
        new = self.work / "settings.new"
        new.write_text(settings(self.changed_settings()))
        new.rename(self.work / "settings.toml")

    def command(self, *arguments):
        """Runs another command of the program; returns exit code and output."""
        done = subprocess.run(
            [*self.program(), *arguments],
            env=self.environment, capture_output=True, text=True, timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    def reload(self, expected=0):
        """Puts changed settings into force; requires a pid file."""
        self.write_settings()
        code, said = self.command("reload")
        if code != expected:
            raise Failed(f"reload ended with {code}: {said}")
        return said

    def log(self):
        return (self.work / "output.txt").read_text(errors="replace")

    def get(self, path, timeout=5):
        """Returns status and milliseconds; the status is 0 if there was no answer."""
        started = time.monotonic()
        try:
            url = f"http://127.0.0.1:{self.ping_port}{path}"
            with urllib.request.urlopen(url, timeout=timeout) as answer:
                status = answer.status
                answer.read()
        except urllib.error.HTTPError as error:
            status = error.code
        except OSError:
            status = 0
        return status, (time.monotonic() - started) * 1000

    def set(self, text):
        """Puts faults into force, and waits until they are."""
        self.step += 1
        name = f'name = "step {self.step}"\n'
        new = self.work / "faults.new"
        new.write_text(f"{name}{self.interposer}\n{text}")
        new.rename(self.work / "faults.toml")
        deadline = time.monotonic() + 10
        while True:
            counts = self.counts()
            if counts.get("settings_error"):
                raise Failed(f"the interposer refuses:\n{text}\n{counts['settings_error']}")
            if counts.get("name") == f"step {self.step}":
                return
            if time.monotonic() > deadline:
                raise Failed("the interposer does not take its settings")
            time.sleep(0.01)

    def counts(self):
        """Returns the interposer's counts; empty while it cannot write them."""
        try:
            return interposer.counts(self.work / "counts.toml")
        except (Failed, OSError, tomllib.TOMLDecodeError):
            return {}


class Load:
    def __init__(self, rig, seconds, options, mix, samples=2000):
        """`options` includes the pacing, whose duration is `seconds`."""
        self.json = rig.work / f"load-{time.monotonic_ns()}.json"
        self.found = None
        command = [
            *(*rig.load_prefix, binary("xks-load"), "run", "--quiet", "--json", self.json),
            *("--settings", rig.work / "settings.toml", *rig.load_options),
            *("--mix", mix, "--samples", str(samples), *options),
        ]
        self.process = subprocess.Popen(
            command, env=rig.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.seconds = seconds

    def wait_until_measured(self):
        """Waits until the warm-up is over; requires --announce."""
        for line in self.process.stdout:
            if line.strip() == "measuring":
                self.measured_from = time.monotonic()
                return
        raise Failed("the load generator ended early")

    def ends_in(self):
        """Seconds until the measured time is over; requires `wait_until_measured`."""
        return self.measured_from + self.seconds - time.monotonic()

    def wait(self):
        """Waits until the generator has ended. May be called repeatedly."""
        if self.found is not None:
            return
        output, _ = self.process.communicate(timeout=self.seconds + 60)
        if not self.json.exists():
            raise Failed(f"the load generator: {output}")
        self.found = json.loads(self.json.read_text())
        self.is_wrong = self.process.returncode == 2 or bool(self.found["wrong_encrypts"])

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def failed(self):
        return self.found["total"]["failed"]

    def failures(self):
        return {
            f"{failure['status']} {failure['name']}".strip(): failure["count"]
            for failure in self.found["failures"]
        }

    def line(self):
        total, latency = self.found["total"], self.found["total"]["latency_ms"]
        late = self.found["generator"]["lateness_ms"]
        text = (
            f"{total['requests']} requests, {total['failed']} failed, p50 {latency['p50']:.2f}, "
            f"p99 {latency['p99']:.1f}, p99.9 {latency['p99_9']:.1f}, max {latency['max']:.1f} ms"
        )
        text += f" (generator late: p99 {late['p99']:.1f}, p99.9 {late['p99_9']:.1f})"
        if total["failed"]:
            text += f" {self.failures()}"
        return text + (" WRONG ANSWERS" if self.is_wrong else "")


class Pinger(Background):
    """Calls /ping (or another path) every 10 ms and records the latency."""

    def __init__(self, rig, path="/ping"):
        super().__init__()
        self.rig, self.path = rig, path
        self.times, self.failures = [], 0

    def run(self):
        # One connection: what is measured is the proxy, not this script.
        connection = None
        request = f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        while not self.is_over.wait(0.01):
            try:
                if connection is None:
                    address = ("127.0.0.1", self.rig.ping_port)
                    connection = socket.create_connection(address, 5)
                started = time.monotonic()
                connection.sendall(request)
                if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
                    self.failures += 1
                self.times.append((time.monotonic() - started) * 1000)
            except OSError:
                self.failures += 1
                connection = None

    def line(self):
        times = sorted(self.times) or [0.0]
        at = lambda part: times[min(len(times) - 1, int(part * len(times)))]  # noqa: E731
        return (
            f"{self.path}: {len(self.times)} calls, {self.failures} failed, p50 {at(0.5):.2f}, "
            f"p99 {at(0.99):.2f}, max {times[-1]:.2f} ms"
        )
