"""Runs cases by name, and prints their results."""

import argparse

from launcher import programs


def run(description, cases, seconds):
    """Runs the command line of a script. `cases` maps names to generators of lines and of whether
    each is right. `seconds` is the default duration of load. Returns the exit code."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(cases))
    parser.add_argument("--seconds", type=float, default=seconds, help="of load in each")
    parser.add_argument("--no-build", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.cases) - set(cases)
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}")
    if not arguments.no_build:
        programs.build()
    are_right = True
    for name in arguments.cases or cases:
        case = cases[name]
        print(f"## {name}: {case.__doc__}", flush=True)
        for line, is_right in case(arguments.seconds):
            are_right &= is_right
            print(f"{'ok  ' if is_right else 'FAIL'} {line}", flush=True)
    return 0 if are_right else 1
