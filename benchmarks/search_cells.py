"""What `cooc bench search` has finished: cells in a file, and the rows that are made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.search_data import Filter
from engine.errors import InvalidOption

MB = 2**20
Cell = dict[str, Any]


class Unmeasurable(Exception):
    """Says why there is no result."""


@dataclass
class Cells:
    """Results by size, engine and stage, kept in a file after each; a failed one has a `reason`."""

    path: Path | None
    settings: dict[str, Any]
    cells: dict[str, Cell] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | None, settings: dict[str, Any], *, fresh: bool) -> Cells:
        """Raises InvalidOption for a file that is something else, or has other settings."""
        found = cls(path, settings)
        if path is None or fresh or not path.is_file():
            return found
        try:
            content = json.loads(path.read_text())
            cells, before = content["cells"], content["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidOption(f"{path} is no result of this benchmark: {error}") from error
        other = {name: before.get(name) for name in settings if before.get(name) != settings[name]}
        if other:
            raise InvalidOption(
                f"{path} was measured with other settings, {other}; "
                "give another --out, or --fresh to measure again"
            )
        found.cells = cells
        return found

    def get(self, size: int, engine: str, stage: str) -> Cell | None:
        """A finished cell. One that failed is none: it may be tried again."""
        cell = self.cells.get(_key(size, engine, stage))
        return None if cell is None or "reason" in cell else cell

    def reason(self, size: int, engine: str) -> str | None:
        """Why something of an engine could not be measured."""
        for key, cell in self.cells.items():
            if key.startswith(_key(size, engine, "")) and "reason" in cell:
                return str(cell["reason"])
        return None

    def set(self, size: int, engine: str, stage: str, cell: Cell) -> None:
        self.cells[_key(size, engine, stage)] = cell
        self.write()

    def do(self, size: int, engine: str, stage: str, work: Callable[[], Cell]) -> bool:
        """Do what is not finished; returns whether it is now."""
        if self.get(size, engine, stage) is None:
            try:
                self.set(size, engine, stage, work())
            except Unmeasurable as error:
                self.set(size, engine, stage, {"reason": f"{stage}: {error}"})
                return False
        return True

    def write(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(self.path.name + ".part")
        content = {**self.report, "settings": self.settings, "cells": self.cells}
        unfinished.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        unfinished.replace(self.path)


def stage_of(percent: Filter) -> str:
    return "plain" if percent is None else f"keep_{percent}"


def rows(
    cells: Cells,
    sizes: Sequence[int],
    engines: Sequence[str],
    filters: Sequence[Filter],
    absent: Mapping[str, str],
) -> list[dict[str, Any]]:
    """One for each size and engine; what was not measured is None, and `reason` says why.

    `build_s` is None for an index that was built on a busy machine, and `build_s_estimate` what
    the two sizes below grow to. Memory is that of a serving process above one with a single row:
    `own_bytes` an image are its own, `file_bytes` of mapped files, which the system may take back;
    `disk_bytes` are those of the files. Each of `plain`, `keep_50`, ... and `adds` has the setting
    (`knob`), `recall`, `p50_ms`, `p99_ms`, `per_s` of one client and `per_s_two` of two.
    """
    made = []
    for size in sizes:
        for engine in engines:
            reason = absent.get(engine) or cells.reason(size, engine)
            row: dict[str, Any] = {
                "size": size,
                "engine": engine,
                "fits": reason is None,
                "reason": reason,
                **dict.fromkeys(("build_s", "build_peak_mb", "build_peak_own_mb", "load_s")),
            }
            built = cells.get(size, engine, "build") or {}
            memory = cells.get(size, engine, "memory") or {}
            row |= {name: built[name] for name in row if name in built}
            row["build_s_estimate"] = _estimate(cells, size, engine, sizes)
            row["load_s"] = memory.get("load_s")
            for name, value in (
                ("own_bytes", memory.get("own_mb")),
                ("file_bytes", memory.get("file_mb")),
                ("disk_bytes", built.get("disk_mb")),
            ):
                row[name] = None if value is None else value * MB / size
            for stage in (*map(stage_of, filters), "adds"):
                row[stage] = cells.get(size, engine, stage)
            made.append(row)
    return made


def _estimate(cells: Cells, size: int, engine: str, sizes: Sequence[int]) -> float | None:
    """Build seconds as a power of the size, from the two largest measured sizes below it."""
    known = []
    for other in sorted(sizes):
        seconds = (cells.get(other, engine, "build") or {}).get("build_s")
        if other < size and seconds:
            known.append((math.log(other), math.log(seconds)))
    if len(known) < 2:
        return None
    (x0, y0), (x1, y1) = known[-2:]
    return math.exp(y1 + (y1 - y0) / (x1 - x0) * (math.log(size) - x1))


def _key(size: int, engine: str, stage: str) -> str:
    return f"{size}/{engine}/{stage}"
