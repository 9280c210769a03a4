"""The command: arguments, order of the measurements, and writing of the results."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from launcher import programs

from . import measure, nginx, proxy, report, scenarios

PERF = programs.ROOT / "perf"


def arguments(description):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--other", action="append", default=[], metavar="'NAME=COMMAND'",
        help="another proxy, side by side; {settings} in COMMAND is the settings file, which "
        "XKS_PROXY_SETTINGS_TOML names too")
    add("--this", metavar="COMMAND", help="the command of this proxy [target/dist/xks-proxy]")
    add("--only", metavar="PATTERN", help="scenarios whose name has this regular expression in it")
    add("--list", action="store_true", help="print the scenarios' names")
    add("--full", action="store_true", help="all combinations with a slow HSM")
    add("--seconds", type=float, help="measured seconds of each, in place of its own")
    add("--rounds", type=int, default=2, help="times that each is measured; the median counts [2]")
    add("--quick", action="store_true", help="2 seconds, one round: to see that it works")
    add("--no-build", action="store_true", help="do not build first")
    add("--resume", action="store_true",
        help="measure only what has no results under --work yet: goes on after an interruption")
    add("--work", type=Path, default=PERF / "out",
        help="tokens, settings and each run's JSON [perf/out]")
    add("--output", type=Path,
        help="the report [perf/RESULTS.md; with --only or --quick RESULTS.md under --work]")
    return parser.parse_args()


def main(description):
    options = arguments(description)
    chosen = [
        scenario
        for scenario in scenarios.all_scenarios(options.full)
        if re.search(options.only or "", scenario.name)
    ]
    if options.list:
        print("\n".join(scenario.name for scenario in chosen))
        return 0
    if not chosen:
        print("no scenario has that name: see --list", file=sys.stderr)
        return 1
    if options.quick:
        options.rounds = 1
    work = options.work.resolve()
    is_partial = bool(options.only or options.quick)
    output = options.output or (work if is_partial else PERF) / "RESULTS.md"
    try:
        if not options.no_build:
            programs.build()
        commands = {"xks-proxy": options.this or str(programs.binary("xks-proxy"))}
        for other in options.other:
            name, _, command = other.partition("=")
            if not command or name in commands:
                raise programs.Failed("--other is NAME=COMMAND, each name once")
            commands[name] = command
        programs.softhsm2_module()
    except (programs.Failed, subprocess.CalledProcessError) as error:
        print(f"perf/run: {error}", file=sys.stderr)
        return 1
    programs.raise_open_files()
    (work / "runs").mkdir(parents=True, exist_ok=True)
    measured = []
    for number, scenario in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {scenario.name}", flush=True)
        measured.append((scenario, run_scenario(scenario, commands, options, work)))
        # After each scenario, so that an interruption does not lose the results so far.
        report.write(output, measured, list(commands), options)
    print(f"{output}")
    has_wrong = any(
        "error" in results["xks-proxy"] or results["xks-proxy"]["has_wrong_answers"]
        for _, results in measured
    )
    return 2 if has_wrong else 0


def run_scenario(scenario, commands, options, work):
    """Returns results by proxy, from the round with the median rate."""
    servers = {
        name: proxy.Proxy(command, scenario, work) for name, command in commands.items()
    }
    if scenario.kind == "own-cost":
        servers[report.NGINX] = nginx.Nginx(scenario, work)
    rounds = {name: [] for name in servers}
    for number in range(options.rounds):
        for name, server in servers.items():
            file = work / "runs" / f"{scenario.name.replace('/', '_')}-{name}-{number}.json"
            kept = file.with_suffix(".results.json")
            if options.resume and kept.exists():
                results = json.loads(kept.read_text())
            else:
                try:
                    with server as running:
                        results = measure.measure(running, scenario, options, name, file)
                except (programs.Failed, OSError, json.JSONDecodeError) as error:
                    results = {"error": str(error), "has_wrong_answers": False}
                results["file"] = str(file)
                kept.write_text(json.dumps(results))
            rounds[name].append(results)
            print(f"    {name}: {report.line(results)}", flush=True)
    return {name: median(results) for name, results in rounds.items()}


def median(rounds):
    """Returns the round with the median rate, or the first one that failed or was wrong, with the
    figures of all rounds."""
    for results in rounds:
        if "error" in results or results["has_wrong_answers"]:
            return results
    by_rate = sorted(rounds, key=lambda results: results.get("total", {}).get("ok_per_second", 0))
    all_rounds = [report.figures(results) for results in rounds if "total" in results]
    return {**by_rate[(len(by_rate) - 1) // 2], "rounds": all_rounds}
