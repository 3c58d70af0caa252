from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from engine.background import MIN_IMAGES, NEAR, SAMPLE, Background, match_type
from engine.expansion import (
    NEIGHBOURS,
    SAFE_NEIGHBOURS,
    alpha_query_expansion,
    average_query_expansion,
    expand,
    expand_queries,
)
from engine.types import Expansion, MatchType, Vectors
from tests import augmentation_loops
from tests.stored import unit_vectors

DIM = 12
UNRELATED = Background(mean=0.0, related=0.4, high=0.5)
"""Neighbours of a cosine from 0.4 count as certain."""


def at_cosine(query: Vectors, cosine: float, seed: int = 0) -> Vectors:
    """A unit vector at this cosine to `query`, in a random direction otherwise."""
    other = unit_vectors(1, len(query), seed)[0].astype(np.float64)
    other -= (other @ query) * query
    other /= np.linalg.norm(other)
    made: Vectors = (cosine * query + math.sqrt(1 - cosine**2) * other).astype(np.float32)
    return made


def around(query: Vectors, *cosines: float) -> Vectors:
    return np.stack([at_cosine(query, cosine, seed) for seed, cosine in enumerate(cosines, 100)])


def as_loops(query: Vectors, neighbours: Vectors, alpha: float | None) -> list[float]:
    """q + sum over i of w_i d_i, scaled to length 1; w_i is 1, or max(q . d_i, 0)^alpha."""
    total = [float(value) for value in query]
    for neighbour in neighbours:
        cosine = sum(float(a) * float(b) for a, b in zip(query, neighbour, strict=True))
        weight = 1.0 if alpha is None else max(cosine, 0.0) ** alpha
        for position, value in enumerate(neighbour):
            total[position] += weight * float(value)
    length = math.sqrt(sum(value * value for value in total))
    return [value / length for value in total]


# --- formulas ---------------------------------------------------------------------------------


def test_average_expansion_is_its_formula() -> None:
    query, neighbours = unit_vectors(1, DIM)[0], unit_vectors(7, DIM, seed=1)
    ours = average_query_expansion(query, neighbours)
    np.testing.assert_allclose(ours, as_loops(query, neighbours, None), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0, 7.0])
def test_alpha_expansion_is_its_formula(alpha: float) -> None:
    query, neighbours = unit_vectors(1, DIM)[0], unit_vectors(9, DIM, seed=1)
    assert (neighbours @ query < 0).any()
    ours = alpha_query_expansion(query, neighbours, alpha)
    np.testing.assert_allclose(ours, as_loops(query, neighbours, alpha), atol=1e-6)


def test_alpha_expansion_by_hand() -> None:
    query = np.array([1, 0], np.float32)
    neighbour = np.array([[0.6, 0.8]], np.float32)
    expected = np.array([1 + 0.216 * 0.6, 0.216 * 0.8])
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(alpha_query_expansion(query, neighbour), expected, atol=1e-6)


def test_negative_similarities_weigh_nothing() -> None:
    query = unit_vectors(1, DIM)[0]
    opposite = around(query, -0.1, -0.5, -0.99)
    np.testing.assert_allclose(alpha_query_expansion(query, opposite), query, atol=1e-6)
    friends = around(query, 0.9, 0.7)
    together = alpha_query_expansion(query, np.concatenate([friends, opposite]))
    np.testing.assert_allclose(together, alpha_query_expansion(query, friends), atol=1e-6)


def test_expanded_queries_have_length_one() -> None:
    query, neighbours = unit_vectors(1, DIM)[0], unit_vectors(5, DIM, seed=3)
    for expanded in (
        average_query_expansion(query, neighbours),
        alpha_query_expansion(query, neighbours),
    ):
        assert expanded.dtype == np.float32
        assert np.linalg.norm(expanded) == pytest.approx(1.0, abs=1e-6)


def test_a_query_that_cancels_out_stays_finite() -> None:
    query = unit_vectors(1, DIM)[0]
    assert np.isfinite(average_query_expansion(query, -query[None])).all()
    blank = np.zeros(DIM, np.float32)
    assert np.isfinite(alpha_query_expansion(blank, unit_vectors(2, DIM))).all()


def test_negative_similarities_weigh_nothing_even_with_alpha_0() -> None:
    query = unit_vectors(1, DIM)[0]
    friends, opposite = around(query, 0.9, 0.2), around(query, -0.1, -0.9)
    ours = alpha_query_expansion(query, np.concatenate([friends, opposite]), 0.0)
    np.testing.assert_allclose(ours, average_query_expansion(query, friends), atol=1e-6)


# --- published forms --------------------------------------------------------------------------


@pytest.mark.parametrize("neighbours", [1, 5, 39, 40, 100])
@pytest.mark.parametrize("alpha", [None, 0.0, 1.0, 3.0])
def test_queries_are_expanded_with_their_nearest_certain_or_not(
    neighbours: int, alpha: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.nearest.BLOCK_VALUES", 100)
    queries, database = unit_vectors(7, DIM), unit_vectors(40, DIM, seed=1)
    ours = (
        expand_queries(queries, database, method=Expansion.AVERAGE, neighbours=neighbours)
        if alpha is None
        else expand_queries(
            queries, database, method=Expansion.ALPHA, neighbours=neighbours, alpha=alpha
        )
    )
    expected = [
        augmentation_loops.expanded(query, database, neighbours, alpha, set()) for query in queries
    ]
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    np.testing.assert_array_equal(queries, unit_vectors(7, DIM))
    assert ours.dtype == np.float32


def test_a_query_in_the_database_joins_itself_unless_left_out() -> None:
    database = unit_vectors(20, DIM)
    queries = database[[3, 8]]
    for exclude in (None, [[3], [8, 1]], [[], list(range(20))]):
        ours = expand_queries(
            queries, database, method=Expansion.AVERAGE, neighbours=4, exclude=exclude
        )
        for number in range(2):
            without = set(exclude[number]) if exclude else set()
            expected = augmentation_loops.expanded(queries[number], database, 4, None, without)
            np.testing.assert_allclose(ours[number], expected, atol=1e-6)
    alone = expand_queries(queries, database, method=Expansion.AVERAGE, neighbours=1)
    np.testing.assert_allclose(alone, queries, atol=1e-6)


def test_the_first_of_equally_near_ones_join() -> None:
    query = np.eye(5, dtype=np.float32)[:1]
    database = np.eye(5, dtype=np.float32)[[1, 2, 0, 3, 4]]
    ours = expand_queries(query, database, method=Expansion.AVERAGE, neighbours=3)
    np.testing.assert_allclose(ours, np.array([[2, 1, 1, 0, 0]]) / np.sqrt(6), atol=1e-6)


def test_vectors_that_are_not_unit_join_as_they_are() -> None:
    """After augmentation some are shorter, and so they are ranked and added."""
    queries, database = unit_vectors(3, DIM), unit_vectors(30, DIM, seed=1)
    database = database * np.linspace(0.3, 1, 30, dtype=np.float32)[:, None]
    ours = expand_queries(queries, database, method=Expansion.ALPHA, neighbours=6)
    expected = [augmentation_loops.expanded(query, database, 6, 3.0, set()) for query in queries]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_without_a_method_or_a_database_queries_stay_as_they_are() -> None:
    queries = unit_vectors(4, DIM)
    none = expand_queries(queries, unit_vectors(9, DIM), method=Expansion.NONE)
    np.testing.assert_array_equal(none, queries)
    empty = np.empty((0, DIM), np.float32)
    for method in (Expansion.AVERAGE, Expansion.ALPHA):
        np.testing.assert_allclose(expand_queries(queries, empty, method=method), queries)
        assert expand_queries(empty, queries, method=method).shape == (0, DIM)


def test_the_guarded_method_is_not_a_published_one() -> None:
    with pytest.raises(ValueError, match="method is 'auto'"):
        expand_queries(unit_vectors(1, DIM), unit_vectors(2, DIM), method=Expansion.AUTO)


# --- choice of neighbours ---------------------------------------------------------------------


@pytest.mark.parametrize("method", list(Expansion))
def test_nothing_is_expanded_without_a_background(method: Expansion) -> None:
    query = unit_vectors(1, DIM)[0]
    expanded, joined = expand(query, around(query, 0.99, 0.98, 0.97, 0.96), method, None)
    assert joined == 0
    np.testing.assert_array_equal(expanded, query)


@pytest.mark.parametrize("method", list(Expansion))
def test_nothing_is_expanded_without_neighbours(method: Expansion) -> None:
    query = unit_vectors(1, DIM)[0]
    expanded, joined = expand(query, np.empty((0, DIM), np.float32), method, UNRELATED)
    assert joined == 0
    np.testing.assert_array_equal(expanded, query)


def test_the_method_none_expands_nothing() -> None:
    query = unit_vectors(1, DIM)[0]
    neighbours = around(query, 0.99, 0.98, 0.97, 0.96)
    assert expand(query, neighbours, Expansion.NONE, UNRELATED)[1] == 0


@pytest.mark.parametrize("method", [Expansion.AVERAGE, Expansion.ALPHA])
def test_only_neighbours_above_the_bound_join(method: Expansion) -> None:
    query = unit_vectors(1, DIM)[0]
    neighbours = around(query, 0.9, 0.5, 0.41, 0.39, 0.1, -0.3)
    expanded, joined = expand(query, neighbours, method, UNRELATED)
    assert joined == 3
    alpha = None if method is Expansion.AVERAGE else 3.0
    np.testing.assert_allclose(expanded, as_loops(query, neighbours[:3], alpha), atol=1e-6)
    unrelated = around(query, 0.39, 0.3)
    alone, joined = expand(query, unrelated, method, UNRELATED)
    assert joined == 0
    np.testing.assert_array_equal(alone, query)


def test_no_more_than_the_first_neighbours_join() -> None:
    query = unit_vectors(1, DIM)[0]
    neighbours = around(query, *[0.95] * (NEIGHBOURS + 5))
    expanded, joined = expand(query, neighbours, Expansion.AVERAGE, UNRELATED)
    assert joined == NEIGHBOURS
    np.testing.assert_allclose(expanded, as_loops(query, neighbours[:NEIGHBOURS], None), atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 12, 50])
@pytest.mark.parametrize("method", [Expansion.AVERAGE, Expansion.ALPHA, Expansion.AUTO])
def test_how_many_may_join_can_be_chosen(method: Expansion, count: int) -> None:
    query = unit_vectors(1, DIM)[0]
    neighbours = around(query, *[0.97] * 20)
    expanded, joined = expand(query, neighbours, method, UNRELATED, count=count)
    if method is Expansion.AUTO and count < SAFE_NEIGHBOURS:
        assert joined == 0
        return
    assert joined == min(count, 20)
    alpha = None if method is Expansion.AVERAGE else 3.0
    np.testing.assert_allclose(expanded, as_loops(query, neighbours[:count], alpha), atol=1e-6)


@pytest.mark.parametrize("method", [Expansion.ALPHA, Expansion.AUTO])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 8.5])
def test_the_exponent_can_be_chosen(method: Expansion, alpha: float) -> None:
    query = unit_vectors(1, DIM)[0]
    neighbours = around(query, 0.97, 0.96, 0.95, 0.94)
    expanded, joined = expand(query, neighbours, method, UNRELATED, alpha=alpha)
    assert joined == 4
    np.testing.assert_allclose(expanded, as_loops(query, neighbours, alpha), atol=1e-6)


@pytest.mark.parametrize("method", [Expansion.AVERAGE, Expansion.ALPHA])
def test_augmented_vectors_join_where_the_stored_ones_are_certain(method: Expansion) -> None:
    query = unit_vectors(1, DIM)[0]
    stored, augmented = around(query, 0.9, 0.3, 0.6, 0.39), around(query, 0.5, 0.9, 0.1, 0.8)
    expanded, joined = expand(query, stored, method, UNRELATED, augmented=augmented)
    assert joined == 2
    alpha = None if method is Expansion.AVERAGE else 3.0
    np.testing.assert_allclose(expanded, as_loops(query, augmented[[0, 2]], alpha), atol=1e-6)


@pytest.mark.parametrize("count", range(6))
def test_auto_expands_only_with_three_certain_neighbours(count: int) -> None:
    query = unit_vectors(1, DIM)[0]
    neighbours = around(query, *[0.95] * count, 0.3, 0.2)
    expanded, joined = expand(query, neighbours, Expansion.AUTO, UNRELATED)
    assert SAFE_NEIGHBOURS == 3
    if count < 3:
        assert joined == 0
        np.testing.assert_array_equal(expanded, query)
    else:
        assert joined == count
        np.testing.assert_allclose(expanded, as_loops(query, neighbours[:count], 3.0), atol=1e-6)


def test_auto_wants_neighbours_that_are_certain_of_each_other() -> None:
    # Each is close to the query (0.6), but on another side of it.
    query = np.eye(DIM, dtype=np.float32)[0]
    apart = np.stack([0.6 * query + 0.8 * side for side in np.eye(DIM)[1:5]]).astype(np.float32)
    for one, two in itertools.combinations(apart, 2):
        assert one @ two < 0.4
    assert expand(query, apart, Expansion.AUTO, UNRELATED)[1] == 0
    assert expand(query, apart, Expansion.ALPHA, UNRELATED)[1] == 4
    close = around(apart[0], 0.98, 0.97)
    mixed = np.concatenate([apart[:1], close, apart[1:]])
    expanded, joined = expand(query, mixed, Expansion.AUTO, UNRELATED)
    assert joined == 3
    np.testing.assert_allclose(expanded, as_loops(query, mixed[:3], 3.0), atol=1e-6)


@pytest.mark.parametrize("method", list(Expansion))
def test_the_arguments_are_left_alone(method: Expansion) -> None:
    query = unit_vectors(1, DIM)[0]
    neighbours = around(query, 0.95, 0.9, 0.85, 0.1)
    before = query.copy(), neighbours.copy()
    expand(query, neighbours, method, UNRELATED)
    np.testing.assert_array_equal(query, before[0])
    np.testing.assert_array_equal(neighbours, before[1])


def quantile(values: list[float], share: float) -> float:
    """Between the two sorted values around `share` of the way from first to last."""
    ranked = sorted(values)
    place = share * (len(ranked) - 1)
    low = math.floor(place)
    upper = ranked[min(low + 1, len(ranked) - 1)]
    return ranked[low] + (place - low) * (upper - ranked[low])


# --- background -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [MIN_IMAGES, 25, SAMPLE])
def test_the_background_is_the_quantile_over_all_pairs(count: int) -> None:
    vectors = unit_vectors(count, DIM)
    background = Background.of(vectors)
    assert background is not None
    pairs = [float(a @ b) for a, b in itertools.combinations(vectors.astype(np.float64), 2)]
    assert background.mean == pytest.approx(math.fsum(pairs) / len(pairs), abs=1e-6)
    assert background.related == pytest.approx(quantile(pairs, 0.99), abs=1e-6)
    assert background.high == pytest.approx(quantile(pairs, 0.999), abs=1e-6)


def test_one_random_pair_in_a_hundred_or_a_thousand_exceeds_the_bounds() -> None:
    vectors = unit_vectors(3000, DIM, seed=4)
    background = Background.of(vectors)
    assert background is not None
    pairs = (vectors @ vectors.T)[np.triu_indices(3000, k=1)]
    assert 0.0005 < (pairs > background.high).mean() < 0.002
    assert 0.005 < (pairs > background.related).mean() < 0.02
    assert background.mean == pytest.approx(float(pairs.mean()), abs=0.01)


def test_bursts_of_the_same_motif_do_not_hide_what_is_near() -> None:
    """Of 60 photos, six are nearly the same: 0.8 % of the pairs, more than one in a thousand."""
    burst = unit_vectors(60, 64).copy()
    for row in range(1, 6):
        burst[row] = at_cosine(burst[0], 0.97, row)
    having = Background.of(burst)
    assert having is not None
    pairs = (burst @ burst.T)[np.triu_indices(60, k=1)]
    assert np.quantile(pairs, 0.999) > 0.9  # the plain quantile is within the burst
    assert having.high < 0.7
    assert match_type(0.97, exact=False, background=having) is MatchType.NEAR


@pytest.mark.parametrize("count", [0, 1, MIN_IMAGES - 1])
def test_few_images_give_no_background(count: int) -> None:
    assert Background.of(unit_vectors(max(count, 1), DIM)[:count]) is None


@pytest.mark.parametrize("high", [-0.2, 0.0, 0.2, 0.85, 0.999])
def test_relative_and_score_are_inverse(high: float) -> None:
    background = Background(mean=0.0, related=high - 0.1, high=high)
    assert background.relative(high) == pytest.approx(0.0)
    assert background.relative(1.0) == pytest.approx(1.0)
    for score in np.linspace(-1, 1, 21).tolist():
        assert background.score(background.relative(score)) == pytest.approx(score, abs=1e-9)
        assert (background.relative(score) < 0) == (score < high)


def test_a_collection_of_equal_images_has_a_finite_scale() -> None:
    background = Background.of(np.repeat(unit_vectors(1, DIM), 20, axis=0))
    assert background is not None
    assert background.high == pytest.approx(1.0, abs=1e-6)
    assert math.isfinite(background.relative(0.5))


def test_a_hit_is_near_from_half_way_to_identity() -> None:
    assert NEAR == 0.5
    kinds = [match_type(s, exact=False, background=UNRELATED) for s in (0.74, 0.76, 1.0)]
    assert kinds == [MatchType.SIMILAR, MatchType.NEAR, MatchType.NEAR]
    few = [match_type(s, exact=False, background=None) for s in (0.97, 0.99)]
    assert few == [MatchType.SIMILAR, MatchType.NEAR]
    assert match_type(-1.0, exact=True, background=UNRELATED) is MatchType.EXACT
