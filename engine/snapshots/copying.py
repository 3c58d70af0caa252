"""Files of snapshots: copied or linked, counted, held against checksums, made durable."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import CorruptIndex
from engine.files.storage import fsync_file, fsync_folder
from engine.originals import FOLDER as ORIGINALS
from engine.snapshots.snapshot import Entry

CHUNK = 1 << 20

Report = Callable[[int, int], None]
"""Called with (MiB done, MiB in all); may raise to stop."""


class Meter:
    """Counts bytes and tells of MiB."""

    def __init__(self, report: Report | None) -> None:
        self._report = report
        self.done = self.total = 0

    def add(self, count: int) -> None:
        self.part(self.done + count, self.total)

    def part(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self.check()

    def check(self) -> None:
        if self._report:
            self._report(-(-self.done >> 20), -(-self.total >> 20))


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A new folder, removed again after an error; whoever sweeps sees that it is in use."""
    folder.mkdir(parents=True)
    try:
        with holding(folder):
            yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def holding(folder: Path) -> Iterator[bool]:
    """Hold a folder for this process; False if another one does. It ends with the process."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digests_of(staged: Path) -> dict[str, Entry]:
    """All files but the originals, whose names say what they hold."""
    paths = (path for path in staged.iterdir() if path.name != ORIGINALS)
    files = [file for path in paths for file in (files_of(path) if path.is_dir() else [path])]
    return {
        str(file.relative_to(staged)): Entry(sha256(file), file.stat().st_size)
        for file in sorted(files)
    }


def copy_file(source: Path, target: Path, meter: Meter | None = None) -> str:
    """Copy a file in pieces; returns the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    with source.open("rb") as given, target.open("wb") as taken:
        while piece := given.read(CHUNK):
            digest.update(piece)
            taken.write(piece)
            if meter:
                meter.add(len(piece))
    return digest.hexdigest()


def link_file(source: Path, target: Path, digest: str) -> None:
    """One file under two names, as an original never changes; a copy where that cannot be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        # Another file system, one without links, too many of them, or a file of somebody else.
        unable = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES)
        if error.errno not in unable:
            raise
        if copy_file(source, target) != digest:
            raise CorruptIndex(
                f"{source} does not have the content that was written; "
                "`cooc index verify` finds all such"
            ) from error
        fsync_file(target)


def flush(staged: Path) -> None:
    """Make all of it durable; originals were flushed when they were written."""
    for path in staged.iterdir():
        if path.is_file():
            fsync_file(path)
        elif path.name != ORIGINALS:
            for file in files_of(path):
                fsync_file(file)
    for folder in sorted((path for path in staged.rglob("*") if path.is_dir()), reverse=True):
        fsync_folder(folder)
    fsync_folder(staged)


def sha256(path: Path, meter: Meter | None = None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            if meter:
                meter.add(len(piece))
    return digest.hexdigest()
