"""`cooc evaluate` from made files in the published formats to its tables."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks_made import LANDMARKS, oxford, revisited
from tests.drawing import photo
from tests.test_cli import cooc, cooc_json


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Descriptors of one test serve the next, and nothing is left in the home folder."""
    return str(tmp_path_factory.mktemp("cache"))


def results(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["pooling"], row["projection"]): row for row in report["results"]}


def test_oxford_from_text_files_to_map(tmp_path: Path, cache: str) -> None:
    folder = oxford(tmp_path / "Oxford")
    report = cooc_json(
        "evaluate", folder, "--pooling", "gem", "--pooling", "cbp_ac:dim=512", COOC_CACHE_DIR=cache
    )
    assert (report["format"], report["benchmark"]) == ("oxford", "oxford5k")
    assert report["database"] == 23
    rows = results(report)
    assert rows.keys() == {
        (pooling, projection)
        for pooling in ("gem", "cbp_ac:dim=512")
        for projection in ("none", "fitted")
    }
    assert all(row["queries"] == 3 for row in rows.values())
    assert rows["gem", "none"]["map"] > 50
    whole = cooc_json(
        "evaluate", folder, "--pooling", "gem", "--whole-queries", COOC_CACHE_DIR=cache
    )
    # Uncut, the query is the very photo that stays in the database: found first, AP over 1/4.
    assert results(whole)["gem", "none"]["map"] > 25
    assert results(whole)["gem", "none"]["map"] != rows["gem", "none"]["map"]


def test_revisited_oxford_from_its_pickle_to_three_protocols(tmp_path: Path, cache: str) -> None:
    folder = revisited(tmp_path / "roxford")
    report = cooc_json(
        "evaluate", folder, "--pooling", "gem", "--projection", "none", COOC_CACHE_DIR=cache
    )
    assert (report["format"], report["benchmark"]) == ("revisited", "roxford5k")
    (row,) = report["results"]
    assert list(row["kinds"]) == ["easy", "medium", "hard"]
    assert row["queries"] == 3 + 3 + 2  # one query has no hard positives
    assert row["map"] == pytest.approx(sum(row["kinds"].values()) / 3, abs=1e-3)
    assert row["kinds"]["easy"] > 50
    assert row["precision_at"].keys() == {"1", "5", "10"}
    shown = cooc(
        "evaluate", folder, "--pooling", "gem", "--expansion", "alpha", COOC_CACHE_DIR=cache
    ).stdout
    for word in ("easy", "medium", "hard", "mP@10", "alpha 10"):
        assert word in shown


def test_printed_figures_stand_beside_ours(tmp_path: Path, cache: str) -> None:
    folder = revisited(tmp_path / "roxford")
    small = ("--max-side", 128, "--backbone", "squeezenet1_1")
    report = cooc_json("evaluate", folder, "--reproduce", "table1", *small, COOC_CACHE_DIR=cache)
    assert [row["label"] for row in report["results"]][:3] == ["ucrow", "crow", "ChCO-SC_T"]
    first = report["results"][0]
    assert first["theirs"] == {"easy": 60.53, "medium": 41.15, "hard": 11.98}
    assert first["ours"].keys() == {"easy", "medium", "hard"}
    assert first["method"]["projection"] == "fitted"
    fourth = cooc_json("evaluate", folder, "--reproduce", "table4", *small, COOC_CACHE_DIR=cache)
    skipped = [row["label"] for row in fourth["results"] if row["skipped"]]
    assert skipped == ["BP(AC_T)_learn + ms", "BP(AC_T)_learn + aQE + ms"]
    assert (first["layer"], first["max_side"], first["scales"]) == ("fire9", 128, [1.0])
    assert report["trained"] is False
    shown = cooc("evaluate", folder, "--reproduce", "table1", *small, COOC_CACHE_DIR=cache).stdout
    assert "untrained" in shown
    assert "ours" in shown
    assert "60.53" in shown
    assert "not printed" in shown  # what the paper leaves open


def test_rows_that_the_trunk_cannot_run_are_named_and_the_others_are_run(
    tmp_path: Path, cache: str
) -> None:
    folder = oxford(tmp_path / "Oxford")
    options = ("--reproduce", "dir", "--max-side", 64, "--scales", 1)
    report = cooc_json("evaluate", folder, *options, COOC_CACHE_DIR=cache)
    ran = {row["label"]: row["skipped"] for row in report["results"]}
    assert ran["R-MAC"] is None
    assert "has no layer 'layer3'" in ran["512 pixels, 2 maps"]
    rows = {row["label"]: row for row in report["results"]}
    assert rows["R-MAC"]["queries_cropped"]
    assert not rows["512 pixels, 1 map"]["queries_cropped"]
    assert rows["R-MAC, three resolutions, AQE 1, DBA 20"]["method"]["augmentation"] == 20


def test_a_table_is_reproduced_on_its_own_trunk_unless_another_is_chosen(
    tmp_path: Path, cache: str
) -> None:
    folder = oxford(tmp_path / "Oxford")
    options = ("--reproduce", "dir", "--backbone", "auto", "--layer", "conv9")
    report = cooc_json("evaluate", folder, *options, COOC_CACHE_DIR=cache)
    reasons = {row["skipped"] for row in report["results"]}
    assert len(reasons) == 1
    assert "resnet101 has no layer 'conv9'" in reasons.pop()


def test_all_that_was_done_is_in_the_table_and_in_json(tmp_path: Path, cache: str) -> None:
    folder = revisited(tmp_path / "roxford")
    run = ("evaluate", folder, "--pooling", "spoc", "--augmentation", 2, "--expansion", "alpha")
    report = cooc_json(*run, "--neighbours", 3, "--alpha", 2, COOC_CACHE_DIR=cache)
    plain, fitted = report["results"]
    assert (plain["augmentation"], plain["neighbours"], plain["alpha"]) == (2, 3, 2)
    assert "projection_power" not in plain
    assert (fitted["projection_power"], fitted["shrinkage"]) == (0.25, 0)
    shown = cooc(*run, COOC_CACHE_DIR=cache).stdout
    assert "augmentation" in shown
    assert "alpha 10" in shown


def test_thresholds_of_same_origin(tmp_path: Path, cache: str) -> None:
    folder = tmp_path / "frames"
    for group in range(4):
        (folder / f"video{group}").mkdir(parents=True)
        for frame in range(3):
            path = folder / f"video{group}" / f"{frame}.jpg"
            path.write_bytes(photo(group, (128 + frame, 96)))
    steps = ("--same-origin", "--thresholds", "0.5:1:0.1")
    report = cooc_json(
        "evaluate",
        folder,
        "--pooling",
        "spoc",
        "--projection",
        "none",
        *steps,
        COOC_CACHE_DIR=cache,
    )
    (row,) = report["results"]
    table = row["same_origin"]["thresholds"]
    assert [entry["threshold"] for entry in table] == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert table[0]["same_origin"] == 12  # 4 groups of 3 pairs
    assert table[0]["unrelated"] <= 54
    assert row["same_origin"]["best_f1"] == max(entry["f1"] for entry in table)
    shown = cooc(
        "evaluate",
        folder,
        "--pooling",
        "spoc",
        "--projection",
        "none",
        *steps,
        COOC_CACHE_DIR=cache,
    ).stdout
    assert "unrelated" in shown
    assert "best" in shown


def test_descriptors_are_kept_unless_they_shall_not(tmp_path: Path) -> None:
    folder = revisited(tmp_path / "roxford")
    own = str(tmp_path / "cache")
    kept = tmp_path / "cache" / "descriptors"
    once = cooc_json("evaluate", folder, "--pooling", "spoc", "--no-cache", COOC_CACHE_DIR=own)
    assert not kept.exists()
    first = cooc_json("evaluate", folder, "--pooling", "spoc", COOC_CACHE_DIR=own)
    assert len(list(kept.glob("*.sqlite"))) == 1
    again = cooc_json("evaluate", folder, "--pooling", "spoc", COOC_CACHE_DIR=own)
    assert first == again == once
    cooc_json(
        "evaluate", folder, "--pooling", "spoc", COOC_DESCRIPTOR_CACHE_GB="0", COOC_CACHE_DIR=own
    )
    assert not list(kept.glob("*.sqlite"))


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.marker}",))


def test_a_malicious_pickle_runs_nothing(tmp_path: Path, cache: str) -> None:
    folder = revisited(tmp_path / "roxford")
    marker = tmp_path / "it ran"
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(Malicious(marker)))
    answer = cooc("evaluate", folder, code=1, COOC_CACHE_DIR=cache)
    assert "gnd_roxford5k.pkl" in answer.stderr
    assert "system" in answer.stderr
    assert not marker.exists()


def test_what_is_wrong_with_a_data_set_is_said_in_one_line(tmp_path: Path, cache: str) -> None:
    folder = oxford(tmp_path / "Oxford")
    name = LANDMARKS[0]
    query = folder / "lab" / f"{name}_1_query.txt"
    right = query.read_text()
    query.write_text(f"oxc1_{name}_000000 188 50 60 146\n")
    answer = cooc("evaluate", folder, code=1, COOC_CACHE_DIR=cache).stderr
    assert f"{name}_1_query.txt" in answer
    assert "Traceback" not in answer
    query.write_text(f"oxc1_{name}_000000 1188 50 1260 146\n")
    answer = cooc("evaluate", folder, code=1, COOC_CACHE_DIR=cache).stderr
    assert f"{name}_000000.jpg (box 1188, 50, 1260, 146)" in answer
    query.write_text(right)
    (folder / "jpg" / f"{name}_000002.jpg").unlink()
    answer = cooc("evaluate", folder, code=1, COOC_CACHE_DIR=cache).stderr
    assert f"{name}_000002" in answer


def test_queries_without_positives_are_mentioned(tmp_path: Path, cache: str) -> None:
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    for seed in range(3):
        (folder / "images" / f"{seed}.jpg").write_bytes(photo(seed))
    queries: dict[str, Any] = {"0.jpg": {"pos": ["1.jpg"]}, "2.jpg": {"pos": []}}
    content = {"database": [f"{seed}.jpg" for seed in range(3)], "queries": queries}
    (folder / "gt.json").write_text(json.dumps(content))
    run = ("evaluate", folder, "--pooling", "mac", "--projection", "none")
    answer = cooc(*run, COOC_CACHE_DIR=cache)
    assert "1 queries have no positives and were left out, the first is '2.jpg'" in answer.stderr
    assert cooc_json(*run, COOC_CACHE_DIR=cache)["without_positives"] == ["2.jpg"]
    del queries["0.jpg"]
    (folder / "gt.json").write_text(json.dumps(content))
    assert "has a positive" in cooc(*run, code=1, COOC_CACHE_DIR=cache).stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--reproduce", "table9"), "'table9'; choose from table1"),
        (
            ("--reproduce", "dir", "--pooling", "gem", "--shrinkage", "0.1", "--neighbours", "3"),
            "--reproduce decides what is run; leave out --pooling, --shrinkage, --neighbours",
        ),
        (("--thresholds", "0.5:0.9:0.1"), "goes with --same-origin"),
        (("--thresholds", "0.9:0.5:0.1", "--same-origin"), "low must be at most high"),
        (("--projection", "psychic"), "'psychic'; choose from none, fitted, lw"),
        (("--projection", "lw"), "name it with --fit-on"),
        (("--expansion", "auto"), "evaluation knows none, average, alpha"),
        (("--thresholds", "0.5-0.9", "--same-origin"), "write low:high:step"),
        (("--shrinkage", "much"), "auto or in"),
        (("--shrinkage", "2"), "auto or in"),
        (("--report", "/nowhere/out.html"), "--report is /nowhere/out.html"),
        (("--correlation", "out.txt"), "--correlation is out.txt"),
        (("--pooling", "gem:p=0"), "p is 0"),
        (("--layer", "conv9"), "conv9"),
        (("--cooccurrence", "/nowhere.npy"), "no filter file"),
        (("--projection", "/nowhere.safetensors"), "no file of descriptor weights /nowhere"),
        (
            ("--cooccurrence", "/nowhere.npy", "--pooling", "cbp_ac:cooccurrence=learned"),
            "no filter file",
        ),
        (("--pooling", "cbp_ac:cooccurrence=learned"), "give one with --cooccurrence"),
    ],
)
def test_a_wrong_option_is_named_with_the_remedy(
    tmp_path: Path, cache: str, options: tuple[str, ...], message: str
) -> None:
    folder = revisited(tmp_path / "roxford")
    answer = cooc("evaluate", folder, *options, code=1, COOC_CACHE_DIR=cache)
    assert message in answer.stderr.replace("\n", " ")
    assert "Traceback" not in answer.stderr
