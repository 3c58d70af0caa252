"""Nearest neighbours, side by side: ours, FAISS flat, LanceDB and hnswlib on made descriptors.

Each engine builds and serves in a process of its own, on the same CPUs, and they take turns within
each measurement, so that a busy machine slows all of them alike. All are asked at the quickest of
their settings that finds `TARGET` of the nearest rows on one half of the questions; what is
reported was asked with the other half. What is finished is kept in a file and not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import machine
from benchmarks.search_cells import Cells, rows
from benchmarks.search_data import Filter, data_name, questions, write_vectors
from benchmarks.search_engines import ENGINES, Stored, missing
from benchmarks.search_size import How, Size

SIZES = (10_000, 100_000, 1_000_000)
FILTERS: tuple[Filter, ...] = (None, 50, 10, 1)
TARGET = 0.99


@dataclass(frozen=True)
class Plan:
    """What is measured. Sizes, engines, seconds and rounds may differ from one run to the next
    that goes on with it; the rest decides what a result means."""

    sizes: Sequence[int] = SIZES
    engines: Sequence[str] = tuple(ENGINES)
    dim: int = 512
    seed: int = 0
    k: int = 10
    questions: int = 1000
    filters: Sequence[Filter] = FILTERS
    seconds: float = 5.0
    rounds: int = 2
    threads: int = 2
    adds_per_s: float = 200.0

    def settings(self) -> dict[str, Any]:
        names = ("dim", "seed", "k", "questions", "threads", "adds_per_s")
        data = {"data": data_name(self.dim, self.seed), "target": TARGET}
        return {name: getattr(self, name) for name in names} | data

    def how(self) -> How:
        return How(
            k=self.k,
            filters=self.filters,
            target=TARGET,
            seconds=self.seconds,
            rounds=self.rounds,
            threads=self.threads,
            adds_per_s=self.adds_per_s,
            seed=self.seed,
        )


def run(
    plan: Plan,
    folder: Path,
    out: Path | None = None,
    *,
    fresh: bool = False,
    rebuild: bool = False,
    only_prepare: bool = False,
    progress: Callable[[int, int], object] = lambda done, total: None,
    tell: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """One row for each size and engine, as `search_cells.rows` says.

    Args:
        folder: for vectors and indexes, which are made once (of a million rows: 12 GB).
        out: where finished cells are kept, and the report with them. Without it none are.
        fresh: measure again; what is built stays.
        rebuild: build again what is measured again.
        only_prepare: for a busy machine: build, without measuring that, and choose settings, so
            that a later run with this `out` has the rest to do.
        progress: told the number of steps that are done, and of all.
        tell: given a line for each package that is not there.

    Raises: InvalidOption for an `out` that was made with other settings.
    """
    cells = Cells.read(out, plan.settings(), fresh=fresh)
    absent = {name: why for name in plan.engines if (why := missing(name)) is not None}
    for why in sorted(set(absent.values())):
        tell(why)
    present = [name for name in plan.engines if name not in absent]
    here = _prepared(plan, folder)
    each = 1 + len(present) if only_prepare else 2 + 2 * len(present)
    steps = _Steps(each * len(plan.sizes), progress)
    for count in plan.sizes:
        stored = Stored(here / "vectors.f32", count, plan.dim)
        asked = questions(
            here, stored, count=plan.questions, k=plan.k, filters=plan.filters, seed=plan.seed
        )
        steps.next()
        size = Size(plan.how(), here, stored, asked, cells)
        ready = []
        for engine in present:
            if size.prepare(engine, rebuild=rebuild, measured=not only_prepare):
                ready.append(engine)
            steps.next()
        if only_prepare:
            continue
        size.time(ready)
        steps.next()
        for engine in present:
            if engine in ready and cells.get(count, engine, "memory"):
                size.grow(engine)
            steps.next()
    cells.report = {
        "bench": "search",
        "rows": rows(cells, plan.sizes, plan.engines, plan.filters, absent),
        **machine(torch.device("cpu")),
        **plan.settings(),
        "seconds": plan.seconds,
        "rounds": plan.rounds,
    }
    cells.write()
    return cells.report


class _Steps:
    def __init__(self, total: int, progress: Callable[[int, int], object]) -> None:
        self._done, self._total, self._progress = 0, total, progress
        progress(0, total)

    def next(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


def _prepared(plan: Plan, folder: Path) -> Path:
    """The folder of these vectors, with as many as the largest size."""
    here = folder / data_name(plan.dim, plan.seed)
    here.mkdir(parents=True, exist_ok=True)
    write_vectors(here, max(plan.sizes), plan.dim, plan.seed)
    return here
