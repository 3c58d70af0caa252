from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from engine.augmentation import augment_database, augmented, rank_weights
from engine.nearest import nearest, row_blocks
from tests.augmentation_loops import augmented_rows
from tests.stored import unit_vectors

# --- the first few ----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 1, 4, 16, 17, 30])
@pytest.mark.parametrize("left_out", [[], [3], [0, 16, 3, 3]])
def test_the_nearest_are_those_of_a_stable_sort(k: int, left_out: list[int]) -> None:
    for seed in range(20):
        # Few different values: most of them tie.
        values = np.random.default_rng(seed).integers(-2, 3, 17).astype(np.float32)
        order = [row for row in np.argsort(-values, kind="stable") if row not in left_out]
        before = values.copy()
        assert nearest(values, k, left_out).tolist() == order[:k]
        np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (1, 5), (7, 3), (10, 10), (3, 0), (5, 99)])
def test_blocks_cover_all_rows_once(
    rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.nearest.BLOCK_VALUES", 20)
    blocks = list(row_blocks(rows, columns))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(rows))
    assert all((block.stop - block.start) * columns <= max(20, columns) for block in blocks)


# --- weights ----------------------------------------------------------------------------------


def test_weights_of_twenty_neighbours_fall_in_steps_of_a_twentieth() -> None:
    expected = [1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55]
    expected += [0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05]
    np.testing.assert_allclose(rank_weights(20), expected, atol=1e-7)
    assert rank_weights(1).tolist() == [1.0]
    assert rank_weights(0).tolist() == []


def test_augmentation_by_hand() -> None:
    vector = np.array([1, 0, 0], np.float32)
    neighbours = np.array([[0, 1, 0], [0, 0, 1]], np.float32)
    np.testing.assert_allclose(
        augmented(vector, neighbours, rank_weights(2)), [0.4, 0.4, 0.2], atol=1e-7
    )


# --- a database -------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "dim", "k"), [(30, 5, 4), (13, 24, 12), (40, 3, 20), (2, 7, 1)])
@pytest.mark.parametrize("alpha", [None, 3.0, 0.0, 0.5])
def test_every_vector_becomes_the_mean_of_itself_and_its_nearest(
    count: int, dim: int, k: int, alpha: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.nearest.BLOCK_VALUES", 3 * count)
    database = unit_vectors(count, dim)
    before = database.copy()
    ours = (
        augment_database(database, k)
        if alpha is None
        else augment_database(database, k, weighting="alpha", alpha=alpha)
    )
    np.testing.assert_allclose(ours, augmented_rows(database, k, alpha), atol=1e-6)
    np.testing.assert_array_equal(database, before)
    assert ours.dtype == np.float32


def test_what_was_augmented_is_not_normalised_again() -> None:
    lengths = np.linalg.norm(augment_database(unit_vectors(30, 50), 10), axis=1)
    assert (lengths < 0.9).all() and (lengths > 0.1).all()


def test_a_vector_is_no_neighbour_of_itself_even_among_its_copies() -> None:
    twins = np.repeat(unit_vectors(2, 6), 3, axis=0)
    np.testing.assert_allclose(augment_database(twins, 2), twins, atol=1e-6)
    np.testing.assert_allclose(augment_database(twins, 4), augmented_rows(twins, 4), atol=1e-6)


@pytest.mark.parametrize("weighting", ["dir", "alpha"])
def test_with_too_few_others_all_of_them_join(weighting: str) -> None:
    database = np.eye(3, dtype=np.float32)
    ours = augment_database(database, 5, weighting=weighting, alpha=1.0)  # type: ignore[arg-type]
    # By rank the weights stay those of five: 1, 1, 0.8. Right angles have a cosine of 0.
    weights = np.array([1, 1, 0.8]) / 2.8 if weighting == "dir" else np.array([1.0, 0, 0])
    np.testing.assert_allclose(ours[0], weights, atol=1e-6)
    np.testing.assert_allclose(augment_database(database[:1], 5), database[:1])


def test_no_neighbours_leave_everything_as_it_is() -> None:
    database = unit_vectors(9, 4)
    np.testing.assert_array_equal(augment_database(database, 0), database)
    assert augment_database(database[:0], 3).shape == (0, 4)
    with pytest.raises(ValueError, match="k is -1"):
        augment_database(database, -1)


def test_zeros_stay_finite() -> None:
    blank = np.zeros((5, 3), np.float32)
    np.testing.assert_array_equal(augment_database(blank, 2), blank)
    np.testing.assert_array_equal(augment_database(blank, 2, weighting="alpha"), blank)


def test_memory_does_not_grow_with_the_square_of_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.nearest.BLOCK_VALUES", 1 << 16)
    database = unit_vectors(3000, 4)
    tracemalloc.start()
    try:
        augment_database(database, 5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3000 * 3000 * 4 / 10


def test_groups_move_together() -> None:
    """What it is for: photos of one object come closer to each other than to all others."""
    random = np.random.default_rng(0)
    centres = unit_vectors(12, 40, seed=1)
    noisy = np.repeat(centres, 6, axis=0) + 0.2 * random.standard_normal((72, 40))
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)

    def margin(vectors: np.ndarray) -> float:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        similar = unit @ unit.T
        same = np.arange(72)[:, None] // 6 == np.arange(72) // 6
        return float(np.quantile(similar[same], 0.05) - np.quantile(similar[~same], 0.95))

    assert margin(augment_database(noisy.astype(np.float32), 5)) > margin(noisy) + 0.2
