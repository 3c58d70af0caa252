"""Whole data sets of views and scenes, written to a folder."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from engine.errors import InvalidOption
from engine.files.storage import storage_errors, write_atomically
from engine.images import encode_jpeg
from engine.made.backgrounds import Size
from engine.made.clutter import INSTANCES
from engine.made.objects import kind_of
from engine.made.scenes import SCENES, drawn_scene
from engine.made.views import InstanceView, check_options, instance_view
from engine.types import Pixels

Layout = Literal["gt", "folders"]
"""`gt`: `images/` and `gt.json`, see `engine.evaluation.datasets.folder`. `folders`: a folder of
views for each instance, and one for each scene."""

Progress = Callable[[int, int], None]
"""Takes how many images are there, and of how many."""

DRAWING = 1
"""Version of what is drawn: higher when the same options give other pictures."""

MAX_VIEWS = 1_000

_OPTIONS = "made.json"
_QUALITY = 92


@dataclass(frozen=True)
class SetOptions:
    """What a set holds. Sets of one seed whose instance numbers differ have no image, object,
    text, palette or emblem in common, where their numbers begin at multiples of
    `engine.made.design.FAMILY`; in other thousands, also nothing of what lies about.

    Attributes:
        views: of each instance.
        distractors: scenes without any instance.
        queries_per_instance: the first so many views are queries; each of them finds all other
            views of its instance.
        size: height and width in pixels.
        first_instance: number of the first instance.
        boxes: queries have their box, so that the object is cut out.
    """

    instances: int = 50
    views: int = 8
    distractors: int = 100
    queries_per_instance: int = 2
    size: Size = (240, 320)
    difficulty: float = 0.5
    seed: int = 0
    first_instance: int = 0
    layout: Layout = "gt"
    boxes: bool = False

    def checked(self) -> SetOptions:
        """Raises: InvalidOption naming the value that is out of range."""
        check_options(seed=self.seed, size=self.size, difficulty=self.difficulty)
        last = INSTANCES - self.first_instance
        if not 0 <= self.first_instance < INSTANCES:
            raise InvalidOption(
                f"first_instance is {self.first_instance}; "
                f"it must be at least 0 and below {INSTANCES:,}"
            )
        ranges = {
            "instances": (1, last),
            "views": (2, MAX_VIEWS),
            # So that scenes of sets with other instances are other scenes.
            "distractors": (0, self.instances * SCENES),
            "queries_per_instance": (1, self.views),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidOption(f"{name} is {value}; it must be from {low} to {high:,}")
        if self.layout not in get_args(Layout):
            raise InvalidOption(
                f"layout is {self.layout!r}; choose from {', '.join(get_args(Layout))}"
            )
        return self

    @property
    def total(self) -> int:
        """Images of the set."""
        return self.instances * self.views + self.distractors


@dataclass(frozen=True)
class WrittenSet:
    """What is in the folder now; `drawn` of the images were not there before."""

    images: int
    drawn: int
    queries: int


def write_set(folder: Path, options: SetOptions, *, progress: Progress | None = None) -> WrittenSet:
    """Write a data set. What is there already, from a run that was cut off, is not drawn again.

    Raises:
        InvalidOption: an option is out of range, or the folder holds something else, or a set of
            other options.
        StorageFull, StorageReadOnly: what was written before is kept.
    """
    options.checked()
    with storage_errors(folder):
        _claim(folder, options)
        drawn = 0
        for done, (name, draw) in enumerate(_images(options), start=1):
            file = folder / name
            if not _is_whole(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                _write(file, encode_jpeg(draw(), quality=_QUALITY))
                drawn += 1
            if progress is not None:
                progress(done, options.total)
        truth = ground_truth(options) if options.layout == "gt" else None
        if truth is not None:
            # Last: a folder with ground truth is complete.
            write_atomically(folder / "gt.json", _json(truth))
    if truth is not None:
        queries = len(truth["queries"])
    else:
        queries = options.instances * options.views
    return WrittenSet(options.total, drawn, queries)


def ground_truth(options: SetOptions) -> dict[str, Any]:
    """The content of `gt.json`: every other view of its instance is to be found, nothing is junk.

    A query that is in the database leaves itself out.
    """
    queries: dict[str, Any] = {}
    for instance in _instances(options):
        names = [_view_name(instance, view) for view in range(options.views)]
        for view in range(options.queries_per_instance):
            entry: dict[str, Any] = {
                "pos": names[:view] + names[view + 1 :],
                "junk": [],
                "kind": kind_of(instance),
            }
            if options.boxes:
                entry["bbox"] = list(_view(options, instance, view).box)
            queries[names[view]] = entry
    views = [_view_name(i, v) for i in _instances(options) for v in range(options.views)]
    return {"database": [*views, *map(_scene_name, _scenes(options))], "queries": queries}


def _instances(options: SetOptions) -> range:
    return range(options.first_instance, options.first_instance + options.instances)


def _scenes(options: SetOptions) -> range:
    first = options.first_instance * SCENES
    return range(first, first + options.distractors)


def _images(options: SetOptions) -> Iterator[tuple[str, Callable[[], Pixels]]]:
    """Path within the set of every image, and what draws it; the views of an instance together."""
    in_folders = options.layout == "folders"
    for instance in _instances(options):
        for view in range(options.views):
            alone = f"images/{_view_name(instance, view)}"
            name = f"instance_{instance:05d}/{view:04d}.jpg" if in_folders else alone
            yield name, partial(_pixels, options, instance, view)
    for number in _scenes(options):
        name = f"scene_{number:08d}/0000.jpg" if in_folders else f"images/{_scene_name(number)}"
        yield name, partial(_scene, options, number)


def _view_name(instance: int, view: int) -> str:
    return f"instance_{instance:05d}_{view:04d}.jpg"


def _scene_name(number: int) -> str:
    return f"scene_{number:08d}.jpg"


def _view(options: SetOptions, instance: int, view: int) -> InstanceView:
    return instance_view(
        options.seed, instance, view, size=options.size, difficulty=options.difficulty
    )


def _pixels(options: SetOptions, instance: int, view: int) -> Pixels:
    return _view(options, instance, view).pixels


def _scene(options: SetOptions, number: int) -> Pixels:
    return drawn_scene(options.seed, number, size=options.size, difficulty=options.difficulty)


def _is_whole(file: Path) -> bool:
    """Whether a JPEG is there, up to its end mark."""
    try:
        with file.open("rb") as stream:
            stream.seek(-2, os.SEEK_END)
            return stream.read() == b"\xff\xd9"
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.EINVAL:  # shorter than the mark
            return False
        raise


def _write(file: Path, content: bytes) -> None:
    """Under another name until it is whole.

    Not forced to the disk, which would take longer than to draw it: what a power cut leaves
    without its end is drawn again.
    """
    partial = file.with_name(file.name + ".part")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _claim(folder: Path, options: SetOptions) -> None:
    """Note the options in the folder, or check that they are the same.

    Raises: InvalidOption.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidOption(f"{folder} is a file; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / _OPTIONS
    # As they come back from a file, where a tuple is a list.
    mine = json.loads(_json({"drawing": DRAWING, **asdict(options)}))
    if not file.exists():
        # A run that was cut off at once leaves a part of the file.
        if any(entry.suffix != ".part" for entry in folder.iterdir()):
            raise InvalidOption(f"{folder} is not empty and no made set; choose another folder")
        write_atomically(file, _json(mine))
        return
    try:
        theirs = json.loads(file.read_bytes())
    except ValueError as error:
        raise InvalidOption(f"{file} is damaged: {error}; delete {folder}") from error
    if not isinstance(theirs, dict) or theirs != mine:
        known = theirs if isinstance(theirs, dict) else {}
        other = [
            f"{name} {known.get(name)!r}, not {value!r}"
            for name, value in mine.items()
            if known.get(name) != value
        ]
        raise InvalidOption(
            f"{folder} holds a set made with {'; '.join(other) or 'unknown options'}: "
            "give the same options or choose another folder"
        )


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
