"""Images that stand for photos which nobody has seen."""

from __future__ import annotations

import numpy as np

from engine.types import Rows

LEAST = 500


def left_out(rows: Rows) -> Rows:
    """Those of `rows` that stand for new photos: about every eighth.

    Whether a row is one depends on nothing but its number.
    """
    # Hashed (Knuth's multiplication by the golden ratio): photos often come in regular series.
    hashed = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    eighth: Rows = rows[hashed >> np.uint64(61) == 0]
    return eighth


def even(rows: Rows, count: int) -> Rows:
    """`count` of the rows at even distances."""
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
