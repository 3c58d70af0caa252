"""What a snapshot says about itself, in a file that is checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import CorruptIndex, UnknownSnapshot
from engine.files.storage import write_atomically
from engine.snapshots.names import ABOUT
from engine.types import Json

FORMAT = 1
TAKE_ANOTHER = "take another snapshot"


class Entry(NamedTuple):
    """A file of a snapshot."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot says about itself.

    `count` images up to row `last_row`; `generation` is the one that was live, 0 for none. `files`
    are by their path in it. Kept originals are listed in a file of their own, as they may be many:
    `originals` of them with `originals_bytes`. `queries` maps ids to the ids and scores that a
    search for each gave.
    """

    name: str
    created_at: str
    note: str
    program_version: str
    fingerprint: str
    recipe: Json
    precision: str
    count: int
    last_row: int
    generation: int
    files: dict[str, Entry]
    originals: int
    originals_bytes: int
    queries: dict[str, list[tuple[str, float]]]
    format: int = FORMAT

    @classmethod
    def read(cls, folder: Path) -> Snapshot:
        """Raises UnknownSnapshot if there is none, CorruptIndex if it is not what was written."""
        path = folder / ABOUT
        if not path.is_file():
            raise UnknownSnapshot(
                f"there is no snapshot in {folder}; `cooc snapshot list` names all"
            )
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
            expected = content.pop("sha256")
            found = _sha256_of(content)
            if content.get("format", FORMAT) != FORMAT:
                raise CorruptIndex(
                    f"{path} has format {content['format']}; this program reads {FORMAT}"
                )
            content["files"] = {name: Entry(*entry) for name, entry in content["files"].items()}
            content["queries"] = {
                query: [(str(hit), float(score)) for hit, score in hits]
                for query, hits in content["queries"].items()
            }
            snapshot = cls(**content)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise CorruptIndex(f"{path} cannot be read: {error!r}; {TAKE_ANOTHER}") from error
        if found != expected:
            raise CorruptIndex(f"{path} does not have the content that was written; {TAKE_ANOTHER}")
        return snapshot

    def write(self, folder: Path) -> None:
        content = asdict(self)
        content["files"] = {name: list(entry) for name, entry in self.files.items()}
        text = json.dumps({**content, "sha256": _sha256_of(content)}, indent=1)
        write_atomically(folder / ABOUT, text.encode())

    @property
    def bytes(self) -> int:
        """Of all files; originals that are shared with the index take no room of their own."""
        return sum(entry.bytes for entry in self.files.values()) + self.originals_bytes


def _sha256_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
