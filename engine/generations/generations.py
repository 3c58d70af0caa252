"""Generations of the index on disk: written beside, verified, published by one rename."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from engine.calibration import Calibration
from engine.errors import CorruptIndex, IndexMismatch, NoGeneration
from engine.files.storage import fsync_folder, storage_errors, write_atomically
from engine.generations.build import (
    MIN_FIT_IMAGES,
    PROJECTION,
    BuildPlan,
    Progress,
    ReadDescriptors,
    Reporter,
    project,
    read_projection,
    write_generation,
)
from engine.generations.manifest import Manifest, file_digest
from engine.postprocess import LinearProjection
from engine.types import Recipe, Rows
from engine.vector_index import VectorIndex
from engine.vector_index.building import FLAT, FLOAT16
from engine.vector_index.coded import CODES, CodedVectors, Effort

__all__ = [
    "MIN_FIT_IMAGES",
    "BuildPlan",
    "Generation",
    "Generations",
    "Manifest",
    "Progress",
    "ReadDescriptors",
    "Reporter",
    "project",
]

log = logging.getLogger(__name__)

CALIBRATION, RELIABILITY = "calibration.json", "reliability.png"
EXTRAS = (CALIBRATION, RELIABILITY)
"""Files without which a generation can be searched all the same."""
KEEP = 2
"""Generations that are kept: the live one, and the one before it to go back to."""


@dataclass(frozen=True)
class Generation:
    """A loaded generation: vectors under their row numbers, how raw ones are projected, and what
    scores mean."""

    manifest: Manifest
    index: VectorIndex
    projection: LinearProjection | None
    calibration: Calibration | None = None


class Generations:
    """The folder `generations/` and the file `CURRENT` beside it, which names the live one."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "generations"
        self.current_file = data_dir / "CURRENT"

    def numbers(self) -> list[int]:
        """All complete generations, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def current(self) -> int | None:
        """The number that CURRENT names; None if there is no such file."""
        try:
            text = self.current_file.read_text(errors="replace").strip()
        except FileNotFoundError:
            return None
        if not (text.isascii() and text.isdecimal()):
            raise CorruptIndex(
                f"{self.current_file} holds {text[:20]!r}, not a number; "
                "restart to go on with the newest generation, or build the index"
            )
        return int(text)

    def path(self, number: int) -> Path:
        return self.folder / str(number)

    def reserve(self) -> int:
        """A number for the next generation, after deleting what builds left that did not end.

        A generation that is newer than the live one was never published, or was gone back from.
        """
        numbers = self.numbers()
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.sweep()
        live = self._current_or_none()
        for number in numbers:
            if live is not None and number > live:
                self._drop(number)
        return max([0, *numbers]) + 1

    def sweep(self) -> None:
        """Delete what was cut off while it was written."""
        for part in (*self.folder.glob("*.part"), *self.current_file.parent.glob("build-*")):
            shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):
            self.current_file.with_name(f"{self.current_file.name}.part").unlink()

    def build(
        self,
        rows: Rows,
        read: ReadDescriptors,
        plan: BuildPlan,
        report: Reporter | None = None,
        *,
        number: int | None = None,
    ) -> Manifest:
        """Write a new generation of `rows`, under the next number unless one was reserved.

        It is complete and durable, but not live until `publish`. Raises EmptyIndex without rows,
        RecallTooLow; StorageFull leaves nothing behind.
        """
        number = self.reserve() if number is None else number
        with storage_errors(self.folder):
            folder = self.path(number)
            return write_generation(folder, number, rows, read, plan, report or Reporter())

    def calibrate(
        self, number: int, calibration: Calibration, picture: bytes, seconds: float = 0.0
    ) -> Manifest:
        """Add to a generation what scores mean in it, a picture of how far that holds, and the
        seconds that it took."""
        folder = self.path(number)
        with storage_errors(self.folder):
            write_atomically(folder / CALIBRATION, json.dumps(calibration.to_json()).encode())
            write_atomically(folder / RELIABILITY, picture)
            manifest = Manifest.read(folder)
            added = {name: file_digest(folder / name) for name in (CALIBRATION, RELIABILITY)}
            manifest = replace(
                manifest,
                files={**manifest.files, **added},
                seconds=round(manifest.seconds + seconds, 3),
            )
            manifest.write(folder)
        return manifest

    def publish(self, number: int) -> None:
        """Make `number` the live generation; of the others, only the newest `KEEP - 1` stay."""
        with storage_errors(self.folder):
            write_atomically(self.current_file, f"{number}\n".encode())
        others = [other for other in self.numbers() if other != number]
        for old in others[: max(0, len(others) - (KEEP - 1))]:
            self._drop(old)

    def _drop(self, number: int) -> None:
        # Renamed first: one that is half deleted must not look like a whole one.
        part = self.folder / f"{number}.part"
        with suppress(OSError):
            shutil.rmtree(part, ignore_errors=True)
            self.path(number).rename(part)
        shutil.rmtree(part, ignore_errors=True)

    def discard(self) -> None:
        """Forget all generations: they can never be searched again."""
        with storage_errors(self.folder):
            self.current_file.unlink(missing_ok=True)
            fsync_folder(self.current_file.parent)
        shutil.rmtree(self.folder, ignore_errors=True)

    def load(self, number: int, recipe: Recipe, device: torch.device | None = None) -> Generation:
        """Read a generation after checking it.

        `device` is where the vectors of a `float16` index lie.
        Raises: NoGeneration, CorruptIndex (a checksum differs), IndexMismatch (another recipe).
        """
        folder = self.path(number)
        if not folder.is_dir():
            there = ", ".join(map(str, self.numbers())) or "none"
            raise NoGeneration(
                f"generation {number} is not in {self.folder} (there: {there}); build the index"
            )
        manifest = Manifest.read(folder)
        if manifest.fingerprint != recipe.fingerprint:
            differences = Recipe.from_json(manifest.recipe).differences(recipe)
            raise IndexMismatch(
                f"generation {number} was built with another recipe "
                f"({'; '.join(differences) or 'unknown differences'}); "
                "build the index again, or restore the generation that belongs here"
            )
        damaged = self._damaged(folder, manifest)
        fatal = [_problem(folder / name) for name in damaged if name not in EXTRAS]
        if fatal:
            raise CorruptIndex("; ".join(fatal))
        index = _load_index(folder, manifest, device)
        projection: LinearProjection | None = None
        if manifest.projected:
            try:
                projection = read_projection(load_file(folder / PROJECTION), recipe)
            except (SafetensorError, KeyError) as error:
                raise CorruptIndex(f"{folder / PROJECTION} cannot be read: {error}") from error
        calibration = None
        if CALIBRATION in damaged:
            log.error("%s: scores are not calibrated", _problem(folder / CALIBRATION))
        elif CALIBRATION in manifest.files:
            calibration = Calibration.from_json(json.loads((folder / CALIBRATION).read_text()))
        return Generation(manifest, index, projection, calibration)

    def reliability_picture(self, number: int) -> bytes | None:
        """The PNG that `calibrate` kept; None where there is none."""
        try:
            return (self.path(number) / RELIABILITY).read_bytes()
        except FileNotFoundError:
            return None

    def verify(self, number: int) -> list[str]:
        """Files of a generation that are missing or differ from their checksum; [] if none."""
        folder = self.path(number)
        return [_problem(folder / name) for name in self._damaged(folder, Manifest.read(folder))]

    @staticmethod
    def _damaged(folder: Path, manifest: Manifest) -> list[str]:
        """Names of the files that are missing or differ from their checksum."""
        return [
            name
            for name, expected in manifest.files.items()
            if not (folder / name).is_file() or file_digest(folder / name) != expected
        ]

    def _current_or_none(self) -> int | None:
        try:
            return self.current()
        except CorruptIndex:
            return None


def _load_index(folder: Path, manifest: Manifest, device: torch.device | None) -> VectorIndex:
    if manifest.index_type == FLAT:
        return VectorIndex.load(folder / CODES, manifest.dim)
    coded = manifest.index_type != FLOAT16
    base = CodedVectors.load(
        folder,
        manifest.dim,
        Effort(manifest.nprobe, manifest.candidates),
        coded=coded,
        device=None if coded else device,
    )
    return VectorIndex(manifest.dim, base=base)


def _problem(file: Path) -> str:
    if not file.is_file():
        return f"{file} is missing"
    return f"{file} does not have the content that was written"
