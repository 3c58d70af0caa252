from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import InvalidOption
from engine.evaluation.datasets import Dataset, Query
from engine.evaluation.protocols import Similarities
from engine.evaluation.same_origin import ThresholdRow, best_threshold, same_origin_table


def query(name: str, positives: str, junk: str = "", kind: str = "all") -> Query:
    return Query(name, frozenset(positives), frozenset(junk), kind)


def made(database: str, *queries: Query) -> Dataset:
    return Dataset("made", Path("nowhere"), tuple(database), queries)


def counts(rows: list[ThresholdRow]) -> list[tuple[float, int, int]]:
    return [(row.threshold, row.same_origin, row.unrelated) for row in rows]


def test_a_pair_of_two_queries_is_counted_once() -> None:
    # Groups ab and cd; every image is a query.
    dataset = made("abcd", query("a", "b"), query("b", "a"), query("c", "d"), query("d", "c"))
    similarities = np.array(
        [
            [1.0, 0.9, 0.3, 0.1],
            [0.9, 1.0, 0.6, 0.2],
            [0.3, 0.6, 1.0, 0.5],
            [0.1, 0.2, 0.5, 1.0],
        ]
    )
    rows = same_origin_table(dataset, similarities, low=0, high=1, step=0.25)
    # True pairs .9 and .5; unrelated .3, .1, .6 and .2.
    assert counts(rows) == [(0, 2, 4), (0.25, 2, 2), (0.5, 2, 1), (0.75, 1, 0), (1, 0, 0)]
    assert [row.precision for row in rows] == pytest.approx([2 / 6, 2 / 4, 2 / 3, 1, 1])
    assert [row.recall for row in rows] == pytest.approx([1, 1, 1, 0.5, 0])
    assert [row.f1 for row in rows] == pytest.approx([2 / 4, 4 / 6, 4 / 5, 2 / 3, 0])
    assert best_threshold(rows) == rows[2]


def test_the_query_itself_and_junk_are_left_out() -> None:
    dataset = made("abc", query("a", "ab", "c"), query("outside", "c"))
    similarities = np.array([[1.0, 0.2, 1.0], [0.4, 1.0, 0.6]])
    (row,) = same_origin_table(dataset, similarities, low=0.1, high=0.1, step=0.1)
    assert (row.same_origin, row.unrelated) == (2, 2)


def test_a_pair_that_is_junk_for_one_side_is_counted_from_the_other() -> None:
    dataset = made("abc", query("a", "c", "b"), query("b", "a"))
    similarities = np.array([[1.0, 0.9, 0.1], [0.5, 1.0, 0.2]])
    rows = same_origin_table(dataset, similarities, low=0.1, high=0.7, step=0.3)
    # a c true .1; b a true .5; b c unrelated .2
    assert counts(rows) == [(0.1, 2, 1), (0.4, 1, 0), (0.7, 0, 0)]


def test_only_the_medium_queries_of_a_revisited_data_set_are_taken() -> None:
    queries = [
        query("q", "a", "b", "easy"),
        query("q", "ab", "", "medium"),
        query("q", "b", "a", "hard"),
    ]
    dataset = Dataset("made", Path("nowhere"), ("a", "b", "c"), tuple(queries), "revisited")
    similarities = np.array([[0.9, 0.8, 0.7]] * 3)
    (row,) = same_origin_table(dataset, similarities, low=0.5, high=0.5, step=1)
    assert (row.same_origin, row.unrelated) == (2, 1)


@pytest.mark.parametrize("seed", range(20))
def test_random_pairs_are_counted_as_a_plain_loop_does(seed: int) -> None:
    random = np.random.default_rng(seed)
    names = [f"n{number}" for number in range(30)]
    # Some images are several queries, each with a box of its own; some are not in the database.
    asked = random.choice([*names, "out1", "out2"], 25).tolist()
    queries: list[Query] = []
    for number, name in enumerate(asked):
        chosen = random.permutation(names).tolist()
        box = (0.0, 0.0, 1.0 + number, 1.0)
        queries.append(Query(name, frozenset(chosen[:6]), frozenset(chosen[6:12]), "all", box))
    dataset = Dataset("made", Path("nowhere"), tuple(names), tuple(queries))
    similarities = random.random((25, 30)).round(2)
    rows = same_origin_table(dataset, similarities, low=0.1, high=0.9, step=0.05)

    def held(asking: Query, item: str) -> bool:
        return item != asking.name and item not in asking.junk

    true: list[float] = []
    false: list[float] = []
    for row, asking in enumerate(queries):
        for column, item in enumerate(names):
            other_side = any(
                other.name == item
                and asking.name in names
                and held(other, asking.name)
                and column < names.index(asking.name)
                for other in queries
            )
            if held(asking, item) and not other_side:
                scores = true if item in asking.positives else false
                scores.append(float(similarities[row, column]))
    assert len(rows) == 17
    for row_ in rows:
        found = sum(score >= row_.threshold for score in true)
        wrong = sum(score >= row_.threshold for score in false)
        assert (row_.same_origin, row_.unrelated) == (found, wrong)
        precision = found / (found + wrong) if found + wrong else 1.0
        recall = found / len(true)
        assert row_.precision == pytest.approx(precision)
        assert row_.recall == pytest.approx(recall)
        harmonic = 2 * precision * recall / (precision + recall) if found else 0.0
        assert row_.f1 == pytest.approx(harmonic)


def test_thresholds_are_exact_and_the_end_is_one_of_them() -> None:
    dataset = made("ab", query("a", "b"))
    rows = same_origin_table(dataset, np.array([[1.0, 0.5]]), low=0.5, high=0.9, step=0.01)
    assert [row.threshold for row in rows] == [hundredth / 100 for hundredth in range(50, 91)]
    rows = same_origin_table(dataset, np.array([[1.0, 0.5]]), low=0.5, high=0.8, step=0.2)
    assert [row.threshold for row in rows] == [0.5, 0.7]
    rows = same_origin_table(dataset, np.array([[1.0, 0.5]]), low=-0.1, high=0.2, step=0.1)
    assert [row.threshold for row in rows] == [-0.1, 0, 0.1, 0.2]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_score_of_exactly_the_threshold_is_over_it(kind: type[np.floating]) -> None:
    dataset = made("abc", query("q", "b"))
    similarities: Similarities = np.array([[0.7, 0.7, 0.6]], kind)
    rows = same_origin_table(dataset, similarities, low=0.6, high=0.8, step=0.1)
    assert counts(rows) == [(0.6, 1, 2), (0.7, 1, 1), (0.8, 0, 0)]


def test_of_equal_f1_the_higher_threshold_is_best() -> None:
    dataset = made("abc", query("q", "b"))
    similarities = np.array([[0.2, 0.9, 0.1]])
    rows = same_origin_table(dataset, similarities, low=0, high=1, step=0.1)
    assert best_threshold(rows).threshold == 0.9
    assert best_threshold(rows[::-1]).threshold == 0.9
    with pytest.raises(InvalidOption, match="no threshold"):
        best_threshold([])


@pytest.mark.parametrize(
    ("low", "high", "step", "message"),
    [
        (0.6, 0.5, 0.1, "from 0.6 to 0.5 by 0.1 are none"),
        (0.5, 0.6, 0, "from 0.5 to 0.6 by 0 are none"),
        (0.5, 0.6, -0.1, "by -0.1 are none"),
        (float("nan"), 0.6, 0.1, "from nan"),
        (0.5, float("inf"), 0.1, "to inf"),
        (0, 1, 1e-6, "step of 1e-06 gives 1,000,001 thresholds; at most 10,000"),
    ],
)
def test_thresholds_that_are_none_are_named(
    low: float, high: float, step: float, message: str
) -> None:
    dataset = made("ab", query("a", "b"))
    with pytest.raises(InvalidOption, match=message):
        same_origin_table(dataset, np.ones((1, 2)), low=low, high=high, step=step)


def test_a_matrix_of_another_shape_is_named() -> None:
    dataset = made("ab", query("a", "b"))
    with pytest.raises(ValueError, match=r"shape \(2, 2\) were given for 1 queries and 2 database"):
        same_origin_table(dataset, np.ones((2, 2)), low=0, high=1, step=0.5)


def test_a_data_set_without_a_true_pair_is_named() -> None:
    dataset = made("ab", query("a", "a"))
    with pytest.raises(InvalidOption, match="'made' has no two images of the same origin"):
        same_origin_table(dataset, np.ones((1, 2)), low=0, high=1, step=0.5)
