"""The interposer's counts file (perf/interposer/src/lib.rs)."""

import time
import tomllib

from launcher.programs import Failed


def counts(file):
    """Returns all current counts."""
    request = file.with_name(file.name + ".request")
    request.touch()
    deadline = time.monotonic() + 5
    while request.exists():
        if time.monotonic() > deadline:
            raise Failed("the interposer does not write its counts")
        time.sleep(0.005)
    return tomllib.loads(file.read_text())
