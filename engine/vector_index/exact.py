"""Exact search over float16 vectors in a file or on a GPU, and the vectors themselves."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import CorruptIndex
from engine.types import Vectors
from engine.vector_index.knobs import Mask

BLOCK = 4096
"""Vectors that are compared at once: 8 MB of float32 at 512 values, which stay in the cache."""

MOST_AT_ONCE = 256
"""Vectors that the system is told about before they are read: a microsecond each."""

Positions = NDArray[np.int64]
"""(N,) places in a file of vectors, from 0."""


class ExactVectors:
    """(N, D) unit vectors as float16, read where they lie: a scan of them is exact.

    On the CPU the file is mapped into memory: what is not used, the system may drop. On a GPU the
    vectors are copied there.
    """

    def __init__(
        self, path: Path, count: int, dim: int, device: torch.device | None = None
    ) -> None:
        """Raises CorruptIndex if the file does not hold `count` vectors of `dim` values."""
        expected, found = 2 * count * dim, path.stat().st_size if path.is_file() else -1
        if found != expected:
            raise CorruptIndex(f"{path} has {found} bytes, not the {expected} that were written")
        self.count, self.dim = count, dim
        self.device = device or torch.device("cpu")
        self._mapped: NDArray[np.float16] = np.memmap(path, np.float16, "r", shape=(count, dim))
        # A second view of the file, of which the system reads only what is asked for. Reading
        # ahead, as a scan wants it, would fill the memory with neighbours in the file.
        self._random: NDArray[np.float16] = np.memmap(path, np.float16, "r", shape=(count, dim))
        self._pages: mmap.mmap = self._random._mmap  # type: ignore[attr-defined]
        self._pages.madvise(mmap.MADV_RANDOM)
        self._resident = (
            None if self.device.type == "cpu" else torch.from_numpy(self._mapped).to(self.device)
        )

    def take(self, positions: Positions) -> Vectors:
        """The vectors at `positions`, (N, D): many, or close to each other."""
        return _float32(self._mapped[positions])

    def pick(self, positions: Positions) -> Vectors:
        """The vectors at `positions`, (N, D): a few from all over the file."""
        if len(positions) <= MOST_AT_ONCE:
            size = 2 * self.dim
            for position in positions.tolist():
                start = position * size // mmap.PAGESIZE * mmap.PAGESIZE
                # All at once, in the place of one after the other.
                self._pages.madvise(mmap.MADV_WILLNEED, start, (position + 1) * size - start)
        return _float32(self._random[positions])

    def search(
        self, queries: Vectors, k: int, mask: Mask | None = None
    ) -> tuple[Positions, Vectors]:
        """Positions and inner products of the `k` best for (Q, D) queries, best first.

        Equal ones are in order of position. `mask` (N,) says which positions may be answered.
        Two arrays (Q, n), n at most `k`.
        """
        chosen = None if mask is None else np.flatnonzero(mask)
        total = self.count if chosen is None else len(chosen)
        best_positions = np.empty((len(queries), 0), np.int64)
        best_scores = np.empty((len(queries), 0), np.float32)
        on_device = torch.from_numpy(np.ascontiguousarray(queries)).to(self.device)
        for start in range(0, total, BLOCK):
            stop = min(total, start + BLOCK)
            if chosen is None:
                positions = np.arange(start, stop)
                vectors = self._block(slice(start, stop))
            else:
                positions = chosen[start:stop]
                vectors = self._block(positions)
            scores = (on_device @ vectors.T).cpu().numpy()  # (Q, block)
            best_positions, best_scores = _merge(best_positions, best_scores, positions, scores, k)
        return best_positions, best_scores

    def _block(self, where: slice | Positions) -> torch.Tensor:
        if self._resident is None:
            return torch.from_numpy(_float32(self._mapped[where]))
        index = where if isinstance(where, slice) else torch.from_numpy(where).to(self.device)
        return self._resident[index].float()

    @property
    def bytes(self) -> int:
        """Bytes of the vectors, mapped or on the GPU."""
        return 2 * self.count * self.dim


def _merge(
    best_positions: Positions, best_scores: Vectors, positions: Positions, scores: Vectors, k: int
) -> tuple[Positions, Vectors]:
    """The `k` best of those so far, (Q, n), and of (B,) further positions with (Q, B) scores."""
    all_scores = np.concatenate([best_scores, scores], axis=1)
    all_positions = np.concatenate(
        [best_positions, np.broadcast_to(positions, scores.shape)], axis=1
    )
    keep = min(k, all_scores.shape[1])
    order = np.empty((len(all_scores), keep), np.int64)
    for number, row in enumerate(all_scores):
        order[number] = best_first(row, all_positions[number], keep)
    return (
        np.take_along_axis(all_positions, order, axis=1),
        np.take_along_axis(all_scores, order, axis=1),
    )


def best_first(scores: Vectors, tie: Positions, k: int) -> Positions:
    """Indices of the `k` highest of (N,) scores, highest first; equal ones by `tie`, ascending."""
    if k <= 0:
        return np.empty(0, np.int64)
    if k < len(scores):
        # All that equal the k-th stay in: which of them are answered is decided by `tie`.
        bound = np.partition(scores, len(scores) - k)[len(scores) - k]
        among = np.flatnonzero(scores >= bound)
    else:
        among = np.arange(len(scores))
    order: Positions = among[np.lexsort((tie[among], -scores[among]))[:k]]
    return order


def _float32(vectors: NDArray[np.float16]) -> Vectors:
    # Torch widens many numbers at a time, numpy one. It wants memory that may be written, which
    # that of the mapped file is not.
    own = vectors if vectors.flags.writeable else vectors.copy()
    widened: Vectors = torch.from_numpy(np.asarray(own)).float().numpy()
    return widened
