"""Made descriptors whose neighbourhoods are like those of photos, as many as wanted.

A photo shows a thing, and a thing has to do with a few themes, more with one than with another:
x = L2(s sum_j sqrt(a_j) theme_j + thing + noise), each part normal with variances that fall as a
power of the dimension's number. Themes form a tree of four levels; most things have one photo,
some up to 20; shares of themes (a), how much of them a thing shows (s) and how much a photo shows
besides its thing (noise) differ from one to the next. That things have several themes makes
neighbourhoods overlap: with one theme each, cells of k-means are the themes, and searching is far
easier than it is among photos (0.97 instead of 0.79 below, with 4 cells).

Fitted to 4,407 photos of all kinds, described by the bundled trunk (`cbp_ac`, 8192) and projected
on 512 directions at power 0.25. In both cases N = 4,407:

                                                photos                    made
    variance of direction 1, 10, 50, 100, 400   8.8 3.8 1.8 1.2 0.56      9.2 6.8 2.1 1.1 0.33
      (the mean is 1)
    cosine of random pairs: mean, deviation     0.00 0.056                0.00 0.075
      quantiles .01 .5 .99 .999                 -0.07 -0.01 0.22 0.48     -0.13 -0.01 0.26 0.41
    cosine of the nearest: quantiles .05 .5 .95 0.34 0.54 0.93            0.35 0.48 0.89
      of the 10th nearest                       0.24 0.34 0.58            0.26 0.33 0.51
      of the 10th of 1,100 (median)             0.23                      0.26
    recall at 10 of 265 cells of k-means,       0.45 0.79 0.90 0.96 0.98  0.55 0.87 0.94 0.96 0.98
      looking into 1, 4, 8, 16, 32

So they are somewhat more spread over their first 30 directions than photos are, a little easier
for a few cells and as hard for as many as a recall of 0.99 takes. With more of them the nearest
come closer, though less than photos might (10th nearest, median: 0.41 of 20,000, 0.48 of 100,000).
Of 100,000, IVF1264,SQ8 of FAISS finds 0.936, 0.984 and 0.992 of the 10 nearest in 8, 32 and 128
cells, 0.993 in all; `queries` that show something new 0.92, 0.98 and 0.99.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from engine.types import Rows, Vectors

BLOCK = 10_000
"""Rows that are made at once, 20 MB in 512 dimensions. Another block length, other vectors."""

BRANCHES = (48, 8, 6, 6)
"""Children of each theme, level by level: 13,824 themes without children."""
ENERGY = (0.504, 0.196, 0.174, 0.128)
"""Mean squared length of what each level adds to its parent; `THING`, `NOISE` stand beside it."""
DECAY = (0.245, 0.161, 0.592, 0.404)
"""The variance of dimension k is proportional to k^-decay."""
UNEQUAL = 0.257
"""The j-th child of a theme is as frequent as j^-unequal."""
THEMES, SHARES = 3, 0.986
"""Themes of a thing, and the parameter of the Dirichlet distribution of their shares."""
SHOWN = 0.147
"""ln s is normal with this deviation."""
THING, THING_DECAY = 0.102, 0.231
NOISE, NOISE_DECAY = 0.268, 0.091
NOISE_OF_PHOTO, NOISE_OF_THING = 0.62, 0.273
"""The log of a photo's noise energy is normal, around that of its thing."""
ALONE = 0.89
"""Share of the things with a single photo."""
GROUP_TAIL, LARGEST_GROUP = 1.156, 20
"""The others have m >= 2 photos with P(m >= x) = (2 / x)^tail, at most 20."""

_THEMES, _STORED, _NEW, _PHOTOS = range(4)  # streams of chance


@dataclass(frozen=True)
class Queries:
    """Half of them (even rows) show a stored thing, the others (odd) another one.

    Attributes:
        vectors: (Q, D) unit vectors.
        shown: (Q,) a stored row of the same thing, or -1.
    """

    vectors: Vectors
    shown: Rows


def blocks(count: int, dim: int = 512, seed: int = 0, block: int = BLOCK) -> Iterator[Vectors]:
    """The first `count` unit vectors of an endless sequence, `block` at a time.

    Block b is decided by `seed`, b, `dim` and `block` alone, so fewer vectors are the beginning of
    more, and a part can be made without what comes before it.
    """
    for number, start in enumerate(range(0, count, block)):
        yield _unit(_photos(_things(dim, seed, _STORED, number, block)))[: count - start]


def fresh(count: int, dim: int = 512, seed: int = 0) -> Vectors:
    """(count, D) unit vectors of the same mixture that `blocks` never gives: to be added later."""
    return _unit(_photos(_things(dim, seed, _NEW, 1, count)))


def queries(count: int, stored: int, dim: int = 512, seed: int = 0, block: int = BLOCK) -> Queries:
    """Questions to the first `stored` vectors of `blocks`; `count` is even.

    Half are other photos of stored things (of at most ten blocks, evenly spread), half are photos
    of things that are not stored.
    """
    if count % 2 or stored < 1:
        raise ValueError(f"{count} queries of {stored} vectors; expected an even count, 1 vector")
    vectors = np.empty((count, dim), np.float32)
    shown = np.full(count, -1, np.int64)
    vectors[1::2] = _unit(_photos(_things(dim, seed, _NEW, 0, count // 2)))
    number_of_blocks = -(-stored // block)
    used = np.unique(np.linspace(0, number_of_blocks - 1, 10).astype(int))
    chance = np.random.default_rng([seed, _PHOTOS, stored])
    parts = np.array_split(np.arange(0, count, 2), len(used))
    for number, places in zip(used.tolist(), parts, strict=True):
        things = _things(dim, seed, _STORED, number, block)
        rows = chance.integers(0, min(block, stored - number * block), len(places))
        vectors[places] = _unit(_photos(things.of(rows, chance)))
        shown[places] = number * block + rows
    return Queries(vectors, shown)


@dataclass(frozen=True)
class _Things:
    """What a block of photos shows.

    Attributes:
        centres: (things, D), each theme and thing together.
        noise: (things,) mean energy of what photos of each show besides.
        thing: (photos,) which one a photo shows.
        chance: what the photos are drawn with.
    """

    centres: Vectors
    noise: Vectors
    thing: Rows
    chance: np.random.Generator

    def of(self, photos: Rows, chance: np.random.Generator) -> _Things:
        """The things of some photos, to be photographed again."""
        return _Things(self.centres, self.noise, self.thing[photos], chance)


def _things(dim: int, seed: int, stream: int, number: int, photos: int) -> _Things:
    chance = np.random.default_rng([seed, stream, number])
    sizes = np.where(
        chance.random(photos) < ALONE,
        1,
        np.minimum(LARGEST_GROUP, 2 * (1 - chance.random(photos)) ** (-1 / GROUP_TAIL)).astype(int),
    )
    things = int(np.searchsorted(np.cumsum(sizes), photos)) + 1
    thing = np.repeat(np.arange(things), sizes[:things])[:photos]
    themes, until = _theme_tree(dim, seed)
    share = chance.standard_gamma(SHARES, (things, THEMES))
    share *= np.exp(2 * SHOWN * chance.standard_normal((things, 1))) / share.sum(1, keepdims=True)
    weight = np.sqrt(share).astype(np.float32)
    centres = _normal(chance, things, dim, THING_DECAY, THING)
    for own in weight.T:
        centres += own[:, None] * themes[np.searchsorted(until, chance.random(things))]
    noise = NOISE * np.exp(NOISE_OF_THING * chance.standard_normal(things, np.float32))
    return _Things(centres, noise, chance.permutation(thing), chance)


def _photos(things: _Things) -> Vectors:
    photos, dim = len(things.thing), things.centres.shape[1]
    spread = np.exp(NOISE_OF_PHOTO * things.chance.standard_normal(photos, np.float32))
    vectors = _normal(things.chance, photos, dim, NOISE_DECAY)
    vectors *= np.sqrt(spread * things.noise[things.thing])[:, None]
    vectors += things.centres[things.thing]
    return vectors


@lru_cache(maxsize=2)
def _theme_tree(dim: int, seed: int) -> tuple[Vectors, NDArray[np.float64]]:
    """Centres of the childless themes, (themes, D), of mean zero, and how frequent each and those
    before it are together, without the last."""
    chance = np.random.default_rng([seed, _THEMES])
    centres, frequencies = np.zeros((1, dim), np.float32), np.ones(1)
    for children, energy, decay in zip(BRANCHES, ENERGY, DECAY, strict=True):
        parents = len(centres)
        centres = np.repeat(centres, children, axis=0)
        centres += _normal(chance, parents * children, dim, decay, energy)
        share = np.arange(1, children + 1) ** -UNEQUAL
        frequencies = np.outer(frequencies, share / share.sum()).ravel()
    centres = centres - (frequencies @ centres).astype(
        np.float32
    )  # as a projection centres its collection
    return centres, np.cumsum(frequencies)[:-1]


def _normal(
    chance: np.random.Generator, count: int, dim: int, decay: float, energy: float = 1.0
) -> Vectors:
    """(count, dim) of mean squared length `energy`, variance of dimension k as k^-decay."""
    variances = np.arange(1, dim + 1) ** -decay
    deviations = np.sqrt(energy * variances / variances.sum()).astype(np.float32)
    drawn: Vectors = chance.standard_normal((count, dim), np.float32) * deviations
    return drawn


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
