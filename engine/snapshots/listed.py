"""The snapshots of a folder: listed, found by name, and what was interrupted swept away."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from engine.errors import EngineError, UnknownSnapshot
from engine.snapshots.copying import holding
from engine.snapshots.names import ABOUT, FOLDER, PART
from engine.snapshots.snapshot import Snapshot


class Listed(NamedTuple):
    """A folder among the snapshots; `problem` says why it cannot be used."""

    name: str
    folder: Path
    snapshot: Snapshot | None
    problem: str | None


def list_snapshots(place: Path) -> list[Listed]:
    """Those in a folder, oldest first; what was interrupted is not among them."""
    if not place.is_dir():
        return []
    found = []
    for folder in sorted(place.iterdir()):
        if folder.is_dir() and not folder.name.endswith(PART) and (folder / ABOUT).exists():
            try:
                found.append(Listed(folder.name, folder, Snapshot.read(folder), None))
            except EngineError as error:
                found.append(Listed(folder.name, folder, None, error.message))
    return found


def sweep_snapshots(place: Path) -> None:
    """Remove what interrupted ones have left; those still at work hold theirs."""
    if not place.is_dir():
        return
    for folder in place.iterdir():
        if folder.is_dir() and folder.name.endswith(PART):
            with holding(folder) as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)


def find_snapshot(name: str, data_dir: Path) -> Path:
    """The folder of a snapshot, by name or by path. Raises UnknownSnapshot."""
    for folder in (data_dir / FOLDER / name, Path(name)):
        if (folder / ABOUT).is_file():
            return folder
    known = [listed.name for listed in list_snapshots(data_dir / FOLDER)]
    raise UnknownSnapshot(
        f"there is no snapshot {name!r} in {data_dir / FOLDER}"
        + (f"; it has {', '.join(known[-5:])}" if known else ", which has none")
    )
