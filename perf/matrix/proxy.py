"""Tokens, settings and processes of the proxies."""

import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOFTHSM2_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
PIN = "1234"
#: That of the packages, unless told otherwise.
PROFILE = os.environ.get("PERF_PROFILE", "dist")
#: Keys that one token-maker process adds: an argument list has its limits.
KEYS_PER_PROCESS = 2000


class Failed(Exception):
    """A measurement could not be made; says why."""


def softhsm2_module():
    for path in SOFTHSM2_MODULES:
        if Path(path).exists():
            return path
    raise Failed("SoftHSM2 is not installed: apt-get install softhsm2")


def built(name):
    return ROOT / "target" / PROFILE / name


def binary(name):
    path = built(name)
    if not path.exists():
        raise Failed(f"{path} is missing: run without --no-build")
    return path


def build():
    # All of it, so that cargo has no other features to build crates with the next time.
    command = ["cargo", "build", "--profile", PROFILE, "--locked", "--workspace"]
    subprocess.run(command, cwd=ROOT, check=True)


def raise_open_files():
    """Idle connections need a descriptor each, in the proxy as in the generator."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def key_labels(count):
    return ["foo", *(f"key-{number:05}" for number in range(1, count))]


def make_token(directory, keys):
    """A SoftHSM2 token with AES-256 keys. Returns its configuration file."""
    configuration = directory / "softhsm2.conf"
    if configuration.exists():
        return configuration
    building = directory.with_name(directory.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    (building / "tokens").mkdir(parents=True)
    text = "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n"
    (building / "softhsm2.conf").write_text(text.format(building / "tokens"))
    maker = [binary("xks-token-maker"), softhsm2_module(), ""]
    environment = {**os.environ, "SOFTHSM2_CONF": str(building / "softhsm2.conf")}
    subprocess.run([*maker, "init", "perf", "12345678", PIN], env=environment, check=True)
    labels = key_labels(keys)
    for start in range(0, len(labels), KEYS_PER_PROCESS):
        add = []
        for label in labels[start : start + KEYS_PER_PROCESS]:
            add += ["add", "perf", PIN, "aes", label, os.urandom(32).hex(), "ed"]
        subprocess.run([*maker, *add], env=environment, check=True)
    (building / "softhsm2.conf").write_text(text.format(directory / "tokens"))
    building.rename(directory)
    return configuration


def make_certificates(directory):
    if not (directory / "ca.pem").exists():
        subprocess.run([binary("xks-load"), "make-cert", directory], check=True)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def settings_text(scenario, work, port, ping_port, module):
    """A file that the reference proxy takes too: INFO to a file, as in production."""
    labels = ", ".join(f'"{label}"' for label in key_labels(scenario.keys))
    return f"""\
[server]
ip = "127.0.0.1"
port = {port}
port_http_ping = {ping_port}
region = "us-east-1"
service = "kms-xks-proxy"

[server.tcp_keepalive]
tcp_keepalive_secs = 60
tcp_keepalive_retries = 3
tcp_keepalive_interval_secs = 1

[tracing]
is_stdout_writer_enabled = false
is_file_writer_enabled = true
level = "INFO"
directory = "{work / "log"}"
file_prefix = "xks-proxy.log"
rotation_kind = "HOURLY"

[security]
is_sigv4_auth_enabled = true
is_tls_enabled = {"true" if scenario.tls else "false"}
is_mtls_enabled = false

[tls]
tls_cert_pem = "{work / "certificates/server.pem"}"
tls_key_pem = "{work / "certificates/server.key"}"
mtls_client_ca_pem = "{work / "certificates/ca.pem"}"
mtls_client_dns_name = "cks.kms.us-east-1.amazonaws.com"

[[external_key_stores]]
uri_path_prefix = "/example/uri/path/prefix"
sigv4_access_key_id = "BETWEEN2TENAND3TENCHARACTERS"
sigv4_secret_access_key = "PleaseReplaceThisWithSomeSecretOfLength43To64"
xks_key_id_set = [{labels}]
{noisy_store(scenario, labels)}
[pkcs11]
session_pool_max_size = {scenario.sessions}
session_pool_timeout_milli = 0
session_eager_close = false
user_pin = "{PIN}"
PKCS11_HSM_MODULE = "{module}"
context_read_timeout_milli = 10

[limits]
max_plaintext_in_base64 = 8192
max_aad_in_base64 = 16384

[hsm_capabilities]
can_generate_iv = false
is_zero_iv_required = false
"""


def noisy_store(scenario, labels):
    """A second store with a quota. (Not for the reference proxy.)"""
    if scenario.noisy_quota is None:
        return ""
    return f"""
[[external_key_stores]]
uri_path_prefix = "/noisy/store"
sigv4_access_key_id = "NOISYSTORESACCESSKEYID22"
sigv4_secret_access_key = "AnotherSecretOfAnotherStoreOfLength43To64ch"
xks_key_id_set = [{labels}]
max_requests_per_sec = {scenario.noisy_quota}
"""


class Proxy:
    """A proxy that runs for as long as the `with` block."""

    def __init__(self, command, scenario, work):
        self.command = command
        self.scenario = scenario
        self.work = work
        self.settings = work / "settings.toml"
        self.counts = work / "counts.toml"
        self.start_seconds = 0.0

    def __enter__(self):
        make_certificates(self.work / "certificates")
        token = make_token(self.work / f"token-{self.scenario.keys}", self.scenario.keys)
        self.port, self.ping_port = free_ports(2)
        module = softhsm2_module()
        environment = {
            **os.environ,
            "SOFTHSM2_CONF": str(token),
            "XKS_PROXY_SETTINGS_TOML": str(self.settings),
        }
        environment.pop("PKCS11_HSM_MODULE", None)
        if self.scenario.hsm_milli or self.scenario.is_counted:
            environment["XKS_INTERPOSER_MODULE"] = module
            environment["XKS_INTERPOSER_SETTINGS"] = self.interposer_settings()
            environment["XKS_INTERPOSER_COUNTS"] = str(self.counts)
            module = binary("libxks_interposer.so")
        text = settings_text(self.scenario, self.work, self.port, self.ping_port, module)
        self.settings.write_text(text)
        shutil.rmtree(self.work / "log", ignore_errors=True)
        (self.work / "log").mkdir()
        self.counts.unlink(missing_ok=True)
        arguments = shlex.split(self.command.replace("{settings}", str(self.settings)))
        started = time.monotonic()
        with open(self.work / "output.txt", "wb") as output:
            self.process = subprocess.Popen(
                arguments, env=environment, stdout=output, stderr=output, cwd=self.work
            )
        try:
            self.wait_until_ready(started + 60)
        except BaseException:
            self.__exit__()
            raise
        self.start_seconds = time.monotonic() - started
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        # At full speed a log has gigabytes.
        shutil.rmtree(self.work / "log", ignore_errors=True)

    @property
    def pid(self):
        return self.process.pid

    def interposer_settings(self):
        text = f"hsm_milli = {self.scenario.hsm_milli}\n"
        if self.scenario.parallel_calls:
            text += f"parallel_calls = {self.scenario.parallel_calls}\n"
        return text

    def wait_until_ready(self, deadline):
        """Until /ping answers and the API's port takes connections: one may be before the other."""
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failed(self.last_words())
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.ping_port}/ping", timeout=2).close()
                socket.create_connection(("127.0.0.1", self.port), 2).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.01)
        raise Failed(f"the proxy does not get ready: {self.last_words()}")

    def last_words(self):
        """What an operator would look at first: how it ended, and what it last said."""
        try:
            # A proxy that crashed has closed its sockets a little before it can be waited for.
            ended = f"the proxy ended with {self.process.wait(0.5)}; "
        except subprocess.TimeoutExpired:
            ended = ""
        words = b"".join(file.read_bytes()[-300:] for file in (self.work / "log").glob("*"))
        words += (self.work / "output.txt").read_bytes()[-600:]
        return ended + words.decode(errors="replace").strip()

    def pkcs11_calls(self):
        """The interposer's counts of calls, now."""
        request = self.counts.with_name(self.counts.name + ".request")
        request.touch()
        deadline = time.monotonic() + 5
        while request.exists():
            if time.monotonic() > deadline:
                raise Failed("the interposer does not write its counts")
            time.sleep(0.01)
        return tomllib.loads(self.counts.read_text())["calls"]
