from __future__ import annotations

import pytest
import torch

from engine.pooling import build_pooling
from engine.pooling.bilinear import CompactBilinear


def column(values: list[float]) -> torch.Tensor:
    """(1, C, 1, 1)"""
    return torch.tensor(values).reshape(1, -1, 1, 1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_known_value_of_the_reference_implementation(device: torch.device) -> None:
    sketch = CompactBilinear(4, dim=8, seed=0).to(device)
    result = sketch(
        column([1.0, 2.0, 3.0, 4.0]).to(device), column([0.5, 0.0, 1.0, 2.0]).to(device)
    )
    assert result.cpu().tolist() == [[3.5, -6, 0, 5, -1, -8, -1, 5.5]]


def test_sketch_is_the_sum_of_convolved_count_sketches(device: torch.device) -> None:
    channels, dim = 5, 7
    sketch = CompactBilinear(channels, dim, seed=3)
    x, y = torch.rand(2, 2, channels, 3, 4, dtype=torch.float64)
    expected = torch.zeros(2, dim, dtype=torch.float64)
    for image in range(2):
        for row in range(3):
            for place in range(4):
                for i in range(channels):
                    for j in range(channels):
                        bucket = (int(sketch.h1[i]) + int(sketch.h2[j])) % dim
                        sign = float(sketch.s1[i] * sketch.s2[j])
                        product = x[image, i, row, place] * y[image, j, row, place]
                        expected[image, bucket] += sign * product
    ours = sketch.to(device)(x.to(device), y.to(device)).cpu()
    torch.testing.assert_close(ours, expected)


def test_sketch_is_an_unbiased_estimate_of_the_bilinear_product() -> None:
    x, y, u, v = torch.rand(4, 1, 6, 2, 3, dtype=torch.float64)
    outer = torch.einsum("bihw,bjhw->bij", x, y), torch.einsum("bihw,bjhw->bij", u, v)
    exact = float((outer[0] * outer[1]).sum())
    estimates = torch.tensor(
        [
            float((s(x, y) * s(u, v)).sum())
            for s in (CompactBilinear(6, 64, 8 * k) for k in range(400))
        ]
    )
    error = float(estimates.std()) / 400**0.5
    assert abs(float(estimates.mean()) - exact) < 4 * error
    assert error < 0.02 * exact


def test_one_image_alone_and_in_a_batch_are_equal(device: torch.device) -> None:
    sketch = CompactBilinear(9, 32).to(device)
    x, y = torch.rand(2, 4, 9, 5, 6, dtype=torch.float64, device=device)
    alone = torch.cat([sketch(x[i : i + 1], y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(sketch(x, y), alone, rtol=1e-12, atol=1e-12)


def test_zero_maps_and_single_positions_are_finite() -> None:
    sketch = CompactBilinear(3, 16)
    assert sketch(torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5)).count_nonzero() == 0
    assert sketch(torch.ones(1, 3, 1, 1), torch.ones(1, 3, 1, 1)).isfinite().all()


def test_gradients_are_those_of_finite_differences() -> None:
    sketch = CompactBilinear(3, 8).double()
    x = torch.rand(1, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    y = torch.rand(1, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sketch, (x, y))


def test_loaded_hashes_give_the_sketch_of_their_owner() -> None:
    theirs, ours = CompactBilinear(5, 16, seed=1), CompactBilinear(5, 16, seed=2)
    x = torch.rand(1, 5, 3, 2)
    assert not torch.equal(theirs(x, x), ours(x, x))
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(theirs(x, x), ours(x, x))


def test_hashes_are_the_saved_state() -> None:
    state = CompactBilinear(5, 16).state_dict()
    assert sorted(state) == ["h1", "h2", "s1", "s2"]


def test_pooling_digest_follows_the_hashes() -> None:
    same = [build_pooling("cbp_ac", 8, dim=32).digest() for _ in range(2)]
    assert same[0] == same[1]
    assert build_pooling("cbp_ac", 8, dim=32, seed=1).digest() != same[0]


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="both must be"):
        CompactBilinear(3, 8)(torch.zeros(1, 3, 2, 2), torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="dim is 0"):
        CompactBilinear(3, 0)
