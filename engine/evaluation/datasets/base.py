"""What a retrieval data set is, and what must hold for every one of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import InvalidOption
from engine.images import SUFFIXES

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels: two corners, not a corner and a size."""

Format = Literal["folder", "oxford", "revisited", "holidays", "groups"]
Benchmark = Literal["oxford5k", "paris6k", "roxford5k", "rparis6k", "holidays"]

MAX_FILE_BYTES = 256 << 20
"""Of a file with ground truth."""


@dataclass(frozen=True)
class Query:
    """One query: names of positives and junk in the database, and the part of the image meant.

    `keeps_itself` leaves the query image in its own ranking, as the classic Oxford and Paris
    protocols do; everywhere else it is taken out.
    """

    name: str
    positives: frozenset[str]
    junk: frozenset[str]
    kind: str
    bbox: Box | None = None
    keeps_itself: bool = False

    def ignored(self) -> frozenset[str]:
        """Names that are taken out of the ranking: junk, and as a rule the query itself."""
        return self.junk if self.keeps_itself else self.junk | {self.name}

    def counted(self) -> frozenset[str]:
        """Positives that are left in the ranking: what is positive and junk is junk."""
        return self.positives - self.ignored()


@dataclass(frozen=True)
class Dataset:
    """Database images and queries.

    Attributes:
        benchmark: whose published figures apply, if any do.
        upright: EXIF orientation is applied; not for the published benchmarks, whose boxes are
            in stored coordinates.
        images: folder of the image files, relative to `folder`.
        suffix: what a name lacks of its file name.
    """

    name: str
    folder: Path
    database: tuple[str, ...]
    queries: tuple[Query, ...]
    format: Format = "folder"
    benchmark: Benchmark | None = None
    upright: bool = True
    images: str = "images"
    suffix: str = ""

    def path(self, name: str) -> Path:
        """The file of a database or query name."""
        return self.folder / self.images / (name + self.suffix)


def missing_files(dataset: Dataset) -> list[Path]:
    """Files of database and queries that do not exist, each once."""
    names = dict.fromkeys((*dataset.database, *(query.name for query in dataset.queries)))
    return [path for path in map(dataset.path, names) if not path.is_file()]


def queries_without_positives(dataset: Dataset) -> list[str]:
    """Names of the queries that no protocol counts: nothing is to be found for them."""
    return list(dict.fromkeys(q.name for q in dataset.queries if not q.counted()))


def checked(dataset: Dataset, source: Path) -> Dataset:
    """`dataset`, if it can be searched and its queries name only what is in the database.

    Raises: InvalidOption naming `source`, the query and the value.
    """
    if not dataset.database:
        raise InvalidOption(f"{source}: the database is empty; it needs at least one image")
    if not dataset.queries:
        raise InvalidOption(f"{source} has no query; it needs at least one")
    known = set(dataset.database)
    if len(known) < len(dataset.database):
        raise InvalidOption(f"{source}: the database has {_repeated(dataset.database)!r} twice")
    for query in dataset.queries:
        unknown = (query.positives | query.junk) - known
        if unknown:
            raise InvalidOption(
                f"{source}: query {query.name!r} names {min(unknown)!r}, "
                "which is not in the database"
            )
    return dataset


def read_box(values: object, where: str) -> Box:
    """A box of four finite numbers, corners in order. Raises InvalidOption naming `where`."""
    if isinstance(values, list) and len(values) == 4:
        try:
            left, top, right, bottom = (float(value) for value in values)
        except (TypeError, ValueError, OverflowError):
            left = top = right = bottom = math.nan
        if all(map(math.isfinite, (left, top, right, bottom))) and left < right and top < bottom:
            return left, top, right, bottom
    raise InvalidOption(
        f"{where} has the box {shown(values)}; "
        "it must be four finite numbers x1, y1, x2, y2 with x1 < x2 and y1 < y2"
    )


def shown(value: object) -> str:
    """For a message, and short: what a foreign file holds may be long or nested without end."""
    if isinstance(value, list) and len(value) <= 8:
        return f"[{', '.join(shown(part) if _is_scalar(part) else '...' for part in value)}]"
    return f"{value!r:.80}" if _is_scalar(value) else f"of type {type(value).__name__}"


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | bytes | int | float)


def read_bytes(file: Path) -> bytes:
    """Raises: InvalidOption if the file cannot be read or has more than `MAX_FILE_BYTES`."""
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InvalidOption(
                f"{file} has {size:,} bytes; a ground truth has at most {MAX_FILE_BYTES:,}"
            )
        return file.read_bytes()
    except OSError as error:
        raise InvalidOption(f"cannot read {file}: {error.strerror or error}") from error


def read_text(file: Path) -> str:
    """Raises: InvalidOption if the file cannot be read, is too large or no text."""
    try:
        return read_bytes(file).decode()
    except UnicodeDecodeError as error:
        raise InvalidOption(f"{file} is no text in UTF-8: {error}") from error


def image_names(folder: Path) -> list[str]:
    """File names of the images right in a folder, sorted; hidden ones are left out."""
    return sorted(
        file.name
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def _repeated(names: Iterable[str]) -> str:
    return next(name for name, count in Counter(names).items() if count > 1)
