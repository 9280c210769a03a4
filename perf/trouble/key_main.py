"""The command line of perf/key-trouble."""

import argparse
import dataclasses
import json
import re
from pathlib import Path

from launcher import programs
from trouble import key_hang, key_single, key_table


def main(description):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="table | hang | single")
    of_table = commands.add_parser("table", help="one key fails, with every code (the default)")
    of_hang = commands.add_parser("hang", help="one key, some, or every key hangs")
    of_single = commands.add_parser("single", help="a token with one key, beside another release")
    # The default command is the table.
    for each in (parser, of_table):
        each.add_argument("--only", help="rows whose text this regular expression finds")
        each.add_argument("--quick", action="store_true", help="one code of each class")
        each.add_argument(
            "--shapes", default="one,two",
            help="one token, two, half: two of which one has the bad key [default: one,two]",
        )
        add_common(each, seconds=3)
    of_hang.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(key_hang.CASES))
    add_common(of_hang, seconds=300)
    of_single.add_argument("--other", type=Path, help="another release's program, in turns")
    of_single.add_argument("--rounds", type=int, default=7)
    of_single.add_argument("--only", help="troubles that this regular expression finds")
    add_common(of_single, seconds=5)
    arguments = parser.parse_args()
    if not arguments.no_build:
        programs.build()
    options = {"pkcs11": arguments.pkcs11, "limits": arguments.limits}
    options["interposer"] = f"hsm_milli = {arguments.hsm_milli}"
    if arguments.binary:
        options["proxy"] = arguments.binary.resolve()
    run = {"hang": hang, "single": single}.get(arguments.command, table)
    found, is_right = run(parser, arguments, options)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
    return 0 if is_right else 1


def add_common(parser, seconds):
    parser.add_argument("--seconds", type=float, default=seconds, help="of trouble in each")
    parser.add_argument("--binary", type=Path, help="the proxy [default: target/release/xks-proxy]")
    parser.add_argument("--pkcs11", default="", help="members of [pkcs11], for instance a health_key")
    parser.add_argument("--limits", default="", help="members of [limits]")
    parser.add_argument("--hsm-milli", type=float, default=2, help="of each of the HSM's calls")
    parser.add_argument("--json", type=Path, help="write what was found")
    parser.add_argument("--no-build", action="store_true")


def table(parser, arguments, options):
    shapes = arguments.shapes.split(",")
    unknown = set(shapes) - set(key_table.SHAPES)
    if unknown:
        parser.error(f"no such shape: {', '.join(unknown)}")
    print(key_table.HEADER, flush=True)
    rows = key_table.table(shapes, arguments.only, arguments.quick, arguments.seconds, options)
    found = []
    for row in rows:
        found.append(row)
        print(key_table.line(row), flush=True)
    broken = [row for row in found if row.broken]
    print(f"{len(found)} rows, {len(broken)} FAIL")
    return [dataclasses.asdict(row) for row in found], bool(found) and not broken


def hang(parser, arguments, options):
    unknown = set(arguments.cases) - set(key_hang.CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}")
    cases = {name: key_hang.CASES[name] for name in arguments.cases or key_hang.CASES}
    results = (
        (name, case.__doc__, case(arguments.seconds, options)) for name, case in cases.items()
    )
    return shown(results)


def single(parser, arguments, options):
    proxies = {"this": options.pop("proxy", programs.binary("xks-proxy"))}
    if arguments.other:
        if arguments.rounds < key_single.MIN_ROUNDS:
            parser.error(f"fewer than {key_single.MIN_ROUNDS} rounds compare nothing")
        proxies["other"] = arguments.other.resolve()
    chosen = {
        name: trouble for name, trouble in key_single.TROUBLES.items()
        if not arguments.only or re.search(arguments.only, name)
    }
    if not chosen:
        parser.error("no such trouble")
    results = (
        (
            name, "the only key of the only token",
            key_single.compare(trouble, proxies, arguments.seconds, arguments.rounds, options),
        )
        for name, trouble in chosen.items()
    )
    return shown(results)


def shown(results):
    """Prints lines as they come."""
    found, are_right = [], True
    for name, title, lines in results:
        print(f"## {name}: {title}", flush=True)
        for line, is_right in lines:
            are_right &= is_right
            found.append({"case": name, "line": line, "is_right": is_right})
            print(f"{'ok  ' if is_right else 'FAIL'} {line}", flush=True)
    return found, are_right
