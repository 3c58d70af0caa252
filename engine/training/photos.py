"""Photos to learn from: found in folders, decoded with the service's own limits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from engine.errors import BadImage, EngineError, InvalidOption
from engine.images import decode
from engine.types import Pixels

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


def find_photos(folders: Iterable[Path]) -> list[Path]:
    """Image files in folders and below, by suffix, sorted; hidden ones are passed over.

    Raises: InvalidOption for a folder that is missing or holds none.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise InvalidOption(f"there is no folder {folder}")
        here = sorted(path for path in folder.rglob("*") if _is_photo(path.relative_to(folder)))
        if not here:
            raise InvalidOption(
                f"no photo is in {folder}; expected files ending in {', '.join(sorted(SUFFIXES))}"
            )
        found += here
    return found


def photos_digest(files: Iterable[Path]) -> str:
    """SHA-256 over names and sizes of files, in this order; their folder does not count."""
    found = hashlib.sha256()
    for file in files:
        try:
            size = file.stat().st_size
        except OSError:  # gone meanwhile: whoever reads it will say so
            size = -1
        found.update(f"{file.name}\0{size}\0".encode(errors="surrogateescape"))
    return found.hexdigest()


def read_photo(path: Path, *, max_side: int) -> Pixels | EngineError:
    """Pixels (H, W, 3) with at most `max_side` on the longer side, or what is wrong with it."""
    try:
        return decode(path.read_bytes(), max_side=max_side).pixels
    except OSError as error:
        return BadImage(f"cannot read the file: {error.strerror}")
    except EngineError as error:
        return error


def _is_photo(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.suffix.lower() in SUFFIXES
