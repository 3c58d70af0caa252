from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.postprocess import PCAProjection, bounded_dim, l2_normalize, signed_sqrt


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


def test_full_power_whitens() -> None:
    x = clustered(2000, 12)
    projection = PCAProjection.fit(x, dim=12, power=0.5)
    whitened = (x - projection.mean) @ projection.directions.T
    torch.testing.assert_close(torch.cov(whitened.T), torch.eye(12), atol=2e-2, rtol=0)


def test_dimension_is_bounded_by_the_number_of_images() -> None:
    assert PCAProjection.fit(clustered(50, 200), dim=128).dim == bounded_dim(50, 128) == 30
    assert PCAProjection.fit(clustered(500, 200), dim=128).dim == 128
    assert bounded_dim(1, 512) == 1


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
    projection = PCAProjection.fit(x, dim=8)
    restored = PCAProjection.from_tensors(projection.tensors())
    assert torch.equal(projection(x), restored(x))
    assert (restored.explained, restored.power) == (projection.explained, projection.power)


@pytest.mark.parametrize("x", [torch.zeros(1, 4), torch.ones(5, 4), torch.zeros(4)])
def test_nothing_to_fit_on_is_an_error(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="descriptors"):
        PCAProjection.fit(x)
