from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.training import mining
from engine.training.mining import draw_epoch, hard_negatives, validation_map
from engine.training.sampling import balanced_batch, one_against_others
from engine.training.training_set import Rows, TrainingSet
from tests import training_loops as loops


def rows(*values: int) -> Rows:
    return np.array(values, dtype=np.int64)


def case(seed: int) -> tuple[Tensor, Rows, Tensor, Rows, int]:
    """Descriptors of small whole numbers, so that many are equally similar, or equal, or zero."""
    draw = np.random.default_rng(seed)
    clusters = int(draw.integers(2, 9))
    pool_clusters = np.append(np.arange(clusters), draw.integers(0, clusters, draw.integers(0, 30)))
    draw.shuffle(pool_clusters)
    dim = int(draw.integers(1, 6))
    low = -int(draw.integers(1, 3))
    queries = draw.integers(low, 3, (int(draw.integers(1, 7)), dim)).astype(np.float64)
    pool = draw.integers(low, 3, (len(pool_clusters), dim)).astype(np.float64)
    query_clusters = draw.integers(0, clusters + 2, len(queries))  # some are not in the pool
    count = int(draw.integers(1, clusters))
    return (
        torch.from_numpy(queries),
        query_clusters.astype(np.int64),
        torch.from_numpy(pool),
        pool_clusters.astype(np.int64),
        count,
    )


# Hard negatives


@pytest.mark.parametrize("block", [1, 37, 1 << 23])
def test_negatives_are_those_of_walking_through_the_sorted_pool(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mining, "BLOCK_VALUES", block)
    for seed in range(200):
        queries, query_clusters, pool, pool_clusters, count = case(seed)
        found = hard_negatives(queries, query_clusters, pool, pool_clusters, count=count)
        assert found.dtype == np.int64
        assert found.tolist() == loops.hard_negatives(
            queries.numpy(), query_clusters.tolist(), pool.numpy(), pool_clusters.tolist(), count
        ), seed


def test_negatives_by_hand() -> None:
    pool = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 9.0], [0.5, 0.5]])
    found = hard_negatives(torch.tensor([[1.0, 0.0]]), rows(0), pool, rows(0, 1, 1, 2, 3), count=3)
    assert found.tolist() == [[1, 4, 3]]  # not 0, its own; not 2, of the same as 1


def test_of_equal_negatives_the_first_row_is_taken() -> None:
    pool = torch.ones(6, 3)
    found = hard_negatives(torch.ones(1, 3), rows(5), pool, rows(5, 2, 2, 1, 0, 1), count=3)
    assert found.tolist() == [[1, 3, 4]]


def test_the_length_of_a_descriptor_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, pool = torch.randn(5, 8, generator=generator), torch.randn(60, 8, generator=generator)
    clusters = np.arange(60, dtype=np.int64) % 20
    scaled = pool * torch.linspace(0.1, 50, 60)[:, None]
    found = hard_negatives(queries, clusters[:5], pool, clusters, count=7)
    again = hard_negatives(7 * queries, clusters[:5], scaled, clusters, count=7)
    assert (found == again).all()
    assert all(len(set(clusters[row])) == 7 for row in found)


def test_arguments_of_mining_are_left_as_they_are() -> None:
    queries, query_clusters, pool, pool_clusters, count = case(3)
    copies = queries.clone(), query_clusters.copy(), pool.clone(), pool_clusters.copy()
    hard_negatives(queries.requires_grad_(), query_clusters, pool, pool_clusters, count=count)
    assert torch.equal(queries.detach(), copies[0])
    assert (query_clusters == copies[1]).all()
    assert torch.equal(pool, copies[2])
    assert (pool_clusters == copies[3]).all()


def test_no_queries_have_no_negatives() -> None:
    found = hard_negatives(torch.zeros(0, 2), rows(), torch.ones(3, 2), rows(0, 1, 2), count=2)
    assert found.shape == (0, 2)


@pytest.mark.parametrize(
    ("queries", "query_clusters", "pool", "pool_clusters", "count", "reason"),
    [
        ((2, 3), (0, 7), (3, 3), (0, 1, 1), 2, "has 1 clusters besides that of query 0, 2 are"),
        ((1, 3), (0,), (0, 3), (), 1, "has 0 clusters"),
        ((1, 3), (0,), (2, 3), (1, 2), 0, "count is 0; it must be at least 1"),
        ((1, 4), (0,), (2, 3), (1, 2), 1, "queries have D=4, the pool has D=3"),
        ((1, 3), (0, 1), (2, 3), (1, 2), 1, r"queries have shape \(1, 3\) and clusters of \(2,\)"),
        ((1, 3), (0,), (2,), (1, 2), 1, r"pool have shape \(2,\)"),
    ],
)
def test_mining_says_what_does_not_fit(
    queries: tuple[int, ...],
    query_clusters: tuple[int, ...],
    pool: tuple[int, ...],
    pool_clusters: tuple[int, ...],
    count: int,
    reason: str,
) -> None:
    with pytest.raises(ValueError, match=reason):
        hard_negatives(
            torch.ones(queries),
            rows(*query_clusters),
            torch.ones(pool),
            rows(*pool_clusters),
            count=count,
        )


def test_descriptors_that_are_not_finite_are_refused() -> None:
    pool = torch.ones(3, 2)
    pool[1, 1] = torch.nan
    with pytest.raises(ValueError, match="not finite; the training has diverged"):
        hard_negatives(torch.ones(1, 2), rows(0), pool, rows(0, 1, 2), count=1)
    with pytest.raises(ValueError, match="not finite; the training has diverged"):
        validation_map(pool, rows(0, 0, 1), rows(0))


# Epochs


def made(clusters: list[int], pairs: list[tuple[int, int]]) -> TrainingSet:
    names = tuple(f"{row}.jpg" for row in range(len(clusters)))
    queries, positives = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return TrainingSet(names, tuple(map(Path, names)), rows(*clusters), queries, positives)


def several() -> TrainingSet:
    """40 things with 3 photos, all ordered pairs: 120 photos, 240 pairs."""
    pairs = [(a, b) for a in range(120) for b in range(120) if a != b and a // 3 == b // 3]
    return made([row // 3 for row in range(120)], pairs)


def test_an_epoch_has_pairs_of_the_set_each_once() -> None:
    training_set = several()
    epoch = draw_epoch(training_set, pairs=100, pool=50, seed=1, epoch=0)
    drawn = list(zip(epoch.queries.tolist(), epoch.positives.tolist(), strict=True))
    known = set(zip(training_set.queries.tolist(), training_set.positives.tolist(), strict=True))
    assert len(drawn) == len(set(drawn)) == 100
    assert set(drawn) <= known
    assert len(set(epoch.pool.tolist())) == 50
    assert epoch.pool.tolist() == sorted(epoch.pool.tolist())
    assert 0 <= epoch.pool.min() <= epoch.pool.max() < 120


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    training_set = several()

    def drawn(seed: int, epoch: int) -> tuple[bytes, ...]:
        np.random.seed(seed + epoch)
        found = draw_epoch(training_set, pairs=30, pool=30, seed=seed, epoch=epoch)
        return found.queries.tobytes(), found.positives.tobytes(), found.pool.tobytes()

    assert drawn(1, 4) == drawn(1, 4)
    assert len({drawn(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


def test_over_many_epochs_all_pairs_and_photos_come_equally_often() -> None:
    training_set = several()
    queries, pool = np.zeros(120), np.zeros(120)
    for number in range(400):
        epoch = draw_epoch(training_set, pairs=24, pool=12, seed=0, epoch=number)
        np.add.at(queries, epoch.queries, 1)
        np.add.at(pool, epoch.pool, 1)
    for counts, expected in ((queries, 80), (pool, 40)):
        assert abs(counts - expected).max() < 5 * expected**0.5
        assert counts.std() > 1


def test_of_too_few_pairs_and_photos_all_are_taken() -> None:
    epoch = draw_epoch(several(), pairs=10**6, pool=10**6, seed=0, epoch=0)
    assert len(epoch.queries) == len(epoch.positives) == 240
    assert epoch.pool.tolist() == list(range(120))


def test_an_epoch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="pairs is 0 and pool 5"):
        draw_epoch(several(), pairs=0, pool=5, seed=0, epoch=0)
    with pytest.raises(ValueError, match="no pair to draw"):
        draw_epoch(made([0, 1], []), pairs=1, pool=1, seed=0, epoch=0)


# Validation


@pytest.mark.parametrize("seed", range(40))
def test_validation_is_the_mean_of_the_trapezoid_rule(seed: int) -> None:
    draw = np.random.default_rng(seed)
    count = int(draw.integers(4, 30))
    x = draw.integers(-3, 4, (count, 4)).astype(np.float64)
    clusters = draw.integers(0, 4, count).astype(np.int64)
    clusters[:2] = 9  # one thing at least
    queries = np.append(draw.integers(0, count, 6), 0).astype(np.int64)
    # Equal similarities may be parted by rounding; move them further apart than that.
    x += draw.random(x.shape) / 100
    expected = loops.mean_average_precision(x, clusters.tolist(), queries.tolist())
    assert validation_map(torch.from_numpy(x), clusters, queries) == pytest.approx(expected)


def test_validation_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.8, 0.2]])
    # From 0: 2, 3, 1. Of its cluster are 1 and 2: at ranks 0 and 2.
    found = validation_map(x, rows(4, 4, 4, 8), rows(0, 0))
    assert found == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert validation_map(x, rows(0, 1, 0, 1), rows(0)) == 1


def test_photos_that_are_alone_are_no_queries() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]])
    assert validation_map(x, rows(0, 5, 0), rows(0, 1)) == 1
    with pytest.raises(ValueError, match="no query shares its cluster"):
        validation_map(x, rows(0, 5, 0), rows(1))
    with pytest.raises(ValueError, match=r"expected \(N, D\) and \(N,\)"):
        validation_map(x, rows(0, 5), rows(1))


def test_validation_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(1)).double()
    clusters = np.arange(50, dtype=np.int64) % 7
    whole = validation_map(x, clusters, np.arange(50))
    monkeypatch.setattr(mining, "BLOCK_VALUES", 120)
    assert validation_map(x, clusters, np.arange(50)) == pytest.approx(whole, rel=1e-12)


# Batches

CLUSTERS = rows(5, 5, 5, 5, 2, 2, 8, 1, 1, 1, 7, 5)
"""Things 5, 2 and 1 with 5, 2 and 3 photos; 8 and 7 are alone."""


def test_a_balanced_batch_has_the_photos_of_each_thing_together() -> None:
    seen = set()
    for step in range(60):
        batch = balanced_batch(CLUSTERS, things=2, photos_each=3, seed=3, step=step)
        assert len(set(batch.tolist())) == len(batch)
        labels = CLUSTERS[batch].tolist()
        kinds = list(dict.fromkeys(labels))
        assert len(kinds) == 2
        assert labels == [kind for kind in kinds for _ in range(2 if kind == 2 else 3)]
        seen |= set(batch.tolist())
    assert seen == {0, 1, 2, 3, 4, 5, 7, 8, 9, 11}  # none that is alone


def test_one_thing_comes_against_others_that_all_differ() -> None:
    things, others = [], set()
    for step in range(200):
        batch = one_against_others(CLUSTERS, same=3, others=3, seed=3, step=step)
        labels = CLUSTERS[batch].tolist()
        same = 2 if labels[0] == 2 else 3
        assert labels[:same] == [labels[0]] * same
        assert len(labels) == same + 3
        assert len(set(labels)) == 4
        assert len(set(batch.tolist())) == len(batch)
        things.append(labels[0])
        others |= set(labels[same:])
    assert {thing: 40 < things.count(thing) < 95 for thing in set(things)} == {
        5: True,
        2: True,
        1: True,
    }
    assert others == {5, 2, 8, 1, 7}


def test_batches_are_functions_of_seed_and_step() -> None:
    clusters = np.arange(300, dtype=np.int64) // 3

    def balanced(seed: int, step: int) -> bytes:
        return balanced_batch(clusters, things=4, photos_each=2, seed=seed, step=step).tobytes()

    def against(seed: int, step: int) -> bytes:
        return one_against_others(clusters, same=3, others=6, seed=seed, step=step).tobytes()

    for draw in (balanced, against):
        assert draw(1, 4) == draw(1, 4)
        assert len({draw(seed, step) for seed in range(3) for step in range(3)}) == 9


def test_batches_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="4 things, of 3 there are two photos or more"):
        balanced_batch(CLUSTERS, things=4, photos_each=2, seed=0, step=0)
    with pytest.raises(ValueError, match="things is 1 and photos_each 1"):
        balanced_batch(CLUSTERS, things=1, photos_each=1, seed=0, step=0)
    with pytest.raises(ValueError, match="a thing and 5 others, there are 5 in all"):
        one_against_others(CLUSTERS, same=2, others=5, seed=0, step=0)
    with pytest.raises(ValueError, match="same is 1 and others 3"):
        one_against_others(CLUSTERS, same=1, others=3, seed=0, step=0)
    with pytest.raises(ValueError, match="each of the 3 photos is alone"):
        one_against_others(rows(0, 1, 2), same=2, others=1, seed=0, step=0)
    with pytest.raises(ValueError, match="there are two photos"):
        balanced_batch(rows(), things=1, photos_each=2, seed=0, step=0)
    four = one_against_others(CLUSTERS, same=6, others=4, seed=0, step=0)
    assert len(set(CLUSTERS[four].tolist())) == 5
