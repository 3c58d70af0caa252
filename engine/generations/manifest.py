"""What a generation says about itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import CorruptIndex
from engine.files.storage import write_atomically
from engine.types import Json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a generation says about itself.

    `last_row` is the newest row it saw, `dim` the length of its vectors (that of the raw
    descriptors if there is no projection), `explained` the share of the variance of the collection
    that the projection keeps, `files` the SHA-256 of each other file. `recall` is the share of the
    10 nearest that a search finds which looks into `nprobe` of `cells` cells and ranks `candidates`
    exactly, measured when it was built; `seconds` is how long that took.
    """

    number: int
    fingerprint: str
    recipe: Json
    precision: str
    last_row: int
    count: int
    dim: int
    projected: bool
    explained: float
    created_at: str
    files: dict[str, str]
    index_type: str = "flat"
    recall: float = 1.0
    cells: int = 0
    nprobe: int = 0
    candidates: int = 0
    seconds: float = 0.0

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises CorruptIndex if the file is missing or not what `write` wrote."""
        path = folder / MANIFEST
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
            expected = content.pop("sha256")
            manifest = cls(**content)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise CorruptIndex(f"{path} cannot be read: {error!r}") from error
        if _sha256(content) != expected:
            raise CorruptIndex(f"{path} does not have the content that was written")
        return manifest

    def write(self, folder: Path) -> None:
        """Replace the manifest in `folder` in one step."""
        content = asdict(self)
        text = json.dumps({**content, "sha256": _sha256(content)}, indent=2) + "\n"
        write_atomically(folder / MANIFEST, text.encode())


def _sha256(content: dict[str, Any]) -> str:
    """Over the entries, as the manifest itself is in no list of checksums."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
