from __future__ import annotations

import math

import numpy as np
import pytest

from engine.errors import InvalidOption
from engine.queries.examples import combine
from tests.stored import unit_vectors


def looped(positives: list[list[float]], negatives: list[list[float]], beta: float) -> list[float]:
    """The equation, value by value."""
    total = []
    for place in range(len(positives[0])):
        value = sum(vector[place] for vector in positives) / len(positives)
        if negatives:
            value -= beta * sum(vector[place] for vector in negatives) / len(negatives)
        total.append(value)
    length = math.sqrt(sum(value * value for value in total))
    return [value / length for value in total]


@pytest.mark.parametrize(("wanted", "unwanted"), [(1, 0), (1, 1), (3, 0), (2, 5), (15, 1)])
@pytest.mark.parametrize("beta", [0.0, 0.25, 2.0])
def test_examples_are_combined_as_the_equation_says(
    wanted: int, unwanted: int, beta: float
) -> None:
    positives = unit_vectors(wanted, 37, seed=1)
    negatives = unit_vectors(unwanted, 37, seed=2) if unwanted else np.zeros((0, 37), np.float32)
    found = combine(positives, negatives, negative_weight=beta)
    expected = looped(positives.tolist(), negatives.tolist(), beta)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32


def test_one_example_is_itself() -> None:
    one = unit_vectors(1, 64)
    np.testing.assert_allclose(combine(one, one[:0], negative_weight=0.5), one[0], atol=1e-7)


def test_order_makes_no_difference_and_arguments_stay_as_they_are() -> None:
    positives, negatives = unit_vectors(4, 16, seed=3), unit_vectors(3, 16, seed=4)
    kept = positives.copy(), negatives.copy()
    forth = combine(positives, negatives, negative_weight=0.7)
    back = combine(positives[::-1], negatives[::-1], negative_weight=0.7)
    np.testing.assert_allclose(forth, back, atol=1e-6)
    assert (positives == kept[0]).all()
    assert (negatives == kept[1]).all()


def test_a_query_moves_away_from_its_negatives() -> None:
    positives, negatives = unit_vectors(2, 16, seed=5), unit_vectors(2, 16, seed=6)
    similarities = [
        float(combine(positives, negatives, negative_weight=beta) @ negatives.mean(axis=0))
        for beta in (0.0, 0.25, 0.5, 1.0)
    ]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[0] > similarities[-1]


def test_examples_that_cancel_each_other_are_refused() -> None:
    vectors = unit_vectors(3, 16)
    with pytest.raises(InvalidOption, match="cancel each other at negative_weight 1;"):
        combine(vectors, vectors, negative_weight=1.0)
