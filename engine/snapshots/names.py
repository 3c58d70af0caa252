"""Files and folders of snapshots, and of what they replaced."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

FOLDER, REPLACED = "snapshots", "replaced"
CATALOG, CURRENT = "catalog.sqlite", "CURRENT"
ABOUT, ORIGINALS_LIST, PART = "snapshot.json", "originals.txt", ".part"
RESTORING = "restoring.part"


def aside_folder(data_dir: Path, why: str) -> Path:
    """Where what is replaced now goes."""
    return data_dir / REPLACED / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{why}"
