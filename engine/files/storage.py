"""Durable files: write, fsync, rename. And one meaning for the errors of a full or locked disk."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy.exc import OperationalError

from engine.errors import StorageFull, StorageReadOnly


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn what SQLite and the file system say about a bad disk into our own errors."""
    try:
        yield
    except (OSError, OperationalError, sqlite3.OperationalError) as error:
        kind = _kind(error)
        if kind is StorageFull:
            raise StorageFull(
                f"no room is left in {folder}; free space there and try again: "
                "nothing of this write was kept"
            ) from error
        if kind is StorageReadOnly:
            raise StorageReadOnly(
                f"{folder} cannot be written; mount it writable or choose another data folder"
            ) from error
        raise


def _kind(error: Exception) -> type[StorageFull] | type[StorageReadOnly] | None:
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageFull
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return StorageReadOnly
    # SQLite could not grow the shared memory file beside its log.
    if getattr(getattr(error, "orig", error), "sqlite_errorname", "") == "SQLITE_IOERR_SHMSIZE":
        return StorageFull
    text = str(error).lower()
    if "disk is full" in text or "no space left" in text or "disk quota" in text:
        return StorageFull
    if "readonly database" in text or "read-only file system" in text:
        return StorageReadOnly
    # SQLite cannot create its journal files in a folder that it may only read.
    if "unable to open database file" in text:
        return StorageReadOnly
    return None


def fsync_folder(folder: Path) -> None:
    """Make renames within `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Replace the file at `path` in one step; a crash leaves either the old or the new content.

    `mode` says who may use the file, less what the umask forbids.
    """
    partial = path.with_name(path.name + ".part")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
