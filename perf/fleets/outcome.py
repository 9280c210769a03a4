"""The outcome of a trial: figures, and whether they are within its bound."""

import re
import time

from fleets.combined import combined
from fleets.fleet import BAD_KEY, Fleet
from fleets.stage import Stage, counted
from launcher.programs import Failed

#: Seconds under load before the trouble.
LEAD_SECONDS = 3
#: Minimum seconds under load after the last step.
SPARE_SECONDS = 1


def run(trial, program, options, logs=None):
    """Runs a trial with its own fleet, whose logs are copied to `logs`. Returns the outcome;
    raises NotAvailable or Failed."""
    checks = options.checks
    with Fleet(program, options, trial.setup) as fleet:
        seconds = options.seconds or trial.seconds
        stage = Stage(fleet, seconds)
        load_seconds = LEAD_SECONDS + SPARE_SECONDS + seconds + trial.more_seconds(checks)
        fleet.wait_until_whole(20)
        with fleet.loads(load_seconds) as loads:
            for load in loads.values():
                load.wait_until_measured()
            stage.loads |= loads
            began = time.time()
            time.sleep(LEAD_SECONDS)
            try:
                trial.steps(stage)
                fleet.wait_until_whole(20)
            except Failed as failed:
                stage.problems.append(str(failed))
            is_over = any(load.process.poll() is not None for load in loads.values())
            if is_over and not stage.outlasts_load:
                stage.problems.append("the load was over before the trial was")
        if logs:
            fleet.copy_logs(logs)
        return judged(figures(fleet, stage, began), trial.bound(fleet), stage)


def figures(fleet, stage, began):
    since = stage.troubles[0].began if stage.troubles else began
    answered = {replica.name: replica.errors(began, but_of=BAD_KEY) for replica in fleet.replicas}
    return {
        **combined(stage.loads),
        "answered_by": {name: dict(errors) for name, (errors, _) in answered.items() if errors},
        "failing_for_seconds": max(
            (last - since for _, last in answered.values() if last is not None), default=None
        ),
        "ended_unusually": {
            f"{server} {how}": count for (server, how), count in fleet.balancer.unusual_ends().items()
        },
        "hsm_changes": {replica.name: replica.changes(since) for replica in fleet.replicas},
        "readyz_changes": {name: watch.changes(since) for name, watch in fleet.ready.items()},
        "rotation": [rotation(fleet, trouble) for trouble in stage.troubles],
        "notes": stage.notes,
    }


def rotation(fleet, trouble):
    """Seconds from the start of the trouble until /readyz failed and until the balancer removed
    the replica, and from its end until both were back."""
    name = trouble.replica
    ready = fleet.ready[name]
    states = fleet.states
    return {
        "replica": name,
        "trouble_seconds": trouble.ended - trouble.began,
        "not_ready_after": ready.first(lambda is_ready: not is_ready, trouble.began),
        "out_after": states.first(lambda found: found.get(name) in ("DOWN", "NOLB"), trouble.began),
        "ready_after": ready.first(lambda is_ready: is_ready, trouble.ended),
        "in_after": states.first(lambda found: found.get(name) == "UP", trouble.ended),
    }


def judged(found, bound, stage):
    problems = list(stage.problems)
    # For KMS, an answer after 250 ms is as good as none.
    failed = found["failed"] + found["late"]
    if failed > bound.failed:
        problems.append(f"{failed} failed or late, at most {bound.failed:.0f}")
    for name, changes in found["hsm_changes"].items():
        if bound.changes is not None and changes > bound.changes:
            problems.append(f"{name}: {changes} changes of its HSM, at most {bound.changes}")
    if found["is_wrong"]:
        problems.append("wrong answers")
    for replica in stage.replicas:
        if re.search("is a defect", replica.log()):
            problems.append(f"{replica.name}: a panic")
    return {**found, "allowed": round(bound.failed), "why": bound.why, "problems": problems}


def lines(found):
    """Yields the outcome as lines of text."""
    late = found["generator_late_ms"]
    failed = f"{found['failed']} failed, {found['late']} answered after 250 ms"
    yield f"{found['requests']} requests: {failed}; at most {found['allowed']} ({found['why']})"
    yield (
        f"worst {found['worst_ms']:.0f} ms, p50 {found['p50_ms']:.2f}, p99 {found['p99_ms']:.1f} ms "
        f"(generator late: p99 {late['p99']:.1f}, p99.9 {late['p99_9']:.1f}, max {late['max']:.0f} ms)"
    )
    if len(found["by_clients"]) > 1:
        for name, clients in found["by_clients"].items():
            yield (
                f"{name}: {clients['requests']} requests, {clients['failed']} failed, "
                f"{clients['late']} late, worst {clients['worst_ms']:.0f} ms"
            )
    for name, errors in found["answered_by"].items():
        yield f"answered by {name}: {counted(errors)}"
    if found["unanswered"]:
        yield f"not answered: {counted(found['unanswered'])}"
    if found["failing_for_seconds"] is not None:
        yield f"last error answered {found['failing_for_seconds']:.1f} s after the beginning"
    counts = found["connections"]
    yield (
        f"connections: {counts['opened']} opened, {counts['failed_to_open']} could not be, "
        f"{counts['closed_by_server']} closed by a replica or the balancer with nothing under way, "
        f"{counts['lost']} lost with a request, {counts['given_up']} given up with a request"
    )
    if found["ended_unusually"]:
        yield f"sessions ended early, {counted(found['ended_unusually'])}"
    for each in found["rotation"]:
        yield (
            f"{each['replica']}, in trouble for {each['trouble_seconds']:.1f} s: not ready after "
            f"{after(each['not_ready_after'])}, out of rotation after {after(each['out_after'])}; "
            f"from the end ready after {after(each['ready_after'])}, back in rotation after "
            f"{after(each['in_after'])}"
        )
    yield (
        f"HSM in and out of use: {counted(found['hsm_changes'])}; "
        f"/readyz: {counted(found['readyz_changes'])}"
    )
    for name, note in found["notes"].items():
        yield f"{name}: {note}"


def after(seconds):
    return "-" if seconds is None else f"{seconds:.1f} s"
