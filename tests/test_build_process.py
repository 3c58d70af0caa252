from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.catalog import Catalog
from engine.errors import EngineError, RecallTooLow, StorageFull
from engine.generations import BuildPlan, Generations, Manifest, Reporter
from engine.live.build_process import build_in_process
from engine.live.builder import Builder
from engine.postprocess import LinearProjection
from engine.stored_describer import StoredDescriber
from engine.vector_index import BuildOptions
from tests.disks import fill, small_disk
from tests.patience import PATIENCE_S
from tests.stored import RECIPE, an_image

COUNT = 120
PLAN = BuildPlan(RECIPE, "float32", BuildOptions("ivf_sq8"))


class Stop(Exception):
    pass


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = filled(tmp_path)
    yield opened
    opened.close()


def filled(folder: Path) -> Catalog:
    catalog = Catalog(folder / "catalog.sqlite")
    catalog.put([an_image(f"i{seed}", seed=seed) for seed in range(COUNT)])
    return catalog


def start(folder: Path, options: BuildOptions = PLAN.options) -> subprocess.Popen[str]:
    """The other side by itself, after it was given its task."""
    child = subprocess.Popen(
        [sys.executable, "-m", "engine.live.build_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    task = {
        "data_dir": str(folder),
        "number": 1,
        "recipe": RECIPE.to_json(),
        "precision": "float32",
        "options": asdict(options),
        "learned": None,
    }
    assert child.stdin is not None
    child.stdin.write(json.dumps(task) + "\n")
    child.stdin.flush()
    return child


@pytest.fixture
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build comes to its last step and stays there: it is not done before it is looked at."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if sys.argv == ['-m']:\n"
        "    import engine.generation_build\n"
        "    engine.generation_build.file_digest = lambda *_: time.sleep(600)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def children() -> list[int]:
    """Processes of a build that this one has started."""
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    ).stdout.splitlines()
    return [int(line.split()[0]) for line in found if "engine.live.build_process" in line]


def test_a_build_in_a_process_is_that_of_a_thread(tmp_path: Path, catalog: Catalog) -> None:
    generations = Generations(tmp_path)
    phases: list[str] = []
    steps: list[tuple[int, int]] = []
    report = Reporter(lambda done, total: steps.append((done, total)), phases.append)
    there = build_in_process(tmp_path, generations.reserve(), PLAN, report)
    here = generations.build(catalog.live_rows(), catalog.descriptors, PLAN)
    assert phases == ["fitting", "writing", "coding"]
    assert (COUNT, COUNT) in steps
    assert there == Manifest.read(generations.path(1))
    beside = Manifest.read(generations.path(here.number))
    own = replace(beside, number=1, created_at=there.created_at, seconds=there.seconds)
    assert own == there
    first, second = (generations.load(number, RECIPE).index for number in (1, here.number))
    rows = np.sort(first.rows())
    np.testing.assert_array_equal(first.vectors(rows), second.vectors(rows))
    assert not list(tmp_path.glob("build-*"))


def test_a_learned_projection_goes_with_it(tmp_path: Path, catalog: Catalog) -> None:
    random = np.random.default_rng(0).standard_normal((8, RECIPE.raw_dim)).astype(np.float32)
    learned = LinearProjection(torch.zeros(RECIPE.raw_dim), torch.from_numpy(random))
    recipe = replace(RECIPE, projection_digest="2" * 64)
    build_in_process(tmp_path, 1, replace(PLAN, recipe=recipe, learned=learned), Reporter())
    loaded = Generations(tmp_path).load(1, recipe).projection
    assert loaded is not None
    torch.testing.assert_close(loaded.directions, learned.directions)


def test_errors_of_the_build_come_back_as_they_were(tmp_path: Path, catalog: Catalog) -> None:
    plan = replace(PLAN, options=BuildOptions("ivf_sq8", min_recall=1.1))
    with pytest.raises(RecallTooLow, match="the ivf_sq8 index finds 100"):
        build_in_process(tmp_path, 1, plan, Reporter())
    assert Generations(tmp_path).numbers() == []


def test_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_kb=4096) as disk:
        catalog = filled(disk)
        fill(disk, leave_kb=8)
        with pytest.raises(StorageFull, match="free space"):
            build_in_process(disk, 1, PLAN, Reporter())
        catalog.close()
        assert Generations(disk).numbers() == []


@pytest.mark.usefixtures("endless")
def test_what_the_report_raises_ends_the_process_and_leaves_nothing(
    tmp_path: Path, catalog: Catalog
) -> None:
    stored = StoredDescriber(tmp_path, RECIPE)
    builder = Builder(tmp_path, catalog, Generations(tmp_path), stored, PLAN.options, None, 1)
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.extend(children())
        raise Stop

    with pytest.raises(Stop):
        builder.write(Reporter(progress))
    assert len(seen) == 1
    assert children() == []
    assert list((tmp_path / "generations").iterdir()) == []
    assert not list(tmp_path.glob("build-*"))


def test_a_long_step_can_be_stopped_in_its_middle(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing is done it still says that it is at work."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if sys.argv == ['-m']:\n"
        "    import engine.generations.generations\n"
        "    engine.generations.generations.write_generation = lambda *_: time.sleep(600)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    started = time.monotonic()
    beats: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        beats.append((done, total))
        if len(beats) == 2:
            raise Stop

    with pytest.raises(Stop):
        build_in_process(tmp_path, 1, PLAN, Reporter(progress))
    assert beats == [(0, 0), (0, 0)]
    assert time.monotonic() - started < 300


@pytest.mark.usefixtures("endless")
def test_a_killed_process_is_a_clear_error(tmp_path: Path, catalog: Catalog) -> None:
    def kill(_: str) -> None:
        for pid in children():
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(EngineError, match=r"ended with code -9.*live index stays as it is"):
        build_in_process(tmp_path, 1, PLAN, Reporter(phase=kill))


@pytest.mark.usefixtures("endless")
def test_it_is_no_target_of_a_ctrl_c_for_its_parent(tmp_path: Path, catalog: Catalog) -> None:
    groups: list[int] = []

    def look(_: str) -> None:
        groups.extend(map(os.getpgid, children()))
        raise Stop

    with pytest.raises(Stop):
        build_in_process(tmp_path, 1, PLAN, Reporter(phase=look))
    assert groups
    assert os.getpgid(0) not in groups


@pytest.mark.usefixtures("endless")
def test_it_ends_with_its_parent(tmp_path: Path, catalog: Catalog) -> None:
    child = start(tmp_path)
    assert child.stdin is not None and child.stdout is not None
    assert json.loads(child.stdout.readline()) == {"phase": "fitting"}
    child.stdin.close()
    assert child.wait(timeout=PATIENCE_S) == 1
    child.stdin = None
    child.communicate()
    assert Generations(tmp_path).numbers() == []


def test_what_a_library_prints_is_no_message(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    # FAISS prints what it does from its own code, past `sys.stdout`.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, os\n"
        "if sys.argv == ['-m']:\n"
        "    import engine.generations.generations as module\n"
        "    write = module.write_generation\n"
        "    def noisy(*arguments):\n"
        "        os.write(1, b'noise')\n"
        "        print('more of it')\n"
        "        return write(*arguments)\n"
        "    module.write_generation = noisy\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    manifest = build_in_process(tmp_path, 1, PLAN, Reporter())
    assert manifest.count == COUNT


def test_it_ends_quietly(tmp_path: Path, catalog: Catalog) -> None:
    """With its input still open, which a thread of it is reading."""
    child = start(tmp_path, BuildOptions("float16"))
    assert child.stdout is not None and child.stderr is not None
    lines = [json.loads(line) for line in child.stdout]
    assert "manifest" in lines[-1]
    assert child.wait(timeout=PATIENCE_S) == 0
    assert child.stderr.read() == ""
    child.communicate()
