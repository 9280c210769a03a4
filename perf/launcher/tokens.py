"""SoftHSM2 tokens with AES-256 keys."""

import itertools
import os
import subprocess

from launcher.programs import binary, softhsm2_module

PIN = "1234"
SO_PIN = "12345678"
#: Keys that one token-maker process adds, since the length of a command line is limited.
KEYS_PER_PROCESS = 1000


def configure(file, tokens):
    """Writes SoftHSM2's configuration for the tokens in that directory."""
    file.write_text(
        f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )


def random_keys(labels):
    """Returns labels, and values in hexadecimal digits."""
    return {label: os.urandom(32).hex() for label in labels}


def token_maker(configuration, *commands):
    """Runs the token maker. Returns what it printed."""
    done = subprocess.run(
        [binary("xks-token-maker"), softhsm2_module(), "", *commands],
        env={**os.environ, "SOFTHSM2_CONF": str(configuration)},
        check=True, stdout=subprocess.PIPE, text=True,
    )
    return done.stdout


def make_token(configuration, label, keys):
    """Makes a token with these keys, which are labels and values."""
    token_maker(configuration, "init", label, SO_PIN, PIN)
    rest = iter(keys.items())
    while some := list(itertools.islice(rest, KEYS_PER_PROCESS)):
        commands = [("add", label, PIN, "aes", key, value, "ed") for key, value in some]
        token_maker(configuration, *itertools.chain.from_iterable(commands))


def slots(configuration):
    """Returns slot ids by token label."""
    rows = [line.split("\t") for line in token_maker(configuration, "slots").splitlines()]
    return {row[1].strip(): int(row[0]) for row in rows}
