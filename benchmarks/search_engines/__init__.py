"""Engines that `cooc bench search` measures: each is built into a folder and opened from there."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.types import Rows, Vectors

Knob = Mapping[str, int]
"""One setting of a search, e.g. {"nprobe": 32}."""

Ladder = list[Knob]
"""Settings from the quickest to the most thorough."""

BLOCK = 10_000
SPARE = 100_000
"""Rows that may be added beside the stored ones."""


@dataclass(frozen=True)
class Stored:
    """The first `count` rows of a file of float32 vectors. Row i of the file is row number i."""

    path: Path
    count: int
    dim: int

    def blocks(self, rows: int = BLOCK) -> Iterator[Vectors]:
        """Read, not mapped: what a build reads is not to count as its memory."""
        with self.path.open("rb") as file:
            for start in range(0, self.count, rows):
                some = min(rows, self.count - start)
                yield np.fromfile(file, np.float32, some * self.dim).reshape(some, self.dim)

    def take(self, rows: Rows) -> Vectors:
        """(N, D) of any rows, mapped for the moment."""
        mapped = np.memmap(self.path, np.float32, "r", shape=(self.count, self.dim))
        return np.array(mapped[rows])


def bucket(rows: Rows) -> NDArray[np.int32]:
    """What the filters ask for: a number of 0 to 99 for each row, as if by chance.

    A filter that keeps p % of the rows is `bucket < p`. It knows nothing of the vectors.
    """
    mixed = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return ((mixed >> np.uint64(40)) % np.uint64(100)).astype(np.int32)


def allowed(rows: Rows, percent: int | None) -> NDArray[np.bool_]:
    """Which rows a filter keeps; None keeps all."""
    if percent is None:
        return np.ones(len(rows), bool)
    return np.asarray(bucket(rows) < percent)


class Engine(Protocol):
    """An opened index, asked by several threads at once."""

    add_batch: int
    """Rows that one call of `add` had best be given."""

    def ladders(self, percent: int | None) -> list[Ladder]:
        """Settings to choose from for a filter; of one ladder the first that finds enough."""
        ...

    def search(self, query: Vectors, k: int, knob: Knob, percent: int | None) -> Rows:
        """Row numbers of the `k` nearest to a (D,) query, best first; fewer if fewer are found."""
        ...

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """Rows beyond the stored ones, to be found from now on."""
        ...

    def close(self) -> None: ...


class Kind(Protocol):
    """How an engine comes to be. What it keeps lies in `folder`, which exists and is empty."""

    @staticmethod
    def build(folder: Path, stored: Stored) -> None: ...

    @staticmethod
    def open(folder: Path, stored: Stored) -> Engine: ...


@dataclass(frozen=True)
class Listed:
    """Where the Kind of an engine is, and the package that it needs beside our own."""

    module: str
    name: str
    needs: str
    remark: str


ENGINES = {
    "ours": Listed("ours", "Ours", "faiss", "engine.vector_index, what the service uses"),
    "faiss-flat": Listed("faiss_flat", "FaissFlat", "faiss", "exact; filter: IDSelectorBitmap"),
    "lancedb-rq": Listed("lance", "LanceRq", "lancedb", "IVF_RQ, refined; filter: prefilter"),
    "lancedb-hnsw": Listed(
        "lance", "LanceHnsw", "lancedb", "IVF_HNSW_SQ, refined; filter: prefilter"
    ),
    "hnswlib": Listed(
        "hnsw", "Hnsw", "hnswlib", "M 16, ef_construction 200; filter: a Python function"
    ),
}


def missing(engine: str) -> str | None:
    """What to do to have an engine, or None if it is there."""
    needs = ENGINES[engine].needs
    if importlib.util.find_spec(needs) is not None:
        return None
    return f"{needs} is not installed; pip install 'cooc-image-search[bench]'"


def load(engine: str) -> Kind:
    listed = ENGINES[engine]
    module = importlib.import_module(f"benchmarks.search_engines.{listed.module}")
    kind: Kind = getattr(module, listed.name)
    return kind


def growing(first: int, last: int, factor: float = 1.25) -> list[int]:
    """`first` to `last`, each about `factor` times the one before."""
    values = [first]
    while values[-1] < last:
        values.append(min(last, max(values[-1] + 1, round(factor * values[-1]))))
    return values
