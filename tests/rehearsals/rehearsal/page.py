"""The sections, steps and commands of docs/disaster-recovery.md."""

import re
from dataclasses import dataclass, field
from pathlib import Path

FILE = Path(__file__).resolve().parents[3] / "docs/disaster-recovery.md"


@dataclass
class Block:
    """A fenced block."""

    language: str
    text: str


@dataclass
class Step:
    """A numbered step of a section."""

    number: int
    text: str
    blocks: list = field(default_factory=list)


def anchor(heading):
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def sections(text):
    """Returns the lines below each second-level heading, by anchor."""
    found, current, is_code = {}, None, False
    for line in text.splitlines():
        is_code ^= line.lstrip().startswith("```")
        if line.startswith("## ") and not is_code:
            current = found.setdefault(anchor(line[3:]), [])
        elif current is not None:
            current.append(line)
    return found


def steps(lines):
    """Returns the numbered steps among the lines of a section."""
    found = []
    lines = iter(lines)
    for line in lines:
        begin = re.match(r"(\d+)\. (.*)", line)
        if begin:
            found.append(Step(int(begin[1]), begin[2]))
        elif line.startswith("   ") and found:
            fence = re.match(r"( *)```(\w+)$", line)
            if fence:
                indent = len(fence[1])
                code = []
                for inner in lines:
                    if inner.strip() == "```":
                        break
                    code.append(inner[indent:])
                found[-1].blocks.append(Block(fence[2], "\n".join(code) + "\n"))
            elif not found[-1].blocks:
                found[-1].text += " " + line.strip()
    return found


def read(scenario):
    """Returns the steps of a scenario's section."""
    return steps(sections(FILE.read_text())[scenario])
