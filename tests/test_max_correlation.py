from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.max_correlation import max_correlation, max_correlation_tensor


def sparse(*shape: int, seed: int = 0) -> Tensor:
    """Activations as after a ReLU; H, W and C differ so that swapped axes fail."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) - 0.5).relu()


def signed(*shape: int) -> Tensor:
    """Values of both signs, where an offset beyond the map may be the best."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def small_integers(*shape: int) -> Tensor:
    """0 and 1 only: sums are exact and many offsets are equally good."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 2, shape, generator=generator).double()


def offsets(radius: int) -> list[tuple[int, int]]:
    """(0, 0), then those after it in reading order, then the opposites of these."""
    line = range(-radius, radius + 1)
    after = [(y, x) for y in range(radius + 1) for x in line if (y, x) > (0, 0)]
    return [(0, 0), *after, *((-y, -x) for y, x in after)]


def correlation_map(first: Tensor, second: Tensor, offset: tuple[int, int]) -> Tensor:
    """a_p^k a_{p+o}^w at each p, one position after the other."""
    height, width = first.shape
    result = torch.zeros_like(first)
    for i in range(height):
        for j in range(width):
            u, v = i + offset[0], j + offset[1]
            if 0 <= u < height and 0 <= v < width:
                result[i, j] = first[i, j] * second[u, v]
    return result


def best_map(first: Tensor, second: Tensor, radius: int) -> Tensor:
    """The map of the largest sum; of equal ones the first in `offsets`."""
    best = correlation_map(first, second, (0, 0))
    for offset in offsets(radius)[1:]:
        other = correlation_map(first, second, offset)
        # Further than rounding, which depends on the order of the sum.
        if other.sum() > best.sum() + 1e-12:
            best = other
    return best


def equation_1(features: Tensor, radius: int) -> Tensor:
    maps = [[[best_map(k, w, radius).sum() for w in image] for k in image] for image in features]
    return torch.tensor(maps, dtype=features.dtype)


def section_6_1(features: Tensor, radius: int) -> Tensor:
    result = torch.zeros_like(features)
    for image, values in enumerate(features):
        for k in range(len(values)):
            for w in range(len(values)):
                if w != k:
                    result[image, k] += best_map(values[k], values[w], radius)
    return result


CASES = [
    sparse(2, 3, 5, 4),
    sparse(1, 4, 1, 1),
    sparse(1, 2, 1, 6),
    sparse(1, 3, 6, 2),
    signed(1, 3, 3, 5),
    signed(2, 4, 1, 1),
    small_integers(2, 5, 3, 4),
    torch.zeros(1, 3, 4, 5, dtype=torch.float64),
    torch.ones(1, 3, 2, 3, dtype=torch.float64),
]
NAMES = ["odd", "1x1", "line", "column", "signed", "signed 1x1", "ties", "zeros", "ones"]


@pytest.mark.parametrize("features", CASES, ids=NAMES)
@pytest.mark.parametrize("radius", [0, 1, 2, 7])
def test_correlations_are_those_of_the_equation(
    features: Tensor, radius: int, device: torch.device
) -> None:
    ours = max_correlation(features.to(device), radius).cpu()
    torch.testing.assert_close(ours, equation_1(features, radius))


@pytest.mark.parametrize("features", CASES, ids=NAMES)
@pytest.mark.parametrize("radius", [0, 1, 2, 7])
def test_the_tensor_is_that_of_the_section(
    features: Tensor, radius: int, device: torch.device
) -> None:
    ours = max_correlation_tensor(features.to(device), radius).cpu()
    torch.testing.assert_close(ours, section_6_1(features, radius))


def test_a_pattern_and_its_shifted_copy_are_joined_by_their_offset() -> None:
    features = torch.zeros(1, 2, 7, 9)
    features[0, 0, 2, 6] = 3.0
    features[0, 1, 5, 3] = 2.0  # (3, -3) away
    assert max_correlation(features, 2)[0, 0, 1] == 0
    assert max_correlation(features, 3)[0].tolist() == [[9, 6], [6, 4]]
    tensor = max_correlation_tensor(features, 3)
    assert [(tuple(at), float(tensor[tuple(at)])) for at in tensor.nonzero().tolist()] == [
        ((0, 0, 2, 6), 6.0),
        ((0, 1, 5, 3), 6.0),
    ]


def test_the_zero_offset_stays_unless_another_is_better() -> None:
    """Two copies beside each other: the shift of one finds as much as no shift."""
    features = torch.zeros(1, 2, 3, 8)
    features[0, 0, 1, 3] = 1.0
    features[0, 1, 1, 3:5] = 1.0
    assert max_correlation_tensor(features)[0, 1].nonzero().tolist() == [[1, 3]]
    features[0, 1, 1, 4] = 1.5
    assert max_correlation_tensor(features)[0, 1].nonzero().tolist() == [[1, 4]]


def test_of_equal_offsets_the_first_is_taken() -> None:
    features = torch.zeros(1, 2, 5, 5)
    features[0, 0, 2, 2] = 1.0
    features[0, 1, 2, 1] = features[0, 1, 3, 1] = features[0, 1, 3, 3] = 1.0
    # From channel 1 to channel 0 it is (0, 1), (-1, 1) or (-1, -1): (0, 1) is the first of all.
    assert max_correlation_tensor(features, 1)[0, 1].nonzero().tolist() == [[2, 1]]
    features[0, 1, 2, 1] = 0.0
    # (-1, 1) is the opposite of (1, -1), and (-1, -1) that of (1, 1).
    assert max_correlation_tensor(features, 1)[0, 1].nonzero().tolist() == [[3, 1]]


def test_a_result_does_not_depend_on_batch_companions(device: torch.device) -> None:
    dim, bright = sparse(1, 6, 7, 5).to(device), 5 * sparse(1, 6, 7, 5, seed=1).to(device)
    for method in (max_correlation, max_correlation_tensor):
        together = method(torch.cat([dim, bright]))
        torch.testing.assert_close(together[:1], method(dim), rtol=1e-12, atol=0)
        torch.testing.assert_close(together[1:], method(bright), rtol=1e-12, atol=0)


def test_permuted_channels_give_permuted_results() -> None:
    features = sparse(1, 6, 5, 8)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    expected = max_correlation_tensor(features)[:, order]
    torch.testing.assert_close(max_correlation_tensor(features[:, order]), expected)


def test_the_layout_makes_no_difference() -> None:
    features = sparse(2, 6, 5, 8)
    other = features.contiguous(memory_format=torch.channels_last)
    assert torch.equal(max_correlation(other), max_correlation(features))
    assert torch.equal(max_correlation_tensor(other), max_correlation_tensor(features))


def test_single_precision_is_close_to_double() -> None:
    features = sparse(1, 16, 24, 32)
    single = max_correlation_tensor(features.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, max_correlation_tensor(features).float(), rtol=1e-5, atol=0)


def test_the_argument_is_left_alone() -> None:
    features = sparse(1, 4, 5, 6)
    before = features.clone()
    max_correlation(features)
    max_correlation_tensor(features)
    assert torch.equal(features, before)


def test_wrong_shapes_are_named() -> None:
    for method in (max_correlation, max_correlation_tensor):
        with pytest.raises(ValueError, match=r"\(4, 5, 6\)"):
            method(torch.zeros(4, 5, 6))
        with pytest.raises(ValueError, match=r"\(1, 1, 5, 6\)"):
            method(torch.zeros(1, 1, 5, 6))
        with pytest.raises(ValueError, match="radius is -1"):
            method(torch.zeros(1, 4, 5, 6), -1)
