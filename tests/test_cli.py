"""The command line as people call it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.drawing import photo
from tests.server import SMALL, serving


def cooc(*arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("COOC_")}
    result = subprocess.run(
        [sys.executable, "-m", "app.cli", *map(str, arguments)],
        env={**inherited, **SMALL, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    return result


def cooc_json(*arguments: object, code: int = 0, **environment: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(cooc(*arguments, "--json", code=code, **environment).stdout)
    return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 photos in two folders, and two files that are no photos."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(60):
        path = folder / f"{'even' if seed % 2 == 0 else 'odd'}/{seed:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photo(seed))
    (folder / "broken.jpg").write_bytes(photo(0)[:400])
    (folder / "notes.txt").write_text("no photo")
    return folder


def test_add_build_search_and_verify(folder: Path, tmp_path: Path) -> None:
    data = ("--data-dir", tmp_path / "index")
    added = cooc_json("index", "add", folder, *data, code=1)
    counts = [added[name] for name in ("total", "added", "skipped", "failed")]
    assert counts == [61, 60, 0, 1]
    assert added["errors"][0]["name"] == "broken.jpg"
    again = cooc_json("index", "add", folder / "even", *data)
    assert (again["added"], again["skipped"]) == (0, 30)
    assert cooc_json("index", "build", *data)["generation"] == 1
    found = cooc_json("search", folder / "odd" / "07.jpg", "--limit", 3, *data)["results"]
    assert [found[0][k] for k in ("id", "match_type", "score")] == ["odd/07.jpg", "exact", 1.0]
    assert len(found) == 3
    stats = cooc_json("index", "stats", *data)
    assert (stats["count"], stats["generation"], stats["recipe"]["max_side"]) == (60, 1, 128)
    assert cooc_json("index", "reload", *data) == {"generation": 1, "count": 60}
    verified = cooc_json("index", "verify", *data)
    assert (verified["problems"], verified["ok"]) == ([], True)
    assert verified["checked"] == {"images": 60, "thumbnails": 60}
    assert "odd/07.jpg" in cooc("search", folder / "odd" / "07.jpg", *data).stdout


def test_verify_names_a_damaged_file_and_the_index_still_answers(
    folder: Path, tmp_path: Path
) -> None:
    data = ("--data-dir", tmp_path / "index")
    cooc_json("index", "add", folder / "even", folder / "odd", *data)
    cooc_json("index", "build", *data)
    vectors = tmp_path / "index" / "generations" / "1" / "vectors.faiss"
    content = bytearray(vectors.read_bytes())
    content[len(content) // 2] ^= 1
    vectors.write_bytes(content)
    report = cooc_json("index", "verify", *data, code=1)
    assert "vectors.faiss" in report["problems"][0]
    found = cooc_json("search", folder / "even" / "02.jpg", *data)["results"]
    assert found[0]["id"] == "02.jpg"
    assert cooc_json("index", "verify", *data)["ok"]


def test_commands_work_through_the_service_that_holds_the_folder(
    folder: Path, tmp_path: Path
) -> None:
    with serving(tmp_path / "index") as server:
        data = ("--data-dir", tmp_path / "index")
        assert cooc_json("index", "add", folder, *data, code=1)["added"] == 60
        assert cooc_json("index", "build", *data)["count"] == 60
        assert cooc_json("index", "reload", *data)["generation"] == 1
        found = cooc_json("search", folder / "odd" / "09.jpg", "--url", server.url)["results"]
        assert found[0]["id"] == "odd/09.jpg"
        assert cooc_json("index", "stats", "--url", server.url)["count"] == 60
        assert cooc_json("index", "verify", *data)["ok"], "files are read beside the service"


def test_options_of_a_search_are_the_same_with_and_without_a_service(
    folder: Path, tmp_path: Path
) -> None:
    data = ("--data-dir", tmp_path / "index")
    cooc_json("index", "add", folder / "even", *data)
    options = ("--expansion", "alpha", "--neighbours", 50, "--alpha", 0.5, "--augmentation", 7)
    query = folder / "odd" / "09.jpg"

    def hits(*arguments: object) -> list[tuple[str, float]]:
        return [(r["id"], r["score"]) for r in cooc_json("search", query, *arguments)["results"]]

    alone, plain = hits(*options, *data), hits(*data)
    assert len(alone) == 10
    assert alone != plain
    with serving(tmp_path / "index"):
        through = hits(*options, *data)
    assert [name for name, _ in through] == [name for name, _ in alone]
    np.testing.assert_allclose([s for _, s in through], [s for _, s in alone], atol=1e-4)
    for option, value in (("--neighbours", 51), ("--alpha", 11), ("--augmentation", -1)):
        assert option in cooc("search", query, option, value, *data, code=2).stderr


def test_describe_writes_one_row_per_image(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "descriptors.npy"
    report = cooc_json("describe", folder / "even", "--out", out, "--pooling", "spoc")
    vectors = np.load(out)
    assert vectors.shape == (30, 512)
    assert report["files"][0].endswith("00.jpg")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    report = cooc_json("describe", folder, "--out", out, "--pooling", "spoc", code=1)
    assert np.load(out).shape == (60, 512)
    assert [Path(f["file"]).name for f in report["failures"]] == ["broken.jpg"]


def test_a_table_shows_names_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "my [red] set"
    (folder / "images").mkdir(parents=True)
    names = ["a.jpg", "b.jpg"]
    for seed, name in enumerate(names):
        (folder / "images" / name).write_bytes(photo(seed))
    queries = {
        "a.jpg": {"pos": ["b.jpg"], "kind": "[/x]"},
        "b.jpg": {"pos": ["a.jpg"], "kind": "[bold]"},
    }
    (folder / "gt.json").write_text(json.dumps({"database": names, "queries": queries}))
    run = ("evaluate", folder, "--pooling", "mac", "--projection", "none", "--no-cache")
    shown = cooc(*run).stdout
    assert "my [red] set" in shown
    assert "[/x]" in shown
    assert "[bold]" in shown


def test_evaluate_prints_map_per_pooling_and_projection(folder: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "set"
    (dataset / "images").mkdir(parents=True)
    names = []
    for seed in range(60):
        names.append(f"{seed:02d}.jpg")
        (dataset / "images" / names[-1]).write_bytes(photo(seed // 2, (160, 120 + seed % 2)))
    queries = {
        names[seed]: {"pos": [names[seed ^ 1]], "junk": [], "kind": "pair"} for seed in range(60)
    }
    (dataset / "gt.json").write_text(json.dumps({"database": names, "queries": queries}))
    report = cooc_json("evaluate", dataset, "--pooling", "spoc", "--pooling", "cbp_ac")
    rows = [(r["pooling"], r["projection"], r["dim"], r["queries"]) for r in report["results"]]
    assert rows == [
        ("spoc", "none", 512, 60),
        ("spoc", "fitted", 36, 60),
        ("cbp_ac", "none", 8192, 60),
        ("cbp_ac", "fitted", 36, 60),
    ]
    assert all(r["map"] == r["kinds"]["pair"] > 80 for r in report["results"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "/no/such.jpg"), "cannot read /no/such.jpg"),
        (("index", "add", "/no/such"), "no file or folder /no/such"),
        (("index", "build"), "add images before building"),
        (("index", "reload"), "build the index first"),
        (("evaluate", Path(__file__).parent), "gt.json"),
        (("serve", "--port", "99999"), "port"),
        (("serve", "--weights", "/no/such.pth"), "/no/such.pth"),
        (("search", __file__), "not an image"),
        (("index", "stats", "--url", "http://127.0.0.1:9"), "start one with"),
    ],
)
def test_mistakes_get_one_line_that_helps(
    arguments: tuple[object, ...], words: str, tmp_path: Path
) -> None:
    result = cooc(*arguments, code=1, COOC_DATA_DIR=str(tmp_path / "index"))
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_misspelt_setting_is_named() -> None:
    result = cooc("index", "stats", code=1, COOC_MAX_SIDES="3")
    assert "COOC_MAX_SIDES is no setting" in result.stderr


def test_a_taken_port_is_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    with serving(tmp_path / "index") as server:
        result = cooc("serve", "--port", server.port, "--data-dir", tmp_path / "other", code=1)
        assert "choose another --port" in result.stderr
        result = cooc("serve", "--port", 0, "--data-dir", tmp_path / "index", code=1)
        assert "in use by process" in result.stderr


@pytest.mark.parametrize("bench", ["cooccurrence", "bilinear"])
def test_benchmarks_agree_with_what_they_are_compared_with(bench: str) -> None:
    report = cooc_json("bench", bench)
    assert report["speedup"] > 1
    assert report["max_relative_error"] <= 1e-5
