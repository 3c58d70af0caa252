"""Co-occurrence as the maximal correlation of two channels (Shih et al.; paper, Eq 1 and 6.1).

The method that the paper compares its co-occurrence tensor with, kept as a baseline.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def max_correlation(features: Tensor, radius: int = 4) -> Tensor:
    """The largest correlation of each pair of channels over all offsets (Eq 1).

    c(k, w) = max over offsets o, |o_x| and |o_y| <= radius, of sum over p of a_p^k a_{p+o}^w;
    activations outside the map are zero.

    Args:
        features: (B, C, H, W) float, C >= 2.
        radius: largest offset along each axis, at least 0.

    Returns: (B, C, C), symmetric, dtype of `features`; not differentiable.
    Raises: ValueError for a wrong shape or a negative radius.
    """
    _check(features, radius)
    flat, shifts = _flatten(features, radius)
    best = _correlation(flat, 0)
    for shift in shifts:
        torch.maximum(best, _correlation(flat, shift), out=best)
    return torch.maximum(best, best.mT)  # the opposite offsets: c_-o(k, w) = c_o(w, k)


@torch.no_grad()
def max_correlation_tensor(features: Tensor, radius: int = 4) -> Tensor:
    """Co-occurrence tensor of maximal correlations (section 6.1; the authors' code is unpublished).

    For each pair (k, w) the offset o*(k, w) of the largest correlation is chosen (Eq 1), and the
    map a_p^k a_{p+o*}^w kept instead of its sum over p. "The aggregation of all the correlations
    of each channel with the rest" is read as their sum, without the channel itself:

    C_T[k, p] = a_p^k * sum over w != k of a_{p + o*(k, w)}^w

    The zero offset is chosen unless another is strictly better, as by Shih et al. Of several equal
    ones the first is chosen, in this order: (0, 1), ..., (0, r), (1, -r), ..., (1, r), (2, -r),
    ..., (r, r) as (o_y, o_x), then their opposites in the same order. Sums are compared as
    computed, so rounding may part offsets that are equal on paper.

    Args:
        features: (B, C, H, W) float, C >= 2.
        radius: largest offset along each axis, at least 0.

    Returns: (B, C, H, W), dtype of `features`; not differentiable.
    Raises: ValueError for a wrong shape or a negative radius.
    """
    _check(features, radius)
    flat, shifts = _flatten(features, radius)
    every_shift = [0, *shifts, *(-shift for shift in shifts)]
    batch, channels, length = flat.shape
    chosen = _best_offsets(flat, shifts)  # (B, C, C)
    chosen.diagonal(dim1=1, dim2=2).fill_(len(every_shift))
    # All pairs (k, w) of the batch, grouped by their offset.
    numbers, pairs = chosen.flatten().int().sort(stable=True)
    counts = torch.bincount(numbers, minlength=len(every_shift)).tolist()

    maps = flat.reshape(batch * channels, length)
    others = torch.zeros_like(maps)  # sum over w != k of the shifted maps
    end = 0
    for shift, count in zip(every_shift, counts, strict=False):  # the diagonal comes last
        start, end = end, end + count
        overlap = length - abs(shift)
        if count == 0 or overlap <= 0:
            continue
        here, there = max(0, -shift), max(0, shift)
        selected = _selection(pairs[start:end], batch, channels, maps.dtype)
        shifted = torch.sparse.mm(selected, maps[:, there : there + overlap])
        others[:, here : here + overlap] += shifted
    height, width = features.shape[2:]
    tensor = others.mul_(maps).reshape(batch, channels, height, -1)
    return tensor[..., :width].contiguous()


def _check(features: Tensor, radius: int) -> None:
    if features.ndim != 4 or features.shape[1] < 2:
        raise ValueError(
            f"features have shape {tuple(features.shape)}; expected (B, C, H, W) with C >= 2"
        )
    if radius < 0:
        raise ValueError(f"radius is {radius}; it must be at least 0")


def _flatten(features: Tensor, radius: int) -> tuple[Tensor, list[int]]:
    """Maps as rows, zeros after each of their lines, and half of the offsets as shifts of a row.

    An offset (o_y, o_x) is a shift by o_y * (W + margin) + o_x: a slice, without a copy. What it
    moves over the end of a line meets the zeros. The other half are the negative shifts.

    Returns: (B, C, H (W + margin)), and the shifts in the order of `max_correlation_tensor`.
    """
    height, width = features.shape[2:]
    # Every offset beyond the map correlates to zero, so one of them stands for all.
    lines, margin = min(radius, height), min(radius, width)
    shifts = [
        y * (width + margin) + x
        for y in range(lines + 1)
        for x in range(-margin, margin + 1)
        if y > 0 or x > 0
    ]
    return F.pad(features, (0, margin)).flatten(2), shifts


def _correlation(flat: Tensor, shift: int) -> Tensor:
    """c_o(k, w) = sum over p of a_p^k a_{p+o}^w, for a shift of 0 or more: (B, C, C)."""
    overlap = max(0, flat.shape[2] - shift)
    return torch.bmm(flat[:, :, :overlap], flat[:, :, shift:].mT)


def _best_offsets(flat: Tensor, shifts: list[int]) -> Tensor:
    """Number of the best offset of each pair (k, w): 0, one of `shifts` from 1, then opposites.

    Returns: (B, C, C) float32, whose arithmetic is vectorised, unlike that of integers and masks.
    """
    best = _correlation(flat, 0)
    chosen = torch.zeros(best.shape, dtype=torch.float32, device=best.device)
    better = torch.empty_like(chosen)
    for number, shift in enumerate(shifts, start=1):
        correlation = _correlation(flat, shift)
        torch.gt(correlation, best, out=better)
        torch.maximum(best, correlation, out=best)
        # Numbers grow, so the larger one is the later and better one.
        torch.maximum(chosen, better.mul_(number), out=chosen)
    # The opposite offsets need no products: c_-o(k, w) = c_o(w, k).
    opposite = torch.where(chosen > 0, chosen + len(shifts), chosen).mT
    return torch.where(best.mT > best, opposite, chosen)


def _selection(pairs: Tensor, batch: int, channels: int, dtype: torch.dtype) -> Tensor:
    """Sparse 0/1 matrix (B C, B C) of pairs (k, w), numbered (image * C + k) * C + w, ascending.

    One in 81 entries is set at radius 4: a dense product takes several times as long.
    """
    rows = pairs // channels
    columns = rows // channels * channels + pairs % channels
    size = (batch * channels, batch * channels)
    ones = torch.ones(len(pairs), dtype=dtype, device=pairs.device)
    return torch.sparse_coo_tensor(
        torch.stack((rows, columns)), ones, size, is_coalesced=True, check_invariants=False
    )
