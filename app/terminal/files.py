"""Image files on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InvalidOption
from engine.files.storage import write_atomically
from engine.images import SUFFIXES, Box


@dataclass(frozen=True)
class FileSource:
    """A file that is read when its turn comes; see `engine.describer.Source`."""

    path: Path
    box: Box | None = None
    upright: bool = True

    def read(self) -> bytes:
        return self.path.read_bytes()


def find_images(paths: Iterable[Path]) -> list[tuple[str, Path]]:
    """Names and paths of image files: files as given, folders searched to the bottom.

    The name of a file in a folder is its path from that folder. Raises InvalidOption for a path
    that does not exist.
    """
    found: list[tuple[str, Path]] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in SUFFIXES and file.is_file()
            )
            visible = [f for f in inside if not f.name.startswith(".")]
            found += [(file.relative_to(path).as_posix(), file) for file in visible]
        elif path.is_file():
            found.append((path.name, path))
        else:
            raise InvalidOption(f"there is no file or folder {path}")
    return found


def read_file(path: Path) -> bytes:
    """Raises InvalidOption where a file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidOption(f"cannot read {path}: {error.strerror}") from error


def write_file(path: Path, content: bytes) -> None:
    """All of it or nothing. Raises InvalidOption where it cannot be written."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InvalidOption(f"cannot write {path}: {error.strerror or error}") from error
