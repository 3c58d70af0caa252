"""A large, unchanging set of vectors: found by short codes, ranked by the vectors themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch

from engine.errors import CorruptIndex
from engine.types import Rows, Vectors
from engine.vector_index.exact import ExactVectors, Positions, best_first
from engine.vector_index.knobs import Mask, SearchKnobs
from engine.vector_index.selection import cell_parameters, use_threads

CODES, EXACT, ROWS = "vectors.faiss", "vectors.f16", "rows.npy"
"""Files of a coded set: inverted lists, float16 vectors, and the row number of each position."""
FEW = 4096
"""With so few vectors to choose from, comparing with all of them is as fast as looking them up."""
MORE_CANDIDATES = 2000
"""Candidates by code of an answer that is longer than the usual ones lead to."""


@dataclass(frozen=True)
class Effort:
    """How far a search looks: `nprobe` cells, and the best `candidates` by code are ranked by
    their vectors."""

    nprobe: int
    candidates: int


class Found(NamedTuple):
    """One answer: positions and inner products, in parts that end at `ends`.

    Each part is in order; one after the first was found only by looking farther, and may be better
    than those before it.
    """

    positions: Positions
    scores: Vectors
    ends: tuple[int, ...]


class CodedVectors:
    """(N, D) unit vectors in cells, each as a short code; the best by code are ranked exactly.

    Never changed, so searches need no lock. Vectors are known by their position, from 0. Without
    codes every search is a scan: that is the form for a GPU.
    """

    def __init__(self, exact: ExactVectors, rows: Rows, codes: Any | None, effort: Effort) -> None:
        """`rows` (N,) ascending row numbers; `codes` an index of FAISS over positions."""
        self._exact, self.rows, self._codes, self.effort = exact, rows, codes, effort
        if codes is not None:
            self._ivf = faiss.extract_index_ivf(codes)

    @classmethod
    def load(
        cls,
        folder: Path,
        dim: int,
        effort: Effort,
        *,
        coded: bool = True,
        device: torch.device | None = None,
    ) -> CodedVectors:
        """Raises CorruptIndex if the files are not those of such a set."""
        try:
            rows = np.load(folder / ROWS, allow_pickle=False)
            codes = faiss.read_index(str(folder / CODES)) if coded else None
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            raise CorruptIndex(f"the vectors in {folder} cannot be read: {error}") from error
        if rows.dtype != np.int64 or rows.ndim != 1 or not (rows[1:] > rows[:-1]).all():
            raise CorruptIndex(f"{folder / ROWS} does not hold ascending row numbers")
        if codes is not None and (
            faiss.try_extract_index_ivf(codes) is None
            or (codes.d, codes.ntotal, codes.metric_type)
            != (dim, len(rows), faiss.METRIC_INNER_PRODUCT)
        ):
            raise CorruptIndex(
                f"{folder / CODES} does not hold {len(rows)} vectors of {dim} values in cells"
            )
        return cls(ExactVectors(folder / EXACT, len(rows), dim, device), rows, codes, effort)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Positions) -> Vectors:
        """The vectors at `positions`, (N, D)."""
        return self._exact.pick(positions)

    def search(
        self, queries: Vectors, k: int, knobs: SearchKnobs, mask: Mask | None = None
    ) -> list[Found]:
        """The `k` best for each of (Q, D) queries.

        `mask` (N,) says which positions may be answered. Answers are never short: one that is
        longer than the candidates lead to begins with what they find, as a shorter one does, so
        that pages join without gaps or repeats, and goes on with the best of more candidates, then
        of all. Of few all are compared.
        """
        count = len(self) if mask is None else int(np.count_nonzero(mask))
        k = min(k, count)
        if not k:
            return [Found(np.empty(0, np.int64), np.empty(0, np.float32), (0,)) for _ in queries]
        if self._codes is None or knobs.exact or count <= FEW:
            return self._scanned(queries, k, mask)
        found = self._by_code(queries, self.effort.candidates, k, knobs, mask, count)
        more = max(MORE_CANDIDATES, self.effort.candidates)
        found = _longer(
            found, queries, k, lambda some: self._by_code(some, more, k, knobs, mask, count)
        )
        return _longer(found, queries, k, lambda some: self._scanned(some, k, mask))

    def _scanned(self, queries: Vectors, k: int, mask: Mask | None) -> list[Found]:
        scanned = zip(*self._exact.search(queries, k, mask), strict=True)
        return [Found(positions, scores, (len(positions),)) for positions, scores in scanned]

    def _by_code(
        self,
        queries: Vectors,
        candidates: int,
        k: int,
        knobs: SearchKnobs,
        mask: Mask | None,
        count: int,
    ) -> list[Found]:
        """At most `k` each."""
        assert self._codes is not None, "a set without codes is scanned"
        nprobe = knobs.nprobe or self.effort.nprobe
        if mask is not None:
            # The nearest that are allowed lie as much farther as they are rarer.
            nprobe = int(np.ceil(nprobe * len(self) / count))
        use_threads(len(queries))
        params = cell_parameters(min(nprobe, self._ivf.nlist), mask)
        _, found = self._codes.search(np.ascontiguousarray(queries), candidates, params=params)
        answers = []
        for query, some in zip(queries, found, strict=True):
            positions = np.sort(some[some >= 0])  # in the order of the file
            scores: Vectors = self._exact.pick(positions) @ query
            order = best_first(scores, positions, k)
            answers.append(Found(positions[order], scores[order], (len(order),)))
        return answers

    @property
    def bytes(self) -> int:
        """Memory of codes, cells and row numbers; the mapped vectors are not in it."""
        codes = 0
        if self._codes is not None:
            cells = 4 * self._ivf.nlist * self._ivf.d
            codes = len(self) * (int(self._ivf.code_size) + 8) + cells
        return codes + self.rows.nbytes

    @property
    def mapped_bytes(self) -> int:
        """Bytes of the file of vectors, which the system keeps in memory as far as it is used."""
        return self._exact.bytes


def _longer(
    found: list[Found], queries: Vectors, k: int, look: Callable[[Vectors], list[Found]]
) -> list[Found]:
    """`found`, those that are shorter than `k` continued with what `look` finds besides."""
    short = [number for number, answer in enumerate(found) if len(answer.positions) < k]
    if not short:
        return found
    answers = list(found)
    for number, (positions, scores, _) in zip(short, look(queries[short]), strict=True):
        first = found[number]
        missing = k - len(first.positions)
        others = np.flatnonzero(~np.isin(positions, first.positions))[:missing]
        answers[number] = Found(
            np.concatenate([first.positions, positions[others]]),
            np.concatenate([first.scores, scores[others]]),
            (*first.ends, len(first.positions) + len(others)),
        )
    return answers
