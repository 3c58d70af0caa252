"""Our own: what the service answers from, without its catalog."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_engines import SPARE, Engine, Knob, Ladder, Stored, allowed, growing
from engine.types import Rows, Vectors
from engine.vector_index import SearchKnobs, VectorIndex, building
from engine.vector_index.coded import CodedVectors, Effort

FLAT, BUILT = "flat.faiss", "built.json"


def _build(folder: Path, stored: Stored) -> None:
    options = building.BuildOptions()
    if building.choose_index_type(options, stored.count) == building.FLAT:
        index = VectorIndex(stored.dim)
        for rows, vectors in _chunks(stored):
            index.add(rows, vectors)
        index.save(folder / FLAT)
        return
    rows = building.write_vectors(folder, _chunks(stored), _steps, stored.count)
    built = building.build_base(folder, rows, stored.dim, options, _steps)
    figures = {"effort": [built.effort.nprobe, built.effort.candidates], "cells": built.cells}
    (folder / BUILT).write_text(json.dumps(figures))


def _open(folder: Path, stored: Stored) -> tuple[VectorIndex, int]:
    """The index, and how many cells it has; 0 where it compares everything."""
    if (folder / FLAT).is_file():
        return VectorIndex.load(folder / FLAT, stored.dim), 0
    figures = json.loads((folder / BUILT).read_text())
    base = CodedVectors.load(folder, stored.dim, Effort(*figures["effort"]))
    return VectorIndex(stored.dim, base=base), figures["cells"]


class Ours:
    """Settings are numbers of cells; which candidates are ranked exactly was decided at the build.

    Given none, a search looks as far as the build found necessary.
    """

    add_batch = 1

    def __init__(self, index: VectorIndex, cells: int, count: int) -> None:
        self._index, self._cells = index, cells
        self._rows = np.arange(count + SPARE)
        self._kept: dict[int, NDArray[np.bool_]] = {}

    @staticmethod
    def build(folder: Path, stored: Stored) -> None:
        _build(folder, stored)

    @staticmethod
    def open(folder: Path, stored: Stored) -> Engine:
        return Ours(*_open(folder, stored), stored.count)

    def ladders(self, percent: int | None) -> list[Ladder]:
        if not self._cells:
            return [[{}]]
        return [[{}], [{"nprobe": nprobe} for nprobe in growing(1, self._cells)]]

    def search(self, query: Vectors, k: int, knob: Knob, percent: int | None) -> Rows:
        knobs = SearchKnobs(nprobe=knob.get("nprobe"))
        if percent is None:
            return self._index.search(query, k, knobs)[0]
        kept = self._filter(percent)
        return self._index.search(query, k, knobs, lambda rows: kept[rows])[0]

    def add(self, rows: Rows, vectors: Vectors) -> None:
        self._index.add(rows, vectors)

    def close(self) -> None:
        del self._index

    def _filter(self, percent: int) -> NDArray[np.bool_]:
        if percent not in self._kept:
            self._kept[percent] = allowed(self._rows, percent)
        return self._kept[percent]


def _chunks(stored: Stored) -> Iterator[tuple[Rows, Vectors]]:
    done = 0
    for block in stored.blocks():
        yield np.arange(done, done + len(block)), block
        done += len(block)


def _steps(done: int, total: int) -> None:
    """Nobody waits for it."""
