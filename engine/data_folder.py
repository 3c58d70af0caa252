"""The data folder: one owner at a time."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from engine.errors import DataFolderInUse
from engine.storage import storage_errors


class DataFolder:
    """Creates the folder and holds it for this process until `release`.

    The lock belongs to the open file, so it goes with the process however that ends. Its content
    tells others who the owner is and, for a service, where it listens.
    """

    def __init__(self, path: Path, *, url: str | None = None) -> None:
        """Raises DataFolderInUse, StorageReadOnly or StorageFull."""
        self.path = path
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            self._file = (path / "owner.lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise _in_use(path) from error
        with storage_errors(path):
            self._file.truncate(0)
            self._file.write(json.dumps({"pid": os.getpid(), "url": url}))
            self._file.flush()

    def release(self) -> None:
        self._file.close()


def _in_use(path: Path) -> DataFolderInUse:
    try:
        owner = json.loads((path / "owner.lock").read_text())
    except (OSError, ValueError):
        owner = {}
    pid, url = owner.get("pid"), owner.get("url")
    where = f" of the service at {url}" if url else ""
    return DataFolderInUse(
        f"the data folder {path} is in use by process {pid}{where}; "
        "stop it or choose another folder with --data-dir",
        pid=pid,
        url=url,
    )
