from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.backbones.weights import load_weights
from engine.describer import Describer, DescriberOptions
from engine.errors import InvalidOption
from engine.evaluation.average_precision import average_precision, ranking_average_precision
from engine.evaluation.datasets import Dataset, Query, load_dataset
from engine.evaluation.protocols import evaluate_ranking
from engine.evaluation.run import evaluate_poolings
from engine.images import Box
from engine.types import Vectors
from tests.drawing import encode, scene, view

# Average precision


@pytest.mark.parametrize(
    ("ranks", "positives", "expected"),
    [
        ([0], 1, 1.0),
        ([0, 1, 2], 3, 1.0),
        ([], 3, 0.0),
        # (1 + 1) / 2 at rank 0, then (1/2 + 2/3) / 2 at rank 2
        ([0, 2], 2, (1 + (1 / 2 + 2 / 3) / 2) / 2),
        ([0, 2], 2, 0.7916667),
        # (0 + 1/2) / 2, (1/3 + 2/4) / 2, (2/6 + 3/7) / 2, and one that was not found
        ([1, 3, 6], 4, (1 / 4 + 5 / 12 + 8 / 21) / 4),
        ([1, 3, 6], 4, 0.2619048),
        ([2], 1, 0.1666667),
        ([1], 1, 0.25),
        ([0], 2, 0.5),
    ],
)
def test_average_precision_has_the_values_worked_by_hand(
    ranks: list[int], positives: int, expected: float
) -> None:
    assert average_precision(ranks, positives) == pytest.approx(expected, abs=5e-8)


@pytest.mark.parametrize(
    ("ranks", "positives", "message"),
    [
        ([], 0, "0 ranks were given for 0 positives"),
        ([0], -1, "for -1 positives"),
        ([0, 1, 2], 2, "3 ranks were given for 2 positives"),
        ([2, 1], 2, r"ascend strictly: \[2, 1\]"),
        ([1, 1], 2, r"ascend strictly: \[1, 1\]"),
    ],
)
def test_arguments_that_contradict_each_other_are_named(
    ranks: list[int], positives: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        average_precision(ranks, positives)


def area(ranking: list[int], positive: set[int], ignored: set[int]) -> float:
    """A walk down the ranked list that sums trapezoids, as in the published `compute_ap.cpp`."""
    wanted = positive - ignored
    old_recall, old_precision, area = 0.0, 1.0, 0.0
    found = seen = 0
    for entry in ranking:
        if entry in ignored:
            continue
        found += entry in wanted
        seen += 1
        recall, precision = found / len(wanted), found / seen
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def test_a_thousand_rankings_score_as_the_published_tool_does() -> None:
    random = np.random.default_rng(0)
    for _ in range(1000):
        count = int(random.integers(1, 60))
        ranking = random.permutation(count)
        positive = random.random(count) < random.random()
        ignored = random.random(count) < random.random() / 2
        positive[ranking[0]], ignored[ranking[0]] = True, False
        random.shuffle(ranking)
        expected = area(
            ranking.tolist(),
            set(np.flatnonzero(positive).tolist()),
            set(np.flatnonzero(ignored).tolist()),
        )
        ours = ranking_average_precision(ranking, positive, ignored)
        assert ours == pytest.approx(expected, abs=1e-9)
        assert 0 <= ours <= 1


def test_a_partial_ranking_counts_what_it_does_not_hold() -> None:
    positive = np.array([True, False, True, False])
    nothing = np.zeros(4, bool)
    half = ranking_average_precision(np.array([0, 1]), positive, nothing)
    assert half == pytest.approx(0.5)


# Protocol


def made(database: list[str], **queries: dict[str, Any]) -> Dataset:
    made_queries = tuple(
        Query(
            name,
            frozenset(entry["pos"]),
            frozenset(entry.get("junk", ())),
            entry.get("kind", "all"),
            None,
        )
        for name, entry in queries.items()
    )
    return Dataset("made", Path("nowhere"), tuple(database), made_queries)


def similarities(*rows: list[float]) -> tuple[Vectors, Vectors]:
    """Queries and database whose inner products are these; one row per query."""
    values = np.array(rows, np.float32)
    return values, np.eye(values.shape[1], dtype=np.float32)


def test_the_query_itself_and_junk_are_left_out() -> None:
    dataset = made(["a", "b", "c", "d", "e"], a={"pos": ["b", "d"], "junk": ["c"]})
    # Ranked a, c, e, b, d: without the query and its junk e, b, d.
    scores = evaluate_ranking(dataset, *similarities([0.9, 0.2, 0.8, 0.1, 0.7]))
    expected = 100 * ((0 + 1 / 2) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    assert scores.map == pytest.approx(expected)
    assert scores.queries == 1


def test_what_is_positive_and_junk_is_junk_and_a_query_is_not_its_own_positive() -> None:
    dataset = made(["a", "b", "c"], a={"pos": ["a", "b", "c"], "junk": ["b"]})
    scores = evaluate_ranking(dataset, *similarities([0.9, 0.5, 0.1]))
    assert scores.map == pytest.approx(100)


def test_a_query_from_outside_leaves_the_database_whole() -> None:
    dataset = made(["a", "b", "c"], q={"pos": ["b"]})
    scores = evaluate_ranking(dataset, *similarities([0.9, 0.5, 0.1]))
    assert scores.map == pytest.approx(25)  # rank 1: (0 + 1/2) / 2


def test_kinds_are_averaged_however_many_queries_they_have() -> None:
    dataset = made(
        ["a", "b", "c"],
        q1={"pos": ["a"], "kind": "easy"},
        q2={"pos": ["a"], "kind": "easy"},
        q3={"pos": ["a"], "kind": "easy"},
        q4={"pos": ["b"], "kind": "hard"},
    )
    ranked = [0.9, 0.5, 0.1]
    scores = evaluate_ranking(dataset, *similarities(ranked, ranked, ranked, ranked))
    assert scores.kinds == {"easy": pytest.approx(100), "hard": pytest.approx(25)}
    assert scores.map == pytest.approx(62.5)
    assert scores.queries == 4


def test_a_query_without_positives_is_not_counted() -> None:
    dataset = made(["a", "b"], a={"pos": ["a"]}, b={"pos": ["a"]}, c={"pos": []})
    scores = evaluate_ranking(dataset, *similarities([1, 0], [1, 0], [1, 0]))
    assert scores.queries == 1
    assert scores.map == pytest.approx(100)
    nothing = evaluate_ranking(made(["a"], c={"pos": []}), *similarities([1]))
    assert (nothing.map, nothing.kinds, nothing.queries) == (0.0, {}, 0)


def test_equal_scores_keep_the_order_of_the_database() -> None:
    dataset = made(["a", "b", "c", "d"], q={"pos": ["c"]})
    scores = evaluate_ranking(dataset, *similarities([0.5, 0.5, 0.5, 0.5]))
    assert scores.map == pytest.approx(100 * (0 + 1 / 3) / 2)


def test_random_descriptors_score_as_a_plain_loop_does() -> None:
    random = np.random.default_rng(1)
    names = [f"n{number}" for number in range(30)]
    queries: dict[str, dict[str, Any]] = {}
    for name in names[:12]:
        chosen = random.permutation(names)[:8].tolist()
        queries[name] = {"pos": chosen[:5], "junk": chosen[5:], "kind": str(random.integers(3))}
    dataset = made(names, **queries)
    database = random.standard_normal((30, 6)).astype(np.float32)
    scores = evaluate_ranking(dataset, database[:12], database)
    by_kind: dict[str, list[float]] = {}
    for row, (name, entry) in enumerate(queries.items()):
        products = [float((database[row] * other).sum()) for other in database]
        ranking = sorted(range(30), key=lambda number: -products[number])
        ignored = {names.index(junk) for junk in entry["junk"]} | {names.index(name)}
        positive = {names.index(found) for found in entry["pos"]}
        by_kind.setdefault(entry["kind"], []).append(100 * area(ranking, positive, ignored))
    expected = {kind: sum(values) / len(values) for kind, values in by_kind.items()}
    assert scores.kinds == pytest.approx(expected)
    assert scores.map == pytest.approx(sum(expected.values()) / len(expected))


# Data sets


def write(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "gt.json").write_text(json.dumps(content))
    return folder


def test_a_data_set_is_read_as_it_is_written(tmp_path: Path) -> None:
    content = {
        "database": ["a.jpg", "b.jpg", "c.jpg"],
        "queries": {
            "a.jpg": {"pos": ["b.jpg"], "junk": ["c.jpg"], "kind": "product"},
            "q.jpg": {"pos": ["a.jpg"], "bbox": [1, 2.5, 30, 40]},
        },
    }
    dataset = load_dataset(write(tmp_path / "shop", content))
    assert dataset.name == "shop"
    assert dataset.database == ("a.jpg", "b.jpg", "c.jpg")
    assert dataset.path("a.jpg") == tmp_path / "shop" / "images" / "a.jpg"
    first, second = dataset.queries
    assert first == Query("a.jpg", frozenset({"b.jpg"}), frozenset({"c.jpg"}), "product", None)
    assert second == Query("q.jpg", frozenset({"a.jpg"}), frozenset(), "all", (1, 2.5, 30, 40))


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"database": ["a"]},
        {"database": 3, "queries": {}},
        {"database": [["a"]], "queries": {}},
        {"database": ["a"], "queries": ["a"]},
        {"database": ["a"], "queries": {"q": {}}},
        {"database": ["a"], "queries": {"q": ["a"]}},
        {"database": ["a"], "queries": {"q": {"pos": 1}}},
        {"database": ["a"], "queries": {"q": {"pos": ["a"], "bbox": [1, 2, 3]}}},
        {"database": ["a"], "queries": {"q": {"pos": ["a"], "bbox": [1, 2, 3, "wide"]}}},
    ],
    ids=str,
)
def test_a_data_set_of_another_form_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(InvalidOption, match=r"gt\.json is not of the folder format"):
        load_dataset(write(tmp_path, content))


def test_a_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(InvalidOption, match="not of the folder format"):
        load_dataset(tmp_path)


def test_a_folder_without_ground_truth_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=f"{tmp_path} is no data set: it has no gt.json"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("role", ["pos", "junk"])
def test_a_name_that_is_not_in_the_database_is_named(tmp_path: Path, role: str) -> None:
    query = {"pos": ["a"], "junk": [], role: ["a", "ghost"]}
    with pytest.raises(InvalidOption, match="query 'q' names 'ghost', which is not in"):
        load_dataset(write(tmp_path, {"database": ["a"], "queries": {"q": query}}))


# From files to scores


class FromFile:
    def __init__(self, path: Path, box: Box | None) -> None:
        self.path = path
        self.box = box

    def read(self) -> bytes:
        return self.path.read_bytes()


def evaluate(
    dataset: Dataset, describer: Describer, poolings: list[str], projections: list[str]
) -> tuple[dict[tuple[str, str], dict[str, Any]], list[tuple[int, int]]]:
    """Rows by pooling and projection, and what progress was reported."""
    reported: list[tuple[int, int]] = []
    rows = evaluate_poolings(
        dataset,
        describer,
        poolings=poolings,
        projections=projections,
        source=lambda name, box: FromFile(dataset.path(name), box),
        progress=lambda done, total: reported.append((done, total)),
    )
    return {(row["pooling"], row["projection"]): row for row in rows}, reported


def scenes(folder: Path) -> Path:
    """Five scenes and a cropped view of each; views are the queries, one inside a larger page."""
    (folder / "images").mkdir(parents=True)
    queries: dict[str, dict[str, Any]] = {}
    for seed in range(5):
        drawn = scene(seed, (128, 96))
        (folder / "images" / f"{seed}.png").write_bytes(encode(drawn, "png"))
        (folder / "images" / f"view{seed}.jpg").write_bytes(view(drawn, keep=0.9, quality=90))
        queries[f"view{seed}.jpg"] = {"pos": [f"{seed}.png"], "kind": f"kind {seed % 2}"}
    page = scene(77, (300, 200))
    page.paste(scene(0, (128, 96)), (60, 50))
    (folder / "images" / "page.png").write_bytes(encode(page, "png"))
    queries["page.png"] = {"pos": ["0.png"], "kind": "box", "bbox": [60, 50, 188, 146]}
    return write(folder, {"database": [f"{seed}.png" for seed in range(5)], "queries": queries})


def test_views_of_drawn_scenes_find_their_scene(tmp_path: Path, describer: Describer) -> None:
    dataset = load_dataset(scenes(tmp_path / "scenes"))
    rows, reported = evaluate(dataset, describer, ["gem", "cbp_ac"], ["none", "fitted"])
    assert list(rows) == [
        ("gem", "none"),
        ("gem", "fitted"),
        ("cbp_ac", "none"),
        ("cbp_ac", "fitted"),
    ]
    raw = rows["cbp_ac", "none"]
    assert raw["dim"] == 8192
    assert raw["queries"] == 6
    assert raw["kinds"].keys() == {"kind 0", "kind 1", "box"}
    assert raw["kinds"]["box"] == 100
    assert raw["map"] > 60
    assert raw["map"] == pytest.approx(np.mean(list(raw["kinds"].values())), abs=1e-3)
    assert rows["cbp_ac", "fitted"]["dim"] <= 4  # of five images
    assert reported[-1] == (11, 11)
    json.dumps(list(rows.values()))


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, describer: Describer) -> None:
    dataset = load_dataset(scenes(tmp_path / "scenes"))
    dataset.path("3.png").write_bytes(b"no image")
    with pytest.raises(InvalidOption, match=r"images/3\.png: not an image"):
        evaluate(dataset, describer, ["gem"], ["none"])
    dataset.path("3.png").unlink()
    with pytest.raises(InvalidOption, match=r"images/3\.png: cannot read the file"):
        evaluate(dataset, describer, ["gem"], ["none"])


@pytest.mark.slow
def test_grocery_photos_score_as_published(shared_data: Path) -> None:
    weights = shared_data / "squeezenet1_1" / "squeezenet1_1-imagenet-features.safetensors"
    describer = Describer(
        DescriberOptions(backbone="squeezenet1_1", precision="float32"),
        load_weights("squeezenet1_1", str(weights)),
    )
    dataset = load_dataset(shared_data / "grocery")
    rows, _ = evaluate(dataset, describer, ["spoc", "cbp_ac"], ["none", "fitted"])
    assert all(row["queries"] == 186 for row in rows.values())
    assert rows["spoc", "none"]["map"] == pytest.approx(36.2, abs=1)
    assert rows["cbp_ac", "none"]["map"] >= 45.5
    assert rows["cbp_ac", "fitted"]["map"] >= 44


def test_a_ranking_is_left_alone() -> None:
    ranking: NDArray[np.int64] = np.array([2, 0, 1])
    positive, ignored = np.array([True, False, False]), np.array([False, True, False])
    ranking_average_precision(ranking, positive, ignored)
    assert ranking.tolist() == [2, 0, 1]
    assert positive.tolist() == [True, False, False]
    assert ignored.tolist() == [False, True, False]
