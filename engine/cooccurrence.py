"""The co-occurrence tensor of a feature map (paper, section 3)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

LARGE_MAP = 1 << 17
"""Values of a map from which on images are better worked through one by one on a CPU: smaller
ones stay in its caches together, and each step costs more than what it does."""


def activation_mask(features: Tensor) -> Tensor:
    """rho_A: 1 where an activation exceeds the mean of its own image, else 0 (Eq 7).

    The mean is taken per image, not per batch: a descriptor must not depend on who shares its
    batch. The mask is a constant for autograd, as a step function has no useful gradient.

    Args:
        features: (B, C, H, W) float.

    Returns: (B, C, H, W), dtype, device and memory layout of `features`.
    """
    values = features.detach()
    # One reduction per image: a batched one rounds differently for each batch size, and an
    # activation close to the mean would then be in or out depending on the company.
    # Slices, not items: with four dimensions a map in channels_last is still summed as one block.
    means = [values[number : number + 1].mean() for number in range(len(values))]
    threshold = torch.stack(means).reshape(-1, 1, 1, 1)  # (B, 1, 1, 1)
    # Written straight into floats: multiplying by a bool tensor costs five times as much.
    return torch.gt(values, threshold, out=torch.empty_like(values))


def direct_cooccurrence(features: Tensor, radius: int = 4) -> Tensor:
    """Co-occurrence of each activation with the other channels around it (Eq 3, 6; w != k).

    C_T[k] = rho_k * Box(sum over w != k of A_w * rho_w) / (C - 1), where Box adds up the
    (2 radius + 1)^2 window, zero outside the map. The published filter of ones off the diagonal
    is this box filter, so its C^2 (2r+1)^2 products per position are never made: the box is
    separable, and each of its two passes is one product with a banded 0/1 matrix.

    Args:
        features: (B, C, H, W) float, C >= 2.
        radius: half width of the window, at least 0.

    Returns: (B, C, H, W), dtype of `features`; gradients flow to `features`.
    Raises: ValueError for a wrong shape or a negative radius.
    """
    _check(features, radius)
    wants_gradient = torch.is_grad_enabled() and features.requires_grad
    one_by_one = len(features) == 1 or features.shape[1:].numel() >= LARGE_MAP
    if features.device.type == "cpu" and one_by_one and not wants_gradient:
        return _without_mask(features, radius)
    mask = activation_mask(features)  # (B, C, H, W)
    active = features * mask
    # Box is linear: taking the channel itself away before it, not after, keeps exact zeros exact.
    # In place, here and below, as these maps are our own: it saves a third of the memory traffic.
    minus_others = active.sub_(active.sum(dim=1, keepdim=True))
    return _box_filter(minus_others, radius, -1.0 / (features.shape[1] - 1)).mul_(mask)


@torch.no_grad()
def _without_mask(features: Tensor, radius: int) -> Tensor:
    """`direct_cooccurrence` on a CPU where no gradient is wanted, to the bit.

    One image at a time and without a mask in memory, so that the maps at work stay in the caches:
    each multiplication by rho is a comparison with the mean in the pass that it belongs to.
    """
    scale = -1.0 / (features.shape[1] - 1)
    result = torch.empty_like(features) if len(features) != 1 else None
    for number in range(len(features)):
        image = features[number : number + 1]
        mean = float(image.mean())
        active = F.threshold(image, mean, 0.0)  # A rho
        boxed = _box_filter(active.sub_(active.sum(dim=1, keepdim=True)), radius, scale)
        target = boxed if result is None else result[number : number + 1]
        # The derivative of `threshold`: its first argument where the second exceeds the mean.
        torch.ops.aten.threshold_backward.grad_input(boxed, image, mean, grad_input=target)
        if result is None:
            return boxed
    assert result is not None
    return result


def learned_cooccurrence(features: Tensor, weight: Tensor) -> Tensor:
    """Co-occurrence with a learned filter: C_T = conv2d(A rho, weight) / (C - 1) * rho (Eq 6).

    Nothing constrains the filter, so the result may be negative.

    Args:
        features: (B, C, H, W) float, C >= 2.
        weight: (C, C, 2r+1, 2r+1); entry [k, w] weighs channel w for the output channel k.

    Returns: (B, C, H, W); gradients flow to `features` and `weight`.
    Raises: ValueError for shapes that do not fit.
    """
    channels = features.shape[1] if features.ndim == 4 else -1
    size = weight.shape[-1] if weight.ndim == 4 else 0
    if weight.shape != (channels, channels, size, size) or size % 2 == 0:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; features with {channels} channels "
            f"need ({channels}, {channels}, 2r+1, 2r+1)"
        )
    _check(features, size // 2)
    mask = activation_mask(features)
    return F.conv2d(features * mask, weight, padding=size // 2) / (channels - 1) * mask


def cooccurrence_vector(cooccurrences: Tensor) -> Tensor:
    """C_V, the total co-occurrence of each channel: (B, C, H, W) -> (B, C) (Eq 4)."""
    return cooccurrences.sum(dim=(2, 3))


def direct_filter(channels: int, radius: int = 4) -> Tensor:
    """The published filter: 1 between different channels, 0 from a channel to itself (Eq 5).

    Returns: (C, C, 2r+1, 2r+1) float32.
    """
    pairs = 1.0 - torch.eye(channels)
    size = 2 * radius + 1
    return pairs[:, :, None, None].expand(channels, channels, size, size).contiguous()


def _check(features: Tensor, radius: int) -> None:
    if features.ndim != 4 or features.shape[1] < 2:
        raise ValueError(
            f"features have shape {tuple(features.shape)}; expected (B, C, H, W) with C >= 2"
        )
    if radius < 0:
        raise ValueError(f"radius is {radius}; it must be at least 0")


def _box_filter(x: Tensor, radius: int, scale: float) -> Tensor:
    """`scale` times the sum over a (2 radius + 1)^2 window, zero padded; same shape as `x`."""
    batch, channels, height, width = x.shape
    rows = _band(height, radius, scale, x.dtype, x.device)
    columns = _band(width, radius, 1.0, x.dtype, x.device)
    if x.is_contiguous(memory_format=torch.channels_last):
        # Channels vary fastest: both passes are products with long contiguous rows.
        y = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        y = torch.matmul(rows, y.reshape(batch, height, width * channels))  # (B, H, W C)
        y = torch.matmul(columns, y.reshape(batch, height, width, channels))  # (B, H, W, C)
        return y.permute(0, 3, 1, 2)
    return torch.matmul(rows, torch.matmul(x, columns))


@lru_cache(maxsize=64)
def _band(size: int, radius: int, value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size) matrix with `value` where row and column differ by at most `radius`, else 0.

    Kept between calls: making it would take a tenth of the time of all the rest.
    """
    # A tensor that is first needed in inference could not be used in training afterwards.
    with torch.inference_mode(False), torch.no_grad():
        full = torch.full((size, size), value, dtype=dtype, device=device)
        return full.tril_(radius).triu_(-radius)
