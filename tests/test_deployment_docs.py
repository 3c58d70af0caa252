"""docs/deployment.md does what it says: its commands are run, in their order, in one shell.

Blocks marked `sh` are run with `docker` replaced by `tests/docker_shim.py`; those marked
`sh docker` need a real one: `python -m tests.documented docs/deployment.md` prints all of them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.documented import blocks
from tests.drawing import photo
from tests.proxy import free_port, missing
from tests.server import SMALL

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "deployment.md"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose `docker` and `git` are stand-ins."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "docker").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m tests.docker_shim "$@"\n'
    )
    (programs / "git").write_text(
        '#!/bin/sh\ncase "$*" in\n'
        'pull | "tag --force before-upgrade" | "checkout before-upgrade") ;;\n*) exit 1 ;;\nesac\n'
    )
    for program in programs.iterdir():
        program.chmod(0o755)
    (tmp_path / "state").mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COOC_")},
        **SMALL,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SHIM_STATE": str(tmp_path / "state"),
        "SHIM_COOC_PORT": str(free_port()),
        "SHIM_NGINX_PORT": str(free_port()),
    }
    yield environment
    stop = [sys.executable, "-m", "tests.docker_shim", "compose", "down"]
    subprocess.run(stop, env=environment, cwd=ROOT, check=True)


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of what programs have printed, which may follow each other on a line."""
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError:
            end = at + 1
        else:
            yield value
        at = text.find("{", end)


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_its_commands_do_what_it_says(tmp_path: Path, shell: dict[str, str]) -> None:
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "beach.jpg").write_bytes(photo(1))
    (folder / "query.jpg").write_bytes(photo(1))
    with zipfile.ZipFile(folder / "holiday.zip", "w") as archive:
        for number in range(2, 5):
            archive.writestr(f"{number}.jpg", photo(number))
    script = "\n".join(code for kind, code in blocks(PAGE) if kind == "sh")
    script = script.replace("http://localhost:8080", f"http://127.0.0.1:{shell['SHIM_NGINX_PORT']}")
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=folder,
        env=shell,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stdout + done.stderr
    for log in (tmp_path / "state").glob("*.log"):
        said += f"\n{log.name}:\n{log.read_text()[-3000:]}"
    assert done.returncode == 0, said
    answers = list(objects(done.stdout))
    found = next(answer["results"] for answer in answers if "results" in answer)
    assert (found[0]["id"], found[0]["match_type"]) == ("beach.jpg", "exact")
    assert "web shop" in done.stdout
    assert "searches answered as when the snapshot was taken" in re.sub(r"\s+", " ", done.stdout)
    # What was restored is there after the upgrade: the last that is asked is the index.
    assert answers[-1]["count"] >= 1
    assert (tmp_path / "state" / "data" / "replaced").is_dir()


def test_its_blocks_are_all_run_somewhere() -> None:
    kinds = {kind for kind, _ in blocks(PAGE)}
    assert kinds == {"sh", "sh docker", "yaml"}
    text = PAGE.read_text()
    assert text.count("```") == 2 * len(blocks(PAGE))
    assert "`tests" not in text
