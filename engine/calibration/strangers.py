"""Photos of the collection as new ones would be: under a projection that was not fitted on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.calibration.leaving_out import even, left_out
from engine.postprocess import LinearProjection
from engine.types import Rows, Vectors

MAX_ASKING = 512
"""Of each kind; with 8192 images to compare with, rates down to 5e-6 can be told."""
MAX_REFIT = 2048
"""Images of the second fit: a matter of seconds. Of a larger collection it is a little too kind to
what it was fitted on, and bounds become a little too high."""


@dataclass(frozen=True)
class Strangers:
    """Vectors (n, D) of `rows` that stand for new photos, and those (m, D) of stored ones that they
    are compared with; all under one projection, fitted on none of the former."""

    rows: Rows
    vectors: Vectors
    compared: Rows
    compared_vectors: Vectors


def refitted(
    rows: Rows,
    read: Callable[[Rows], Iterable[tuple[Rows, Vectors]]],
    fit: Callable[[Tensor], LinearProjection],
) -> Strangers | None:
    """Fit a second projection, without some of the images, to see how new photos look under one.

    A projection knows the images that it was fitted on: among a thousand they are less like each
    other than a new one is like them, by so much that twice as many new photos would pass a bound
    that was measured on stored ones. The one that is searched with is fitted on all: to leave
    images out of it costs 1 to 2 points of mAP.

    Args:
        rows: those that the projection was fitted on.
        read: raw descriptors of given rows, in chunks, ascending; rows that are gone are left out.
        fit: a projection on (N, D) raw descriptors; may raise ValueError.

    Returns: None where there are too few images, or nothing can be fitted on them.
    """
    asking = left_out(rows)
    others = np.setdiff1d(rows, asking)
    asking = even(asking, min(len(asking), MAX_ASKING))
    new, known = _read(read, asking), _read(read, even(others, min(len(others), MAX_REFIT)))
    if new is None or known is None:
        return None
    try:
        projection = fit(torch.from_numpy(known[1]))
    except ValueError:
        return None
    project = [projection(torch.from_numpy(vectors)).numpy() for _, vectors in (new, known)]
    return Strangers(new[0], project[0], known[0], project[1])


def _read(
    read: Callable[[Rows], Iterable[tuple[Rows, Vectors]]], rows: Rows
) -> tuple[Rows, Vectors] | None:
    chunks = list(read(rows))
    if not chunks:
        return None
    return np.concatenate([r for r, _ in chunks]), np.concatenate([v for _, v in chunks])
