"""Oxford5k and Paris6k as published: `jpg/` and a folder of text files beside it."""

from __future__ import annotations

from pathlib import Path

from engine.errors import InvalidOption
from engine.evaluation.datasets.base import (
    Benchmark,
    Box,
    Dataset,
    Query,
    checked,
    read_box,
    read_text,
)
from engine.evaluation.datasets.landmarks import CORRUPT, city

LOOKS_FOR = "jpg/ and a folder with *_query.txt, such as lab/ (Oxford5k, Paris6k)"
PREFIX = "oxc1_"
"""Before the image name in the query files of Oxford5k, and nowhere else."""


def read(folder: Path) -> Dataset | None:
    """The data set in `folder`; None if it has no `jpg/` or no query files.

    `<x>_query.txt` holds the image name and the corners of the box, `<x>_good.txt` and
    `<x>_ok.txt` the positives, `<x>_junk.txt` what does not count. Names have no `.jpg`.

    Raises: InvalidOption naming the file, query and value that are wrong.
    """
    images = folder / "jpg"
    if not images.is_dir():
        return None
    labels = _labels(folder)
    if labels is None:
        return None
    database = sorted(
        file.stem
        for file in images.iterdir()
        if file.suffix == ".jpg" and not file.name.startswith(".") and file.stem not in CORRUPT
    )
    if not database:
        raise InvalidOption(f"{images} holds no .jpg file; move them there, out of any subfolders")
    known = frozenset(database)
    queries: list[Query] = []
    prefixed = False
    for file in sorted(labels.glob("*_query.txt")):
        name, box, marked = _query_line(file)
        prefixed |= marked
        good, ok, junk = (
            _list(labels / file.name.replace("_query.txt", f"_{part}.txt"), known, images)
            for part in ("good", "ok", "junk")
        )
        queries.append(Query(name, good | ok, junk, "all", box, keeps_itself=True))
    where = "oxford" if prefixed else city(query.name for query in queries)
    benchmarks: dict[str | None, Benchmark] = {"oxford": "oxford5k", "paris": "paris6k"}
    dataset = Dataset(
        name=folder.resolve().name,
        folder=folder,
        database=tuple(database),
        queries=tuple(queries),
        format="oxford",
        benchmark=benchmarks.get(where),
        upright=False,
        images="jpg",
        suffix=".jpg",
    )
    return checked(dataset, labels)


def _labels(folder: Path) -> Path | None:
    """The one folder of query files, whatever its name is."""
    beside = [folder, *(part for part in folder.iterdir() if part.is_dir())]
    found = sorted(part for part in beside if any(part.glob("*_query.txt")))
    if len(found) > 1:
        listed = ", ".join(str(part) for part in found)
        raise InvalidOption(f"{folder} has several folders of query files: {listed}; leave one")
    return found[0] if found else None


def _query_line(file: Path) -> tuple[str, Box, bool]:
    """Image name, box, and whether the name was marked as one of Oxford5k."""
    words = read_text(file).split()
    if len(words) != 5:
        raise InvalidOption(
            f"{file} is {' '.join(words)!r:.100}; it must be an image name and x1 y1 x2 y2"
        )
    name = words[0].removeprefix(PREFIX)
    return name, read_box(words[1:], f"{file}: query {name!r}"), name != words[0]


def _list(file: Path, known: frozenset[str], images: Path) -> frozenset[str]:
    """Names in a text file, one a line, but for the images that nobody can read."""
    names = frozenset(read_text(file).split()) - CORRUPT
    unknown = names - known
    if unknown:
        name = min(unknown)
        raise InvalidOption(
            f"{file} names {name!r}, which is not in the database: "
            f"there is no {images / (name + '.jpg')}"
        )
    return names
