"""The page that `cooc index duplicates --report` writes: one file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from app import __version__
from app.terminal.files import write_file
from engine.errors import EngineError
from engine.images import decode, encode_thumbnail
from engine.types import Json

GROUPS, MEMBERS = 100, 10
"""Groups that are shown, and members of each."""
SIDE = 160
"""Longest side of a picture in pixels."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Thumbnail:
    number: int
    width: int
    height: int
    uri: str


def write_duplicates(
    path: Path,
    report: Json,
    thumbnail: Callable[[str], bytes],
    *,
    title: str,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write one HTML file that shows the groups of a report.

    Args:
        report: what `DuplicateReport.to_json` gives.
        thumbnail: the JPEG of an id; images for which it raises an EngineError, as they were
            deleted meanwhile, become placeholders.

    Raises: InvalidOption if the file cannot be written.
    """
    write_file(path, render(report, thumbnail, title=title, progress=progress).encode())


def render(
    report: Json,
    thumbnail: Callable[[str], bytes],
    *,
    title: str,
    progress: Progress = lambda done, total: None,
) -> str:
    """The page as text; see `write_duplicates`."""
    shown = report["groups"][:GROUPS]
    ids = [member["id"] for group in shown for member in group["members"][:MEMBERS]]
    environment = Environment(
        loader=PackageLoader("app", "web_report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("duplicates.html").render(
        title=title,
        report=report,
        groups=shown,
        members=MEMBERS,
        pictures=_thumbnails(ids, thumbnail, progress),
        date=date.today().isoformat(),
        version=__version__,
    )


def _thumbnails(
    ids: list[str], thumbnail: Callable[[str], bytes], progress: Progress
) -> dict[str, Thumbnail]:
    """Small versions by id; those that are gone are left out."""
    found = {}
    for number, image_id in enumerate(ids, start=1):
        try:
            image = decode(thumbnail(image_id), max_side=SIDE)
        except EngineError:
            pass
        else:
            data = base64.b64encode(encode_thumbnail(image.pixels, side=SIDE)).decode()
            uri = f"data:image/jpeg;base64,{data}"
            found[image_id] = Thumbnail(number, image.width, image.height, uri)
        progress(number, len(ids))
    return found
