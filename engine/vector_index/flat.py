"""Exact nearest neighbours among descriptors that come and go."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np

from engine.errors import CorruptIndex
from engine.files.locks import ReadWriteLock
from engine.types import Rows, Vectors
from engine.vector_index.knobs import Allowed, Mask
from engine.vector_index.selection import flat_parameters, use_threads


class FlatIndex:
    """Exact inner-product search over unit vectors, each under a row number.

    FAISS crashes when it is searched while it is changed, so every call takes the lock: searches
    share it, changes exclude everything.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._lock = ReadWriteLock()
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """Insert `vectors` (N, D) under `rows` (N,), none of which is present."""
        self.change(rows, vectors, np.empty(0, np.int64))

    def remove(self, rows: Rows) -> None:
        """Forget `rows`; absent ones are ignored."""
        self.change(np.empty(0, np.int64), np.empty((0, self.dim), np.float32), rows)

    def change(self, rows: Rows, vectors: Vectors, removed: Rows) -> None:
        """Insert and remove in one step, so that no search sees one without the other."""
        if vectors.shape != (len(rows), self.dim):
            raise ValueError(
                f"vectors have shape {vectors.shape}; expected ({len(rows)}, {self.dim})"
            )
        with self._lock.writing():
            if len(rows):
                self._index.add_with_ids(
                    np.ascontiguousarray(vectors, np.float32), np.asarray(rows, np.int64)
                )
            if len(removed):
                self._index.remove_ids(faiss.IDSelectorBatch(np.asarray(removed, np.int64)))

    def search(
        self, query: Vectors, k: int, allowed: Allowed | None = None
    ) -> tuple[Rows, Vectors]:
        """Row numbers and inner products of the `k` best for a (D,) query, best first.

        Fewer if the index holds fewer, or fewer are `allowed`. Equal scores are ordered by row
        number, so that a longer answer begins with the shorter one.
        """
        if query.shape != (self.dim,):
            raise ValueError(f"query has shape {query.shape}; expected ({self.dim},)")
        rows, scores = self.search_many(query[None], k, allowed)
        return rows[0], scores[0]

    def search_many(
        self, queries: Vectors, k: int, allowed: Allowed | None = None
    ) -> tuple[Rows, Vectors]:
        """As `search`, for (Q, D) queries at once: two arrays (Q, n), n at most `k`.

        From 20 queries on similarities come from one matrix product, which may round equal vectors
        differently.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"queries have shape {queries.shape}; expected (Q, {self.dim})")
        queries = np.ascontiguousarray(queries, np.float32)
        with self._lock.reading():
            numbers = self._rows()
            mask = None if allowed is None else _mask(allowed, numbers)
            count = len(numbers) if mask is None else int(mask.sum())
            shape = (len(queries), max(0, min(k, count)))
            rows, scores = np.empty(shape, np.int64), np.empty(shape, np.float32)
            if not rows.size:
                return rows, scores
            use_threads(len(queries))
            params = flat_parameters(mask)
            flat = self._index.index
            some_scores, some = flat.search(queries, min(k + 1, count), params=params)
            for number, query in enumerate(queries):
                found, wanted = (some_scores[number], numbers[some[number]]), k + 1
                # Which of several equal ones FAISS leaves out is chance: let it leave out none.
                while wanted < count and not found[0][-1] < found[0][k - 1]:
                    wanted *= 4
                    more_scores, more = flat.search(query[None], min(wanted, count), params=params)
                    found = more_scores[0], numbers[more[0]]
                order = np.lexsort((found[1], -found[0]))[:k]
                scores[number], rows[number] = found[0][order], found[1][order]
        return rows, scores

    def vectors(self, rows: Rows) -> Vectors:
        """The stored vectors of `rows`, (N, D). Raises KeyError for an absent row."""
        found = np.empty((len(rows), self.dim), np.float32)
        with self._lock.reading():
            try:
                for position, row in enumerate(rows.tolist()):
                    self._index.reconstruct(row, found[position])
            except RuntimeError as error:
                raise KeyError(f"rows {rows.tolist()} are not all indexed") from error
        return found

    def rows(self) -> Rows:
        """All row numbers, in no particular order."""
        with self._lock.reading():
            return self._rows()

    def _rows(self) -> Rows:
        return np.array(faiss.vector_to_array(self._index.id_map), np.int64)

    def save(self, path: Path) -> None:
        """Raises OSError if the file cannot be written whole."""
        with path.open("wb") as file, self._lock.reading():
            # Not by name: FAISS only prints a failure of closing, when its last bytes are written.
            writer = faiss.PyCallbackIOWriter(file.write, 1 << 20)  # type: ignore[attr-defined, unused-ignore]
            faiss.write_index(self._index, writer)

    @classmethod
    def load(cls, path: Path, dim: int) -> FlatIndex:
        """Raises CorruptIndex if the file is not such an index."""
        index = cls(dim)
        try:
            loaded = faiss.read_index(str(path))
        except RuntimeError as error:
            raise CorruptIndex(f"{path} cannot be read: {error}") from error
        if (
            not isinstance(loaded, faiss.IndexIDMap2)
            or loaded.d != dim
            or loaded.metric_type != faiss.METRIC_INNER_PRODUCT
        ):
            raise CorruptIndex(
                f"{path} is not an index of inner products in {dim} dimensions with row numbers"
            )
        index._index = loaded
        return index

    @property
    def bytes(self) -> int:
        """Memory of the stored vectors and row numbers."""
        return len(self) * (4 * self.dim + 8)


def _mask(allowed: Allowed, rows: Rows) -> Mask:
    """`allowed` of rows in any order: it wants them ascending."""
    if (rows[1:] > rows[:-1]).all():
        return allowed(rows)
    order = np.argsort(rows)
    mask = np.empty(len(rows), bool)
    mask[order] = allowed(rows[order])
    return mask
