"""What `cooc bench search` asks, of what, and what the right answers are. Kept in files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import made_descriptors
from benchmarks.search_engines import BLOCK, Stored, allowed
from engine.types import Rows, Vectors

Filter = int | None
"""Percent of the rows that a filter keeps, or none."""

SAME = 1e-6
"""Similarities that differ by less are the same: sums of 512 products in another order."""


@dataclass(frozen=True)
class Questions:
    """Even rows of `vectors` (Q, D) show something that is stored, odd ones something else.

    `nearest` has, by filter, (Q, n) the similarities of the nearest rows that it keeps, in no
    order; n is k, or as many as it keeps.
    """

    vectors: Vectors
    nearest: dict[Filter, Vectors]


def data_name(dim: int, seed: int) -> str:
    """A name for the vectors that `made_descriptors` makes now."""
    first = made_descriptors.fresh(1, dim, seed)
    return f"made-{dim}-{seed}-{hashlib.sha256(first.tobytes()).hexdigest()[:8]}"


def write_vectors(folder: Path, count: int, dim: int, seed: int) -> Stored:
    """The first `count` made vectors, in a file that may hold more; written if it holds fewer."""
    path = folder / "vectors.f32"
    if not path.is_file() or path.stat().st_size < 4 * count * dim:
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            for block in made_descriptors.blocks(count, dim, seed):
                file.write(block.data)
        unfinished.replace(path)
    return Stored(path, count, dim)


def questions(
    folder: Path,
    stored: Stored,
    *,
    count: int,
    k: int,
    filters: Sequence[Filter],
    seed: int,
) -> Questions:
    """Compared with every row, once: kept in a file."""
    path = folder / f"exact-{stored.count}-{count}-{k}.npz"
    asked = made_descriptors.queries(count, stored.count, stored.dim, seed).vectors
    kept = {percent: allowed(np.arange(stored.count), percent) for percent in filters}
    wanted = {percent: min(k, int(mask.sum())) for percent, mask in kept.items()}
    names = {percent: f"keep_{percent}" for percent in filters}
    if path.is_file():
        with np.load(path) as file:
            if set(names.values()) <= set(file):
                return Questions(asked, {percent: file[names[percent]] for percent in filters})
    nearest = exact(stored, asked, wanted)
    content: dict[str, Any] = {names[percent]: nearest[percent] for percent in filters}
    np.savez(path, **content)
    return Questions(asked, nearest)


def exact(stored: Stored, asked: Vectors, wanted: dict[Filter, int]) -> dict[Filter, Vectors]:
    """By filter, (Q, n) the similarities of the n `wanted` nearest rows; a block at a time."""
    best = {
        percent: np.full((len(asked), number), -np.inf, np.float32)
        for percent, number in wanted.items()
    }
    done = 0
    for block in stored.blocks(BLOCK):
        scores = asked @ block.T  # (Q, n)
        rows = np.arange(done, done + len(block))
        for percent in wanted:
            some = scores if percent is None else scores[:, allowed(rows, percent)]
            best[percent] = nearest_of(best[percent], some)
        done += len(block)
    return best


def nearest_of(nearest: Vectors, more: Vectors) -> Vectors:
    """(Q, n): the n largest of `nearest` (Q, n) and `more` (Q, m) together, in no order."""
    joined = np.concatenate([nearest, more], axis=1)
    number = nearest.shape[1]
    # The smallest come first.
    largest: Vectors = np.partition(joined, joined.shape[1] - number, axis=1)[:, -number:]
    return largest


def recall(
    answers: Sequence[Rows],
    asked: Vectors,
    nearest: Vectors,
    percent: Filter,
    stored: Stored,
    added: Vectors | None = None,
) -> Vectors:
    """(Q,) share of the nearest rows that each answer has.

    A row counts once, if it is as near as the last of the `nearest` (Q, n) and the filter keeps
    it. Rows from `stored.count` on are those of `added` (N, D).
    """
    bounds, wanted = nearest.min(axis=1), nearest.shape[1]
    found = np.zeros(len(answers), np.float32)
    for number, answer in enumerate(answers):
        rows = np.unique(answer)
        rows = rows[allowed(rows, percent)]
        old = rows < stored.count
        vectors = stored.take(rows[old])
        if added is not None:
            vectors = np.concatenate([vectors, added[rows[~old] - stored.count]])
        near = vectors @ asked[number] >= bounds[number] - SAME
        found[number] = min(wanted, int(near.sum())) / wanted
    return found
