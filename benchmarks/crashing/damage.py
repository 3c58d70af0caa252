"""Ways in which the files of a stopped service get damaged; each is done to a folder of its own."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

Damage = Callable[[Path], None]
"""Does its harm to a data folder."""


GENERATIONS, CURRENT, JOBS, CATALOG = "generations", "CURRENT", "jobs.sqlite", "catalog.sqlite"


def flip(path: Path, position: int | None = None, *, mask: int = 0x10) -> None:
    """Change one byte of a file, by default that in its middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= mask
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Cut a file off in its middle."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def live_generation(folder: Path) -> Path:
    return folder / GENERATIONS / (folder / CURRENT).read_text().strip()


def index_cases(folder: Path) -> dict[str, Damage]:
    """Harm to the index beside the catalog, by name: nothing may be lost, nothing may be refused.

    Each file that the live generation of `folder` has gets a case of its own.
    """
    files = sorted(
        str(path.relative_to(live_generation(folder)))
        for path in live_generation(folder).rglob("*")
        if path.is_file()
    )
    largest = max(files, key=lambda name: (live_generation(folder) / name).stat().st_size)
    cases: dict[str, Damage] = {}
    for name in files:
        cases[f"a flipped byte in {name}"] = partial(_in_generation, flip, name)
        cases[f"{name} missing"] = partial(_in_generation, Path.unlink, name)
    for name in sorted({largest, *({"vectors.faiss"} & set(files))}):
        cases[f"{name} truncated"] = partial(_in_generation, truncate, name)
    return {
        **cases,
        "a flipped byte in each generation": _flip_all,
        "a flipped byte in CURRENT": lambda at: flip(at / CURRENT, 0, mask=0x01),
        "CURRENT unreadable": lambda at: flip(at / CURRENT, 0, mask=0x80),
        "CURRENT empty": lambda at: (at / CURRENT).write_bytes(b""),
        "CURRENT missing": lambda at: (at / CURRENT).unlink(),
        "the live generation missing": lambda at: shutil.rmtree(live_generation(at)),
        "all generations missing": lambda at: shutil.rmtree(at / GENERATIONS),
    }


def _in_generation(harm: Callable[[Path], object], name: str, folder: Path) -> None:
    harm(live_generation(folder) / name)


def _flip_all(folder: Path) -> None:
    for generation in (folder / GENERATIONS).iterdir():
        flip(max(generation.iterdir(), key=lambda path: path.stat().st_size))


def leave_partial(folder: Path) -> None:
    """What a build leaves that was killed while it wrote, and a switch to it likewise."""
    number = int(live_generation(folder).name) + 1
    shutil.copytree(live_generation(folder), folder / GENERATIONS / f"{number}.part")
    truncate(max((folder / GENERATIONS / f"{number}.part").iterdir(), key=lambda path: path.name))
    (folder / f"{CURRENT}.part").write_bytes(b"")


def jobs_cases() -> dict[str, Damage]:
    """Harm to what is known of jobs: they may be forgotten, uploads that they had may not."""
    return {
        "a flipped byte in the header of jobs.sqlite": lambda at: flip(_whole(at / JOBS), 3),
        "a flipped byte in jobs.sqlite": lambda at: flip(_whole(at / JOBS)),
        "jobs.sqlite truncated": lambda at: truncate(_whole(at / JOBS)),
        "jobs.sqlite missing": _remove_jobs,
    }


def _remove_jobs(folder: Path) -> None:
    for path in folder.glob(f"{JOBS}*"):
        path.unlink()


def cut_log(folder: Path) -> None:
    """Tear the last transaction of the catalog, as if the machine had stopped while it was written.

    The log must have been begun anew by the process that was killed: it then ends with it.
    """
    log = folder / f"{CATALOG}-wal"
    log.write_bytes(log.read_bytes()[:-100])
    # Made anew from the log; a machine that stopped would not have it either.
    (folder / f"{CATALOG}-shm").unlink(missing_ok=True)


CATALOG_CASE = "a flipped byte in the catalog: "


def catalog_cases(folder: Path) -> dict[str, Damage]:
    """A flipped byte in each kind of content of the catalog, the source of truth.

    Nothing can make up for it but a snapshot: that it is noticed is what can be asked for.
    """
    with closing(sqlite3.connect(f"file:{_whole(folder / CATALOG)}?mode=ro", uri=True)) as catalog:
        image_id, digest, metadata, vector, jpeg = catalog.execute(
            "SELECT id, digest, metadata, vector, jpeg FROM images JOIN descriptors USING (row) "
            "JOIN thumbnails USING (row) WHERE length(metadata) > 2 ORDER BY row DESC LIMIT 1"
        ).fetchone()
        (built,) = catalog.execute("SELECT vector FROM descriptors ORDER BY row LIMIT 1").fetchone()
        (page,) = catalog.execute("PRAGMA page_size").fetchone()
    content = (folder / CATALOG).read_bytes()
    # What is stored in full on one page stands there as it is.
    positions = {
        "file header": 3,
        "page header": page,
        "id": _place(content, str(image_id).encode()),
        "digest": _place(content, str(digest).encode()),
        "metadata": _place(content, str(metadata).encode()) + 2,
        "descriptor, high bit": _place(content, _nonzero(built)) + 1,
        "descriptor, low bit": _place(content, _nonzero(built)),
        "descriptor that no generation has, high bit": _place(content, _nonzero(vector)) + 1,
        "thumbnail": _place(content, bytes(jpeg[200:300])),
    }
    return {
        CATALOG_CASE + name: partial(_flip_catalog, position, 0x40 if "high" in name else 0x01)
        for name, position in positions.items()
    }


def _flip_catalog(position: int, mask: int, folder: Path) -> None:
    flip(_whole(folder / CATALOG), position, mask=mask)


def _nonzero(vector: bytes) -> bytes:
    """A part of a descriptor (float16, little endian) that begins with a value that is not 0."""
    start = next(at for at in range(0, len(vector), 2) if vector[at : at + 2] != b"\0\0")
    return vector[start : start + 64]


def _place(content: bytes, part: bytes) -> int:
    position = content.find(part)
    if position < 0:
        raise ValueError(f"the catalog does not hold {part[:20]!r} in one piece")
    return position


def _whole(path: Path) -> Path:
    """A database file into which its log has been worked."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path
