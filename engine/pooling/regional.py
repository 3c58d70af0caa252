"""R-MAC: maxima of a rigid grid of regions, summed (arXiv:1511.05879, section 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.pooling.linear import mac
from engine.postprocess import l2_normalize

OVERLAP = 0.4
"""Share of a region of the first level that its neighbour covers too, as nearly as possible."""


def rmac_regions(height: int, width: int, levels: int = 3) -> list[tuple[int, int, int]]:
    """The grid of an (H, W) map: (top, left, side) of each square region, level by level.

    Raises: ValueError for an empty map or no level.
    """
    if min(height, width, levels) < 1:
        raise ValueError(f"height {height}, width {width}, levels {levels}: each must be >= 1")
    short = min(height, width)
    steps = torch.tensor([(max(height, width) - short) / (count - 1) for count in range(2, 8)])
    extra = 0
    if height != width:
        overlap = (short * short - short * steps) / (short * short)
        extra = int((overlap - OVERLAP).abs().argmin()) + 1
    regions = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if side < 1:
            break
        tops = _starts(height, side, level + (extra if height > width else 0))
        lefts = _starts(width, side, level + (extra if width > height else 0))
        regions += [(top, left, side) for top in tops for left in lefts]
    return regions


def region_maxima(features: Tensor, levels: int = 3, whole_map: bool = True) -> Tensor:
    """L2-normalised maxima of each region: (B, C, H, W) -> (B, R, C).

    With `whole_map` the whole map is one more region, the last.
    """
    regions = [
        mac(features[:, :, rows, columns])
        for rows, columns in region_slices(features, levels, whole_map)
    ]
    return l2_normalize(torch.stack(regions, dim=1))


def region_slices(features: Tensor, levels: int, whole_map: bool) -> list[tuple[slice, slice]]:
    """Rows and columns of each region of a (B, C, H, W) map, in the order of `region_maxima`."""
    height, width = features.shape[-2:]
    slices = [
        (slice(top, top + side), slice(left, left + side))
        for top, left, side in rmac_regions(height, width, levels)
    ]
    return [*slices, (slice(0, height), slice(0, width))] if whole_map else slices


def rmac(features: Tensor, levels: int = 3, whole_map: bool = True) -> Tensor:
    """Sum of the L2-normalised maxima of all regions; not normalised itself.

    Args:
        features: (B, C, H, W).
        levels: of the grid.
        whole_map: count the whole map as one more region, as is usual with three levels; the
            networks of deep image retrieval (arXiv:1610.07940) use two levels without it.

    Returns: (B, C).
    """
    return region_maxima(features, levels, whole_map).sum(dim=1)


def _starts(size: int, side: int, count: int) -> list[int]:
    half = side // 2 - 1
    step = (size - side) / (count - 1) if count > 1 else 0.0
    starts = (math.floor(half + index * step) - half for index in range(count))
    return [max(0, min(size - side, start)) for start in starts]
