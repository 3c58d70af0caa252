"""Every pooling again, as slow loops straight from its equation: the reference for tests."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float64]
"""(C, H, W)"""


def places(a: Map) -> Iterator[tuple[int, int]]:
    yield from ((i, j) for i in range(a.shape[1]) for j in range(a.shape[2]))


def cooccurrence(a: Map, r: int) -> Map:
    """Eq 3 and 7, without the channel itself."""
    d = a.shape[0]
    mean = sum(float(v) for v in a.flat) / a.size
    out = np.zeros_like(a)
    for i, j in places(a):
        for k in range(d):
            for u, v in places(a):
                for w in range(d):
                    near = abs(i - u) <= r and abs(j - v) <= r
                    if w != k and near and a[k, i, j] > mean and a[w, u, v] > mean:
                        out[k, i, j] += a[w, u, v] / (d - 1)
    return out


def mac(a: Map) -> list[float]:
    return [max(float(v) for v in channel.flat) for channel in a]


def spoc(a: Map) -> list[float]:
    return [sum(float(v) for v in channel.flat) / channel.size for channel in a]


def gem(a: Map, p: float) -> list[float]:
    return [
        (sum(max(float(v), 1e-6) ** p for v in channel.flat) / channel.size) ** (1 / p)
        for channel in a
    ]


def ucrow(a: Map) -> list[float]:
    return [sum(float(v) for v in channel.flat) for channel in a]


def alpha(s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eq 9 with a = b = 2; a map without anything has no weights."""
    norm = math.sqrt(sum(float(v) ** 2 for v in s.flat))
    if norm == 0:
        return np.zeros_like(s)
    return np.array([[math.sqrt(float(v) / norm) for v in row] for row in s])


def weighted(a: Map, x: Map, spatial: NDArray[np.float64], channel: list[float]) -> list[float]:
    """Eq 8, summed: x is what is pooled."""
    return [
        channel[k] * sum(float(spatial[i, j] * x[k, i, j]) for i, j in places(a))
        for k in range(a.shape[0])
    ]


def crow(a: Map, x: Map) -> list[float]:
    """arXiv:1512.04065: weights of positions from sums, of channels from their sparsity."""
    share = [sum(float(v) > 0 for v in channel.flat) / channel.size for channel in a]
    beta = [math.log(sum(share) / q) if q > 0 else 0.0 for q in share]
    return weighted(a, x, alpha(a.sum(axis=0)), beta)


def chco_sct(a: Map, x: Map, c: Map, eps: float) -> list[float]:
    """Eq 9 to 11 with the co-occurrences c."""
    total = [max(0.0, sum(float(v) for v in channel.flat)) for channel in c]
    if sum(total) == 0:
        return [0.0] * len(total)
    beta = [math.log(sum(total) / (eps * sum(total) + v)) for v in total]
    summed = np.array(
        [[max(0.0, float(c[:, i, j].sum())) for j in range(a.shape[2])] for i in range(a.shape[1])]
    )
    return weighted(a, x, alpha(summed), beta)


def bilinear(x: Map, y: Map) -> list[list[float]]:
    """Eq 12."""
    d = x.shape[0]
    return [
        [sum(float(x[k, i, j] * y[w, i, j]) for i, j in places(x)) for w in range(d)]
        for k in range(d)
    ]


def sketch(
    b: list[list[float]], h1: list[int], s1: list[int], h2: list[int], s2: list[int], d: int
) -> list[float]:
    out = [0.0] * d
    for i, row in enumerate(b):
        for j, value in enumerate(row):
            out[(h1[i] + h2[j]) % d] += s1[i] * s2[j] * value
    return out


def grid(height: int, width: int, levels: int) -> list[tuple[int, int, int, int]]:
    """R-MAC regions as (top, left, bottom, right), for both orientations by turning the map."""
    if height > width:
        return [(t, le, b, r) for le, t, r, b in grid(width, height, levels)]
    regions = []
    best, extra = math.inf, 0
    for n in range(2, 8):
        shift = (width - height) / (n - 1)
        overlap = (height * height - height * shift) / (height * height)
        if width != height and abs(overlap - 0.4) < best:
            best, extra = abs(overlap - 0.4), n - 1
    for level in range(1, levels + 1):
        side = math.floor(2 * height / (level + 1))
        if side == 0:
            break
        for y in starts(height, side, level):
            for x in starts(width, side, level + extra):
                regions.append((y, x, y + side, x + side))
    return regions


def starts(size: int, side: int, count: int) -> list[int]:
    half = math.floor(side / 2 - 1)
    step = (size - side) / (count - 1) if count > 1 else 0.0
    return [min(max(math.floor(half + n * step) - half, 0), size - side) for n in range(count)]


def rmac(x: Map, levels: int, whole_map: bool) -> list[float]:
    regions = grid(x.shape[1], x.shape[2], levels)
    if whole_map:
        regions.append((0, 0, x.shape[1], x.shape[2]))
    total = [0.0] * x.shape[0]
    for top, left, bottom, right in regions:
        vector = [float(x[k, top:bottom, left:right].max()) for k in range(x.shape[0])]
        length = math.sqrt(sum(v * v for v in vector))
        for k, value in enumerate(vector):
            total[k] += value / length if length else 0.0
    return total


def mask(name: str, height: int, width: int) -> NDArray[np.float64]:
    """SpTD and SpCt, position by position."""
    out = np.ones((height, width))
    for i in range(height):
        for j in range(width):
            if name == "sptd":
                out[i, j] = (height - i) / height
            elif name == "spct":
                sigma = min(height, width) / 6
                y, x = i - (height - 1) / 2, j - (width - 1) / 2
                nearest = ((height - 1) % 2) / 4 + ((width - 1) % 2) / 4
                out[i, j] = math.exp(-(y * y + x * x - nearest) / (2 * sigma * sigma))
    return out
