"""One describer on one device, as the queue calls it."""

from __future__ import annotations

import numpy as np
import torch

from engine.describer import Describer
from engine.errors import BadImage
from engine.types import Pixels, Vectors


class Worker:
    """Describes batches in the one thread that calls it."""

    def __init__(self, describer: Describer, *, threads: int | None = None) -> None:
        """`threads`: of the CPU, for workers that share it; None leaves what torch chooses."""
        self._describer = describer
        self._threads = threads

    def __call__(self, images: list[Pixels]) -> list[Vectors]:
        """Raw descriptors. Raises BadImage for one that cannot be compared, OutOfMemory."""
        if self._threads is not None:
            # Here, as it holds for the calling thread.
            torch.set_num_threads(self._threads)
            self._threads = None
        return _finite(self._describer.describe(images))


def _finite(vectors: Vectors) -> list[Vectors]:
    """The rows of (N, D). Raises BadImage: one that cannot be compared would spoil every search."""
    if not np.isfinite(vectors).all():
        raise BadImage(
            "the descriptor of the image has values that are no finite numbers; "
            "describe with float32 precision, or with other weights"
        )
    return list(vectors)
