"""Describers as the queue calls them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np

from engine.describer import Describer
from engine.errors import BadImage
from engine.passes.cores import cores
from engine.types import Pixels, Vectors


class Worker:
    """Describes batches. On a CPU several may share a describer."""

    def __init__(self, describer: Describer) -> None:
        self._describer = describer

    def __call__(self, images: list[Pixels]) -> list[Vectors]:
        """Raw descriptors. Raises BadImage for one that cannot be compared, OutOfMemory,
        DeviceLost."""
        return _finite(self._describer.describe(images))


def workers(describers: Sequence[Describer]) -> tuple[list[Worker], int]:
    """Who describes, and from how many images on all of them do, and not one alone.

    Devices work on their own. On the CPU a single image gets all cores, and where there are as many
    images as cores each gets one: none of them then waits for another, and more are described.
    """
    if any(describer.device.type != "cpu" for describer in describers):
        return [Worker(describer) for describer in describers], 1
    apart = cores().apart
    count = max(len(describers), apart)
    return [Worker(describer) for describer in islice(cycle(describers), count)], apart


def _finite(vectors: Vectors) -> list[Vectors]:
    """The rows of (N, D). Raises BadImage: one that cannot be compared would spoil every search."""
    if not np.isfinite(vectors).all():
        raise BadImage(
            "the descriptor of the image has values that are no finite numbers; "
            "describe with float32 precision, or with other weights"
        )
    return list(vectors)
