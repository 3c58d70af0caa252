"""Labelled batches: which photos a step of metric learning sees together.

Pure functions of the clusters, the seed and the number of the step. Things, the clusters of two or
more photos, are drawn uniformly, however many photos they have. No photo is in a batch twice: a
thing with fewer photos than asked for gives all it has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.training.training_set import Rows


def balanced_batch(clusters: Rows, *, things: int, photos_each: int, seed: int, step: int) -> Rows:
    """`photos_each` photos of each of `things` things, thing after thing.

    Args:
        clusters: (N,) int64, the cluster of each photo.

    Returns: (at most things * photos_each,) int64 rows.
    Raises: ValueError where there are fewer things, or for numbers that give no pair.
    """
    if things < 1 or photos_each < 2:
        raise ValueError(
            f"things is {things} and photos_each {photos_each}; they must be at least 1 and 2"
        )
    members = _members(clusters)
    several = [photos for photos in members if len(photos) > 1]
    if len(several) < things:
        raise ValueError(
            f"a batch is to have {things} things, of {len(several)} there are two photos or more; "
            "ask for fewer things"
        )
    draw = np.random.default_rng([seed, step])
    chosen = draw.permutation(len(several))[:things]
    return np.concatenate([_some(several[thing], photos_each, draw) for thing in chosen])


def one_against_others(clusters: Rows, *, same: int, others: int, seed: int, step: int) -> Rows:
    """`same` photos of one thing, then `others` photos each of another cluster.

    The batch of my-deep-retrieval's lifted structure loss, there with 6 and 6. The others may be
    photos that are alone in their cluster.

    Args:
        clusters: (N,) int64, the cluster of each photo.

    Returns: (at most same + others,) int64 rows.
    Raises: ValueError where no cluster has two photos or there are too few, or for numbers that
        give nothing to compare.
    """
    if same < 2 or others < 1:
        raise ValueError(f"same is {same} and others {others}; they must be at least 2 and 1")
    members = _members(clusters)
    several = [place for place, photos in enumerate(members) if len(photos) > 1]
    if not several:
        raise ValueError(f"each of the {len(clusters)} photos is alone; two of a thing are needed")
    if len(members) <= others:
        raise ValueError(
            f"a batch is to have a thing and {others} others, there are {len(members)} in all; "
            "ask for fewer others"
        )
    draw = np.random.default_rng([seed, step])
    thing = int(draw.choice(several))
    rest = draw.permutation(np.delete(np.arange(len(members)), thing))[:others]
    parts = [_some(members[thing], same, draw), *(_some(members[place], 1, draw) for place in rest)]
    return np.concatenate(parts)


def _members(clusters: Rows) -> list[Rows]:
    """The rows of each cluster."""
    order = np.argsort(clusters, kind="stable").astype(np.int64)
    _, starts = np.unique(clusters[order], return_index=True)
    return np.split(order, starts[1:])


def _some(photos: Rows, count: int, draw: np.random.Generator) -> NDArray[np.int64]:
    return draw.permutation(photos)[:count]
