"""Snapshots of an index: taken while it is in use, proven before they are trusted."""

from engine.snapshots.answers import same_hits
from engine.snapshots.listed import Listed, find_snapshot, list_snapshots, sweep_snapshots
from engine.snapshots.names import CATALOG, FOLDER, REPLACED, RESTORING, aside_folder
from engine.snapshots.restoring import Restored, restore_snapshot
from engine.snapshots.snapshot import Snapshot
from engine.snapshots.taking import create_snapshot

__all__ = [
    "CATALOG",
    "FOLDER",
    "REPLACED",
    "RESTORING",
    "Listed",
    "Restored",
    "Snapshot",
    "aside_folder",
    "create_snapshot",
    "find_snapshot",
    "list_snapshots",
    "restore_snapshot",
    "same_hits",
    "sweep_snapshots",
]
