"""A machine with a proxy: its HSM is SoftHSM2, its files are those of the packages."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from launcher.programs import free_ports, softhsm2_module
from launcher.settings import CREDENTIAL, PREFIX, is_table, settings, store
from rehearsal.certificates import Authority
from rehearsal.kms import Kms

TESTS = Path(__file__).resolve().parents[1]
#: Folder of the programs under test.
PROGRAMS = Path(os.environ.get("REHEARSAL_PROGRAMS", TESTS.parents[1] / "target/debug"))
PIN = "1234"
SO_PIN = "12345678"
#: Upper bound of what a machine that does other work takes for anything.
PATIENCE_SECONDS = 40


class Failed(Exception):
    """A promise of the page does not hold."""


class Machine:
    """A machine in a folder of its own: etc, state, log, tokens, and a proxy."""

    def __init__(self, work, region="us-east-1"):
        self.work = work
        self.region = region
        self.authority = None
        self.port, self.ping, self.admin = free_ports(3)
        for name in ("etc", "state", "log", "tokens"):
            (work / name).mkdir(parents=True)
        self.softhsm2 = work / "softhsm2.conf"
        self.softhsm2.write_text(
            f"directories.tokendir = {work / 'tokens'}\nobjectstore.backend = file\n"
            "log.level = ERROR\n"
        )
        self.changes = {
            "server.port": self.port,
            "server.port_http_ping": self.ping,
            "server.region": region,
            "server.pid_file": str(work / "pid"),
            "server.drain_delay_milli": 0,
            "server.drain_timeout_milli": 2000,
            "security.is_tls_enabled": True,
            "tls.tls_cert_pem": str(work / "etc/tls/server_cert.pem"),
            "tls.tls_key_pem": str(work / "etc/tls/server_key.pem"),
            "pkcs11.PKCS11_HSM_MODULE": softhsm2_module(),
            "pkcs11.session_pool_max_size": 4,
            "limits.request_deadline_milli": 5000,
            "admin.port": self.admin,
            "state.directory": str(work / "state"),
            "external_key_stores": [store(PREFIX, ["foo"])],
        }

    # Settings

    def set(self, **members):
        """Sets members by dotted name (with `__` for a dot) and writes the file."""
        for name, value in members.items():
            self.changes[name.replace("__", ".")] = value
        self.write_settings()

    def write_settings(self):
        (self.work / "etc/settings.toml").write_text(settings(self.changes))

    @property
    def store(self):
        """The key store's table; `write_settings` after a change."""
        return self.changes["external_key_stores"][0]

    def merge(self, table, into=None):
        """Puts the members of a block of the page into the settings."""
        into = self.changes if into is None else into
        for name, value in table.items():
            if into is self.changes and is_table(value):
                for member, inner in value.items():
                    self.changes[f"{name}.{member}"] = inner
            else:
                into[name] = value
        self.write_settings()

    def section(self, name):
        """The members of a section as a table: writes go to the settings."""
        return Section(self, name)

    def remove(self, directory):
        shutil.rmtree(directory)

    # Tokens

    def run(self, *command, check=True):
        """Runs a command with the machine's environment. Returns its exit code and output."""
        done = subprocess.run(
            [str(each) for each in command], env=self.environment(), cwd=self.work,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
        )
        if check and done.returncode:
            raise Failed(f"{command}: {done.returncode}: {done.stdout}")
        return done.returncode, done.stdout

    def make_token(self, label, **keys):
        """Makes a token with keys of these values in hexadecimal digits."""
        self.change_tokens("init", label, SO_PIN, PIN)
        for key, value in keys.items():
            self.add_key(label, key, value)

    def add_key(self, token, key, value):
        self.change_tokens("add", token, PIN, "aes", key, value, "ed")

    def destroy_key(self, token, key):
        self.change_tokens("destroy", token, PIN, key)

    def change_tokens(self, *command):
        self.run("xks-token-maker", softhsm2_module(), "", *command)

    def back_up_hsm(self, name):
        """Copies all tokens, as an HSM's backup does."""
        shutil.copytree(self.work / "tokens", self.work / name)

    def restore_hsm(self, name):
        shutil.rmtree(self.work / "tokens", ignore_errors=True)
        shutil.copytree(self.work / name, self.work / "tokens")

    def copy_hsm_to(self, other):
        """Gives another machine's HSM the same keys, as replication does."""
        shutil.copytree(self.work / "tokens", other.work / "tokens", dirs_exist_ok=True)

    def lose_hsm(self):
        shutil.rmtree(self.work / "tokens")
        (self.work / "tokens").mkdir()

    # Certificates

    def make_certificate(self):
        """Makes a certificate for localhost, by an authority that KMS trusts here."""
        if self.authority:
            return
        tls = self.work / "etc/tls"
        tls.mkdir()
        self.authority = Authority(self)
        self.authority.issue(tls / "server_cert.pem", tls / "server_key.pem", 90 * 86400)
        shutil.copy(self.authority.certificate, self.work / "ca.pem")

    # The proxy

    def environment(self):
        own = {
            "PATH": f"{TESTS / 'bin'}:{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "REHEARSAL": str(self.work),
            "PING": str(self.ping),
            "SOFTHSM2_CONF": str(self.softhsm2),
            "SSL_CERT_FILE": str(self.work / "ca.pem"),
            "XKS_PROXY_SETTINGS_TOML": str(self.work / "etc/settings.toml"),
        }
        others = {name: each for name, each in os.environ.items() if name != "PKCS11_HSM_MODULE"}
        return others | own

    def start(self):
        self.run("systemctl", "start", "xks-proxy")

    def stop(self):
        self.run("systemctl", "stop", "xks-proxy", check=False)

    def kill(self):
        """Ends the proxy as a machine that is lost does."""
        pid = int((self.work / "pid").read_text())
        os.kill(pid, 9)
        self.wait_until("the process has ended", lambda: not is_running(pid))

    def is_ready(self):
        return self.run("xks-proxy", "ping", "--ready", f"127.0.0.1:{self.ping}", check=False)[0] == 0

    def get(self, path):
        address = f"http://127.0.0.1:{self.admin}{path}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.read().decode()

    def status(self):
        return json.loads(self.get("/status.json"))

    def log(self):
        return (self.work / "output").read_text(errors="replace")

    def wait_until(self, what, is_so):
        """Waits until it is so. Returns the seconds that took."""
        begin = time.monotonic()
        while True:
            try:
                if is_so():
                    return time.monotonic() - begin
            except (urllib.error.URLError, OSError):
                pass
            if time.monotonic() > begin + PATIENCE_SECONDS:
                raise Failed(f"in vain: {what}\n{self.log()[-3000:]}")
            time.sleep(0.1)

    def kms(self):
        """KMS's side of the machine's key store."""
        return Kms(self.work / f"kms-{self.region}.json")

    def make_key_store(self, **keys):
        """Makes a connected key store in KMS, with KMS keys by alias."""
        kms = self.kms()
        kms.state = {
            "ca": str(self.work / "ca.pem"),
            "store": {
                "endpoint": f"https://localhost:{self.port}",
                "path": PREFIX + "/kms/xks/v1",
                "credential": list(CREDENTIAL),
                "region": self.region,
                "connection": "DISCONNECTED",
                "code": None,
            },
            "keys": {f"alias/{name}": {"id": key, "state": "Enabled"} for name, key in keys.items()},
        }
        kms.connect()
        if kms.state["store"]["connection"] != "CONNECTED":
            raise Failed(f"{kms.state['store']}\n{self.log()[-3000:]}")


class Section:
    """A section of the settings, for `Machine.merge`."""

    def __init__(self, machine, name):
        self.machine = machine
        self.name = name

    def __setitem__(self, member, value):
        self.machine.changes[f"{self.name}.{member}"] = value


def is_running(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


if sys.version_info < (3, 11):
    sys.exit("the rehearsals need Python 3.11")
