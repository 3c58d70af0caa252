from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from engine.postprocess import (
    PCAProjection,
    bounded_dim,
    l2_normalize,
    ledoit_wolf_shrinkage,
    signed_sqrt,
)


def test_signed_root_keeps_signs() -> None:
    assert signed_sqrt(torch.tensor([-4.0, 0.0, 9.0])).tolist() == [-2.0, 0.0, 3.0]


def test_rows_get_unit_length_and_zeros_stay_zero() -> None:
    result = l2_normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(result, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def clustered(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(dim, dim, generator=generator)
    spectrum = torch.logspace(0, -2, dim)
    return torch.randn(count, dim, generator=generator) * spectrum @ basis


@pytest.mark.parametrize(("count", "dim"), [(400, 20), (40, 100)])
def test_projection_is_that_of_a_singular_value_decomposition(count: int, dim: int) -> None:
    x = clustered(count, dim).double()
    projection = PCAProjection.fit(x, dim=10, power=0.25)
    centred = (x - x.mean(dim=0)).numpy()
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    eigenvalues = singular[:10] ** 2 / count
    expected = centred @ right[:10].T * eigenvalues**-0.25
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    ours = projection(x).double().numpy()
    signs = np.sign((ours * expected).sum(axis=0))  # directions are free up to their sign
    np.testing.assert_allclose(ours * signs, expected, atol=2e-5)
    np.testing.assert_allclose(projection.eigenvalues.numpy(), eigenvalues, rtol=1e-5)
    assert projection.explained == pytest.approx(
        float(eigenvalues.sum() / (singular**2 / count).sum()), rel=1e-6
    )


@pytest.mark.parametrize(("count", "dim"), [(2000, 12), (30, 70)])
def test_full_power_whitens(count: int, dim: int) -> None:
    x = clustered(count, dim).double()
    projection = PCAProjection.fit(x, dim=12, power=0.5)
    assert projection.dim == 12
    whitened = (x - projection.mean.double()) @ projection.directions.double().T
    covariance = whitened.T @ whitened / count
    torch.testing.assert_close(covariance, torch.eye(12).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("count", "dim"), [(400, 20), (40, 100)])
@pytest.mark.parametrize("power", [0.25, 0.5])
@pytest.mark.parametrize("shrinkage", [0.0, 0.05, 0.6, 1.0])
def test_shrinkage_draws_each_eigenvalue_to_the_mean_over_all_directions(
    count: int, dim: int, power: float, shrinkage: float
) -> None:
    x = clustered(count, dim).double()
    projection = PCAProjection.fit(x, dim=10, power=power, shrinkage=shrinkage)
    centred = (x - x.mean(dim=0)).numpy()
    variances, directions = np.linalg.eigh(centred.T @ centred / count)  # D of them, ascending
    largest = np.argsort(-variances)[:10]
    shrunk = (1 - shrinkage) * variances[largest] + shrinkage * variances.sum() / dim
    expected = centred @ directions[:, largest] * shrunk**-power
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    ours = projection(x).double().numpy()
    signs = np.sign((ours * expected).sum(axis=0))
    np.testing.assert_allclose(ours * signs, expected, atol=2e-5)
    # What is told of the collection is not shrunk.
    np.testing.assert_allclose(projection.eigenvalues.numpy(), variances[largest], rtol=1e-5)
    assert projection.shrinkage == shrinkage


def test_without_shrinkage_every_bit_is_as_if_there_were_none() -> None:
    for x in (clustered(100, 30), clustered(30, 100)):
        plain, none = PCAProjection.fit(x, 8, 0.25), PCAProjection.fit(x, 8, 0.25, 0.0)
        assert torch.equal(plain.directions, none.directions)
        values = plain.directions.double().norm(dim=1) ** -4
        torch.testing.assert_close(values, plain.eigenvalues.double(), atol=0, rtol=1e-5)


def test_shrunk_wholly_it_is_plain_principal_components() -> None:
    x = clustered(200, 15)
    wholly, plain = PCAProjection.fit(x, 9, 0.5, 1.0), PCAProjection.fit(x, 9, 0.0)
    torch.testing.assert_close(wholly(x), plain(x))


@pytest.mark.parametrize("shrinkage", [-0.001, 1.001, float("nan"), float("inf")])
def test_a_shrinkage_outside_its_range_is_an_error(shrinkage: float) -> None:
    with pytest.raises(ValueError, match=f"shrinkage is {shrinkage}; it must be in"):
        PCAProjection.fit(clustered(30, 5), shrinkage=shrinkage)


def test_dimension_is_bounded_by_the_number_of_images() -> None:
    assert PCAProjection.fit(clustered(50, 200), dim=128).dim == bounded_dim(50, 128) == 30
    assert PCAProjection.fit(clustered(500, 200), dim=128).dim == 128
    assert bounded_dim(1, 512) == 1


@pytest.mark.parametrize(("count", "dim"), [(50, 200), (70, 60)])
def test_unbounded_it_has_as_many_directions_as_the_images_span(count: int, dim: int) -> None:
    x = torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rank = int(np.linalg.matrix_rank((x - x.mean(dim=0)).numpy()))
    assert PCAProjection.fit(x, 1000, bounded=False).dim == rank > bounded_dim(count, 1000)
    assert PCAProjection.fit(x, 45, bounded=False).dim == 45
    # What both have is the same.
    bounded, unbounded = PCAProjection.fit(x, 20), PCAProjection.fit(x, 20, bounded=False)
    assert torch.equal(bounded.directions, unbounded.directions)


def test_dimension_is_bounded_by_the_rank() -> None:
    flat = torch.randn(100, 3) @ torch.randn(3, 40)
    assert PCAProjection.fit(flat, dim=20).dim == 3


def test_with_as_many_dimensions_as_images_whitening_destroys_neighbours() -> None:
    """The reason of the bound: unbounded, every image becomes equally far from every other."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(30, 300, generator=generator)
    x = l2_normalize(
        centres.repeat_interleave(2, dim=0) + 0.6 * torch.randn(60, 300, generator=generator)
    )

    def twins_found(vectors: torch.Tensor) -> float:
        similar = vectors @ vectors.T - 2 * torch.eye(60)
        return float((similar.argmax(dim=1) == torch.arange(60) ^ 1).double().mean())

    centred = x - x.mean(dim=0)
    left, _, _ = torch.linalg.svd(centred, full_matrices=False)
    whitened = l2_normalize(left[:, :59])
    assert twins_found(x) == 1.0
    assert twins_found(whitened) < 0.6
    assert twins_found(PCAProjection.fit(x, dim=59, power=0.25)(x)) == 1.0


def test_saved_and_restored_it_projects_the_same_bits() -> None:
    x = clustered(100, 30)
    projection = PCAProjection.fit(x, dim=8, shrinkage=0.1)
    restored = PCAProjection.from_tensors(load(save(projection.tensors())))
    assert torch.equal(projection(x), restored(x))
    assert torch.equal(projection.eigenvalues, restored.eigenvalues)
    assert (restored.explained, restored.power) == (projection.explained, projection.power)
    assert restored.shrinkage == 0.1


def test_a_projection_from_before_there_was_shrinkage_is_restored() -> None:
    x = clustered(100, 30)
    tensors = PCAProjection.fit(x, dim=8).tensors()
    del tensors["shrinkage"]
    restored = PCAProjection.from_tensors(tensors)
    assert restored.shrinkage == 0.0
    assert torch.equal(restored(x), PCAProjection.fit(x, dim=8)(x))


@pytest.mark.parametrize("x", [torch.zeros(1, 4), torch.ones(5, 4), torch.zeros(4)])
def test_nothing_to_fit_on_is_an_error(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="descriptors"):
        PCAProjection.fit(x)


# --- Ledoit and Wolf --------------------------------------------------------------------------


def shrinkage_as_defined(rows: list[list[float]]) -> float:
    """b^2 / d^2 with every matrix written out."""
    count, dim = len(rows), len(rows[0])
    means = [math.fsum(row[i] for row in rows) / count for i in range(dim)]
    x = [[row[i] - means[i] for i in range(dim)] for row in rows]
    places = [(i, j) for i in range(dim) for j in range(dim)]
    s = {(i, j): math.fsum(row[i] * row[j] for row in x) / count for i, j in places}
    m = math.fsum(s[i, i] for i in range(dim)) / dim
    d2 = math.fsum((s[i, j] - m * (i == j)) ** 2 for i, j in places) / dim
    b2 = math.fsum((row[i] * row[j] - s[i, j]) ** 2 for row in x for i, j in places) / dim
    return min(b2 / count**2, d2) / d2


@pytest.mark.parametrize(("count", "dim"), [(5, 3), (12, 31), (31, 12), (2, 7), (20, 20), (200, 2)])
def test_ledoit_and_wolf_is_its_definition(count: int, dim: int) -> None:
    x = clustered(count, dim).double() + 3
    expected = shrinkage_as_defined(x.tolist())
    assert ledoit_wolf_shrinkage(x) == pytest.approx(expected, rel=1e-9)
    assert ledoit_wolf_shrinkage(x.float()) == pytest.approx(expected, rel=1e-3)
    assert ledoit_wolf_shrinkage(1000 * x) == pytest.approx(expected, rel=1e-9)


def test_more_samples_need_less_shrinkage() -> None:
    x = clustered(2000, 20)
    amounts = [ledoit_wolf_shrinkage(x[:count]) for count in (5, 20, 80, 400, 2000)]
    assert amounts == sorted(amounts, reverse=True)
    assert amounts[0] > 0.2
    assert amounts[-1] < 0.01


@pytest.mark.parametrize("count", [15, 40, 150])
def test_the_shrunk_covariance_is_closer_to_the_true_one(count: int) -> None:
    """What the formula is for: it gains what the best share gains, found by trying them all."""
    truth = torch.diag(torch.linspace(0.5, 2, 40).double())
    for seed in range(5):
        noise = torch.randn(count, 40, generator=torch.Generator().manual_seed(seed)).double()
        x = noise @ truth.sqrt()
        s = torch.cov(x.T, correction=0)
        sphere = s.trace() / 40 * torch.eye(40)

        def loss(share: float, s: torch.Tensor = s, sphere: torch.Tensor = sphere) -> float:
            return float(((1 - share) * s + share * sphere - truth).square().sum())

        best = min(loss(share / 100) for share in range(101))
        assert loss(0.0) - loss(ledoit_wolf_shrinkage(x)) > 0.9 * (loss(0.0) - best) > 0


def test_a_sphere_is_not_shrunk() -> None:
    crosses = torch.cat([torch.eye(4), -torch.eye(4)])
    assert ledoit_wolf_shrinkage(crosses) == 0.0
    assert ledoit_wolf_shrinkage(torch.randn(9, 1)) == 0.0
    assert ledoit_wolf_shrinkage(torch.full((6, 5), 0.1)) == 0.0


@pytest.mark.parametrize("x", [torch.zeros(1, 4), torch.zeros(4)])
def test_a_single_descriptor_has_no_covariance(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="descriptors have shape"):
        ledoit_wolf_shrinkage(x)
