"""What searches use: the unchanging vectors of a generation, and what changed since."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.files.locks import ReadWriteLock
from engine.types import Rows, Vectors
from engine.vector_index.coded import CodedVectors, Found
from engine.vector_index.flat import FlatIndex
from engine.vector_index.knobs import Allowed, Mask, SearchKnobs

DEFAULT = SearchKnobs()


class VectorIndex:
    """Inner-product search over unit vectors, each under a row number, that come and go.

    A small collection is one exact index. A large one is a base, coded when it was built, of
    which rows may only be forgotten, and beside it an exact index of what was added since. Each
    search sees all of a change or nothing of it. Only the search of the second part waits for
    changes, so that a long scan of the base never holds one up.
    """

    def __init__(
        self, dim: int, *, base: CodedVectors | None = None, fresh: FlatIndex | None = None
    ) -> None:
        self.dim = dim
        self._base = base
        self._fresh = fresh or FlatIndex(dim)
        self._lock = ReadWriteLock()
        # Which rows of the base were not forgotten; None while all are there. Never changed, only
        # replaced: a search that began with it goes on with it.
        self._kept: Mask | None = None

    def __len__(self) -> int:
        with self._lock.reading():
            kept = self._kept
            fresh = len(self._fresh)
        base = 0 if self._base is None else len(self._base)
        return fresh + (base if kept is None else int(np.count_nonzero(kept)))

    def rows_after(self, last_row: int) -> int:
        """How many vectors have a higher row number: of a base, how many were added to it."""
        if self._base is not None:
            return len(self._fresh)
        return int(np.count_nonzero(self._fresh.rows() > last_row))

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """Insert `vectors` (N, D) under `rows` (N,), none of which is present."""
        self.change(rows, vectors, np.empty(0, np.int64))

    def remove(self, rows: Rows) -> None:
        """Forget `rows`; absent ones are ignored."""
        self.change(np.empty(0, np.int64), np.empty((0, self.dim), np.float32), rows)

    def change(self, rows: Rows, vectors: Vectors, removed: Rows) -> None:
        """Insert and remove in one step, so that no search sees one without the other."""
        if self._base is None:
            self._fresh.change(rows, vectors, removed)
            return
        positions = self._positions(removed)
        with self._lock.writing():
            self._fresh.change(rows, vectors, removed)
            if len(positions):
                kept = np.ones(len(self._base), bool) if self._kept is None else self._kept.copy()
                kept[positions] = False
                self._kept = kept

    def search(
        self,
        query: Vectors,
        k: int,
        knobs: SearchKnobs = DEFAULT,
        allowed: Allowed | None = None,
    ) -> tuple[Rows, Vectors]:
        """Row numbers and inner products of the `k` best for a (D,) query, best first.

        Fewer if the index holds fewer, or fewer are `allowed`. Equal scores are ordered by row
        number, so that a longer answer begins with the shorter one. One that is longer than the
        codes of a base lead to does so, too: what they have missed comes after what they found.
        """
        if query.shape != (self.dim,):
            raise ValueError(f"query has shape {query.shape}; expected ({self.dim},)")
        rows, scores = self.search_many(query[None], k, knobs, allowed)
        return rows[0], scores[0]

    def search_many(
        self,
        queries: Vectors,
        k: int,
        knobs: SearchKnobs = DEFAULT,
        allowed: Allowed | None = None,
    ) -> tuple[Rows, Vectors]:
        """As `search`, for (Q, D) queries at once: two arrays (Q, n), n at most `k`.

        From 20 queries on similarities come from one matrix product, which may round equal vectors
        differently.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"queries have shape {queries.shape}; expected (Q, {self.dim})")
        if self._base is None:
            return self._fresh.search_many(queries, k, allowed)
        with self._lock.reading():
            kept = self._kept
            fresh_rows, fresh_scores = self._fresh.search_many(queries, k, allowed)
        mask = kept
        if allowed is not None:
            mask = allowed(self._base.rows)
            mask = mask if kept is None else mask & kept
        found = self._base.search(np.asarray(queries, np.float32), k, knobs, mask)
        return _joined(
            [answer._replace(positions=self._base.rows[answer.positions]) for answer in found],
            fresh_rows,
            fresh_scores,
            k,
        )

    def vectors(self, rows: Rows) -> Vectors:
        """The stored vectors of `rows`, (N, D). Raises KeyError for an absent row."""
        if self._base is None:
            return self._fresh.vectors(rows)
        with self._lock.reading():
            kept = self._kept
            places = np.searchsorted(self._base.rows, rows)
            within = np.minimum(places, len(self._base) - 1)
            in_base = self._base.rows[within] == rows
            found = np.empty((len(rows), self.dim), np.float32)
            found[~in_base] = self._fresh.vectors(rows[~in_base])
        if kept is not None and not kept[within[in_base]].all():
            raise KeyError(f"rows {rows.tolist()} are not all indexed")
        found[in_base] = self._base.take(within[in_base])
        return found

    def holds(self, rows: Rows) -> Mask:
        """Which of `rows` (N,) are present."""
        if self._base is None:
            return np.isin(rows, self._fresh.rows())
        with self._lock.reading():
            kept, fresh = self._kept, self._fresh.rows()
        within = np.minimum(np.searchsorted(self._base.rows, rows), len(self._base) - 1)
        in_base = self._base.rows[within] == rows
        if kept is not None:
            in_base &= kept[within]
        found: Mask = in_base | np.isin(rows, fresh)
        return found

    def sample(self, size: int) -> Rows:
        """Rows spread evenly over the `size` oldest, at most 1024; of a large collection, over
        what was there when it was built."""
        if self._base is None:
            rows = np.sort(self._fresh.rows())[:size]
        else:
            rows = self._base.rows if self._kept is None else self._base.rows[self._kept]
        return rows[:: max(1, min(size, len(rows)) // 512)][:1024]

    def rows(self) -> Rows:
        """All row numbers, in no particular order."""
        if self._base is None:
            return self._fresh.rows()
        with self._lock.reading():
            kept, fresh = self._kept, self._fresh.rows()
        return np.concatenate([self._base.rows if kept is None else self._base.rows[kept], fresh])

    def save(self, path: Path) -> None:
        """Write an index without a base. Raises OSError if the file cannot be written whole."""
        assert self._base is None, "a base is written when it is built"
        self._fresh.save(path)

    @classmethod
    def load(cls, path: Path, dim: int) -> VectorIndex:
        """An index without a base. Raises CorruptIndex if the file is not such an index."""
        return cls(dim, fresh=FlatIndex.load(path, dim))

    @property
    def bytes(self) -> int:
        """Memory of vectors, codes and row numbers; mapped files are not in it."""
        base = 0 if self._base is None else self._base.bytes
        kept = 0 if self._kept is None else self._kept.nbytes
        return base + kept + self._fresh.bytes

    @property
    def mapped_bytes(self) -> int:
        """Bytes of mapped files, which the system keeps in memory as far as they are used."""
        return 0 if self._base is None else self._base.mapped_bytes

    def _positions(self, rows: Rows) -> Rows:
        """Positions of those of `rows` that are in the base."""
        assert self._base is not None, "only a base has positions"
        places = np.searchsorted(self._base.rows, rows)
        inside = places < len(self._base)
        places, rows = places[inside], np.asarray(rows)[inside]
        found: Rows = places[self._base.rows[places] == rows]
        return found


def _joined(
    base: list[Found], fresh_rows: Rows, fresh_scores: Vectors, k: int
) -> tuple[Rows, Vectors]:
    """The `k` best of two answers to each query; both hold all they have, or `k`.

    `base` has row numbers for positions.
    """
    width = min(k, fresh_rows.shape[1] + min((len(rows) for rows, _, _ in base), default=0))
    rows = np.empty((len(base), width), np.int64)
    scores = np.empty((len(base), width), np.float32)
    for number, (base_rows, base_scores, ends) in enumerate(base):
        all_rows = np.concatenate([base_rows, fresh_rows[number]])
        all_scores = np.concatenate([base_scores, fresh_scores[number]])
        order = np.lexsort((all_rows, -all_scores))
        for end in ends[:-1]:
            if end >= width:
                break
            # A shorter answer knows nothing of those that were found by looking farther.
            farther = (order >= end) & (order < len(base_rows))
            first = order[~farther][:end]
            order = np.concatenate([first, order[~np.isin(order, first)]])
        order = order[:width]
        rows[number], scores[number] = all_rows[order], all_scores[order]
    return rows, scores
