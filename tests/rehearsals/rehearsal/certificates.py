"""Certificates that end at a given second, which `openssl req` cannot make."""

import time

CONFIGURATION = """
[ca]
default_ca = rehearsal
[rehearsal]
dir = {directory}
database = $dir/index.txt
rand_serial = yes
new_certs_dir = $dir
certificate = $dir/ca.pem
private_key = $dir/ca.key
default_md = sha256
policy = any
x509_extensions = server
unique_subject = no
[any]
commonName = supplied
[server]
subjectAltName = DNS:localhost
"""
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """An authority of its own, made by openssl."""

    def __init__(self, machine):
        self.machine = machine
        self.directory = machine.work / "authority"
        self.directory.mkdir()
        self.certificate = self.directory / "ca.pem"
        (self.directory / "index.txt").touch()
        (self.directory / "ca.cnf").write_text(CONFIGURATION.format(directory=self.directory))
        machine.run(
            "openssl", "req", "-x509", *CURVE, "-days", "100", "-subj", "/CN=rehearsal",
            "-keyout", self.directory / "ca.key", "-out", self.certificate,
        )

    def issue(self, certificate, key, seconds):
        """Issues a certificate for localhost that is valid from a minute ago."""
        request = self.directory / "request.pem"
        self.machine.run(
            "openssl", "req", "-new", *CURVE, "-subj", "/CN=localhost", "-keyout", key,
            "-out", request,
        )
        now = time.time()
        self.machine.run(
            "openssl", "ca", "-batch", "-notext", "-config", self.directory / "ca.cnf",
            "-in", request, "-out", certificate,
            "-startdate", utc(now - 60), "-enddate", utc(now + seconds),
        )


def utc(seconds):
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(seconds))
