"""Bulk uploads on disk until their job has worked through them."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from app.errors import PayloadTooLarge
from engine.errors import BadImage
from engine.storage import fsync_file, fsync_folder, storage_errors, write_atomically
from engine.types import Json

COPY_BYTES = 1 << 20
ITEMS, UPLOADS = "items.json", "uploads.json"


@dataclass(frozen=True)
class Item:
    """One spooled image: its file in the spool, its name for people, and its fate so far."""

    name: str
    file: str | None
    metadata: Json
    error: str | None = None


class Spool:
    """`spool/<job>/` in the data folder: durable before the upload is acknowledged."""

    def __init__(
        self, data_dir: Path, *, max_image_bytes: int, max_images: int, max_total_bytes: int
    ) -> None:
        """The limits hold for one image, and for all images unpacked from one upload."""
        self.folder = data_dir / "spool"
        self._max_image_bytes = max_image_bytes
        self._max_images = max_images
        self._max_total_bytes = max_total_bytes

    def path(self, job_id: str) -> Path:
        return self.folder / job_id

    def receive(
        self, job_id: str, uploads: Sequence[tuple[str, IO[bytes]]], metadata: Json
    ) -> None:
        """Keep the uploads of a job. Raises StorageFull, leaving nothing behind."""
        folder = self.path(job_id)
        with storage_errors(self.folder):
            try:
                folder.mkdir(parents=True)
                names = []
                for position, (name, source) in enumerate(uploads):
                    target = folder / f"upload-{position:06d}"
                    with target.open("wb") as out:
                        shutil.copyfileobj(source, out, COPY_BYTES)
                    fsync_file(target)
                    names.append(name)
                content = {"names": names, "metadata": metadata}
                write_atomically(folder / UPLOADS, json.dumps(content).encode())
                fsync_folder(self.folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise

    def unpack(self, job_id: str) -> int:
        """List the images of a job, taking archives apart; returns how many there are.

        Doing it again gives the same list. Raises PayloadTooLarge beyond the limits.
        """
        folder = self.path(job_id)
        uploads = json.loads((folder / UPLOADS).read_text())
        items: list[Item] = []
        unpacked = 0
        with storage_errors(self.folder):
            for position, name in enumerate(uploads["names"]):
                file = folder / f"upload-{position:06d}"
                for item in self._items(file, name, uploads["metadata"]):
                    items.append(item)
                    unpacked += (folder / item.file).stat().st_size if item.file else 0
                    if unpacked > self._max_total_bytes:
                        raise PayloadTooLarge(
                            f"the upload unpacks to more than {self._max_total_bytes >> 20:,} MB; "
                            "send it in parts"
                        )
                    if len(items) > self._max_images:
                        raise PayloadTooLarge(
                            f"the upload holds more than {self._max_images:,} images; "
                            "send it in parts"
                        )
            content = json.dumps([asdict(item) for item in items]).encode()
            write_atomically(folder / ITEMS, content)
        return len(items)

    def items(self, job_id: str, start: int, stop: int) -> list[Item]:
        content = json.loads((self.path(job_id) / ITEMS).read_text())
        return [Item(**entry) for entry in content[start:stop]]

    def read(self, job_id: str, item: Item) -> bytes:
        """Bytes of an item. Raises BadImage if unpacking had failed for it."""
        if item.file is None:
            raise BadImage(item.error or "the file could not be unpacked")
        return (self.path(job_id) / item.file).read_bytes()

    def remove(self, job_id: str) -> None:
        shutil.rmtree(self.path(job_id), ignore_errors=True)

    def sweep(self, wanted: set[str]) -> None:
        """Delete what belongs to no job of `wanted`: uploads cut off before they were accepted."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.name not in wanted:
                    shutil.rmtree(path, ignore_errors=True)

    def _items(self, file: Path, name: str, metadata: Json) -> Iterator[Item]:
        members: Iterator[tuple[str, IO[bytes]]]
        if zipfile.is_zipfile(file):
            members = _zip_members(file)
        elif not _looks_like_image(file) and tarfile.is_tarfile(file):
            members = _tar_members(file)
        else:
            yield Item(name, file.name, metadata)
            return
        count = 0
        try:
            for member, source in members:
                if _is_hidden(member):
                    continue
                count += 1
                yield self._member(file, count, member, source, metadata)
        # What the archive libraries raise on damaged or encrypted archives.
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
            yield Item(name, None, metadata, f"the archive is damaged after {count} files: {error}")
        if count == 0:
            yield Item(name, None, metadata, "the archive holds no files")

    def _member(
        self, file: Path, position: int, name: str, source: IO[bytes], metadata: Json
    ) -> Item:
        target = file.with_name(f"{file.name}-{position:06d}")
        # Read at most one byte more than allowed: what an archive says of its sizes may lie.
        data = source.read(self._max_image_bytes + 1)
        if len(data) > self._max_image_bytes:
            limit = self._max_image_bytes >> 20
            return Item(name, None, metadata, f"the file is larger than {limit} MB")
        target.write_bytes(data)
        return Item(name, target.name, metadata)


def _zip_members(file: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                with archive.open(info) as source:
                    yield info.filename, source


def _tar_members(file: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(file) as archive:
        for info in archive:
            source = archive.extractfile(info) if info.isfile() else None
            if source is not None:
                with source:
                    yield info.name, source


def _looks_like_image(file: Path) -> bool:
    """Cheap test before `tarfile` tries its decompressors on every photo."""
    with file.open("rb") as source:
        head = source.read(12)
    return head[:3] == b"\xff\xd8\xff" or head[:4] in (b"\x89PNG", b"RIFF", b"GIF8")


def _is_hidden(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return "__MACOSX" in parts or parts[-1].startswith(".") or parts[-1] in ("Thumbs.db", "")
