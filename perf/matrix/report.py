"""Tables, ratios, plots and the machine's description."""

import os
import platform
import statistics
import subprocess
from pathlib import Path

from launcher import programs

from .scenarios import CAPACITY

LATENCY_COLUMNS = (
    "measurement", "proxy", "right answers/s", "p50 ms", "p99 ms", "p99.9 ms", "inside 250 ms",
    "failed", "CPU µs a request", "generator's cores",
)
#: Name of the server with a constant answer.
NGINX = "nginx"
HOW = """\
Each row is one run of `xks-load` against a proxy started for that run; it is the median of
{rounds} rounds, in which the proxies take turns. Generator and proxy share the machine. Every
request is different and signed; the plaintext of every decrypt is compared with the original, and a
sample of the encrypts is decrypted again. Latency is measured from the time at which a request was
due. "HSM of n ms" is SoftHSM2 behind `perf/interposer`, which delays C_Encrypt, C_Decrypt,
C_GenerateRandom, C_FindObjectsInit and C_GetAttributeValue by n ms. In a name, s is
`session_pool_max_size` and c the number of connections. Every proxy logs to a file at INFO. CPU is
that of the proxy's process, including the PKCS#11 module. Where generator and proxy together use
all cores, the rate is limited by the machine, and only the CPU time per request can be compared.
"""


def line(results):
    """Returns a short description of a result, for the terminal."""
    if "error" in results:
        return f"FAILED: {results['error']}"
    wrong = " WRONG ANSWERS" if results["has_wrong_answers"] else ""
    if "total" not in results:
        return f"{results['resident_kib']} KiB, {results['wake_ups_per_second']:.1f} wake-ups/s"
    total = results["total"]
    latency = total["latency_ms"]
    return (
        f"{total['ok_per_second']:.0f}/s, p50 {latency['p50']:.3f} ms, p99 {latency['p99']:.3f} ms,"
        f" {total['failed']} failed, {results['server']['cpu_micros_per_request']:.0f} µs CPU{wrong}"
    )


def write(output, measured, names, options):
    """Writes the whole report."""
    plots = output.parent / "plots"
    parts = ["# Measurements\n", machine(options), HOW.format(rounds=options.rounds)]
    groups = {}
    for scenario, results in measured:
        groups.setdefault(scenario.group, []).append((scenario, results))
    for group, rows in groups.items():
        parts.append(f"## {group}\n")
        parts += INTRODUCTIONS.get(rows[0][0].kind, ())
        parts.append(TABLES.get(rows[0][0].kind, latency_table)(rows, names))
        for scenario, results in rows:
            parts += [plot(scenario, kind, results, plots) for kind in scenario.plots]
    output.write_text("\n".join(part for part in parts if part))


def machine(options):
    """Returns a table of the hardware and software used."""
    cpu = first("/proc/cpuinfo", "model name") or platform.processor()
    memory = int((first("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) // 1024
    facts = {
        "CPU": f"{cpu}, {os.cpu_count()} cores",
        "memory": f"{memory:,} MiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "SoftHSM2": said("softhsm2-util", "--version"),
        "compiler": said("rustc", "--version"),
        "commit": said("git", "-C", programs.ROOT, "describe", "--always", "--dirty"),
    }
    if options.quick:
        facts["note"] = "--quick: too short to mean anything"
    return table(("", ""), facts.items())


def first(file, key):
    for text in Path(file).read_text().splitlines():
        if text.startswith(key):
            return text.partition(":")[2].strip()
    return None


def said(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def each(rows, names):
    """Yields scenario, proxy, its results and the first proxy's results for each row."""
    for scenario, results in rows:
        for name in names:
            yield scenario, name, results[name], results[names[0]]


def failed(scenario, name, results, columns):
    text = results["error"].replace("|", "/").replace("\n", " ")[:200]
    return [f"`{scenario.name}`", name, f"failed: {text}"] + [""] * (columns - 3)


def latency_table(rows, names):
    head = list(LATENCY_COLUMNS)
    if len(names) > 1:
        head += [f"rate, {names[0]} : this", f"p99, this : {names[0]}"]
    if rows[0][0].keys > 1 or len({scenario.keys for scenario, _ in rows}) > 1:
        head.append("start s")
    if any(scenario.idle_connections for scenario, _ in rows):
        head.append("KiB a connection")
    cells = []
    for scenario, name, results, ours in each(rows, names):
        if "error" in results:
            cells.append(failed(scenario, name, results, len(head)))
            continue
        row = latency_cells(scenario, name, results)
        if len(names) > 1:
            row += ratios(results, ours) if results is not ours else ["", ""]
        if "start s" in head:
            row.append(f"{results['start_seconds']:.2f}")
        if "KiB a connection" in head:
            row.append(connection_kib(scenario, results))
        cells.append(row)
        if scenario.ramp:
            cells += [phase_cells(phase, name, len(head)) for phase in results["phases"]]
    return table(head, cells)


def latency_cells(scenario, name, results):
    total = results["total"]
    wrong = " **wrong answers**" if results["has_wrong_answers"] else ""
    return [
        f"`{scenario.name}`",
        name + wrong,
        f"{total['ok_per_second']:,.0f}",
        *percentiles(total),
        share(total["ok_in_250_ms"], total["requests"]),
        f"{total['failed']:,}",
        f"{results['server']['cpu_micros_per_request']:.0f}",
        f"{results['generator']['cores']:.2f}",
    ]


def phase_cells(phase, name, columns):
    row = [
        f"at {phase['rate']:,.0f}/s",
        name,
        f"{phase['ok_per_second']:,.0f}",
        *percentiles(phase),
        share(phase["ok_in_250_ms"], phase["requests"]),
        f"{phase['failed']:,}",
    ]
    return row + [""] * (columns - len(row))


def percentiles(summary):
    if not summary["ok"]:
        return ["-", "-", "-"]
    return [f"{summary['latency_ms'][name]:.2f}" for name in ("p50", "p99", "p99_9")]


def ratios(theirs, ours):
    if "error" in ours:
        return ["", ""]
    rate = divided(ours["total"]["ok_per_second"], theirs["total"]["ok_per_second"])
    p99 = divided(theirs["total"]["latency_ms"]["p99"], ours["total"]["latency_ms"]["p99"])
    return [rate, p99]


def divided(amount, by):
    return f"{amount / by:.1f}" if amount and by else "-"


def share(part, whole):
    return f"{100 * part / whole:.2f} %" if whole else "-"


def connection_kib(scenario, results):
    if not scenario.idle_connections:
        return ""
    grown = results["server"]["resident_kib_after"] - results["server"]["resident_kib_before"]
    return f"{grown / (scenario.idle_connections + scenario.connections):.1f}"


def overload_table(rows, names):
    head = [
        "measurement", "proxy", "offered/s", "capacity/s", "right, inside 250 ms, /s",
        "of capacity", "p99 ms of all right ones", "the others", "memory before, after",
        "worst p99 ms, from 1 s after the end on",
    ]
    cells = []
    for scenario, name, results, _ in each(rows, names):
        if "error" in results:
            cells.append(failed(scenario, name, results, len(head)))
            continue
        phase, server = results["phases"][0], results["server"]
        capacity = results.get("capacity", CAPACITY)
        in_time = phase["ok_in_250_ms"] / phase["seconds"]
        others = "; ".join(
            f"{failure['status'] or ''} {failure['name']}: {failure['count']:,},"
            f" p99 {failure['latency_ms']['p99']:.0f} ms"
            for failure in results["failures"]
        )
        after = results["after_p99_ms"]
        cells.append([
            f"`{scenario.name}`",
            name,
            f"{results['offered']:,.0f}",
            f"{capacity:,.0f}",
            f"{in_time:,.0f}",
            share(in_time, capacity),
            f"{phase['latency_ms']['p99']:.1f}",
            others,
            f"{server['resident_kib_before']:,}, {server['resident_kib_after']:,} KiB",
            "none answered" if after is None else f"{after:.1f}",
        ])
    return table(head, cells)


def calls_table(rows, names):
    head = ("measurement", "proxy", "all", "which")
    cells = []
    for scenario, name, results, _ in each(rows, names):
        if "error" in results:
            cells.append(failed(scenario, name, results, len(head)))
            continue
        made = results["calls_per_request"]
        which = ", ".join(f"{call} {count:.4g}" for call, count in made.items())
        cells.append([f"`{scenario.name}`", name, f"{sum(made.values()):.3f}", which])
    return table(head, cells)


def idle_table(rows, names):
    head = ("measurement", "proxy", "resident KiB", "threads", "wake-ups/s")
    cells = []
    for scenario, name, results, _ in each(rows, names):
        if "error" in results:
            cells.append(failed(scenario, name, results, len(head)))
            continue
        cells.append([
            f"`{scenario.name}`",
            name,
            f"{results['resident_kib']:,}",
            results["threads"],
            f"{results['wake_ups_per_second']:.1f}",
        ])
    return table(head, cells)


def figures(results):
    """Returns a round's figures for the table of the own cost."""
    total = results["total"]
    return {
        "rate": total["ok_per_second"],
        "p50": total["latency_ms"]["p50"],
        "p99": total["latency_ms"]["p99"],
        "cpu": results["server"]["cpu_micros_per_request"],
    }


def own_cost_table(rows, names):
    head = (
        "measurement", "server", "answers/s", f"of {NGINX}'s", "p50 ms", "p99 ms", "CPU µs a request",
        "failed", "generator's cores",
    )
    cells = []
    for scenario, name, results, _ in each(rows, [*names, NGINX]):
        if "error" in results:
            cells.append(failed(scenario, name, results, len(head)))
            continue
        wrong = " **wrong answers**" if results["has_wrong_answers"] else ""
        rounds = results["rounds"]
        cells.append([
            f"`{scenario.name}`",
            name + wrong,
            spread(rounds, "rate", ",.0f"),
            "" if name == NGINX else of_nginx(scenario, rows, rounds),
            spread(rounds, "p50", ".3f"),
            spread(rounds, "p99", ".2f"),
            spread(rounds, "cpu", ".1f"),
            f"{results['total']['failed']:,}",
            f"{results['generator']['cores']:.2f}",
        ])
    return table(head, cells)


def spread(rounds, figure, form):
    """Returns the median of the rounds, with the lowest and the highest of several."""
    values = [each_round[figure] for each_round in rounds]
    median = format(statistics.median(values), form)
    if len(values) == 1:
        return median
    return f"{median} ({min(values):{form}} to {max(values):{form}})"


def of_nginx(scenario, rows, rounds):
    theirs = next(results[NGINX] for row, results in rows if row is scenario)
    rate = median_rate(theirs.get("rounds", ()))
    return f"{median_rate(rounds) / rate:.2f}" if rate else "-"


def median_rate(rounds):
    return statistics.median(each_round["rate"] for each_round in rounds) if rounds else 0


INTRODUCTIONS = {
    "own-cost": (
        f"""\
The PKCS#11 module is `perf/fast-token`, which computes AES-GCM in the process without locks.
{NGINX} has as many workers as there are cores, the same certificate, persistent connections and a
buffered access log; it answers the same requests with a constant (`return 200`), which is as long as
the answer of a proxy. Its answers are counted by their status alone (`xks-load run --no-check`). Each
figure is the median of the rounds, with the lowest and the highest.
""",
    ),
}
TABLES = {
    "own-cost": own_cost_table,
    "overload": overload_table,
    "own-overload": overload_table,
    "calls": calls_table,
    "idle": idle_table,
}


def plot(scenario, kind, results, directory):
    files = [each["file"] for each in results.values() if "error" not in each]
    if not files:
        return ""
    directory.mkdir(exist_ok=True)
    suffix = "" if kind == scenario.plots[0] else f"_{kind}"
    svg = directory / f"{scenario.name.replace('/', '_')}{suffix}.svg"
    subprocess.run(
        [programs.binary("xks-load"), "plot", kind, *files, "--output", svg,
         "--title", scenario.name],
        check=True,
    )
    name = scenario.name if not suffix else f"{scenario.name}, {kind}"
    return f"![{name}]({svg.parent.name}/{svg.name})\n"
