"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path
from typing import Self

from engine.errors import InvalidOption
from engine.files.storage import storage_errors

FILE = "training.lock"


def make_folder(path: Path) -> None:
    """With those above it. Raises: InvalidOption where a file has its name."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidOption(f"{error.filename} is a file; choose another folder") from error


class FolderLock:
    """Holds a folder until the end of a `with`, or until nothing refers to this any more.

    The lock belongs to the open file, so it goes with the process however that ends.
    """

    def __init__(self, folder: Path) -> None:
        """Raises: InvalidOption if somebody else holds it; StorageFull, StorageReadOnly."""
        with storage_errors(folder):
            descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InvalidOption(
                f"another training runs in {folder}; wait for its end, or choose another folder"
            ) from error
        self._close = weakref.finalize(self, os.close, descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
