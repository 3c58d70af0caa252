"""Values by position, and the area of the image that they stand for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.describer import Describer
from engine.types import Pixels

Grid = NDArray[np.float64]
"""(h, w): one value for each position of a map."""


def covered(describer: Describer, pixels: Pixels) -> tuple[int, int]:
    """Height and width that the maps span, in pixels: more than a thin image has."""
    height, width = (max(side, describer.smallest_side) for side in pixels.shape[:2])
    return height, width


def spread(values: Grid, height: int, width: int) -> Grid:
    """The same amounts on another grid over the same area: (h, w) -> (height, width).

    Each cell is spread evenly over its area, so that the sum stays what it is.
    """
    return _overlaps(height, values.shape[0]) @ values @ _overlaps(width, values.shape[1]).T


def batch_of(pixels: Pixels) -> Tensor:
    """(1, H, W, 3), a copy: decoded pixels are read-only, which PyTorch has no notion of."""
    return torch.from_numpy(pixels[None].copy())


def grid_of(values: Tensor) -> Grid:
    """(1, h, w) of any device."""
    return values[0].double().cpu().numpy()


def _overlaps(fine: int, coarse: int) -> Grid:
    """(fine, coarse): which part of each coarse cell lies in each fine one; columns sum to 1."""
    fine_edges, coarse_edges = np.linspace(0, 1, fine + 1), np.linspace(0, 1, coarse + 1)
    upper = np.minimum(fine_edges[1:, None], coarse_edges[1:])
    lower = np.maximum(fine_edges[:-1, None], coarse_edges[:-1])
    return np.asarray(np.maximum(upper - lower, 0.0) * coarse)
