"""Average precision as the Oxford tool computes it, and precision at k as ROxford5k does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def average_precision(positive_ranks: Sequence[int], positives: int) -> float:
    """Area under the precision-recall curve by the trapezoid rule.

    For the j-th positive (from 0) at rank r (from 0, junk removed) the step of recall is
    1 / positives and the precision goes from j / r (1 at r = 0) to (j + 1) / (r + 1).

    Args:
        positive_ranks: ranks of the positives that were retrieved, ascending.
        positives: how many there are, retrieved or not; at least 1.

    Returns: a value in [0, 1]. Raises: ValueError for inconsistent arguments.
    """
    if positives < 1 or len(positive_ranks) > positives:
        raise ValueError(f"{len(positive_ranks)} ranks were given for {positives} positives")
    if any(later <= earlier for earlier, later in zip(positive_ranks, positive_ranks[1:])):  # noqa: B905, RUF007
        raise ValueError(f"ranks must ascend strictly: {list(positive_ranks)}")
    total = 0.0
    for found, rank in enumerate(positive_ranks):
        before = found / rank if rank else 1.0
        after = (found + 1) / (rank + 1)
        total += (before + after) / 2
    return total / positives


def precision_at(positive_ranks: Sequence[int], k: int) -> float:
    """Share of positives among the first k' of a ranking, k' = min(rank of the last positive, k).

    A query with fewer than k positives that are all in front is thus not marked down.

    Args:
        positive_ranks: ranks of all positives, from 0, junk removed; in any order.
        k: at least 1.

    Returns: a value in [0, 1]; 0 if there is no positive. Raises: ValueError if k < 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if not positive_ranks:
        return 0.0
    reach = min(max(positive_ranks) + 1, k)
    return sum(rank < reach for rank in positive_ranks) / reach


def ranking_average_precision(
    ranking: NDArray[np.int64], positive: NDArray[np.bool_], ignored: NDArray[np.bool_]
) -> float:
    """AP of one ranking of database entries.

    Args:
        ranking: (N,) entries, best first.
        positive: (N,) per entry: counts as found.
        ignored: (N,) per entry: junk or the query itself; taken out of the ranking.
    """
    kept = ranking[~ignored[ranking]]
    ranks = np.flatnonzero(positive[kept])
    return average_precision(ranks.tolist(), int((positive & ~ignored).sum()))
