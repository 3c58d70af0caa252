"""The project's own format: `images/` and `gt.json`."""

from __future__ import annotations

import json
from pathlib import Path

from engine.errors import InvalidOption
from engine.evaluation.datasets.base import Dataset, Query, checked, read_box, read_text

LOOKS_FOR = "gt.json and images/ (this project's own)"


def read(folder: Path) -> Dataset | None:
    """The data set in `folder`; None if it has no `gt.json`.

    `{"database": [names], "queries": {name: {"pos": [...], "junk": [...], "kind": "...",
    "bbox": [x1, y1, x2, y2]?}}}`

    Raises: InvalidOption where the file or an entry is not of that form.
    """
    file = folder / "gt.json"
    if not file.is_file():
        return None
    text = read_text(file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(file, f"it is no JSON: {error}") from error
    database = _names(_field(content, "database", file, "the file"), file, "database")
    entries = _field(content, "queries", file, "the file")
    if not isinstance(entries, dict):
        raise _refusal(file, "queries is no object")
    queries = tuple(_query(name, entry, file) for name, entry in entries.items())
    return checked(Dataset(folder.resolve().name, folder, tuple(database), queries), file)


def _query(name: str, entry: object, file: Path) -> Query:
    where = f"query {name!r}"
    positives = _names(_field(entry, "pos", file, where), file, f"pos of {where}")
    assert isinstance(entry, dict)  # or it would have had no field
    box = entry.get("bbox")
    return Query(
        name=name,
        positives=frozenset(positives),
        junk=frozenset(_names(entry.get("junk", []), file, f"junk of {where}")),
        kind=str(entry.get("kind", "all")),
        bbox=None if box is None else read_box(box, f"{file}: {where}"),
    )


def _field(entry: object, name: str, file: Path, where: str) -> object:
    if not isinstance(entry, dict) or name not in entry:
        raise _refusal(file, f"{where} has no {name!r}")
    return entry[name]


def _names(values: object, file: Path, where: str) -> list[str]:
    if not isinstance(values, list):
        raise _refusal(file, f"{where} is no list")
    for value in values:
        if not isinstance(value, str):
            raise _refusal(file, f"{where} holds {value!r:.80}, which is no name")
    return values


def _refusal(file: Path, reason: str) -> InvalidOption:
    return InvalidOption(f"{file} is not of the folder format: {reason}")
