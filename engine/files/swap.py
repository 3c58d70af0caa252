"""Replace files of a data folder in one step: after a crash all of them are new, or none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from engine.errors import CorruptIndex
from engine.files.storage import fsync_folder, write_atomically

JOURNAL = "swap.json"

INDEX_FILES = (
    # The log goes before the file it belongs to: it must never meet another one.
    "catalog.sqlite-wal",
    "catalog.sqlite-shm",
    "catalog.sqlite",
    "CURRENT",
    "generations",
)
"""What a recipe and its descriptors are in; names within a data folder."""


def swap(folder: Path, staged: Path, aside: Path, names: Sequence[str]) -> None:
    """Move `names` from `staged` into `folder`; what `folder` had under them goes to `aside`.

    A name that `staged` lacks is only moved away. All three are folders of one file system, the two
    latter within `folder`; everything in `staged` is durable already. The caller owns the folder.
    Once this has written its journal nothing turns it back: `finish_swap` goes on after a crash.
    """
    aside.mkdir(parents=True, exist_ok=True)
    fsync_folder(aside.parent)
    fsync_folder(staged)
    journal = {
        "staged": str(staged.relative_to(folder)),
        "aside": str(aside.relative_to(folder)),
        "names": list(names),
        "new": [name for name in names if (staged / name).exists()],
    }
    write_atomically(folder / JOURNAL, json.dumps(journal).encode())
    finish_swap(folder)


def finish_swap(folder: Path) -> None:
    """Do what is left of a swap that was begun; nothing where none was. The caller owns the folder.

    Each step can be told from its outcome, so that it is safe to be killed in the middle and to
    begin again. Raises CorruptIndex if the journal cannot be read.
    """
    path = folder / JOURNAL
    if not path.exists():
        return
    try:
        journal = json.loads(path.read_bytes())
        staged, aside = folder / journal["staged"], folder / journal["aside"]
        names, new = list(journal["names"]), set(journal["new"])
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptIndex(f"{path} cannot be read: {error!r}; restore a snapshot") from error
    for name in names:
        old, coming, gone = folder / name, staged / name, aside / name
        done = not coming.exists() if name in new else gone.exists()
        if done:
            continue
        if old.exists():
            old.rename(gone)
        if name in new:
            coming.rename(old)
    for changed in (aside, staged, folder):
        if changed.is_dir():
            fsync_folder(changed)
    path.unlink()
    fsync_folder(folder)
    shutil.rmtree(staged, ignore_errors=True)
    with suppress(OSError):  # it holds the old content, unless there was none
        aside.rmdir()
        aside.parent.rmdir()


def check_no_swap(folder: Path) -> None:
    """Raises CorruptIndex while a swap is not finished, for those who do not own the folder."""
    if (folder / JOURNAL).exists():
        raise CorruptIndex(
            f"a restore or rebuild of {folder} was interrupted; start the service, or any command "
            "that opens the index, to finish it"
        )
