"""The data folder: one owner at a time."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path

from engine.errors import DataFolderInUse, InvalidOption
from engine.files.storage import storage_errors
from engine.files.swap import finish_swap


class DataFolder:
    """Creates the folder and holds it for this process until `release`.

    A restore or rebuild that was cut off while it changed files is finished first.
    The lock belongs to the open file, so it goes with the process however that ends. Its content
    tells others who the owner is and, for a service, where it listens.
    """

    def __init__(self, path: Path, *, url: str | None = None) -> None:
        """Raises InvalidOption where there cannot be a folder, DataFolderInUse, StorageReadOnly,
        StorageFull or CorruptIndex."""
        self.path = path
        with storage_errors(path):
            try:
                path.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise InvalidOption(
                    f"the data folder {path} is, or lies in, a file; choose a folder with "
                    "--data-dir"
                ) from error
            self._file = (path / "owner.lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise _in_use(path) from error
        try:
            with storage_errors(path):
                self._file.truncate(0)
                self._file.write(json.dumps({"pid": os.getpid(), "url": url}))
                self._file.flush()
                finish_swap(path)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        # Closing flushes first, which fails once more on a full disk; the lock goes all the same.
        with suppress(OSError):
            self._file.close()


def _in_use(path: Path) -> DataFolderInUse:
    try:
        owner = json.loads((path / "owner.lock").read_text())
        pid, url = owner["pid"], owner["url"]
    except (OSError, ValueError, TypeError, KeyError):  # the owner has not written it yet
        pid = url = None
    who = "another process" if pid is None else f"process {pid}"
    where = f" of the service at {url}" if url else ""
    return DataFolderInUse(
        f"the data folder {path} is in use by {who}{where}; "
        "stop it or choose another folder with --data-dir",
        pid=pid,
        url=url,
    )
