"""Proxies configured for a scenario."""

import shlex
import shutil
import socket
import time
import urllib.error
import urllib.request

from launcher import interposer
from launcher.process import ProxyProcess, environment
from launcher.programs import binary, free_ports, make_certificates, softhsm2_module
from launcher.settings import PREFIX, settings, store
from launcher.tokens import configure, make_token, random_keys

NOISY_PREFIX = "/noisy/store"
NOISY_CREDENTIAL = ("NOISYSTORESACCESSKEYID22", "AnotherSecretOfAnotherStoreOfLength43To64ch")


def key_labels(count):
    return ["foo", *(f"key-{number:05}" for number in range(1, count))]


def token_of(directory, keys):
    """Makes a token with that many keys unless it exists. Returns SoftHSM2's configuration."""
    configuration = directory / "softhsm2.conf"
    if configuration.exists():
        return configuration
    building = directory.with_name(directory.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    (building / "tokens").mkdir(parents=True)
    configure(building / "softhsm2.conf", building / "tokens")
    make_token(building / "softhsm2.conf", "perf", random_keys(key_labels(keys)))
    configure(building / "softhsm2.conf", directory / "tokens")
    building.rename(directory)
    return configuration


def settings_text(scenario, work, port, ping_port, module):
    """A file that the reference proxy accepts too, with INFO to a file, as in production."""
    labels = key_labels(scenario.keys)
    stores = [store(PREFIX, labels)]
    if scenario.noisy_quota is not None:
        # The reference proxy knows no quotas.
        quota = {"max_requests_per_sec": scenario.noisy_quota}
        stores.append(store(NOISY_PREFIX, labels, NOISY_CREDENTIAL, **quota))
    certificates = work / "certificates"
    return settings({
        "server.port": port,
        "server.port_http_ping": ping_port,
        "tracing.is_stdout_writer_enabled": False,
        "tracing.is_file_writer_enabled": True,
        "tracing.directory": work / "log",
        "tracing.file_prefix": "xks-proxy.log",
        "tracing.rotation_kind": "HOURLY",
        "security.is_tls_enabled": scenario.tls,
        "tls.tls_cert_pem": certificates / "server.pem",
        "tls.tls_key_pem": certificates / "server.key",
        "tls.mtls_client_ca_pem": certificates / "ca.pem",
        "tls.mtls_client_dns_name": "cks.kms.us-east-1.amazonaws.com",
        "external_key_stores": stores,
        "pkcs11.session_pool_max_size": scenario.sessions,
        "pkcs11.PKCS11_HSM_MODULE": module,
        **dict(scenario.more),
    })


class Proxy(ProxyProcess):
    """A proxy that runs for the duration of the `with` block."""

    #: Further arguments of the generator.
    load_arguments = ()

    def __init__(self, command, scenario, work):
        self.command = command
        self.scenario = scenario
        self.work = work
        self.settings = work / "settings.toml"
        self.counts = work / "counts.toml"
        self.start_seconds = 0.0

    def __enter__(self):
        make_certificates(self.work / "certificates")
        self.port, self.ping_port = free_ports(2)
        module, variables = self.hsm()
        text = settings_text(self.scenario, self.work, self.port, self.ping_port, module)
        self.settings.write_text(text)
        shutil.rmtree(self.work / "log", ignore_errors=True)
        (self.work / "log").mkdir()
        (self.work / "output.txt").unlink(missing_ok=True)
        self.counts.unlink(missing_ok=True)
        started = time.monotonic()
        command = shlex.split(self.command.replace("{settings}", str(self.settings)))
        self.launch(command, variables, cwd=self.work)
        try:
            self.wait_until(self.is_ready, 60)
        except BaseException:
            self.__exit__()
            raise
        self.start_seconds = time.monotonic() - started
        return self

    def __exit__(self, *_):
        self.stop()
        # At full speed, logs grow to gigabytes.
        shutil.rmtree(self.work / "log", ignore_errors=True)

    def hsm(self):
        """Returns the path of the PKCS#11 module and the environment for it."""
        token = self.work / f"token-{self.scenario.keys}"
        variables = environment(self.work, token / "softhsm2.conf")
        if self.scenario.is_fast:
            variables["XKS_FAST_TOKEN_LABELS"] = ",".join(key_labels(self.scenario.keys))
            return binary("libxks_fast_token.so"), variables
        token_of(token, self.scenario.keys)
        if not (self.scenario.hsm_milli or self.scenario.is_counted):
            return softhsm2_module(), variables
        variables["XKS_INTERPOSER_MODULE"] = softhsm2_module()
        variables["XKS_INTERPOSER_SETTINGS"] = self.interposer_settings()
        variables["XKS_INTERPOSER_COUNTS"] = str(self.counts)
        return binary("libxks_interposer.so"), variables

    @property
    def pid(self):
        return self.process.pid

    @property
    def pids(self):
        return [self.pid]

    def interposer_settings(self):
        text = f"hsm_milli = {self.scenario.hsm_milli}\n"
        if self.scenario.parallel_calls:
            text += f"parallel_calls = {self.scenario.parallel_calls}\n"
        return text

    def is_ready(self):
        """Returns whether /ping answers and the API's port accepts connections, in either order."""
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.ping_port}/ping", timeout=2).close()
            socket.create_connection(("127.0.0.1", self.port), 2).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    def pkcs11_calls(self):
        """Returns the interposer's current counts of calls."""
        return interposer.counts(self.counts)["calls"]
