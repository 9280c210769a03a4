"""nginx with a constant answer: what HTTP, TLS and a log cost without a proxy's work."""

import os
import shutil
import socket
import time

from launcher.process import ProxyProcess
from launcher.programs import Failed, free_ports, make_certificates

from .proxy import settings_text

#: Answers like those of the proxy to xks-load's requests, which have a plaintext of 128 bytes.
ANSWERS = {
    "decrypt": f'{{"plaintext":"{"A" * 172}"}}',
    "encrypt": f'{{"authenticationTag":"{"A" * 24}","ciphertext":"{"A" * 172}",'
    f'"initializationVector":"{"A" * 16}"}}',
}
#: The request fits the first buffer. Each worker has a queue of connections of its own, so that both
#: get some. The log is written in large parts, as the proxy writes its own.
CONFIGURATION = """\
daemon off;
pid {work}/nginx.pid;
error_log {work}/log/error.log;
worker_processes {workers};
{user}
events {{
    worker_connections 4096;
}}
http {{
    access_log {work}/log/access.log combined buffer=64k flush=1s;
    client_header_buffer_size 8k;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    server {{
        listen 127.0.0.1:{port} reuseport{ssl};
        ssl_certificate {work}/certificates/server.pem;
        ssl_certificate_key {work}/certificates/server.key;
        ssl_protocols TLSv1.3;
        location / {{
            default_type application/json;
            return 200 '{answer}';
        }}
    }}
}}
"""


class Nginx(ProxyProcess):
    """nginx in a proxy's place, for the duration of the `with` block."""

    #: A constant is not the right answer.
    load_arguments = ("--no-check",)

    def __init__(self, scenario, work):
        self.scenario = scenario
        self.work = work
        self.settings = work / "settings.toml"
        self.start_seconds = 0.0

    def __enter__(self):
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            raise Failed("nginx is not installed: apt-get install nginx-light")
        make_certificates(self.work / "certificates")
        self.port, unused = free_ports(2)
        # For the generator.
        self.settings.write_text(settings_text(self.scenario, self.work, self.port, unused, "none"))
        shutil.rmtree(self.work / "log", ignore_errors=True)
        (self.work / "log").mkdir()
        (self.work / "output.txt").unlink(missing_ok=True)
        configuration = self.work / "nginx.conf"
        configuration.write_text(self.configuration())
        started = time.monotonic()
        self.launch([program, "-c", str(configuration)], dict(os.environ), cwd=self.work)
        try:
            self.wait_until(self.is_ready, 20)
        except BaseException:
            self.__exit__()
            raise
        self.start_seconds = time.monotonic() - started
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.work / "log", ignore_errors=True)

    def configuration(self):
        return CONFIGURATION.format(
            work=self.work,
            workers=os.cpu_count(),
            # Otherwise the workers of root may not read or write in the directory.
            user="user root;" if os.geteuid() == 0 else "",
            port=self.port,
            ssl=" ssl" if self.scenario.tls else "",
            answer=ANSWERS[self.scenario.mix],
        )

    @property
    def pids(self):
        """Process ids of the master and of its workers."""
        master = self.process.pid
        with open(f"/proc/{master}/task/{master}/children") as children:
            return [master, *map(int, children.read().split())]

    def is_ready(self):
        """Returns whether it accepts connections and all workers run."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 2).close()
        except OSError:
            return False
        return len(self.pids) == 1 + os.cpu_count()
