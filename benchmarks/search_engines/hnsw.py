"""hnswlib: a graph over all vectors, held in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hnswlib
import numpy as np

from benchmarks.search_engines import SPARE, Engine, Knob, Ladder, Stored, allowed, growing
from engine.files.locks import ReadWriteLock
from engine.types import Rows, Vectors

FILE = "hnsw.bin"
M, EF_CONSTRUCTION = 16, 200


class Hnsw:
    """Its filter is a Python function, called for every vector that is looked at."""

    add_batch = 1

    def __init__(self, index: Any, count: int) -> None:
        self._index = index
        self._rows = np.arange(count + SPARE)
        self._kept: dict[int, list[bool]] = {}
        # Adding is not safe beside searching, says its documentation; setting ef is a change, too.
        self._lock = ReadWriteLock()
        self._ef = 0

    @staticmethod
    def build(folder: Path, stored: Stored) -> None:
        index = hnswlib.Index("ip", stored.dim)
        index.init_index(stored.count, ef_construction=EF_CONSTRUCTION, M=M, random_seed=0)
        done = 0
        for block in stored.blocks():
            index.add_items(block, np.arange(done, done + len(block)))
            done += len(block)
        index.save_index(str(folder / FILE))

    @staticmethod
    def open(folder: Path, stored: Stored) -> Engine:
        index = hnswlib.Index("ip", stored.dim)
        # Room to grow costs memory of its own; `add` makes it where it is needed.
        index.load_index(str(folder / FILE))
        return Hnsw(index, stored.count)

    def ladders(self, percent: int | None) -> list[Ladder]:
        return [[{"ef": ef} for ef in growing(10, 4000)]]

    def search(self, query: Vectors, k: int, knob: Knob, percent: int | None) -> Rows:
        self._look(max(k, knob["ef"]))
        keep = None if percent is None else self._filter(percent).__getitem__
        with self._lock.reading():
            try:
                found, _ = self._index.knn_query(query[None], k, num_threads=1, filter=keep)
            except RuntimeError:  # it found fewer than k, and gives none of them
                return np.empty(0, np.int64)
        return np.asarray(found[0], np.int64)

    def add(self, rows: Rows, vectors: Vectors) -> None:
        with self._lock.writing():
            room = self._index.get_max_elements()
            if self._index.get_current_count() + len(rows) > room:
                self._index.resize_index(room + max(1000, room // 10))
            self._index.add_items(vectors, rows, num_threads=1)

    def close(self) -> None:
        del self._index

    def _look(self, ef: int) -> None:
        if self._ef != ef:
            with self._lock.writing():
                self._index.set_ef(ef)
                self._ef = ef

    def _filter(self, percent: int) -> list[bool]:
        if percent not in self._kept:
            self._kept[percent] = allowed(self._rows, percent).tolist()  # quicker than an array
        return self._kept[percent]
