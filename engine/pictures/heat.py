"""Maps of positions at the size of a photo."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def enlarged(values: Values, size: tuple[int, int], covered: tuple[int, int]) -> Values:
    """A map at the size of its photo, bilinear between the centres of its cells.

    Args:
        values: (h, w).
        size: height and width of the photo, pixels.
        covered: height and width that the map spans; more than `size` where a thin photo had
            been padded at its right or lower edge.

    Returns: `size`.
    """
    rows = _weights(covered[0], values.shape[0])[: size[0]]
    columns = _weights(covered[1], values.shape[1])[: size[1]]
    return np.asarray(rows @ values @ columns.T)


def level_of(values: Values, part: float) -> float | None:
    """The level from which on the fewest positions make `part` (0 to 1) of the sum.

    None if the sum is not positive.
    """
    total = float(values.sum())
    if not total > 0:
        return None
    falling = np.sort(values, axis=None)[::-1]
    enough = np.cumsum(falling) >= part * total
    return float(falling[int(enough.argmax())])


def _weights(pixels: int, cells: int) -> Values:
    """(pixels, cells): how much each cell weighs at the centre of each pixel; rows sum to 1."""
    centres = (np.arange(pixels) + 0.5) * cells / pixels - 0.5
    distance = np.abs(centres.clip(0, cells - 1)[:, None] - np.arange(cells))
    return np.asarray(np.maximum(0.0, 1.0 - distance))
