"""The bytes of the images themselves, kept on request: each once, under its SHA-256."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from engine.catalog.reader import CatalogReader
from engine.errors import CorruptIndex, EngineError
from engine.files.storage import fsync_folder, storage_errors

log = logging.getLogger(__name__)

FOLDER = "originals"
LOCK = "deleting.lock"
PART = ".part"
STALE_S = 3600.0
"""Age at which a file that was never finished belongs to nobody."""
SOME = 500

Used = Callable[[Sequence[str]], Set[str]]
"""Which of some digests a stored image has."""


class Originals:
    """`originals/<2 digits>/<digest>` in a data folder.

    An image is written before the catalog acknowledges it and removed after no row has its digest.
    So that a delete never takes what another put is about to need, a put holds its digests from
    before it writes until its transaction has ended; what is held is not removed, but looked at
    again when it is let go. Methods may be called from several threads.
    """

    def __init__(self, folder: Path, *, keeps: bool = True) -> None:
        """Without `keeps` none are added, but those that are there are looked after."""
        self.folder, self.keeps = folder, keeps
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._postponed: set[str] = set()
        self._prepared = False
        self._closing = threading.Event()
        self._sweeper: threading.Thread | None = None

    def close(self) -> None:
        """Stop what `sweep_later` began."""
        self._closing.set()
        if self._sweeper is not None:
            self._sweeper.join()

    def path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

    @contextmanager
    def holding(self, images: Iterable[tuple[str, bytes | None]], used: Used) -> Iterator[None]:
        """Keep the bytes of the images; within, they are stored under their digests.

        If that fails, what was kept for nothing is removed. Raises StorageFull.
        """
        wanted = list(images)
        digests = [digest for digest, _ in wanted]
        with self._lock:
            self._held.update(digests)
        stored = False
        try:
            for digest, data in wanted:
                if data is not None and self.keeps:
                    self.keep(digest, data)
            yield
            stored = True
        finally:
            with self._lock:
                self._held.subtract(digests)
                self._held = +self._held
                again = set(digests) & self._postponed if stored else set(digests)
            if again:
                self.forget(again, used)

    def keep(self, digest: str, data: bytes) -> None:
        """Write the bytes, durably, unless they are there. Raises StorageFull, leaving nothing."""
        target = self.path(digest)
        with storage_errors(self.folder):
            self._prepare()
            if not _is_file_of(target, data):
                # Two puts of the same bytes must not write into one file.
                partial = target.with_name(f"{digest}.{secrets.token_hex(4)}{PART}")
                try:
                    with partial.open("wb") as file:
                        file.write(data)
                        file.flush()
                        os.fsync(file.fileno())
                    partial.replace(target)
                except BaseException:
                    with suppress(OSError):
                        partial.unlink(missing_ok=True)
                    raise
            # Also of one that was there: who wrote it may not have come to this yet.
            fsync_folder(target.parent)

    def read(self, digest: str) -> bytes | None:
        """The bytes; None if they were not kept. Raises CorruptIndex if they are others."""
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(data).hexdigest() != digest:
            raise self._damaged(digest)
        return data

    def open(self, digest: str) -> BinaryIO | None:
        """As `read`, the file itself at its beginning, which the caller closes: for whoever sends
        it to somebody who may read slowly."""
        try:
            file = self.path(digest).open("rb")
        except FileNotFoundError:
            return None
        try:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise self._damaged(digest)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def _damaged(self, digest: str) -> CorruptIndex:
        return CorruptIndex(
            f"{self.path(digest)} does not have the content that was written; "
            "add the image again, or restore a snapshot"
        )

    def forget(self, digests: Iterable[str], used: Used) -> None:
        """Remove those of `digests` that no image has; call it after the delete is durable.

        What cannot be removed is told to the log and swept later: the delete has been done.
        """
        try:
            self._forget(digests, used)
        except OSError as error:
            log.warning("originals that are not needed could not be removed: %s", error)

    def _forget(self, digests: Iterable[str], used: Used) -> None:
        if not self.folder.is_dir():
            return
        with self._lock:
            wanted = set(digests) | self._postponed
            self._postponed = {digest for digest in wanted if digest in self._held}
            free = sorted(wanted - self._postponed)
            # Within the lock, so that nobody begins to need one between question and removal.
            free = sorted(set(free) - set(used(free))) if free else []
            if not free:
                return
            with self._deleting() as allowed:
                if not allowed:  # a snapshot is taken, which may need them
                    self._postponed |= set(free)
                    return
                for digest in free:
                    self.path(digest).unlink(missing_ok=True)

    def sweep(self, stored: Iterable[str], used: Used) -> int:
        """Remove files that no image has, and what was never finished; returns how many.

        Such are left by a crash between file and transaction. Takes its time, so give it a thread
        of its own.

        Args:
            stored: digests of the catalog, ascending, as of any moment after this process began.
        """
        strays, count = self.strays(stored), 0
        while not self._closing.is_set() and (some := list(islice(strays, SOME))):
            self.forget([path.name for path in some if not path.name.endswith(PART)], used)
            for path in some:
                if path.name.endswith(PART) and _age_s(path) > STALE_S:
                    path.unlink(missing_ok=True)
                count += not path.exists()
        if count:
            log.info("removed %d originals that belong to no image", count)
        return count

    def sweep_later(self, catalog: Path, used: Used) -> None:
        """`sweep` in a thread of its own, against the catalog file: a start need not wait."""

        def work() -> None:
            try:
                with closing(CatalogReader(catalog)) as reader:
                    self.sweep(reader.digests(), used)
            except (EngineError, OSError) as error:
                log.warning("originals were not swept: %s", error)

        if self.folder.is_dir():
            self._sweeper = threading.Thread(target=work, name="sweep originals", daemon=True)
            self._sweeper.start()

    def strays(self, stored: Iterable[str]) -> Iterator[Path]:
        """Files that are not among `stored`, which are ascending. Memory does not grow with them.

        Beside a process that adds images, young ones may only not have been stored yet.
        """
        wanted = iter(stored)
        current = next(wanted, None)
        for path in self.files():
            while current is not None and current < path.name:
                current = next(wanted, None)
            if path.name != current:
                yield path

    def files(self) -> Iterator[Path]:
        """All files, ascending by digest."""
        if not self.folder.is_dir():
            return
        for folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            yield from sorted(folder.iterdir())

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within, no file is removed, by whichever process: for whoever copies them."""
        if not self.folder.is_dir():
            yield
            return
        with (self.folder / LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @contextmanager
    def _deleting(self) -> Iterator[bool]:
        with (self.folder / LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _prepare(self) -> None:
        """Create all folders at once: each then is durable before anything is in it."""
        with self._lock:
            if not self._prepared:
                for number in range(256):
                    (self.folder / f"{number:02x}").mkdir(parents=True, exist_ok=True)
                fsync_folder(self.folder)
                fsync_folder(self.folder.parent)
                self._prepared = True


def _is_file_of(path: Path, data: bytes) -> bool:
    """Whether the file has these bytes; one that was damaged is written anew."""
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
