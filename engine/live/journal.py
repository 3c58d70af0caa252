"""What was written while a build was at work, and who is just leaving."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from engine.types import ImageRecord

REMEMBERED = 4096


class Journal:
    """Rows that were added and removed since it was opened."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._added: list[int] = []
        self._removed: list[int] = []

    def note(self, added: Iterable[int], removed: Iterable[int]) -> None:
        with self._lock:
            self._added += added
            self._removed += removed

    def take(self) -> tuple[list[int], list[int]]:
        """Rows added and removed since the last call."""
        with self._lock:
            added, self._added = self._added, []
            removed, self._removed = self._removed, []
        return added, removed

    def __len__(self) -> int:
        return len(self._added) + len(self._removed)


class Leaving:
    """Records of the images that were replaced or deleted last, by row.

    A write is committed to the catalog before the vectors change. A search that still finds the
    old vector, as it began before the change, finds here what it belongs to.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: OrderedDict[int, ImageRecord] = OrderedDict()

    def note(self, records: Iterable[ImageRecord]) -> set[int]:
        """Remember `records`; returns the rows that are forgotten for it, long gone by now."""
        with self._lock:
            for record in records:
                self._records[record.row] = record
                self._records.move_to_end(record.row)
            surplus = max(0, len(self._records) - REMEMBERED)
            return {self._records.popitem(last=False)[0] for _ in range(surplus)}

    def find(self, rows: Iterable[int]) -> dict[int, ImageRecord]:
        with self._lock:
            return {row: self._records[row] for row in rows if row in self._records}
