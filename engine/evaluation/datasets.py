"""Retrieval data sets in the folder format: `images/` and `gt.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InvalidOption


@dataclass(frozen=True)
class Query:
    """One query: names of positives and junk in the database; `bbox` is x1, y1, x2, y2 pixels."""

    name: str
    positives: frozenset[str]
    junk: frozenset[str]
    kind: str
    bbox: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Dataset:
    """Database images and queries; `path` gives the file of a name."""

    name: str
    folder: Path
    database: tuple[str, ...]
    queries: tuple[Query, ...]

    def path(self, name: str) -> Path:
        return self.folder / "images" / name


def load_dataset(folder: Path) -> Dataset:
    """Read `gt.json` of a data set folder.

    `{"database": [names], "queries": {name: {"pos": [...], "junk": [...], "kind": "...",
    "bbox": [x1, y1, x2, y2]?}}}`

    Raises: InvalidOption where the folder or an entry is not of that form.
    """
    file = folder / "gt.json"
    if not file.is_file():
        raise InvalidOption(f"{folder} is no data set: it has no gt.json (and images/)")
    try:
        content = json.loads(file.read_text())
        database = tuple(content["database"])
        queries = tuple(_query(name, entry) for name, entry in content["queries"].items())
        known = set(database)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidOption(f"{file} is not of the folder format: {error!r}") from error
    for query in queries:
        unknown = (query.positives | query.junk) - known
        if unknown:
            raise InvalidOption(
                f"{file}: query {query.name!r} names {sorted(unknown)[0]!r}, "
                "which is not in the database"
            )
    return Dataset(folder.resolve().name, folder, database, queries)


def _query(name: str, entry: dict[str, Any]) -> Query:
    box = entry.get("bbox")
    if box is not None:
        left, top, right, bottom = (float(value) for value in box)
        box = (left, top, right, bottom)
    return Query(
        name=name,
        positives=frozenset(entry["pos"]),
        junk=frozenset(entry.get("junk", ())),
        kind=str(entry.get("kind", "all")),
        bbox=box,
    )
