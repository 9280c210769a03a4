"""Judgement of failed requests by what happened at their time."""

import json
from collections import Counter

from soaks.clients import CROWD

#: Seconds by which clocks and the notice of settings may differ.
SLACK = 1.0
#: Answers that say that the HSM is in trouble.
TROUBLE = {
    (429, "ThrottlingException"), (500, "InternalException"), (503, "DependencyTimeoutException"),
}
#: Names of requests that the generator gave up.
TOO_LATE = ("timeout", "timeout before sending", "connecting and TLS took too long")
FAULTS = ("fault of one", "fault of both")


def failed_requests(file):
    """Returns the failed requests of a load."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def reason(failed, events, is_stalled):
    """Returns the reason that explains a failure, or None. `events` are those at its time."""
    status, name = failed["status"], failed["name"]
    kinds = {event.kind for event in events}
    if (status, name) in TROUBLE:
        for kind in reversed(FAULTS):
            if kind in kinds:
                return kind
        return "the machine stood still" if is_stalled else None
    if status != 0 or name == "malformed answer":
        return None
    is_crowded = any(event.text == CROWD for event in events)
    # Beyond max_connections the proxy evicts those that have not shown a credential.
    if is_crowded and failed["answers_before"] == 0 and name == "connection lost" or (
        is_crowded and failed["operation"] == "connect"
    ):
        return "a crowd"
    if is_stalled and name in TOO_LATE:
        return "the machine stood still"
    return None


def judge(name, file, diary, stalls):
    """Counts the explained failures of a load by kind and reason, and reports the others."""
    expected, unexplained = Counter(), Counter()
    for failed in failed_requests(file):
        began, ended = failed["due"] - SLACK, failed["ended"] + SLACK
        why = reason(failed, diary.during(began, ended), stalls.overlaps(began, ended))
        kind = f"{failed['status']} {failed['name']}"
        if why:
            expected[(why, kind)] += 1
            continue
        unexplained[kind] += 1
        # Enough to find the cause; the rest is counted.
        if unexplained[kind] <= 10:
            diary.problem(
                f"{name}: {failed['operation']} {kind}, request {failed['request_id'] or '-'}, "
                f"due {failed['ended'] - failed['due']:.3f} s before, "
                f"{failed['answers_before']} answers before on the connection", failed["ended"],
            )
    for kind, count in unexplained.items():
        if count > 10:
            diary.problem(f"{name}: {count} times {kind} without a reason, of which 10 are shown")
    return expected
