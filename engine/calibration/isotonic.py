"""The rising curve that fits weighted matches and non-matches best: isotonic regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.calibration.tails import Population
from engine.types import Vectors

Numbers = NDArray[np.float64]


class Block(NamedTuple):
    """Neighbouring scores from `low` to `high` that share one value."""

    low: float
    high: float
    weight: float
    matching: float


def rising_curve(
    matches: Vectors, non_matches: Sequence[Population], *, top: float, bottom: float
) -> tuple[Numbers, Numbers]:
    """Scores, ascending, and the share of matches there, rising; linear in between.

    Least squares of all rising functions, by pooling adjacent violators. Matches weigh 1 in all,
    and so do the non-matches.

    Args:
        matches: (M,) scores, M >= 1.
        non_matches: at least one.
        top, bottom: weight of a non-match added above, and of a match added below all others: the
            curve then reaches neither 1 nor 0, which no sample can show.
    """
    blocks: list[Block] = []
    for block in _groups(matches, non_matches, top=top, bottom=bottom):
        while blocks and _share(blocks[-1]) >= _share(block):
            last = blocks.pop()
            weight = last.weight + block.weight
            block = Block(last.low, block.high, weight, last.matching + block.matching)
        blocks.append(block)
    ends = [(end, _share(block)) for block in blocks for end in (block.low, block.high)]
    scores, shares = np.array(list(dict(ends).items())).T
    return scores, shares


def _share(block: Block) -> float:
    return block.matching / block.weight


def _groups(
    matches: Vectors, non_matches: Sequence[Population], *, top: float, bottom: float
) -> list[Block]:
    """Ascending groups, one for each match and one for all non-matches between two of them.

    What lies between two matches ends up in one block whatever it is, so that millions of
    non-matches cost no more than their sorting.
    """
    places, counts = np.unique(matches, return_counts=True)
    masses = counts / len(matches)
    sorted_scores = [kind.scores for kind in non_matches]
    # Row k: how many of each population are below place k, and how many up to it.
    below = np.array([np.searchsorted(scores, places, "left") for scores in sorted_scores]).T
    up_to = np.array([np.searchsorted(scores, places, "right") for scores in sorted_scores]).T
    lengths = np.array([len(scores) for scores in sorted_scores])
    each = np.array([kind.weight for kind in non_matches]) / lengths
    groups: list[Block] = []

    def between(start: NDArray[np.int64], end: NDArray[np.int64]) -> None:
        filled = np.flatnonzero(end > start).tolist()
        if filled:
            low = min(float(sorted_scores[k][start[k]]) for k in filled)
            high = max(float(sorted_scores[k][end[k] - 1]) for k in filled)
            groups.append(Block(low, high, float(each @ (end - start)), 0.0))

    start = np.zeros(len(lengths), np.int64)
    for place, mass, left, right in zip(
        places.tolist(), masses.tolist(), below, up_to, strict=True
    ):
        between(start, left)
        groups.append(Block(place, place, mass + float(each @ (right - left)), mass))
        start = right
    between(start, lengths)
    first = groups[0]
    groups[0] = first._replace(weight=first.weight + bottom, matching=first.matching + bottom)
    groups[-1] = groups[-1]._replace(weight=groups[-1].weight + top)
    return groups
