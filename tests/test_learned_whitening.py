from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from engine.postprocess import LearnedWhitening, PCAProjection, l2_normalize


def photos(groups: int, size: int, dim: int, *, light: float = 0.7, seed: int = 0) -> Tensor:
    """(groups * size, dim): views of each object, which differ a little in all directions and most
    in three that say nothing about it, as light does."""
    generator = torch.Generator().manual_seed(seed)
    objects = torch.randn(groups, dim, generator=generator).repeat_interleave(size, dim=0)
    views = torch.randn(groups * size, dim, generator=generator)
    lights = torch.randn(groups * size, 3, generator=generator) * light * dim**0.5
    some = torch.randn(dim, 3, generator=torch.Generator().manual_seed(99))
    made: Tensor = objects + views + lights @ torch.linalg.qr(some).Q.T + 0.7
    return made


def all_pairs(groups: int, size: int) -> tuple[Tensor, Tensor]:
    pairs = [
        (group * size + one, group * size + other)
        for group in range(groups)
        for one, other in itertools.permutations(range(size), 2)
    ]
    rows = torch.tensor(pairs)
    return rows[:, 0], rows[:, 1]


def textbook(
    x: np.ndarray, queries: list[int], positives: list[int], dim: int, shrinkage: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, P and eigenvalues, one pair and one vector at a time, with explicit inverses."""
    d = x.shape[1]
    mean = sum(x[q] for q in queries) / len(queries)
    c = np.zeros((d, d))
    for q, p in zip(queries, positives, strict=True):
        c += np.outer(x[q] - x[p], x[q] - x[p]) / len(queries)
    c = (1 - shrinkage) * c + shrinkage * np.trace(c) / d * np.eye(d)
    p1 = np.linalg.inv(np.linalg.cholesky(c))
    scatter = np.zeros((d, d))
    for row in x:
        y = p1 @ (row - mean)
        scatter += np.outer(y, y) / len(x)
    values, vectors = np.linalg.eigh(scatter)
    order = np.argsort(-values)[:dim]
    return mean, vectors[:, order].T @ p1, values[order]


def assert_same_projection(ours: Tensor, expected: np.ndarray) -> None:
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    signs = np.sign((ours.double().numpy() * expected).sum(axis=0))  # free, as of eigenvectors
    np.testing.assert_allclose(ours.double().numpy() * signs, expected, atol=2e-5)


# --- the equation -----------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [4, 11, 50])
def test_it_is_the_textbook_version(dim: int) -> None:
    x = photos(25, 6, 11)
    queries, positives = all_pairs(25, 6)
    whitening = LearnedWhitening.fit(x, queries, positives, dim)
    mean, p, values = textbook(x.double().numpy(), queries.tolist(), positives.tolist(), dim)
    assert whitening.shrinkage == 0.0
    assert whitening.dim == min(dim, 11)
    np.testing.assert_allclose(whitening.mean.numpy(), mean, atol=1e-6)
    np.testing.assert_allclose(whitening.eigenvalues.numpy(), values, rtol=1e-5)
    assert_same_projection(whitening(x), (x.double().numpy() - mean) @ p.T)


def test_shrunk_it_is_the_textbook_version_of_the_shrunk_covariance() -> None:
    x = photos(10, 4, 30)
    queries, positives = all_pairs(10, 4)
    whitening = LearnedWhitening.fit(x, queries, positives, 9, shrinkage=0.2)
    mean, p, _ = textbook(x.double().numpy(), queries.tolist(), positives.tolist(), 9, 0.2)
    assert_same_projection(whitening(x), (x.double().numpy() - mean) @ p.T)


@pytest.mark.parametrize(("groups", "size", "dim"), [(8, 3, 40), (5, 7, 36), (2, 2, 9)])
def test_with_fewer_vectors_than_dimensions_it_is_the_textbook_version_in_their_span(
    groups: int, size: int, dim: int
) -> None:
    x = photos(groups, size, dim)
    queries, positives = all_pairs(groups, size)
    whitening = LearnedWhitening.fit(x, queries, positives, 6)
    centred = x.double().numpy() - x[queries].double().numpy().mean(axis=0)
    basis = np.linalg.svd(centred, full_matrices=False)[2]
    basis = basis[: np.linalg.matrix_rank(centred)]
    inside = centred @ basis.T
    mean, p, values = textbook(
        inside, queries.tolist(), positives.tolist(), whitening.dim, whitening.shrinkage
    )
    assert whitening.dim == min(6, len(basis))
    np.testing.assert_allclose(whitening.eigenvalues.numpy(), values, rtol=1e-4)
    assert_same_projection(whitening(x), (inside - mean) @ p.T)


@pytest.mark.parametrize("dim", [5, 12])
def test_differences_of_pairs_become_white(dim: int) -> None:
    x = photos(40, 5, 12).double()
    queries, positives = all_pairs(40, 5)
    whitening = LearnedWhitening.fit(x, queries, positives, dim)
    differences = (x[queries] - x[positives]) @ whitening.directions.double().T
    covariance = differences.T @ differences / len(queries)
    torch.testing.assert_close(covariance, torch.eye(dim).double(), atol=1e-5, rtol=0)


def test_all_vectors_vary_by_the_eigenvalues_which_descend() -> None:
    x = photos(40, 5, 12).double()
    queries, positives = all_pairs(40, 5)
    whitening = LearnedWhitening.fit(x, queries, positives, 12)
    projected = (x - whitening.mean.double()) @ whitening.directions.double().T
    scatter = projected.T @ projected / len(x)
    values = whitening.eigenvalues
    torch.testing.assert_close(scatter, torch.diag(values.double()), atol=1e-4, rtol=1e-4)
    assert (values[1:] <= values[:-1]).all()


def test_rows_may_be_many_more_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    x = photos(25, 6, 11)
    queries, positives = all_pairs(25, 6)
    whole = LearnedWhitening.fit(x, queries, positives, 5)
    monkeypatch.setattr("engine.postprocess.learned.BLOCK_ROWS", 7)
    torch.testing.assert_close(LearnedWhitening.fit(x, queries, positives, 5)(x), whole(x))


# --- what it is good for ----------------------------------------------------------------------


def found(vectors: Tensor, size: int) -> float:
    """Share of vectors whose nearest other one is of the same group."""
    similar = vectors @ vectors.T - 2 * torch.eye(len(vectors))
    rows = torch.arange(len(vectors))
    return float((similar.argmax(dim=1) // size == rows // size).double().mean())


@pytest.mark.parametrize(("groups", "dim"), [(60, 32), (60, 64), (30, 120), (20, 200)])
def test_it_tells_unseen_objects_apart_better_than_principal_components(
    groups: int, dim: int
) -> None:
    """From 7 independent pairs per dimension down to 0.4."""
    seen, unseen = photos(groups, 5, dim), photos(40, 5, dim, seed=1)
    ours = found(LearnedWhitening.fit(seen, *all_pairs(groups, 5), dim)(unseen), 5)
    for power in (0.0, 0.25, 0.5):
        assert ours > found(PCAProjection.fit(seen, dim, power)(unseen), 5) + 0.01
    assert ours > found(l2_normalize(unseen), 5) + 0.2


@pytest.mark.parametrize(("groups", "dim"), [(20, 200), (30, 200), (30, 120)])
def test_few_pairs_in_many_dimensions_do_no_harm(groups: int, dim: int) -> None:
    """Without shrinkage, what no pair happens to show would be taken for certain."""
    seen, unseen = photos(groups, 5, dim), photos(40, 5, dim, seed=1)
    queries, positives = all_pairs(groups, 5)
    shrunk = LearnedWhitening.fit(seen, queries, positives, dim)
    assert shrunk.shrinkage == 0.5
    published = LearnedWhitening.fit(seen, queries, positives, dim, shrinkage=0.0)
    assert torch.isfinite(published.directions).all()
    assert found(shrunk(unseen), 5) > found(published(unseen), 5) + 0.1


def test_shrunk_wholly_it_is_plain_principal_components_about_the_queries() -> None:
    x = photos(20, 4, 9)
    queries, positives = all_pairs(20, 4)  # every vector as often as the others
    whitening = LearnedWhitening.fit(x, queries, positives, 5, shrinkage=1.0)
    plain = PCAProjection.fit(x, 5, power=0.0)
    torch.testing.assert_close(
        whitening(x) @ whitening(x).T, plain(x) @ plain(x).T, atol=1e-4, rtol=0
    )


# --- how much is shrunk -----------------------------------------------------------------------


def test_shrinkage_follows_the_independent_pairs() -> None:
    x = photos(20, 4, 10)
    # 3 new ones in each group of 4, however they are paired: 3 to 60 for 10 dimensions.
    for groups, expected in ((1, 0.5), (3, 0.5), (4, 10 / 24), (10, 10 / 60), (14, 0.0)):
        shrinkage = LearnedWhitening.fit(x, *all_pairs(groups, 4), 5).shrinkage
        assert shrinkage == pytest.approx(expected), groups
    chain = torch.arange(3) + 4 * torch.arange(4)[:, None]
    joined = LearnedWhitening.fit(x, chain.flatten(), chain.flatten() + 1, 5)
    assert joined.shrinkage == pytest.approx(10 / 24)
    twice = torch.cat([chain.flatten(), chain.flatten() + 1])
    back = torch.cat([chain.flatten() + 1, chain.flatten()])
    assert LearnedWhitening.fit(x, twice, back, 5).shrinkage == pytest.approx(10 / 24)


# --- odd input --------------------------------------------------------------------------------


def test_dimensions_in_which_nothing_varies_are_left_out() -> None:
    x = photos(25, 6, 8)
    padded = torch.cat([x, torch.zeros(150, 3), torch.full((150, 1), 0.5)], dim=1)
    queries, positives = all_pairs(25, 6)
    plain = LearnedWhitening.fit(x, queries, positives, 12)
    wide = LearnedWhitening.fit(padded, queries, positives, 12)
    assert (plain.dim, wide.dim) == (8, 8)
    torch.testing.assert_close(wide(padded).abs(), plain(x).abs(), atol=1e-4, rtol=0)


def test_the_vector_at_the_mean_becomes_zeros() -> None:
    x = photos(25, 6, 8)
    whitening = LearnedWhitening.fit(x, *all_pairs(25, 6), 4)
    assert torch.equal(whitening(whitening.mean[None]), torch.zeros(1, 4))


@pytest.mark.parametrize("shape", [(150, 8), (12, 40)])
def test_saved_and_restored_it_projects_the_same_bits(shape: tuple[int, int]) -> None:
    x = photos(shape[0] // 3, 3, shape[1])
    whitening = LearnedWhitening.fit(x, *all_pairs(shape[0] // 3, 3), 6)
    restored = LearnedWhitening.from_tensors(load(save(whitening.tensors())))
    assert torch.equal(restored(x), whitening(x))
    assert torch.equal(restored.eigenvalues, whitening.eigenvalues)
    assert restored.shrinkage == whitening.shrinkage
    assert whitening(x).dtype == torch.float32


def test_arguments_are_left_alone() -> None:
    x = photos(25, 6, 8)
    queries, positives = all_pairs(25, 6)
    before = x.clone(), queries.clone(), positives.clone()
    LearnedWhitening.fit(x, queries, positives)
    for value, copy in zip((x, queries, positives), before, strict=True):
        assert torch.equal(value, copy)


ROWS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("vectors", "queries", "positives", "words"),
    [
        (torch.rand(4), ROWS, ROWS, "vectors have shape"),
        (torch.rand(1, 4), ROWS, ROWS, "vectors have shape"),
        (torch.rand(4, 3), ROWS, ROWS[:1], r"shapes \(2,\) and \(1,\)"),
        (torch.rand(4, 3), ROWS[:0], ROWS[:0], "P >= 1"),
        (torch.rand(4, 3), ROWS[None], ROWS[None], "P >= 1"),
        (torch.rand(4, 3), torch.tensor([0, 4]), ROWS, "queries has rows 0 to 4; expected 0 to 3"),
        (torch.rand(4, 3), ROWS, torch.tensor([-1, 2]), "positives has rows -1 to 2"),
        (torch.rand(4, 3), ROWS, ROWS, "do not differ"),
        (torch.rand(4, 9), ROWS, ROWS, "do not differ"),
        (torch.ones(4, 3), ROWS, ROWS + 1, "do not differ"),
        (torch.ones(4, 9), ROWS, ROWS + 1, "all vectors are equal"),
        (torch.full((4, 3), torch.nan), ROWS, ROWS + 1, "do not differ"),
    ],
)
def test_nothing_to_learn_from_is_an_error(
    vectors: Tensor, queries: Tensor, positives: Tensor, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        LearnedWhitening.fit(vectors, queries, positives)


@pytest.mark.parametrize("shrinkage", [-0.1, 1.1, float("nan")])
def test_a_shrinkage_outside_its_range_is_an_error(shrinkage: float) -> None:
    with pytest.raises(ValueError, match=f"shrinkage is {shrinkage}"):
        LearnedWhitening.fit(photos(9, 3, 5), *all_pairs(9, 3), 2, shrinkage=shrinkage)
