from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.cooccurrence import (
    _without_mask,
    direct_cooccurrence,
    direct_filter,
    learned_cooccurrence,
)


def sparse(*shape: int, seed: int = 0) -> Tensor:
    """Activations as after a ReLU; H, W and C differ so that swapped axes fail."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) - 0.5).relu()


def equation_3(features: Tensor, radius: int) -> Tensor:
    """Eq 2 and 3, w != k, as loops over every pair of activations."""
    _, channels, height, width = features.shape
    result = torch.zeros_like(features)
    for image, values in enumerate(features):
        threshold = values.mean()
        for k in range(channels):
            for i in range(height):
                for j in range(width):
                    if values[k, i, j] <= threshold:
                        continue
                    total = 0.0
                    for w in range(channels):
                        for u in range(max(0, i - radius), min(height, i + radius + 1)):
                            for v in range(max(0, j - radius), min(width, j + radius + 1)):
                                if w != k and values[w, u, v] > threshold:
                                    total += float(values[w, u, v])
                    result[image, k, i, j] = total / (channels - 1)
    return result


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 4, 1, 1), (1, 2, 1, 7), (1, 3, 6, 2)])
@pytest.mark.parametrize("radius", [0, 1, 4])
def test_direct_form_is_the_equation(
    shape: tuple[int, ...], radius: int, device: torch.device
) -> None:
    features = sparse(*shape)
    ours = direct_cooccurrence(features.to(device), radius).cpu()
    torch.testing.assert_close(ours, equation_3(features, radius))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_direct_form_is_the_published_convolution(
    layout: torch.memory_format, device: torch.device
) -> None:
    features = sparse(2, 7, 11, 13).float().contiguous(memory_format=layout).to(device)
    mask = features > features.mean(dim=(1, 2, 3), keepdim=True)
    weight = direct_filter(7, 4).to(device)
    published = F.conv2d(features * mask, weight, padding=4) / 6 * mask
    torch.testing.assert_close(direct_cooccurrence(features), published, rtol=1e-5, atol=1e-5)


def test_learned_form_with_the_direct_filter_is_the_direct_form(device: torch.device) -> None:
    features = sparse(2, 5, 6, 9).to(device)
    weight = direct_filter(5, 2).double().to(device)
    ours = learned_cooccurrence(features, weight)
    torch.testing.assert_close(ours, direct_cooccurrence(features, 2))


def test_learned_form_is_its_equation_for_any_filter() -> None:
    features = sparse(1, 3, 4, 5)
    weight = torch.randn(3, 3, 3, 3, dtype=torch.float64, generator=torch.Generator())
    mask = features > features.mean()
    active = F.pad(features * mask, (1, 1, 1, 1))[0]
    expected = torch.zeros_like(features)
    for k in range(3):
        for i in range(4):
            for j in range(5):
                window = active[:, i : i + 3, j : j + 3]
                expected[0, k, i, j] = (window * weight[k]).sum() / 2 * mask[0, k, i, j]
    torch.testing.assert_close(learned_cooccurrence(features, weight), expected)


def test_a_result_does_not_depend_on_batch_companions(device: torch.device) -> None:
    dim, bright = sparse(1, 8, 10, 12).to(device), 5 * sparse(1, 8, 10, 12, seed=1).to(device)
    together = direct_cooccurrence(torch.cat([dim, bright]))
    torch.testing.assert_close(together[:1], direct_cooccurrence(dim), rtol=1e-12, atol=0)
    torch.testing.assert_close(together[1:], direct_cooccurrence(bright), rtol=1e-12, atol=0)


def test_permuted_channels_give_permuted_results() -> None:
    features = sparse(1, 6, 5, 8)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    expected = direct_cooccurrence(features)[:, order]
    torch.testing.assert_close(direct_cooccurrence(features[:, order]), expected)


def test_a_shifted_map_gives_a_shifted_result_inside_the_borders() -> None:
    inner = sparse(1, 4, 6, 7)
    here = direct_cooccurrence(F.pad(inner, (2, 6, 2, 6)), 2)
    there = direct_cooccurrence(F.pad(inner, (5, 3, 4, 4)), 2)
    torch.testing.assert_close(here[..., 2:8, 2:9], there[..., 4:10, 5:12])


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_map_gives_zeros(value: float) -> None:
    assert direct_cooccurrence(torch.full((1, 4, 5, 6), value)).count_nonzero() == 0


def test_a_lone_channel_has_nothing_to_occur_with() -> None:
    features = torch.zeros(1, 3, 5, 6)
    features[0, 1] = torch.rand(5, 6, generator=torch.Generator())
    assert direct_cooccurrence(features).count_nonzero() == 0


def test_half_precision_stays_half_precision() -> None:
    features = sparse(1, 4, 5, 6).bfloat16()
    assert direct_cooccurrence(features).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shift", [0.0, -0.5])
@pytest.mark.parametrize("batch", [1, 3])
def test_with_and_without_gradients_the_result_is_the_same_to_the_bit(
    dtype: torch.dtype, layout: torch.memory_format, shift: float, batch: int
) -> None:
    features = (sparse(batch, 6, 9, 7) + shift).to(dtype).contiguous(memory_format=layout)
    with_gradient = direct_cooccurrence(features.clone().requires_grad_(), 2)
    without = direct_cooccurrence(features, 2)
    assert with_gradient.requires_grad
    assert without.dtype == dtype
    assert torch.equal(without, with_gradient.detach())
    # What large maps take, and small ones only when they are alone.
    assert torch.equal(_without_mask(features, 2), without)


def test_the_argument_is_left_alone() -> None:
    features = sparse(1, 4, 5, 6)
    before = features.clone()
    direct_cooccurrence(features)
    assert torch.equal(features, before)


def test_gradients_are_those_of_finite_differences() -> None:
    features = sparse(1, 3, 4, 3).requires_grad_()
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 3, 3, 3, dtype=torch.float64, generator=draw).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: direct_cooccurrence(a, 1), (features,), eps=1e-7)
    assert torch.autograd.gradcheck(learned_cooccurrence, (features, weight), eps=1e-7)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5, 6\)"):
        direct_cooccurrence(torch.zeros(4, 5, 6))
    with pytest.raises(ValueError, match="radius is -1"):
        direct_cooccurrence(torch.zeros(1, 4, 5, 6), -1)
    with pytest.raises(ValueError, match=r"\(4, 4, 2r\+1, 2r\+1\)"):
        learned_cooccurrence(torch.zeros(1, 4, 5, 6), torch.zeros(3, 3, 9, 9))


def test_known_values_on_the_authors_activation(shared_data: Path) -> None:
    file = shared_data / "cooc_reference" / "all_souls_000117.npy"
    features = torch.from_numpy(np.load(file)).double()[None]
    result = direct_cooccurrence(features, radius=4)[0]
    assert features.mean().item() == pytest.approx(1.3856398064, rel=1e-9)
    assert (features > features.mean()).double().mean().item() == pytest.approx(
        0.0700709025, rel=1e-8
    )
    assert result.sum().item() == pytest.approx(2983169.8162, rel=1e-9)
    assert result.max().item() == pytest.approx(224.1478634515, rel=1e-11)
    place = np.unravel_index(int(result.argmax()), result.shape)
    assert [int(index) for index in place] == [327, 18, 26]
    assert int((result.sum(dim=(1, 2)) == 0).sum()) == 9


def test_single_precision_reaches_the_known_values_to_1e_5(shared_data: Path) -> None:
    file = shared_data / "cooc_reference" / "all_souls_000117.npy"
    result = direct_cooccurrence(torch.from_numpy(np.load(file)).float()[None])
    assert result.sum().item() == pytest.approx(2983169.8162, rel=1e-5)
    assert result.max().item() == pytest.approx(224.1478634515, rel=1e-5)
