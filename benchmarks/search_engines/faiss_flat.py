"""FAISS, every vector compared: the plain way, and exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.search_engines import SPARE, Engine, Knob, Ladder, Stored, allowed
from engine.files.locks import ReadWriteLock
from engine.types import Rows, Vectors

FILE = "flat.faiss"


class FaissFlat:
    add_batch = 1

    def __init__(self, index: Any, count: int) -> None:
        self._index = index
        self._rows = np.arange(count + SPARE)
        self._selectors: dict[int, tuple[Any, Any]] = {}
        self._lock = ReadWriteLock()  # FAISS crashes when it is searched while it is changed

    @staticmethod
    def build(folder: Path, stored: Stored) -> None:
        index = faiss.IndexFlatIP(stored.dim)
        for block in stored.blocks():
            index.add(block)
        faiss.write_index(index, str(folder / FILE))

    @staticmethod
    def open(folder: Path, stored: Stored) -> Engine:
        return FaissFlat(faiss.read_index(str(folder / FILE)), stored.count)

    def ladders(self, percent: int | None) -> list[Ladder]:
        return [[{}]]

    def search(self, query: Vectors, k: int, knob: Knob, percent: int | None) -> Rows:
        params = None if percent is None else self._selector(percent)
        with self._lock.reading():
            _, found = self._index.search(query[None], k, params=params)
        rows: Rows = found[0]
        return rows[rows >= 0]

    def add(self, rows: Rows, vectors: Vectors) -> None:
        with self._lock.writing():
            assert rows[0] == self._index.ntotal, "a flat index numbers its rows itself"
            self._index.add(vectors)

    def close(self) -> None:
        self._index.reset()

    def _selector(self, percent: int) -> Any:
        if percent not in self._selectors:
            bits = np.packbits(allowed(self._rows, percent), bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type, unused-ignore]
            params = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg, unused-ignore]
            # The parameters only point to the selector.
            self._selectors[percent] = params, selector
        return self._selectors[percent][0]
