"""`cooc bench search`: exact answers, engines, and what becomes of each measurement."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app.commands import bench
from benchmarks import made_descriptors, search, search_engines
from benchmarks.search_cells import Cells, Unmeasurable, rows
from benchmarks.search_data import exact, nearest_of, questions, recall, write_vectors
from benchmarks.search_engines import ENGINES, Engine, Stored, allowed, bucket, growing
from benchmarks.search_picture import search_picture
from benchmarks.search_process import Process
from engine.errors import InvalidOption
from engine.types import Rows, Vectors
from tests.documented import words

DIM, COUNT = 48, 2000
PLAN = search.Plan(
    sizes=[COUNT],
    engines=("ours", "faiss-flat"),
    dim=DIM,
    questions=40,
    filters=(None, 10),
    seconds=0.05,
    rounds=2,
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return write_vectors(tmp_path_factory.mktemp("made"), COUNT, DIM, 0)


@pytest.fixture(scope="module")
def vectors(stored: Stored) -> Vectors:
    return np.concatenate(list(stored.blocks()))


def by_hand(query: Vectors, vectors: Vectors, percent: int | None, k: int) -> Rows:
    """The `k` nearest rows whose number a filter keeps, one by one."""
    scores = [
        (-float(np.dot(query.astype(np.float64), vector)), row)
        for row, vector in enumerate(vectors)
        if percent is None or int(bucket(np.array([row]))[0]) < percent
    ]
    return np.array([row for _, row in sorted(scores)[:k]])


@pytest.fixture(scope="module", params=list(ENGINES))
def built(
    request: pytest.FixtureRequest, stored: Stored, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    pytest.importorskip(ENGINES[request.param].needs)
    folder = tmp_path_factory.mktemp("built")
    search_engines.load(request.param).build(folder, stored)
    return request.param, folder


@pytest.fixture
def engine(built: tuple[str, Path], stored: Stored, tmp_path: Path) -> Iterator[Engine]:
    """Of a copy: one that is added to changes its files."""
    name, folder = built
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    opened = search_engines.load(name).open(tmp_path, stored)
    yield opened
    opened.close()


def test_filters_keep_their_share_of_the_rows() -> None:
    numbers = np.arange(100_000)
    assert set(np.unique(bucket(numbers))) == set(range(100))
    for percent in (50, 10, 1):
        assert allowed(numbers, percent).mean() == pytest.approx(percent / 100, rel=0.05)
    assert allowed(numbers, None).all()


def test_a_file_with_more_vectors_is_used_for_fewer(stored: Stored, vectors: Vectors) -> None:
    before = stored.path.stat().st_mtime_ns
    fewer = write_vectors(stored.path.parent, 300, DIM, 0)
    assert (fewer.path, fewer.count) == (stored.path, 300)
    assert stored.path.stat().st_mtime_ns == before
    np.testing.assert_array_equal(np.concatenate(list(fewer.blocks(128))), vectors[:300])
    np.testing.assert_array_equal(fewer.take(np.array([7, 3])), vectors[[7, 3]])


@pytest.mark.parametrize("percent", [None, 10, 1])
def test_exact_answers_are_those_of_a_loop(
    stored: Stored, vectors: Vectors, percent: int | None
) -> None:
    asked = questions(stored.path.parent, stored, count=8, k=5, filters=[None, 10, 1], seed=0)
    for query, nearest in zip(asked.vectors, asked.nearest[percent], strict=True):
        expected = vectors[by_hand(query, vectors, percent, 5)] @ query
        np.testing.assert_allclose(np.sort(nearest)[::-1], expected, atol=1e-6)


def test_recall_counts_each_right_row_once(stored: Stored, vectors: Vectors) -> None:
    query = vectors[5]
    nearest = exact(stored, query[None], {None: 4, 10: 4})
    right, kept = by_hand(query, vectors, None, 4), by_hand(query, vectors, 10, 4)
    far = int(np.argmin(vectors @ query))

    def found(answer: list[int], percent: int | None = None) -> float:
        answers = [np.array(answer, np.int64)]
        return float(recall(answers, query[None], nearest[percent], percent, stored)[0])

    assert found(list(right)) == 1
    assert found([right[0], right[0], right[1], far]) == 0.5
    assert found([]) == 0
    assert found(list(kept), 10) == 1
    forbidden = [row for row in right if not allowed(np.array([row]), 10)[0]]
    assert forbidden and found(forbidden, 10) == 0


def test_added_rows_belong_to_the_nearest(stored: Stored, vectors: Vectors) -> None:
    query, added = vectors[[5]], vectors[[5]] * np.float32(1)
    nearest = nearest_of(exact(stored, query, {None: 2})[None], query @ added.T)
    np.testing.assert_allclose(nearest, [[1, 1]], atol=1e-6)
    answers = [np.array([5, COUNT])]
    assert recall(answers, query, nearest, None, stored, added)[0] == 1


def test_settings_grow_to_the_last() -> None:
    assert growing(1, 10) == [1, 2, 3, 4, 5, 6, 8, 10]
    assert growing(7, 7) == [7]


@pytest.mark.parametrize("percent", [None, 50, 10, 1])
def test_an_engine_answers_what_the_filter_keeps(
    engine: Engine, vectors: Vectors, percent: int | None
) -> None:
    """At its most thorough it finds nearly all of the nearest; those that compare all, all."""
    ladder = engine.ladders(percent)[-1]
    shares = []
    for query in vectors[:20]:
        found = engine.search(query, 10, ladder[-1], percent)
        assert len(set(found.tolist())) == len(found) <= 10
        assert allowed(found, percent).all()
        right = by_hand(query, vectors, percent, 10)
        shares.append(len(set(found.tolist()) & set(right.tolist())) / 10)
        if percent is None:
            assert found[0] == right[0]
    assert np.mean(shares) >= (1 if ladder == [{}] else 0.95)


def test_an_engine_finds_what_was_added(engine: Engine) -> None:
    fresh = made_descriptors.fresh(40, DIM)
    knob = engine.ladders(None)[0][-1]
    for start in range(0, 40, 20):
        engine.add(np.arange(COUNT + start, COUNT + start + 20), fresh[start : start + 20])
    assert [engine.search(vector, 1, knob, None)[0] for vector in fresh] == list(
        range(COUNT, COUNT + 40)
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("bench")
    seen: list[tuple[int, int]] = []
    report = search.run(PLAN, folder, folder / "out.json", progress=lambda *step: seen.append(step))
    assert seen == [(done, 6) for done in range(7)]
    return report, folder


def test_each_engine_is_a_row_with_its_figures(measured: tuple[dict[str, Any], Path]) -> None:
    report = measured[0]
    assert report["bench"] == "search" and report["threads"] == 2
    assert [(row["size"], row["engine"]) for row in report["rows"]] == [
        (COUNT, "ours"),
        (COUNT, "faiss-flat"),
    ]
    for row in report["rows"]:
        assert row["fits"] and row["reason"] is None
        assert row["build_s"] > 0 and row["load_s"] > 0
        assert row["disk_bytes"] >= 4 * DIM
        for stage in ("plain", "keep_10", "adds"):
            cell = row[stage]
            assert cell["recall"] == 1  # both compare everything
            assert 0 < cell["p50_ms"] <= cell["p99_ms"] and cell["per_s"] > 0
        assert row["plain"]["per_s_two"] > 0
        assert row["adds"]["added"] > 0 and row["adds"]["found_themselves"] == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory as Linux tells it")
def test_memory_is_that_of_the_index(tmp_path: Path) -> None:
    """40 MB of vectors."""
    stored = write_vectors(tmp_path, 20_000, 512, 0)
    one = Stored(stored.path, 1, 512)
    with Process("faiss-flat", 1) as process:
        for name, part in (("one", one), ("all", stored)):
            (tmp_path / name).mkdir()
            figures = process.build(tmp_path / name, part)
        process.open(tmp_path / "all", tmp_path / "one", stored)
        process.ask(stored.take(np.arange(60)), 10, {}, None)
        memory = process.memory()
    assert memory.own_mb is not None and 38 <= memory.own_mb <= 48
    assert memory.file_mb == 0
    assert figures["build_peak_own_mb"] >= 38 and figures["disk_mb"] == pytest.approx(39, abs=1)


def test_what_is_finished_is_not_done_again(measured: tuple[dict[str, Any], Path]) -> None:
    report, folder = measured
    again = search.run(PLAN, folder, folder / "out.json")
    assert again == report
    part = search.run(replace(PLAN, engines=("ours",)), folder, folder / "out.json")
    assert part["rows"] == report["rows"][:1]


def test_the_command_goes_on_with_what_is_finished(
    measured: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    report, folder = measured
    monkeypatch.setattr(search, "Plan", partial(search.Plan, dim=DIM, filters=(None, 10)))
    options = ["--size", COUNT, "--engine", "ours", "--engine", "faiss-flat", "--questions", 40]
    files = ["--folder", folder, "--out", folder / "out.json", "--json"]
    asked = words("cooc bench search --seconds 3", *options, *files)
    done = CliRunner().invoke(bench.app, asked, catch_exceptions=False)
    assert json.loads(done.stdout)["rows"] == report["rows"]


def test_results_of_other_settings_are_not_gone_on_with(
    measured: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    folder = measured[1]
    with pytest.raises(InvalidOption, match="'k': 10"):
        search.run(replace(PLAN, k=5), folder, folder / "out.json")
    (tmp_path / "notes.json").write_text("[]")
    with pytest.raises(InvalidOption, match="no result of this benchmark"):
        search.run(PLAN, folder, tmp_path / "notes.json")


def test_an_index_that_cannot_be_opened_is_a_row(
    measured: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    folder = measured[1]
    (file,) = folder.glob(f"*/{COUNT}/faiss-flat/flat.faiss")
    content = file.read_bytes()
    file.write_bytes(content[:1000])
    try:
        ours, flat = search.run(PLAN, folder, tmp_path / "out.json")["rows"]
    finally:
        file.write_bytes(content)
    assert ours["fits"] and ours["plain"]["recall"] == 1
    assert not flat["fits"] and "RuntimeError" in flat["reason"]
    assert flat["plain"] is flat["adds"] is None
    # Later it may be there: it is tried again, and nothing else.
    again = search.run(PLAN, folder, tmp_path / "out.json")["rows"]
    assert again[0] == ours and again[1]["fits"]


def test_a_process_that_is_killed_says_so() -> None:
    with Process("faiss-flat", 1) as process:
        process.kill()
        with pytest.raises(Unmeasurable, match="ended by SIGKILL"):
            process.memory()


def test_an_engine_that_is_not_installed_is_told_and_left_out(
    measured: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = measured[1]
    absent = replace(ENGINES["hnswlib"], needs="no_such_package")
    monkeypatch.setitem(ENGINES, "hnswlib", absent)
    told: list[str] = []
    plan = replace(PLAN, engines=("ours", "hnswlib"))
    ours, other = search.run(plan, folder, folder / "out.json", tell=told.append)["rows"]
    assert told == ["no_such_package is not installed; pip install 'cooc-image-search[bench]'"]
    assert ours["fits"] and not other["fits"] and other["reason"] == told[0]


def test_a_build_beside_other_work_is_estimated() -> None:
    cells = Cells(None, {})
    for size, seconds in ((100, 1.0), (1000, 20.0), (10_000, None)):
        cells.set(size, "ours", "build", {"build_s": seconds, "disk_mb": 1.0})
    made = rows(cells, [100, 1000, 10_000], ["ours"], [None], {})
    assert [row["build_s"] for row in made] == [1, 20, None]
    assert made[2]["build_s_estimate"] == pytest.approx(400)
    assert made[0]["build_s_estimate"] is None


def test_what_was_prepared_is_only_timed(tmp_path: Path) -> None:
    plan = replace(PLAN, sizes=[200], engines=("faiss-flat",), filters=[None], rounds=1)
    (row,) = search.run(plan, tmp_path, tmp_path / "out.json", only_prepare=True)["rows"]
    assert row["fits"] and row["build_s"] is row["plain"] is row["adds"] is None
    before = json.loads((tmp_path / "out.json").read_text())["cells"]
    (row,) = search.run(plan, tmp_path, tmp_path / "out.json")["rows"]
    assert row["build_s"] is None and row["plain"]["recall"] == row["adds"]["recall"] == 1
    after = json.loads((tmp_path / "out.json").read_text())["cells"]
    assert {key: after[key] for key in before} == before


def test_the_picture_shows_what_was_measured(measured: tuple[dict[str, Any], Path]) -> None:
    report = measured[0]
    assert search_picture(report).startswith(b"\x89PNG")
    empty = [row | {"plain": None, "own_bytes": None} for row in report["rows"]]
    assert search_picture(report | {"rows": empty}, kind="svg").startswith(b"<?xml")


def test_the_command_names_the_engines_it_knows() -> None:
    command = [sys.executable, "-m", "app.cli", "bench", "search", "--engine", "milvus"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "'milvus' is no engine; known are ours, faiss-flat" in result.stderr


def test_a_growing_collection_is_measured_end_to_end(tmp_path: Path) -> None:
    options = ["--size", 1500, "--seconds", 1, "--adds", 50, "--folder", tmp_path, "--json"]
    asked = words("cooc bench growing --seconds 10", *options)
    done = CliRunner().invoke(bench.app, asked, catch_exceptions=False)
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert report["build"]["recall"] == 1.0  # so few are compared one by one
    assert report["alone"]["searches"] > 20
    assert report["adding"]["added_per_s"] <= 51
    assert report["bytes_per_image"] == 512 * 4 + 8
