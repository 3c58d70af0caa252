"""LanceDB: a table on disk with an index of its vectors, candidates ranked by the whole vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import BTree, HnswSq, IvfRq

from benchmarks.search_engines import Engine, Knob, Ladder, Stored, bucket, growing
from engine.types import Rows, Vectors

TABLE = "images"
COLUMNS = ["row", "_distance"]  # it wants to be told that distances come too
REFINE = (2, 5, 15)
"""Candidates by code, in answers, that are ranked by their whole vectors."""
FEWEST = 1000
"""Below so many rows there is nothing to train an index on."""


class _Lance:
    """Each `add` is a commit, which a search sees at once; it compares all that no index covers."""

    add_batch = 20

    def __init__(self, table: Any, stored: Stored) -> None:
        self._table = table
        self._stored = stored

    def search(self, query: Vectors, k: int, knob: Knob, percent: int | None) -> Rows:
        asked = self._table.search(query).distance_type("dot").limit(k).select(COLUMNS)
        asked = asked.nprobes(knob["nprobe"]).refine_factor(knob["refine"])
        if "ef" in knob:
            asked = asked.ef(knob["ef"])
        if percent is not None:
            asked = asked.where(f"bucket < {percent}", prefilter=True)
        rows: Rows = asked.to_arrow()["row"].to_numpy()
        return rows

    def add(self, rows: Rows, vectors: Vectors) -> None:
        self._table.add(pa.Table.from_batches([_batch(rows, vectors)]))

    def close(self) -> None:
        del self._table


class LanceRq(_Lance):
    """IVF_RQ: one bit a dimension."""

    @staticmethod
    def build(folder: Path, stored: Stored) -> None:
        _build(folder, stored, IvfRq(distance_type="dot", num_partitions=_cells(stored)))

    @staticmethod
    def open(folder: Path, stored: Stored) -> Engine:
        return LanceRq(_open(folder), stored)

    def ladders(self, percent: int | None) -> list[Ladder]:
        probes = growing(1, max(1, _cells(self._stored)))
        return [[{"nprobe": p, "refine": refine} for p in probes] for refine in REFINE]


class LanceHnsw(_Lance):
    """IVF_HNSW_SQ: a graph in each of a few cells, eight bits a dimension."""

    @staticmethod
    def build(folder: Path, stored: Stored) -> None:
        _build(folder, stored, HnswSq(distance_type="dot", num_partitions=1))

    @staticmethod
    def open(folder: Path, stored: Stored) -> Engine:
        return LanceHnsw(_open(folder), stored)

    def ladders(self, percent: int | None) -> list[Ladder]:
        return [
            [{"nprobe": 1, "refine": refine, "ef": ef} for ef in growing(10 * refine, 2000)]
            for refine in (1, 2, 5)
        ]


def _cells(stored: Stored) -> int:
    """Between the default, the root of the rows, and four times as many, as FAISS advises."""
    return max(1, int(2 * stored.count**0.5))


def _build(folder: Path, stored: Stored, config: Any) -> None:
    schema = _batch(np.empty(0, np.int64), np.empty((0, stored.dim), np.float32)).schema
    reader = pa.RecordBatchReader.from_batches(schema, _batches(stored))
    table = lancedb.connect(folder).create_table(TABLE, reader)
    if stored.count >= FEWEST:
        table.create_index("vector", config=config)
        table.create_index("bucket", config=BTree())


def _open(folder: Path) -> Any:
    return lancedb.connect(folder).open_table(TABLE)


def _batches(stored: Stored) -> Iterator[Any]:
    done = 0
    for block in stored.blocks():
        yield _batch(np.arange(done, done + len(block)), block)
        done += len(block)


def _batch(rows: Rows, vectors: Vectors) -> Any:
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.RecordBatch.from_arrays(
        [pa.array(rows), pa.array(bucket(rows)), values], names=["row", "bucket", "vector"]
    )
