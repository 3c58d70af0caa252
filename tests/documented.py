"""Commands in documents: `python -m tests.documented PAGE` prints them as a script.

`tests/test_documented.py` asks that each of them is run by a test.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("cooc", "make", "curl", "pip", "python", "docker", "git")
FENCE = re.compile(r"^```.*?^```$\n?", re.MULTILINE | re.DOTALL)
SETTING = re.compile(r"[A-Z_]+=\S*")
PLACEHOLDER = re.compile(r"[A-Z]+(_[A-Z]+)*/?")


class Block(NamedTuple):
    """What stands between two fences, their kind, such as `sh`, and the heading above."""

    kind: str
    code: str
    heading: str


def pages(root: Path = ROOT) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def fenced(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page. Raises: ValueError if one does not end."""
    heading = ""
    kind: str | None = None
    lines: list[str] = []
    for line in page.read_text().splitlines():
        if kind is None and line.startswith("```"):
            kind, lines = line.removeprefix("```"), []
        elif kind is None:
            heading = line.lstrip("#").strip() if line.startswith("#") else heading
        elif line == "```":
            yield Block(kind, "".join(f"{inside}\n" for inside in lines), heading)
            kind = None
        else:
            lines.append(line)
    if kind is not None:
        raise ValueError(f"{page}: the block that begins with {lines[:1]} does not end")


def blocks(page: Path) -> list[tuple[str, str]]:
    """The kind of each fenced block, such as `sh`, and what is in it."""
    return [(block.kind, block.code) for block in fenced(page)]


def code(page: str, heading: str, kind: str) -> str:
    """The blocks of that kind under a heading of a page, joined. Raises: LookupError."""
    found = [b.code for b in fenced(ROOT / page) if (b.kind, b.heading) == (kind, heading)]
    if not found:
        raise LookupError(f"{page} has no `{kind}` block under {heading!r}")
    return "".join(found)


def commands(code: str) -> list[str]:
    """Each command of a script, without comments; on one line, if it had several."""
    lines = re.sub(r"\\\n\s*", "", code).splitlines()
    bare = [re.sub(r"(^|\s{2,})#.*", "", line).strip() for line in lines]
    return [line for line in bare if line]


def expanded(synopsis: str) -> list[str]:
    """`cooc index verify [--full]  text` as its commands, with and without; `a | b` as two."""
    found = []
    for line in synopsis.splitlines():
        first, *others = re.split(r"\s{2,}", line)[0].split(" | ")
        for part in (first, *(f"{_stem(first)} {other}" for other in others)):
            bare = re.sub(r"\s*\[[^]]*\]", "", part)
            found += [bare, *(f"{bare} {option}" for option in re.findall(r"\[([^]]*)\]", part))]
    return found


def _stem(command: str) -> str:
    """Without its last word, in whose place others may stand."""
    return re.sub(r"\s*\[[^]]*\]", "", command).rsplit(" ", 1)[0]


def spans(page: Path) -> list[str]:
    """What stands in backticks in the running text."""
    text = FENCE.sub("", page.read_text())
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def inline(page: Path) -> list[str]:
    """The commands in the running text."""
    return [span for span in spans(page) if program(span) in PROGRAMS]


def settings(page: Path) -> list[str]:
    """`COOC_NAME=value`, or several of them, in the running text."""
    return [span for span in spans(page) if re.fullmatch(r"(COOC_[A-Z_]+=\S+ ?)+", span)]


def program(span: str) -> str:
    """What a command runs."""
    words = [word for word in span.split() if not SETTING.fullmatch(word)]
    return words[0].removeprefix(".venv/bin/") if words else ""


def words(command: str, *more: object) -> list[str]:
    """Those of a documented command after its program (`python -m MODULE`, `cooc bench`), with
    options that count instead of those in it."""
    first = 3 if command.startswith("python -m ") else 2
    return [*shlex.split(command)[first:], *map(str, more)]


def begins(short: str, command: str) -> bool:
    """Whether a mention is of that command: its first words, where FILE stands for any word."""
    mentioned, words = shlex.split(short), shlex.split(command)
    return len(mentioned) <= len(words) and all(
        a == b or PLACEHOLDER.fullmatch(a) for a, b in zip(mentioned, words, strict=False)
    )


if __name__ == "__main__":
    for kind, script in blocks(Path(sys.argv[1])):
        sys.stdout.write(f"# {kind}\n{script}")
