"""Small real file systems, to be filled up and made read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, *, size_kb: int) -> Iterator[Path]:
    """A file system of `size_kb` in memory at `folder`; skips the test where none is allowed."""
    folder.mkdir()
    _mount(folder, "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs")
    try:
        yield folder
    finally:
        # Lazily, as a failed test may hold files open.
        subprocess.run(["umount", "-l", str(folder)], check=True)


def make_read_only(folder: Path) -> None:
    _mount(folder, "-o", "remount,ro")


def fill(folder: Path, *, leave_kb: int = 0) -> Path:
    """Write a file that leaves `leave_kb` free; deleting it frees the space again."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - 1024 * leave_kb))
    return ballast


def _mount(folder: Path, *options: str) -> None:
    try:
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("this machine has no command `mount`")
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
