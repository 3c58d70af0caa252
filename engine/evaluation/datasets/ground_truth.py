"""The published ground truth files `gnd_<name>.pkl` and `.mat`: revisited, and the classic ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import InvalidOption
from engine.evaluation.datasets.base import (
    Benchmark,
    Box,
    Dataset,
    Query,
    checked,
    read_box,
    shown,
)
from engine.evaluation.datasets.landmarks import City, city
from engine.evaluation.datasets.matlab import read_matlab
from engine.evaluation.datasets.pickles import read_pickle

LOOKS_FOR = "gnd_*.pkl or gnd_*.mat and jpg/ (ROxford5k, RParis6k)"

_REVISITED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""By protocol: which lists are positives, and which do not count."""

_BENCHMARKS: dict[tuple[City | None, bool], Benchmark] = {
    ("oxford", False): "oxford5k",
    ("paris", False): "paris6k",
    ("oxford", True): "roxford5k",
    ("paris", True): "rparis6k",
}


@dataclass(frozen=True)
class _Entry:
    """The ground truth of one query image, with names in place of indices."""

    name: str
    lists: dict[str, frozenset[str]]
    bbox: Box | None

    def query(self, kind: str, positives: tuple[str, ...], junk: tuple[str, ...]) -> Query:
        return Query(self.name, self._joined(positives), self._joined(junk), kind, self.bbox)

    def _joined(self, names: tuple[str, ...]) -> frozenset[str]:
        return frozenset().union(*(self.lists[name] for name in names))


def read(folder: Path) -> Dataset | None:
    """The data set in `folder`; None if it has no ground truth file.

    The file holds `imlist` and `qimlist`, names without `.jpg`, and `gnd`, one entry per query:
    indices into `imlist` under `easy`, `hard` and `junk` (revisited) or `ok` and `junk` (classic),
    and the box `bbx`. Indices are from 0 in a pickle and from 1 in a MATLAB file; of both, the
    pickle is read.

    A revisited query becomes one of each kind, easy, medium and hard, unless nothing is to be
    found for it. A classic one stays in its own ranking.

    Raises: InvalidOption naming the file, query and value that are wrong.
    """
    file = _file(folder)
    if file is None:
        return None
    first = 0 if file.suffix == ".pkl" else 1
    content = read_pickle(file) if first == 0 else read_matlab(file)
    if not isinstance(content, dict):
        raise InvalidOption(f"{file} holds no dictionary with imlist, qimlist and gnd")
    database = _names(content, "imlist", file)
    names = _names(content, "qimlist", file)
    entries = content.get("gnd")
    if not isinstance(entries, list) or len(entries) != len(names):
        raise InvalidOption(f"{file}: gnd must be a list of {len(names)} entries, as qimlist is")
    revisited = any(isinstance(entry, dict) and "easy" in entry for entry in entries)
    kinds = ("easy", "hard", "junk") if revisited else ("ok", "junk")
    read_entries = [
        _entry(name, entry, kinds, database, first=first, where=f"{file}: query {name!r}")
        for name, entry in zip(names, entries, strict=True)
    ]
    dataset = Dataset(
        name=folder.resolve().name,
        folder=folder,
        database=tuple(database),
        queries=_revisited(read_entries) if revisited else _classic(read_entries),
        format="revisited" if revisited else "oxford",
        benchmark=_BENCHMARKS.get((city(names), revisited)),
        upright=False,
        images="jpg",
        suffix=".jpg",
    )
    return checked(dataset, file)


def _file(folder: Path) -> Path | None:
    files = sorted((*folder.glob("gnd_*.pkl"), *folder.glob("gnd_*.mat")))
    if len({file.stem for file in files}) > 1:
        listed = ", ".join(file.name for file in files)
        raise InvalidOption(f"{folder} has several ground truths: {listed}; leave one of them")
    return files[-1] if files else None  # .pkl comes after .mat


def _revisited(entries: list[_Entry]) -> tuple[Query, ...]:
    queries = (
        entry.query(kind, positives, junk)
        for kind, (positives, junk) in _REVISITED.items()
        for entry in entries
    )
    return tuple(query for query in queries if query.counted())


def _classic(entries: list[_Entry]) -> tuple[Query, ...]:
    return tuple(
        Query(e.name, e.lists["ok"], e.lists["junk"], "all", e.bbox, keeps_itself=True)
        for e in entries
    )


def _names(content: dict[str, object], key: str, file: Path) -> list[str]:
    values = content.get(key)
    if not isinstance(values, list):
        raise InvalidOption(f"{file} has no list {key!r} of image names")
    names: list[str] = []
    for value in values:
        # Text of Python 2 in a NumPy array is stored as bytes.
        name = value.decode("latin-1") if isinstance(value, bytes) else value
        if not isinstance(name, str) or not name:
            raise InvalidOption(f"{file}: {key} holds {shown(value)}, which is no image name")
        names.append(name)
    return names


def _entry(
    name: str, entry: object, kinds: tuple[str, ...], database: list[str], *, first: int, where: str
) -> _Entry:
    if not isinstance(entry, dict):
        raise InvalidOption(f"{where} has no dictionary in gnd")
    lists: dict[str, frozenset[str]] = {}
    for kind in kinds:
        if kind not in entry:
            raise InvalidOption(f"{where} has no list {kind!r}")
        lists[kind] = frozenset(
            database[_position(index, len(database), first, f"{where}: {kind}")]
            for index in _flat(entry[kind])
        )
    # An empty matrix is how MATLAB says that there is none.
    box = [] if entry.get("bbx") is None else _flat(entry["bbx"])
    return _Entry(name, lists, read_box(box, where) if box else None)


def _flat(value: object) -> list[object]:
    """The values of a list, of a matrix of one row or column, or of a single number."""
    if not isinstance(value, list):
        return [value]
    return [part for entry in value for part in (entry if isinstance(entry, list) else [entry])]


def _position(index: object, count: int, first: int, where: str) -> int:
    """From 0. MATLAB stores whole numbers as floats."""
    if isinstance(index, int | float) and first <= index < first + count and index == int(index):
        return int(index) - first
    raise InvalidOption(
        f"{where} has the index {shown(index)}; indices go from {first} to {first + count - 1}"
    )
