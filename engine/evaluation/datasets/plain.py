"""Data sets whose ground truth is in the names of files and folders: Holidays, and groups."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from engine.evaluation.datasets.base import Dataset, Query, checked, image_names

HOLIDAYS_LOOKS_FOR = "images named by six digits, in jpg/ or right here (Holidays)"
GROUPS_LOOKS_FOR = "two or more subfolders of images, each of one origin (groups)"

_SIX_DIGITS = re.compile(r"[0-9]{6}\.[A-Za-z]+")
_HOLIDAYS_SIZE = (1491, 500)
"""Images and queries of the published data set."""


def read_holidays(folder: Path) -> Dataset | None:
    """Holidays: NNNN00 is the query of group NNNN, NNNN01 and so on its positives.

    None unless all images of `jpg/`, or of `folder` itself, are named by six digits.
    """
    images = "jpg" if (folder / "jpg").is_dir() else ""
    names = image_names(folder / images)
    if not names or not all(_SIX_DIGITS.fullmatch(name) for name in names):
        return None
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[name[:4]].append(name)
    queries = tuple(
        Query(name, frozenset(members) - {name}, frozenset(), "all")
        for members in groups.values()
        for name in members
        if name[4:6] == "00"
    )
    dataset = Dataset(
        name=folder.resolve().name,
        folder=folder,
        database=tuple(names),
        queries=queries,
        format="holidays",
        benchmark="holidays" if (len(names), len(queries)) == _HOLIDAYS_SIZE else None,
        upright=False,
        images=images,
    )
    return checked(dataset, folder / images)


def read_groups(folder: Path) -> Dataset | None:
    """Subfolders of images of one origin each: every image is a query for the rest of its group.

    Names are `group/file`. An image that is alone in its group is in the database only. None
    unless two subfolders hold images: with one there would be nothing to tell apart.
    """
    groups = {
        part.name: [f"{part.name}/{name}" for name in image_names(part)]
        for part in sorted(folder.iterdir())
        if part.is_dir() and not part.name.startswith(".")
    }
    filled = [members for members in groups.values() if members]
    if len(filled) < 2:
        return None
    queries = tuple(
        Query(name, frozenset(members) - {name}, frozenset(), "all")
        for members in filled
        if len(members) > 1
        for name in members
    )
    dataset = Dataset(
        name=folder.resolve().name,
        folder=folder,
        database=tuple(name for members in filled for name in members),
        queries=queries,
        format="groups",
        images="",
    )
    return checked(dataset, folder)
