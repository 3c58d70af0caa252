"""Filters on metadata, fast: columns of the fields that were asked for, beside the catalog."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.catalog.typed_column import Growing, Mask, Places, TypedColumn
from engine.files.locks import ReadWriteLock
from engine.filters import MISSING, And, Filter, Not, Or, Path, fields, lookup
from engine.types import Json, Rows

MAX_COLUMNS = 64
"""Kept at a time; the one that was asked for the longest ago goes first."""
STALE = 10_000
"""Changed and deleted values, beyond the number of images, before all is loaded anew."""
_CATCH_UP = 64
"""Writes that are few enough to be applied while nobody may read."""
_WORTH_KEEPING = 10_000
"""Rows from which on their positions are remembered."""


class MetadataSource(Protocol):
    """What the columns read of the catalog."""

    def live_rows(self) -> Rows:
        """All row numbers, ascending."""
        ...

    def metadata(self) -> Iterator[tuple[Rows, list[Json]]]:
        """Metadata by row numbers, of all images, each as of any moment since the call."""
        ...


@dataclass(frozen=True)
class _Write:
    rows: Rows
    metadata: Sequence[Json]
    removed: Rows


@dataclass(frozen=True)
class _Alignment:
    """Where rows are in the columns; `known` is None where all of them are."""

    places: Places
    known: Mask | None


class _Axis:
    """The rows of the columns, ascending, and which of them are still stored."""

    def __init__(self, rows: Rows) -> None:
        self._rows = Growing(np.int64)
        self._rows.extend(rows)
        self._alive = Growing(np.bool_, fill=True)
        self._alive.resize(len(rows))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Rows:
        """Grows only at its end; what was returned stays as it is."""
        rows: Rows = self._rows.values
        return rows

    @property
    def alive(self) -> Mask:
        alive: Mask = self._alive.values
        return alive

    @property
    def bytes(self) -> int:
        return self._rows.bytes + self._alive.bytes

    def append(self, rows: Rows) -> None:
        self._rows.extend(rows)
        self._alive.resize(len(self._rows))


class MetadataColumns:
    """Which rows pass a filter, for an ascending array of rows at a time.

    A field is loaded from the catalog when a filter first asks for it, and follows the writes from
    then on; nothing is kept of other fields. While it loads, searches and writes that do not need
    it go on: what they write meanwhile is noted, and applied to it at the end.

    A write is told once it is committed: `put` and `patch` before the images can be found by
    their new vectors or metadata, `remove` after the old ones cannot be found any more. Row numbers
    rise from write to write and are never used twice. Methods may be called from several threads.
    """

    def __init__(self, source: MetadataSource, *, max_columns: int = MAX_COLUMNS) -> None:
        self._source = source
        self._max_columns = max_columns
        self._lock = ReadWriteLock()
        self._loading = threading.Lock()
        self._axis: _Axis | None = None
        self._columns: dict[Path, TypedColumn] = {}
        self._used: dict[Path, int] = {}
        self._clock = itertools.count()
        self._stale = 0
        # What was written since a load began; None while nothing loads.
        self._journal: list[_Write] | None = None
        self._alignments: dict[int, tuple[weakref.ref[Rows], _Axis, int, _Alignment]] = {}

    # --- writing --------------------------------------------------------------------------

    def put(
        self, rows: Iterable[int], metadata: Sequence[Json], removed: Iterable[int] = ()
    ) -> None:
        """Note new images, and forget those that they replace."""
        write = _Write(_array(rows), metadata, _array(removed))
        if len(write.rows) != len(metadata):
            raise ValueError(f"{len(write.rows)} rows have {len(metadata)} objects of metadata")
        with self._lock.writing():
            if self._journal is not None:
                self._journal.append(write)
            if self._axis is not None and not self._follow(self._axis, write):
                self._drop()

    def patch(self, row: int, metadata: Json) -> None:
        """Note the new metadata of a stored image."""
        self.put([row], [metadata])

    def remove(self, rows: Iterable[int]) -> None:
        """Forget images; unknown ones are ignored."""
        self.put([], [], rows)

    def forget(self) -> None:
        """Free the memory; the next filter loads anew."""
        with self._lock.writing():
            self._drop()

    def _drop(self) -> None:
        """The caller holds the lock for writing."""
        self._axis, self._columns, self._used, self._stale = None, {}, {}, 0
        self._alignments.clear()

    def _follow(self, axis: _Axis, write: _Write) -> bool:
        """Apply a write to everything that is loaded; False if all has to be loaded anew."""
        new, late = _extend(axis, write)
        if late:
            return False
        _fill(self._columns, axis.rows, write)
        self._stale += len(write.rows) - new + len(write.removed)
        # Strings of the past stay in the dictionaries, and deleted rows in all columns.
        return self._stale <= max(STALE, len(axis))

    # --- reading --------------------------------------------------------------------------

    def allowed(self, where: Filter) -> Callable[[Rows], Mask]:
        """`mask` of one filter. Loads what it needs, so that the calls after it do not wait.

        Raises: CorruptIndex, StorageFull and the like, if the catalog cannot be read.
        """
        self._ensure(fields(where))
        return partial(self.mask, where)

    def mask(self, where: Filter, rows: Rows, *, unknown: bool = False) -> Mask:
        """Whether each of `rows`, ascending row numbers (N,), passes the filter.

        Args:
            unknown: the answer for rows that are not, or no longer, stored.

        An array of many rows that is asked for again, the very same object, is found again at
        once; it must not be changed meanwhile. Raises as `allowed` does.
        """
        paths = fields(where)
        while True:
            self._ensure(paths)
            with self._lock.reading():
                axis = self._axis
                stored = axis.rows if axis else rows
            if axis is None:
                continue
            alignment = self._alignment(axis, stored, rows)
            with self._lock.reading():
                columns = {path: column for path, column in self._columns.items() if path in paths}
                if self._axis is axis and len(columns) == len(paths):
                    return _masked(where, columns, axis, alignment, len(rows), unknown)

    @property
    def bytes(self) -> int:
        """Memory of all columns."""
        with self._lock.reading():
            columns = sum(column.bytes for column in self._columns.values())
            return columns + (self._axis.bytes if self._axis else 0)

    def loaded(self) -> frozenset[Path]:
        """The fields that are held."""
        with self._lock.reading():
            return frozenset(self._columns)

    def _alignment(self, axis: _Axis, stored: Rows, rows: Rows) -> _Alignment:
        if len(rows) < _WORTH_KEEPING:
            return _align(stored, rows)
        kept = self._alignments.get(id(rows))
        if kept is not None:
            reference, of, upto, alignment = kept
            # A row that was unknown may have been added since.
            if (
                reference() is rows
                and of is axis
                and (alignment.known is None or upto == len(stored))
            ):
                return alignment
        alignment = _align(stored, rows)
        key = id(rows)
        reference = weakref.ref(rows, lambda _: self._alignments.pop(key, None))
        self._alignments[key] = (reference, axis, len(stored), alignment)
        return alignment

    # --- loading --------------------------------------------------------------------------

    def _ensure(self, paths: frozenset[Path]) -> None:
        if len(paths) > self._max_columns:
            raise ValueError(f"{len(paths)} fields in one filter; at most {self._max_columns}")
        while self._missing(paths) is not None:
            # One load at a time; who waits here may find its own done by another.
            with self._loading:
                missing = self._missing(paths)
                if missing is not None:
                    self._load(missing)

    def _missing(self, paths: frozenset[Path]) -> frozenset[Path] | None:
        """Those that are not loaded; None if nothing is to be done."""
        with self._lock.reading():
            missing = paths - self._columns.keys()
            for path in paths:
                self._used[path] = next(self._clock)
            return missing if missing or self._axis is None else None

    def _load(self, paths: frozenset[Path]) -> None:
        """Load columns beside everything else; may leave them out if all was dropped meanwhile."""
        with self._lock.writing():
            self._journal = []
            axis = self._axis
        try:
            if axis is None:
                axis = _Axis(self._source.live_rows())
                with self._lock.writing():
                    for write in self._journal:
                        # A late row among them was deleted before the rows were read.
                        _extend(axis, write)
                    self._axis = axis
            with self._lock.reading():
                rows = axis.rows
            columns = {path: TypedColumn() for path in paths}
            for column in columns.values():
                column.resize(len(rows))
            if columns:
                for some, metadata in self._source.metadata():
                    _fill(columns, rows, _Write(some, metadata, some[:0]))
            self._install(axis, columns)
        finally:
            with self._lock.writing():
                self._journal = None

    def _install(self, axis: _Axis, columns: Mapping[Path, TypedColumn]) -> None:
        """Apply what was written during a load, the last of it while nobody may read."""
        while True:
            with self._lock.writing():
                pending, self._journal = self._journal or [], []
                rows = axis.rows
                if len(pending) <= _CATCH_UP:
                    self._catch_up(columns, rows, pending)
                    if self._axis is axis:
                        self._columns |= columns
                        self._evict(columns.keys())
                    return
            self._catch_up(columns, rows, pending)

    @staticmethod
    def _catch_up(
        columns: Mapping[Path, TypedColumn], rows: Rows, pending: Iterable[_Write]
    ) -> None:
        for column in columns.values():
            column.resize(len(rows))
        for write in pending:
            _fill(columns, rows, write)

    def _evict(self, fresh: Iterable[Path]) -> None:
        others = self._columns.keys() - set(fresh)
        by_age = sorted(others, key=lambda path: self._used.get(path, -1))
        for path in by_age[: max(0, len(self._columns) - self._max_columns)]:
            del self._columns[path]
        self._used = {path: self._used.get(path, -1) for path in self._columns}


def _array(rows: Iterable[int]) -> Rows:
    return np.array(list(rows), np.int64)


def _find(known: Rows, rows: Rows) -> NDArray[np.intp]:
    """Places of `rows` among the ascending `known` ones; -1 for those that are not."""
    places = np.searchsorted(known, rows)
    if not len(known):
        return np.full(len(rows), -1, np.intp)
    found = known.take(places, mode="clip") == rows
    return np.where(found, places, -1)


def _align(known: Rows, rows: Rows) -> _Alignment:
    places = _find(known, rows)
    if len(places) and places[0] >= 0 and places[-1] - places[0] == len(places) - 1:
        # Ascending without a gap, as its ends are so far apart.
        return _Alignment(slice(int(places[0]), int(places[-1]) + 1), None)
    there: Mask = places >= 0
    return _Alignment(np.maximum(places, 0), None if there.all() else there)


def _extend(axis: _Axis, write: _Write) -> tuple[int, int]:
    """Add the new rows of a write and take out the removed.

    Returns: how many rows are new, and how many are left out, as they are unknown but lower than
    known ones.
    """
    unknown = write.rows[_find(axis.rows, write.rows) < 0]
    new = np.sort(unknown[unknown > axis.rows[-1]]) if len(axis) else np.sort(unknown)
    axis.append(new)
    gone = _find(axis.rows, write.removed)
    axis.alive[gone[gone >= 0]] = False
    return len(new), len(unknown) - len(new)


def _fill(columns: Mapping[Path, TypedColumn], rows: Rows, write: _Write) -> None:
    """Set the values of a write in each column, of those of its rows that there are."""
    places = _find(rows, write.rows)
    known = places >= 0
    metadata = write.metadata
    if not known.all():
        metadata = list(itertools.compress(metadata, known.tolist()))
        places = places[known]
    for path, column in columns.items():
        column.resize(len(rows))
        column.put(places, _values(metadata, path))


def _values(metadata: Sequence[Json], path: Path) -> list[object]:
    if len(path) == 1:
        (key,) = path
        return [document.get(key, MISSING) for document in metadata]
    return [lookup(document, path) for document in metadata]


def _masked(
    where: Filter,
    columns: Mapping[Path, TypedColumn],
    axis: _Axis,
    alignment: _Alignment,
    count: int,
    unknown: bool,
) -> Mask:
    """The caller holds the lock for reading."""
    places = alignment.places
    if not len(axis) or not count:
        return np.full(count, unknown)
    if isinstance(places, slice) or 4 * count < len(axis):
        found = _evaluate(where, columns, places, count)
    else:
        # Many rows with gaps: one gathering at the end is cheaper than one for each condition.
        found = _evaluate(where, columns, slice(0, len(axis)), len(axis))[places]
    stored = axis.alive[places]
    if alignment.known is not None:
        stored = stored & alignment.known
    return found | ~stored if unknown else found & stored


def _evaluate(
    where: Filter, columns: Mapping[Path, TypedColumn], places: Places, count: int
) -> Mask:
    if isinstance(where, Not):
        return ~_evaluate(where.part, columns, places, count)
    if isinstance(where, And):
        parts = (_evaluate(part, columns, places, count) for part in where.parts)
        return reduce(np.logical_and, parts, np.ones(count, np.bool_))
    if isinstance(where, Or):
        parts = (_evaluate(part, columns, places, count) for part in where.parts)
        return reduce(np.logical_or, parts, np.zeros(count, np.bool_))
    return columns[where.field].matches(where, places)
