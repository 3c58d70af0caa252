"""All measurements of one size, engine beside engine."""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import made_descriptors
from benchmarks.search_cells import Cell, Cells, Unmeasurable, stage_of
from benchmarks.search_data import Filter, Questions, nearest_of, recall
from benchmarks.search_engines import SPARE, Knob, Ladder, Stored
from benchmarks.search_process import Asked, Process
from engine.types import Rows, Vectors

TUNING_S = 15.0
"""Seconds of questions for one setting that is tried; on a busy machine they should suffice."""


@dataclass(frozen=True)
class How:
    """`seconds` for each measurement, `rounds` of them, with `threads` threads and clients."""

    k: int
    filters: Sequence[Filter]
    target: float
    seconds: float
    rounds: int
    threads: int
    adds_per_s: float
    seed: int


class Size:
    """One size. `here` has the built indexes of all sizes; results go to `cells`."""

    def __init__(
        self, how: How, here: Path, stored: Stored, questions: Questions, cells: Cells
    ) -> None:
        self._how, self._here, self._stored, self._cells = how, here, stored, cells
        self._size = stored.count
        self._questions = questions
        # Even questions show what is stored, odd ones do not; both halves have as many of each.
        turn = np.arange(len(questions.vectors)) // 2 % 2
        self._tuning, self._reporting = np.flatnonzero(turn == 0), np.flatnonzero(turn == 1)

    def prepare(self, engine: str, *, rebuild: bool, measured: bool = True) -> bool:
        """Build an index and find its settings; returns whether it can be asked now."""
        how, done = self._how, self._cells
        return done.do(
            self._size,
            engine,
            "build",
            lambda: build(
                self._here, engine, self._stored, how.threads, rebuild=rebuild, measured=measured
            ),
        ) and done.do(self._size, engine, "tune", lambda: self._tune(engine))

    def time(self, engines: Sequence[str]) -> None:
        """Searches of all engines in turn; first the memory of each."""
        stages = ("memory", *map(stage_of, self._how.filters))
        with ExitStack() as stack:
            serving: dict[str, Process] = {}
            for engine in engines:
                if all(self._cells.get(self._size, engine, stage) for stage in stages):
                    continue
                process = stack.enter_context(Process(engine, self._how.threads))
                try:
                    memory = self._warm(engine, process)
                except Unmeasurable as error:
                    memory = {"reason": f"memory: {error}"}
                else:
                    serving[engine] = process
                self._cells.set(self._size, engine, "memory", memory)
            for percent in self._how.filters:
                self._time_filter(percent, serving)

    def grow(self, engine: str) -> bool:
        """Searches while rows are added, to a copy that is thrown away."""
        return self._cells.do(self._size, engine, "adds", lambda: self._grow(engine))

    def _warm(self, engine: str, process: Process) -> Cell:
        """What an index takes that has answered the questions of the other half."""
        load_s = self._open(process, engine, self._folder(engine))
        asked, knob = self._questions.vectors[self._tuning], self._knob(engine, None)
        process.ask(asked, self._how.k, knob, None, 4 * TUNING_S)
        return {"load_s": load_s, **asdict(process.memory())}

    def _time_filter(self, percent: Filter, serving: dict[str, Process]) -> None:
        """Leaves out of `serving` what is no longer there."""
        stage = stage_of(percent)
        pending = [name for name in serving if not self._cells.get(self._size, name, stage)]
        measured: dict[str, list[Cell]] = {engine: [] for engine in pending}
        for _ in range(self._how.rounds):
            for engine in [name for name in pending if name in serving]:
                try:
                    measured[engine].append(self._round(engine, serving[engine], percent))
                except Unmeasurable as error:
                    del serving[engine]
                    self._cells.set(self._size, engine, stage, {"reason": f"{stage}: {error}"})
        for engine in [name for name in pending if name in serving]:
            cell = {"knob": dict(self._knob(engine, percent)), **_medians(measured[engine])}
            self._cells.set(self._size, engine, stage, cell)

    def _round(self, engine: str, process: Process, percent: Filter) -> Cell:
        how, knob = self._how, self._knob(engine, percent)
        vectors = self._questions.vectors[self._reporting]
        process.ask(vectors[:20], how.k, knob, percent)  # others had the caches before
        asked = process.ask(vectors, how.k, knob, percent, how.seconds)
        both = process.per_second(vectors, how.k, knob, percent, how.seconds, how.threads)
        found = self._recall(asked, self._reporting, percent)
        return {
            "recall": float(found.mean()),
            "recall_near": float(found[0::2].mean()),
            "recall_new": float(found[1::2].mean()),
            "asked": len(found),
            **_latencies(asked.ms),
            "per_s_two": both,
        }

    def _tune(self, engine: str) -> Cell:
        """For each filter what was tried, and the quickest setting that reaches the target."""
        chosen: Cell = {}
        with Process(engine, self._how.threads) as process:
            self._open(process, engine, self._folder(engine))
            for percent in self._how.filters:
                tried: list[Cell] = []
                for ladder in process.ladders(percent):
                    tried += self._climb(process, ladder, percent)
                enough = [one for one in tried if one["recall"] >= self._how.target]
                best = (
                    min(enough, key=lambda one: float(one["p50_ms"]))
                    if enough
                    else max(tried, key=lambda one: float(one["recall"]))
                )
                chosen[stage_of(percent)] = {**best, "tried": tried}
        return chosen

    def _climb(self, process: Process, ladder: Ladder, percent: Filter) -> list[Cell]:
        """What was tried to find the first setting that reaches the target, by bisection."""
        tried, low, high = [], 0, len(ladder)
        vectors = self._questions.vectors[self._tuning]
        while low < high:
            middle = (low + high) // 2
            knob = ladder[middle]
            asked = process.ask(vectors, self._how.k, knob, percent, TUNING_S)
            found = float(self._recall(asked, self._tuning, percent).mean())
            tried.append({"knob": dict(knob), "recall": found, "p50_ms": _p50(asked.ms)})
            low, high = (low, middle) if found >= self._how.target else (middle + 1, high)
        return tried

    def _grow(self, engine: str) -> Cell:
        how, knob = self._how, self._knob(engine, None)
        copy = self._here / f"growing-{engine}"
        shutil.rmtree(copy, ignore_errors=True)
        seconds = 2 * how.seconds
        count = int(min(SPARE, 100 + 1.5 * seconds * how.adds_per_s))
        fresh = made_descriptors.fresh(count, self._stored.dim, how.seed)
        vectors = self._questions.vectors[self._reporting]
        try:
            # Links: whoever changes what is on disk writes another file.
            shutil.copytree(self._folder(engine), copy, copy_function=os.link)
            with Process(engine, how.threads) as process:
                self._open(process, engine, copy)
                process.ask(vectors, how.k, knob, None, how.seconds)
                grown = process.grow(vectors, how.k, knob, seconds, how.adds_per_s, fresh)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        added, number = fresh[: grown.added], len(grown.after.rows)
        asked = vectors[:number]
        nearest = self._questions.nearest[None][self._reporting[:number]]
        if len(added):
            nearest = nearest_of(nearest, asked @ added.T)
        found = recall(grown.after.rows, asked, nearest, None, self._stored, added)
        return {
            "knob": dict(knob),
            "added": grown.added,
            "added_per_s": grown.added_per_s,
            "found_themselves": grown.found_themselves,
            "recall": float(found.mean()),
            "asked": len(grown.meanwhile_ms),
            **_latencies(grown.meanwhile_ms),
        }

    def _recall(self, asked: Asked, part: Rows, percent: Filter) -> Vectors:
        some = part[: len(asked.rows)]
        nearest = self._questions.nearest[percent][some]
        return recall(asked.rows, self._questions.vectors[some], nearest, percent, self._stored)

    def _open(self, process: Process, engine: str, folder: Path) -> float:
        one = Stored(self._stored.path, 1, self._stored.dim)
        build(self._here, engine, one, self._how.threads)
        return process.open(folder, _folder(self._here, engine, one), self._stored)

    def _knob(self, engine: str, percent: Filter) -> Knob:
        tuned = self._cells.get(self._size, engine, "tune")
        assert tuned is not None, "what is timed was tuned"
        knob: Knob = tuned[stage_of(percent)]["knob"]
        return knob

    def _folder(self, engine: str) -> Path:
        return _folder(self._here, engine, self._stored)


def build(
    here: Path,
    engine: str,
    stored: Stored,
    threads: int,
    *,
    rebuild: bool = False,
    measured: bool = True,
) -> Cell:
    """Build an index, or tell what its building took; seconds are None if not `measured`."""
    folder = _folder(here, engine, stored)
    figures = folder.with_suffix(".json")
    if figures.is_file() and not rebuild:
        found: Cell = json.loads(figures.read_text())
        return found
    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with Process(engine, threads) as process:
        took = process.build(unfinished, stored)
    if not measured:
        took |= {"build_s": None}
    figures.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    figures.write_text(json.dumps(took) + "\n")
    return took


def _folder(here: Path, engine: str, stored: Stored) -> Path:
    return here / str(stored.count) / engine


def _medians(rounds: Sequence[Cell]) -> Cell:
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def _latencies(ms: Vectors) -> Cell:
    return {
        "p50_ms": _p50(ms),
        "p99_ms": float(np.percentile(ms, 99)),
        "per_s": 1000 * len(ms) / float(ms.sum()),
    }


def _p50(ms: Vectors) -> float:
    return float(np.percentile(ms, 50))
