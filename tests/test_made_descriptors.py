"""Made descriptors are the same everywhere, and their neighbourhoods are like those of photos."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import made_descriptors
from engine.types import Vectors


@pytest.fixture(scope="module")
def photos() -> Vectors:
    """As many as the photos that the documented figures were taken of."""
    return np.concatenate(list(made_descriptors.blocks(4407)))


def test_they_are_the_same_each_time_and_others_with_another_seed() -> None:
    first, again, other = (
        np.concatenate(list(made_descriptors.blocks(60, dim=24, seed=seed, block=25)))
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_fewer_are_the_beginning_of_more() -> None:
    many = list(made_descriptors.blocks(95, dim=24, block=25))
    few = list(made_descriptors.blocks(60, dim=24, block=25))
    assert [len(block) for block in many] == [25, 25, 25, 20]
    np.testing.assert_array_equal(np.concatenate(few), np.concatenate(many)[:60])
    assert len(np.unique(np.concatenate(many), axis=0)) == 95


def test_they_are_unit_vectors(photos: Vectors) -> None:
    assert photos.dtype == np.float32 and photos.shape == (4407, 512)
    np.testing.assert_allclose(np.linalg.norm(photos, axis=1), 1, atol=1e-6)


def test_they_vary_as_documented(photos: Vectors) -> None:
    centred = photos - photos.mean(axis=0)
    values = np.linalg.eigvalsh(centred.T.astype(np.float64) @ centred)[::-1]
    shares = 512 * values[[0, 9, 49, 99, 399]] / values.sum()
    np.testing.assert_allclose(shares, [9.2, 6.8, 2.1, 1.1, 0.33], rtol=0.15)


def test_their_neighbours_are_as_near_as_documented(photos: Vectors) -> None:
    centred = photos - photos.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    some = np.arange(0, len(photos), 9)
    cosines = centred[some] @ centred.T
    cosines[np.arange(len(some)), some] = -1  # with itself
    pairs = cosines[cosines > -1]
    assert pairs.mean() == pytest.approx(0, abs=0.005) and pairs.std() == pytest.approx(0.075, 0.1)
    np.testing.assert_allclose(
        np.quantile(pairs, [0.01, 0.5, 0.99, 0.999]), [-0.13, -0.01, 0.26, 0.41], atol=0.03
    )
    ranked = np.sort(cosines, axis=1)[:, ::-1]
    for rank, expected in ((1, [0.35, 0.48, 0.89]), (10, [0.26, 0.33, 0.51])):
        found = np.quantile(ranked[:, rank - 1], [0.05, 0.5, 0.95])
        np.testing.assert_allclose(found, expected, atol=0.05)


def test_added_ones_and_questions_are_not_among_the_stored(photos: Vectors) -> None:
    asked = made_descriptors.queries(40, len(photos))
    for others in (made_descriptors.fresh(40), asked.vectors):
        np.testing.assert_allclose(np.linalg.norm(others, axis=1), 1, atol=1e-6)
        assert (others @ photos.T).max() < 0.999


def test_half_of_the_questions_show_something_that_is_stored(photos: Vectors) -> None:
    """Like photos of the same thing: of most the shown row is among the ten nearest, not of all."""
    asked = made_descriptors.queries(200, len(photos))
    assert (asked.shown[1::2] == -1).all()
    assert (0 <= asked.shown[0::2]).all() and (asked.shown[0::2] < len(photos)).all()
    scores = asked.vectors @ photos.T
    own = scores[np.arange(0, 200, 2), asked.shown[0::2]]
    ranks = (scores[0::2] >= own[:, None]).sum(axis=1)
    assert 0.6 <= (ranks <= 10).mean() < 1
    best = np.median(scores.max(axis=1)[0::2]), np.median(scores.max(axis=1)[1::2])
    assert best[0] > best[1] + 0.1


def test_an_odd_number_of_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="3 queries"):
        made_descriptors.queries(3, 100)
