"""Clusters out of pairs: what is linked, directly or over others, belongs together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def connected(count: int, pairs: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """The component of each of `count` things: (count,) from 0, numbered by their first thing.

    Args:
        pairs: of things in [0, count) that are linked.
    """
    above = list(range(count))

    def root(thing: int) -> int:
        while above[thing] != thing:
            above[thing] = above[above[thing]]
            thing = above[thing]
        return thing

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        above[high] = low  # so a root is the first thing of its component
    roots = np.array([root(thing) for thing in range(count)], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)
