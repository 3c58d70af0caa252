"""Bulk uploads on disk until their job has worked through them."""

from __future__ import annotations

import json
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from app.errors import PayloadTooLarge
from app.fetching.parsing import BadUrl, parse_url
from engine.errors import BadImage, StorageFull
from engine.files.storage import fsync_file, fsync_folder, storage_errors, write_atomically
from engine.types import Json

COPY_BYTES = 1 << 20
ITEMS, UPLOADS = "items.json", "uploads.json"


@dataclass(frozen=True)
class Item:
    """One spooled image: its file in the spool, its name for people, and its fate so far.

    With a `url` the file is there once it was fetched; `id` and `metadata` are its own then.
    """

    name: str
    file: str | None
    error: str | None = None
    url: str | None = None
    id: str | None = None
    metadata: Json | None = None


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
        self._listed: tuple[str, list[Item]] | None = None

    def path(self, job_id: str) -> Path:
        return self.folder / job_id

    def receive(
        self, job_id: str, uploads: Sequence[tuple[str, IO[bytes]]], metadata: Json
    ) -> None:
        """Keep the uploads of a job. Raises StorageFull, leaving nothing behind."""
        with self._receiving(job_id) as content:
            for position, (_, source) in enumerate(uploads):
                target = self.path(job_id) / f"upload-{position:06d}"
                with target.open("wb") as out:
                    shutil.copyfileobj(source, out, COPY_BYTES)
                fsync_file(target)
            content.update(names=[name for name, _ in uploads], metadata=metadata)

    def receive_urls(self, job_id: str, images: Sequence[Json]) -> None:
        """Keep a list of `url`, `id` and `metadata`. Raises as `receive` does."""
        with self._receiving(job_id) as content:
            content.update(names=[], metadata={}, images=list(images))

    @contextmanager
    def _receiving(self, job_id: str) -> Iterator[dict[str, Any]]:
        """A new folder, that is an upload once all is there that is put into it and `yield`ed."""
        folder = self.path(job_id)
        content = {"offered_at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        with storage_errors(self.folder):
            try:
                folder.mkdir(parents=True)
                fsync_folder(self.folder.parent)
                yield content
                write_atomically(folder / UPLOADS, json.dumps(content).encode())
                fsync_folder(self.folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise

    def unpack(self, job_id: str, check: Callable[[], None] = lambda: None) -> int:
        """List the images of a job, taking archives apart; returns how many there are.

        Doing it again gives the same list. `check` is called for each image and may raise to
        stop. Raises PayloadTooLarge beyond the limits, and StorageFull, leaving no image behind.
        """
        folder = self.path(job_id)
        items: list[Item] = []
        unpacked = 0
        try:
            with storage_errors(self.folder):
                uploads = self._uploads(job_id)
                items += _url_items(uploads.get("images", []))
                for position, name in enumerate(uploads["names"]):
                    for item, size in self._items(folder / f"upload-{position:06d}", name):
                        check()
                        items.append(item)
                        unpacked += size
                        self._check_limits(len(items), unpacked)
                content = json.dumps([asdict(item) for item in items]).encode()
                write_atomically(folder / ITEMS, content)
        except StorageFull:
            # Not to keep all others from writing while this waits for room.
            for member in folder.glob("upload-*-*"):
                member.unlink(missing_ok=True)
            raise
        return len(items)

    def _check_limits(self, images: int, unpacked_bytes: int) -> None:
        if unpacked_bytes > self._max_total_bytes:
            raise PayloadTooLarge(
                f"the upload unpacks to more than {self._max_total_bytes >> 20:,} MB; "
                "send it in parts"
            )
        if images > self._max_images:
            raise PayloadTooLarge(
                f"the upload holds more than {self._max_images:,} images; send it in parts"
            )

    def offered_at(self, job_id: str) -> str:
        """When the upload came (ISO 8601, UTC)."""
        content = self._uploads(job_id)
        # Uploads of an earlier version do not say so themselves.
        written = datetime.fromtimestamp((self.path(job_id) / UPLOADS).stat().st_mtime, UTC)
        return str(content.get("offered_at", written.isoformat(timespec="milliseconds")))

    def metadata(self, job_id: str) -> Json:
        """What all images of a job get."""
        value: Json = self._uploads(job_id)["metadata"]
        return value

    def items(self, job_id: str, start: int, stop: int) -> list[Item]:
        # Kept for the job at hand: it asks for a few at a time, of a list that may be long.
        if self._listed is None or self._listed[0] != job_id:
            content = json.loads((self.path(job_id) / ITEMS).read_text())
            self._listed = job_id, [Item(**entry) for entry in content]
        return self._listed[1][start:stop]

    def _uploads(self, job_id: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path(job_id) / UPLOADS).read_text())
        return content

    def read(self, job_id: str, item: Item) -> bytes:
        """Bytes of an item. Raises BadImage if unpacking or fetching had failed for it."""
        if item.file is None:
            raise BadImage(item.error or "the file could not be unpacked")
        if item.url is not None and self._error_file(job_id, item).exists():
            raise BadImage(self._error_file(job_id, item).read_text())
        return (self.path(job_id) / item.file).read_bytes()

    # --- what is fetched ------------------------------------------------------------------

    def is_fetched(self, job_id: str, item: Item) -> bool:
        """Whether the image of a URL is here, or the reason why there is none."""
        return self._file(job_id, item).exists() or self._error_file(job_id, item).exists()

    def keep(self, job_id: str, item: Item, fetched: bytes | str) -> None:
        """The bytes that were fetched, or why not. Raises StorageFull."""
        with storage_errors(self.folder):
            if isinstance(fetched, str):
                write_atomically(self._error_file(job_id, item), fetched.encode("utf-8", "replace"))
            else:
                write_atomically(self._file(job_id, item), fetched)

    def drop(self, job_id: str, items: Sequence[Item]) -> None:
        """Make room: images that were fetched and added. Uploads stay until the end of the job."""
        for item in items:
            if item.url is not None:
                self._file(job_id, item).unlink(missing_ok=True)

    def _file(self, job_id: str, item: Item) -> Path:
        assert item.file is not None, "an image of a URL has a file, now or later"
        return self.path(job_id) / item.file

    def _error_file(self, job_id: str, item: Item) -> Path:
        return self._file(job_id, item).with_suffix(".error")

    def remove(self, job_id: str) -> None:
        """Forget an upload."""
        # First what makes it one: an upload that is half gone must not be taken for a whole.
        with suppress(OSError):
            (self.path(job_id) / UPLOADS).unlink()
        shutil.rmtree(self.path(job_id), ignore_errors=True)

    def jobs(self) -> list[str]:
        """Jobs that have something here, the oldest first."""
        if not self.folder.is_dir():
            return []
        return [path.name for path in sorted(self.folder.iterdir(), key=_written)]

    def is_complete(self, job_id: str) -> bool:
        """Whether the upload arrived whole and was not worked through."""
        return (self.path(job_id) / UPLOADS).is_file()

    def _items(self, file: Path, name: str) -> Iterator[tuple[Item, int]]:
        """Images of one upload, with the bytes that unpacking each cost."""
        if zipfile.is_zipfile(file):
            members = _zip_members(file, self._max_image_bytes)
        elif not _looks_like_image(file) and _is_tar(file):
            members = _tar_members(file, self._max_image_bytes)
        else:
            yield Item(name, file.name), 0
            return
        count = 0
        while True:
            try:
                member = next(members, None)
            except ARCHIVE_ERRORS as error:
                problem = f"the archive is damaged after {count} files: {error}"
                yield Item(name, None, problem), 0
                return
            if member is None:
                break
            count += 1
            yield self._keep(file, count, member), member.size
        if count == 0:
            yield Item(name, None, "the archive holds no files"), 0

    def _keep(self, file: Path, position: int, member: _Member) -> Item:
        if len(member.data) > self._max_image_bytes:
            limit = self._max_image_bytes >> 20
            return Item(member.name, None, f"the file is larger than {limit} MB")
        target = file.with_name(f"{file.name}-{position:06d}")
        target.write_bytes(member.data)
        fsync_file(target)
        return Item(member.name, target.name)


def _url_items(images: Sequence[Json]) -> list[Item]:
    return [
        Item(_name(image["url"]), f"url-{position:06d}", **image)
        for position, image in enumerate(images)
    ]


def _name(url: str) -> str:
    try:
        return parse_url(url).name
    except BadUrl:
        return "image"  # that will not be fetched


# What the archive libraries raise on damaged or encrypted archives.
ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class _Member:
    """A file of an archive; `data` is cut one byte after the limit, `size` is what it cost."""

    name: str
    data: bytes
    size: int


def _zip_members(file: Path, limit: int) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            # Not `is_dir`, which fails for an empty name.
            if not info.filename.endswith("/") and not _is_hidden(info.filename):
                with archive.open(info) as source:
                    # What an archive says of its sizes may lie: read no more than allowed.
                    data = source.read(limit + 1)
                yield _Member(_readable(info.filename), data, len(data))


def _tar_members(file: Path, limit: int) -> Iterator[_Member]:
    with tarfile.open(file) as archive:
        for info in archive:
            source = archive.extractfile(info) if info.isfile() else None
            if source is not None and not _is_hidden(info.name):
                with source:
                    data = source.read(limit + 1)
                # The rest of a member has to be decompressed too, to come to the next one.
                yield _Member(_readable(info.name), data, info.size)


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def _readable(name: str) -> str:
    """A name whose bytes were no UTF-8 has lone surrogates, which no answer can carry."""
    return name.encode("utf-8", "replace").decode()


def _looks_like_image(file: Path) -> bool:
    """Cheap test before `tarfile` tries its decompressors on every photo."""
    with file.open("rb") as source:
        head = source.read(12)
    return head[:3] == b"\xff\xd8\xff" or head[:4] in (b"\x89PNG", b"RIFF", b"GIF8")


def _is_tar(file: Path) -> bool:
    try:
        return tarfile.is_tarfile(file)
    except ARCHIVE_ERRORS:
        return True  # compressed, and cut off: what is wrong is told once it is read


def _is_hidden(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return "__MACOSX" in parts or parts[-1].startswith(".") or parts[-1] in ("Thumbs.db", "")
