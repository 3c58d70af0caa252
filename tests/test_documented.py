"""Every command of README.md and docs/ is run by a test: nobody can add one and forget it."""

from __future__ import annotations

import ast
import shutil
from functools import cache
from pathlib import Path

import pytest

from tests.documented import (
    PROGRAMS,
    ROOT,
    begins,
    blocks,
    code,
    commands,
    expanded,
    fenced,
    inline,
    pages,
    program,
)

TYPED = ("types", "asks", "words", "steps")
"""Functions of tests whose first argument is a documented command."""
TESTS = sorted({*(ROOT / "tests").glob("test_*.py")} - {Path(__file__)})
OF_DEPLOYMENT = "docs/deployment.md"
"""Its own test runs all its blocks: `test_deployment_docs.py`; docker is for that one alone."""


@cache
def all_calls() -> list[ast.Call]:
    """Of all tests."""
    trees = [ast.parse(path.read_text()) for path in TESTS]
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]


def calls(*names: str) -> list[list[str]]:
    """The texts that tests call these functions with."""
    return [
        [
            value.value
            for value in call.args
            if isinstance(value, ast.Constant) and isinstance(value.value, str)
        ]
        for call in all_calls()
        if getattr(call.func, "attr", getattr(call.func, "id", None)) in names
    ]


def typed() -> list[str]:
    """Commands that tests type: on their own, of `sh` blocks, and of the synopsis."""
    alone = [texts[0] for texts in calls(*TYPED) if texts]
    scripts = [code(*texts) for texts in calls("code") if texts[2:] in (["sh"], [""])]
    lines = [line for script in scripts for line in commands(script)]
    every = [*alone, *lines, *(part for line in lines for part in expanded(line))]
    return [command for command in every if program(command) in PROGRAMS]


def forgotten(root: Path) -> list[str]:
    """What no test runs, and what to do about it."""
    claimed = {tuple(texts) for texts in calls("code")}
    known = typed()
    found = []
    for page in pages(root):
        name = page.relative_to(root).as_posix()
        if name == OF_DEPLOYMENT:
            continue
        for block in fenced(page):
            of_docker = {program(line) for line in commands(block.code)} == {"docker"}
            if (name, block.heading, block.kind) not in claimed and not of_docker:
                found.append(
                    f"{name}: no test runs the `{block.kind}` block under {block.heading!r} that "
                    f"begins with {block.code.splitlines()[0]!r}; write one (README.md: "
                    "tests/test_readme_commands.py, docs/: tests/test_docs_commands.py) that gets "
                    f"it by code({name!r}, {block.heading!r}, {block.kind!r})"
                )
        for span in inline(page):
            mentions = span.split()[0] in ("docker", "git")
            if not mentions and not any(begins(span, command) for command in known):
                found.append(
                    f"{name}: no test runs `{span}`; type it in one, by reader.types({span!r}) in "
                    "tests/test_readme_commands.py or tests/test_docs_commands.py"
                )
    return found


def test_every_command_is_run_by_a_test() -> None:
    assert forgotten(ROOT) == []


def test_a_command_that_nobody_runs_is_named_with_what_to_do(tmp_path: Path) -> None:
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    assert forgotten(tmp_path) == []
    for name, text in {
        "README.md": "## Dance\n\n```sh\ncooc dance --now\n```\n",
        "docs/metrics.md": "`cooc serve --loudly`\n\n```\na table\n```\n",
        "docs/new.md": "One may `COOC_MAX_SIDE=96 make coffee`, too, and call `make`.\n",
    }.items():
        with (tmp_path / name).open("a") as page:
            page.write(text)
    dance, table, loudly, coffee = forgotten(tmp_path)
    assert "README.md: no test runs the `sh` block under 'Dance' that begins with" in dance
    assert "by code('README.md', 'Dance', 'sh')" in dance
    assert "under 'Traces' that begins with 'a table'" in table
    assert "docs/metrics.md: no test runs `cooc serve --loudly`; type it" in loudly
    assert "docs/new.md: no test runs `COOC_MAX_SIDE=96 make coffee`" in coffee


def test_blocks_know_where_they_stand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n```sh\n# no heading\na \\\n  b  # why\n\nc d#e\n```\n## Two\n```\nx\n```\n"
    )
    first, second = fenced(page)
    assert (first.kind, first.heading, second.kind, second.heading) == ("sh", "One", "", "Two")
    assert commands(first.code) == ["a b", "c d#e"]
    assert blocks(page) == [("sh", first.code), ("", "x\n")]
    page.write_text("```sh\na\n")
    with pytest.raises(ValueError, match=r"begins with \['a'\] does not end"):
        list(fenced(page))
    with pytest.raises(LookupError, match="no `sh` block under 'Dance'"):
        code("README.md", "Dance", "sh")


def test_a_synopsis_is_all_of_its_commands() -> None:
    text = "cooc index verify [--full]   checks\ncooc bench a [--big] | b\ncooc x y | z  c | d\n"
    assert expanded(text) == [
        "cooc index verify",
        "cooc index verify --full",
        "cooc bench a",
        "cooc bench a --big",
        "cooc bench b",
        "cooc x y",
        "cooc x z",
    ]


@pytest.mark.parametrize(
    ("short", "command", "same"),
    [
        ("cooc evaluate", "cooc evaluate DATASET --pooling gem", True),
        ("cooc serve --projection FILE", "cooc serve --projection runs/a.safetensors", True),
        ("cooc serve --projection FILE", "cooc serve --weights a", False),
        ("cooc evaluate DATASET --report a.html", "cooc evaluate DATASET", False),
        ("pip install 'a[b]'", "pip install 'a[c]'", False),
    ],
)
def test_a_mention_is_the_beginning_of_a_command(short: str, command: str, same: bool) -> None:
    assert begins(short, command) is same
