"""The scenarios to measure: an HSM, a proxy's settings, and loads on it."""

from dataclasses import dataclass

#: Seconds of a closed loop, unless --seconds says otherwise.
SECONDS = 5
#: KMS's default quota for a key store, in requests per second.
KMS_RATE = 1800
#: The largest HSM latency and session counts of the matrix.
HSM_MILLI = (0.5, 2, 10)
SESSIONS = (16, 64, 256)
OPERATIONS = ("decrypt", "encrypt", "encrypt-cdiv")
CONNECTIONS = (1, 16, 128, 1000)
#: The interposer's cap in the overload: 8 concurrent calls of 2 ms give 4,000 per second.
PARALLEL_CALLS = 8
CAPACITY = 4000


@dataclass(frozen=True)
class Scenario:
    """One row of the results, for each proxy."""

    name: str
    #: Section of the report.
    group: str
    #: Which of main's measurements: "load", "own-cost", "overload", "own-overload", "calls" or "idle".
    kind: str = "load"
    #: Whether perf/fast-token takes SoftHSM2's place.
    is_fast: bool = False
    #: Latency of the HSM's calls; 0 is SoftHSM2 without the interposer.
    hsm_milli: float = 0
    #: The interposer's parallel_calls.
    parallel_calls: int | None = None
    #: Whether the interposer is used to count calls, even if it delays none.
    is_counted: bool = False
    #: session_pool_max_size
    sessions: int = 30
    mix: str = "decrypt"
    tls: bool = True
    connections: int = 16
    idle_connections: int = 0
    #: Requests per second in an open loop; None for a closed loop.
    rate: float | None = None
    #: Value of xks-load --ramp.
    ramp: str | None = None
    #: Measured seconds; None for SECONDS.
    seconds: float | None = None
    #: Number of keys in the token and the store.
    keys: int = 1
    #: max_requests_per_sec of a second store, /noisy/store; None for no such store.
    noisy_quota: int | None = None
    #: Further members of the settings: pairs of dotted name and value.
    more: tuple = ()
    #: Kinds of plots to draw: "latency", "over-time", "goodput" or "rate".
    plots: tuple = ()


def protocol(tls):
    return "tls" if tls else "http"


def own_cost():
    """Costs of the proxy itself, with an HSM that costs next to nothing."""
    for mix in ("decrypt", "encrypt"):
        for tls, connections in ((True, 1), (True, 16), (True, 64), (False, 16)):
            yield Scenario(
                name=f"own-cost/{protocol(tls)}/{mix}/c{connections}",
                group="Own cost",
                kind="own-cost",
                is_fast=True,
                mix=mix,
                tls=tls,
                connections=connections,
            )


def softhsm():
    """SoftHSM2 at full speed."""
    for tls in (True, False):
        for mix in OPERATIONS:
            for connections in CONNECTIONS:
                yield Scenario(
                    name=f"softhsm/{protocol(tls)}/{mix}/c{connections}",
                    group="SoftHSM2 at full speed",
                    mix=mix,
                    tls=tls,
                    connections=connections,
                    plots=("latency",) if (tls, mix, connections) == (True, "decrypt", 16) else (),
                )
    for sessions in (2, 30, 200):
        yield Scenario(
            name=f"sessions/{sessions}",
            group="The number of sessions does not matter to a token that computes here",
            sessions=sessions,
        )


def slow_hsm(is_full):
    """An HSM across a network. The whole cross product is long: by default each latency and
    number of sessions with as many connections, and all connections in the middle."""
    for milli in HSM_MILLI:
        for sessions in SESSIONS:
            for mix in OPERATIONS:
                for tls in (True, False):
                    for connections in sorted({*CONNECTIONS, sessions}):
                        is_middle = (milli, sessions, mix) == (2, 64, "decrypt")
                        if is_full or is_middle or (tls and connections == sessions):
                            yield Scenario(
                                name=f"hsm-{milli}ms/s{sessions}/{protocol(tls)}/{mix}"
                                f"/c{connections}",
                                group=f"HSM of {milli} ms a call",
                                hsm_milli=milli,
                                sessions=sessions,
                                mix=mix,
                                tls=tls,
                                connections=connections,
                                plots=("latency",) if is_middle and tls and connections == 64 else (),
                            )


def open_loop():
    """Open loops: KMS's rate, ramps, and overloads."""
    for name, milli in (("softhsm", 0), ("hsm-2ms", 2)):
        yield Scenario(
            name=f"kms-rate/{name}",
            group=f"{KMS_RATE:,}/s, open loop",
            hsm_milli=milli,
            sessions=64,
            connections=128,
            rate=KMS_RATE,
            seconds=60,
            plots=("latency",),
        )
        yield Scenario(
            name=f"ramp/{name}",
            group="Rate against p99",
            hsm_milli=milli,
            sessions=64,
            connections=256,
            ramp="1000:10000:1000",
            seconds=3,
            plots=("rate",),
        )
    for rate in (2 * CAPACITY, 5 * CAPACITY):
        yield Scenario(
            name=f"overload/{rate}",
            group=f"Overload: an HSM that does {CAPACITY:,}/s",
            kind="overload",
            hsm_milli=2,
            parallel_calls=PARALLEL_CALLS,
            sessions=64,
            connections=2000,
            rate=rate,
            seconds=30,
            plots=("over-time", "goodput"),
        )
    yield Scenario(
        name="overload/own-x2",
        group="Overload: twice what each proxy reaches in a closed loop",
        kind="own-overload",
        hsm_milli=2,
        sessions=64,
        connections=8000,
        seconds=30,
        plots=("over-time", "goodput"),
    )


def costs():
    """Costs of a request and of a connection."""
    for mix in OPERATIONS:
        yield Scenario(
            name=f"calls/{mix}",
            group="PKCS#11 calls a request",
            kind="calls",
            is_counted=True,
            mix=mix,
        )
    for keys in (1, 10_000):
        yield Scenario(name=f"keys/{keys}", group="Keys in the token and the store", keys=keys)
    for idle in (0, 10_000):
        yield Scenario(
            name=f"idle-connections/{idle}",
            group="Idle TLS connections beside the load",
            idle_connections=idle,
        )
    yield Scenario(name="idle", group="A proxy without a request", kind="idle")


def all_scenarios(is_full):
    """Returns all scenarios in the order of the report."""
    return [*own_cost(), *softhsm(), *slow_hsm(is_full), *open_loop(), *costs()]
