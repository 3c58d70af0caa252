from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import InvalidOption
from engine.evaluation.average_precision import (
    average_precision,
    precision_at,
    ranking_average_precision,
)
from engine.evaluation.datasets import Dataset, Query
from engine.evaluation.protocols import evaluate_ranking, evaluate_similarities
from engine.types import Vectors

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


# Precision at k


@pytest.mark.parametrize(
    ("ranks", "k", "expected"),
    [
        ([0], 1, 1.0),
        ([1], 1, 0.0),
        ([0, 2, 6], 5, 2 / 5),
        ([0, 2, 6], 10, 3 / 7),  # the last positive is the seventh
        ([0, 1], 10, 1.0),  # all there are, in front
        ([6, 0, 2], 10, 3 / 7),
        ([10], 10, 0.0),
        ([9], 10, 1 / 10),
        ([], 5, 0.0),
    ],
)
def test_precision_has_the_values_worked_by_hand(ranks: list[int], k: int, expected: float) -> None:
    assert precision_at(ranks, k) == pytest.approx(expected, abs=1e-12)


def test_precision_at_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        precision_at([1], 0)


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


@pytest.mark.parametrize(
    "query", [{"pos": []}, {"pos": ["c"]}, {"pos": ["a"], "junk": ["a"]}], ids=str
)
def test_a_data_set_in_which_nothing_can_be_found_is_named(query: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="no query of the data set 'made' has a positive"):
        evaluate_ranking(made(["a", "c"], c=query), *similarities([1, 0]))


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


def test_a_ranking_is_left_alone() -> None:
    ranking: NDArray[np.int64] = np.array([2, 0, 1])
    positive, ignored = np.array([True, False, False]), np.array([False, True, False])
    ranking_average_precision(ranking, positive, ignored)
    assert ranking.tolist() == [2, 0, 1]
    assert positive.tolist() == [True, False, False]
    assert ignored.tolist() == [False, True, False]


# Easy, medium and hard


def shown(ranked: list[str], ignored: Collection[str]) -> list[str]:
    return [name for name in ranked if name not in ignored]


def share_of_front(ranked: list[str], wanted: Collection[str], k: int) -> float:
    """mP@k from its definition, on a ranking without junk."""
    last = max(place for place, name in enumerate(ranked, start=1) if name in wanted)
    front = ranked[: min(last, k)]
    return sum(name in wanted for name in front) / len(front)


def revisited(database: list[str], easy: set[str], hard: set[str], junk: set[str]) -> Dataset:
    """The three queries of the image q, as the revisited protocol defines them."""
    queries = (
        Query("q", frozenset(easy), frozenset(junk | hard), "easy"),
        Query("q", frozenset(easy | hard), frozenset(junk), "medium"),
        Query("q", frozenset(hard), frozenset(junk | easy), "hard"),
    )
    return Dataset("revisited", Path("nowhere"), tuple(database), queries, "revisited")


def test_easy_medium_and_hard_have_the_values_worked_by_hand() -> None:
    # Ranked e1 x h1 j e2 y h2: easy e1 x e2, medium e1 x h1 e2 y h2, hard x h1 y h2.
    database = ["e1", "x", "h1", "j", "e2", "y", "h2"]
    dataset = revisited(database, {"e1", "e2"}, {"h1", "h2"}, {"j"})
    scores = evaluate_similarities(dataset, np.linspace(1, 0, 7)[None].repeat(3, axis=0))
    expected = {
        "easy": (1 + (1 / 2 + 2 / 3) / 2) / 2,
        "medium": (1 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2 + (3 / 5 + 4 / 6) / 2) / 4,
        "hard": ((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2,
    }
    assert scores.kinds == pytest.approx({k: 100 * v for k, v in expected.items()}, abs=1e-9)
    assert scores.map == pytest.approx(100 * sum(expected.values()) / 3, abs=1e-9)
    first = (1 + 1 + 0) / 3
    fifth = (2 / 3 + 3 / 5 + 2 / 4) / 3
    tenth = (2 / 3 + 4 / 6 + 2 / 4) / 3
    expected_at = {1: 100 * first, 5: 100 * fifth, 10: 100 * tenth}
    assert scores.precision_at == pytest.approx(expected_at, abs=1e-9)
    assert [result.positive_ranks.tolist() for result in scores.per_query] == [
        [0, 2],
        [0, 2, 3, 5],
        [1, 3],
    ]
    ranked = [[database[row] for row in result.ranking] for result in scores.per_query]
    assert ranked == [
        ["e1", "x", "e2", "y"],
        ["e1", "x", "h1", "e2", "y", "h2"],
        ["x", "h1", "y", "h2"],
    ]


def test_a_thousand_rankings_with_junk_score_as_their_definitions_say() -> None:
    random = np.random.default_rng(2)
    scored = 0
    for _ in range(1000):
        database = [f"n{number}" for number in range(int(random.integers(2, 80)))]
        labels = random.choice(["easy", "hard", "junk", "other"], len(database)).tolist()
        of = {
            label: {name for name, own in zip(database, labels, strict=True) if own == label}
            for label in ("easy", "hard", "junk")
        }
        if not of["easy"] | of["hard"]:
            continue
        # Rounded, so that many are equal: those keep the order of the database.
        values = random.random(len(database)).round(1)
        ranked = [database[row] for row in sorted(range(len(values)), key=lambda r: -values[r])]
        protocols = {
            "easy": (of["easy"], of["junk"] | of["hard"]),
            "medium": (of["easy"] | of["hard"], of["junk"]),
            "hard": (of["hard"], of["junk"] | of["easy"]),
        }
        scores = evaluate_similarities(
            revisited(database, of["easy"], of["hard"], of["junk"]), np.stack([values] * 3)
        )
        precision: dict[str, float] = {}
        front: dict[int, list[float]] = {1: [], 5: [], 10: []}
        for kind, (wanted, ignored) in protocols.items():
            if not wanted:
                continue
            rows = {name: row for row, name in enumerate(database)}
            precision[kind] = 100 * area(
                [rows[name] for name in ranked],
                {rows[name] for name in wanted},
                {rows[name] for name in ignored},
            )
            for k, values_at in front.items():
                values_at.append(100 * share_of_front(shown(ranked, ignored), wanted, k))
        assert scores.kinds == pytest.approx(precision, abs=1e-9)
        assert scores.map == pytest.approx(sum(precision.values()) / len(precision), abs=1e-9)
        means = {k: sum(values_at) / len(values_at) for k, values_at in front.items()}
        assert scores.precision_at == pytest.approx(means, abs=1e-9)
        scored += scores.queries
    assert scored > 2500


# What became of each query


def test_each_query_keeps_the_front_of_its_ranking_and_all_ranks_of_its_positives() -> None:
    random = np.random.default_rng(3)
    names = [f"n{number}" for number in range(300)]
    queries: dict[str, dict[str, Any]] = {}
    for name in names[:5]:
        chosen = random.permutation(names)[:120].tolist()
        queries[name] = {"pos": chosen[:7], "junk": chosen[7:]}
    queries["without"] = {"pos": []}
    queries["outside"] = {"pos": names[3:9]}
    values = random.standard_normal((7, 300))
    scores = evaluate_similarities(made(names, **queries), values)
    assert [result.query for result in scores.per_query] == [0, 1, 2, 3, 4, 6]
    for result in scores.per_query:
        name, entry = list(queries.items())[result.query]
        ordered = [names[row] for row in np.argsort(-values[result.query])]
        ranked = shown(ordered, {name, *entry.get("junk", ())})
        assert [names[row] for row in result.ranking] == ranked[:50]
        wanted = set(entry["pos"]) - {name}
        expected = [place for place, found in enumerate(ranked) if found in wanted]
        assert result.positive_ranks.tolist() == expected
        assert result.ranking.dtype == result.positive_ranks.dtype == np.int64


def test_a_query_that_keeps_itself_is_ranked_and_counted() -> None:
    query = Query("b", frozenset({"b", "c"}), frozenset(), "all", None, keeps_itself=True)
    dataset = Dataset("kept", Path("nowhere"), ("a", "b", "c"), (query,))
    scores = evaluate_similarities(dataset, np.array([[0.5, 1.0, 0.1]]))
    # Ranked b a c: 1 at rank 0, then (1/2 + 2/3) / 2 at rank 2.
    assert scores.map == pytest.approx(100 * (1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert scores.per_query[0].ranking.tolist() == [1, 0, 2]
    left_out = Query("b", frozenset({"b", "c"}), frozenset(), "all")
    dataset = Dataset("left out", Path("nowhere"), ("a", "b", "c"), (left_out,))
    scores = evaluate_similarities(dataset, np.array([[0.5, 1.0, 0.1]]))
    assert scores.map == pytest.approx(100 * (0 + 1 / 2) / 2)
    assert scores.per_query[0].ranking.tolist() == [0, 2]


def test_descriptors_score_as_their_similarities_do() -> None:
    random = np.random.default_rng(4)
    names = [f"n{number}" for number in range(90)]
    queries = {
        f"q{number}": {"pos": random.permutation(names)[:3].tolist(), "junk": names[:2]}
        for number in range(200)  # more than are compared at once
    }
    dataset = made(names, **queries)
    # Small whole numbers: sums of products are exact in any order, and many are equal.
    database = random.integers(-2, 3, (90, 8)).astype(np.float32)
    described = random.integers(-2, 3, (100, 8)).astype(np.float32)
    described = np.concatenate([described, described])  # each descriptor is that of two queries
    ours = evaluate_ranking(dataset, described, database)
    expected = evaluate_similarities(dataset, described @ database.T)
    assert ours.kinds == expected.kinds
    assert ours.precision_at == expected.precision_at
    for result, other in zip(ours.per_query, expected.per_query, strict=True):
        assert result.query == other.query
        assert np.array_equal(result.ranking, other.ranking)


def test_a_matrix_of_another_shape_is_named() -> None:
    dataset = made(["a", "b"], q={"pos": ["a"]})
    message = r"shape \(2, 1\) were given for 1 queries and 2 database"
    with pytest.raises(ValueError, match=message):
        evaluate_similarities(dataset, np.zeros((2, 1)))
    with pytest.raises(ValueError, match=message):
        evaluate_ranking(dataset, np.zeros((2, 4), np.float32), np.zeros((1, 4), np.float32))
