"""docs/deployment.md and README.md do what they say, with a stand-in for `docker`.

`tests/docker_shim.py` does what is asked for without containers; with those of a real docker,
`tests/test_deployment_docker.py` does the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deployment import PAGE, follow_the_page, follow_the_readme, move_there
from tests.documented import blocks
from tests.proxy import free_port, missing
from tests.server import SMALL
from tests.visitor import ROOT, Visitor


@contextmanager
def visiting(folder: Path) -> Iterator[Visitor]:
    """A newcomer whose `docker` is the stand-in, with a small network for `auto`."""
    programs, state = folder / "bin", folder / "state"
    programs.mkdir(parents=True)
    state.mkdir()
    stand_in = programs / "docker"
    stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.docker_shim "$@"\n')
    stand_in.chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COOC_")},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SHIM_STATE": str(state),
        "SHIM_PORT": str(free_port()),
        **{f"SHIM_{name}": value for name, value in SMALL.items()},
    }
    visitor = Visitor(folder, environment, trunk=SMALL["COOC_BACKBONE"])
    try:
        yield visitor
    except BaseException:
        for log in state.glob("*.log"):
            sys.stderr.write(f"\n{log.name}:\n{log.read_text()[-3000:]}")
        raise
    finally:
        visitor.close()
        for words in (["rm", "-f", "cooc"], ["compose", "down"]):
            command = [str(stand_in), *words]
            subprocess.run(command, env=visitor.environment, cwd=visitor.clone, check=True)


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_the_page_and_the_readme_do_what_they_say(tmp_path: Path) -> None:
    with visiting(tmp_path / "here") as visitor:
        follow_the_page(visitor)
        assert list((tmp_path / "here" / "state" / "volumes").glob("cooc-*")) == []
    with visiting(tmp_path / "there") as newcomer:
        follow_the_readme(newcomer)
        move_there(newcomer, visitor.clone / "snapshots.tar")


def test_its_blocks_are_all_run() -> None:
    assert {kind for kind, _ in blocks(PAGE)} == {"sh", "yaml"}
    text = PAGE.read_text()
    assert text.count("```") == 2 * len(blocks(PAGE))
    assert "`tests" not in text
