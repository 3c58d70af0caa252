"""Generations of the index on disk: written beside, verified, published by one rename."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from engine.errors import CorruptIndex, EmptyIndex, IndexMismatch, NoGeneration
from engine.postprocess import MAX_FIT_IMAGES, LinearProjection, PCAProjection
from engine.storage import fsync_file, fsync_folder, storage_errors, write_atomically
from engine.types import Json, Recipe, Rows, Vectors
from engine.vector_index import VectorIndex

log = logging.getLogger(__name__)

VECTORS, PROJECTION, MANIFEST = "vectors.faiss", "projection.safetensors", "manifest.json"
MIN_FIT_IMAGES = 50
"""Below this a projection would be fitted to accidents; raw descriptors are searched instead."""

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

ReadDescriptors = Callable[[Rows], Iterable[tuple[Rows, Vectors]]]
"""Raw descriptors of the given rows, in chunks; rows that are gone are left out."""


@dataclass(frozen=True)
class Manifest:
    """What a generation says about itself.

    `last_row` is the newest row it saw, `dim` the length of its vectors (that of the raw
    descriptors if there is no projection), `explained` the share of the variance of the collection
    that the projection keeps, `files` the SHA-256 of each other file.
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
        if manifest._sha256() != expected:
            raise CorruptIndex(f"{path} does not have the content that was written")
        return manifest

    def write(self, folder: Path) -> None:
        content = {**asdict(self), "sha256": self._sha256()}
        (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")

    def _sha256(self) -> str:
        """Over the entries, as the manifest itself is in no list of checksums."""
        content = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Generation:
    """A loaded generation: vectors under their row numbers, and how raw ones are projected."""

    manifest: Manifest
    index: VectorIndex
    projection: LinearProjection | None


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
        """The number that CURRENT names; None before the first build."""
        try:
            text = self.current_file.read_text(errors="replace").strip()
        except FileNotFoundError:
            return None
        if not text.isdecimal():
            raise CorruptIndex(f"{self.current_file} holds {text[:20]!r}, not a number")
        return int(text)

    def path(self, number: int) -> Path:
        return self.folder / str(number)

    def build(
        self,
        rows: Rows,
        read: ReadDescriptors,
        recipe: Recipe,
        precision: str,
        progress: Progress | None = None,
        *,
        learned: LinearProjection | None = None,
    ) -> Generation:
        """Fit the projection on `rows`, project them all, write a new generation.

        With a `learned` projection, which the recipe then names, none is fitted. The new one is
        complete and durable, but not live until `publish`. Raises EmptyIndex without rows;
        StorageFull leaves nothing behind.
        """
        if not len(rows):
            raise EmptyIndex("the index is empty; add images before building it")
        projection: LinearProjection | None = learned
        if learned is not None:
            explained = _kept_variance(learned, _sample(rows, read))
        else:
            projection = fitted = self._fit(rows, read, recipe)
            explained = fitted.explained if fitted else 1.0
        index = VectorIndex(projection.dim if projection else recipe.raw_dim)
        for chunk, vectors in read(rows):
            index.add(chunk, project(projection, vectors))
            if progress:
                progress(len(index), len(rows))
        number = max([0, *self.numbers()]) + 1
        manifest = Manifest(
            number=number,
            fingerprint=recipe.fingerprint,
            recipe=recipe.to_json(),
            precision=precision,
            last_row=int(rows.max()),
            count=len(index),
            dim=index.dim,
            projected=projection is not None,
            explained=explained,
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            files={},
        )
        with storage_errors(self.folder):
            manifest = self._write(manifest, index, projection)
        return Generation(manifest, index, projection)

    def publish(self, number: int, keep: int = 2) -> None:
        """Make `number` the live generation and delete all but the newest `keep`."""
        with storage_errors(self.folder):
            write_atomically(self.current_file, f"{number}\n".encode())
        for old in self.numbers()[:-keep]:
            if old != number:
                shutil.rmtree(self.path(old), ignore_errors=True)

    def discard(self) -> None:
        """Forget all generations: they can never be searched again."""
        with storage_errors(self.folder):
            self.current_file.unlink(missing_ok=True)
            fsync_folder(self.current_file.parent)
        shutil.rmtree(self.folder, ignore_errors=True)

    def load(self, number: int, recipe: Recipe) -> Generation:
        """Read a generation after checking it.

        Raises: NoGeneration, CorruptIndex (a checksum differs), IndexMismatch (another recipe).
        """
        folder = self.path(number)
        if not folder.is_dir():
            raise NoGeneration(f"generation {number} is not in {self.folder}; build the index")
        manifest = Manifest.read(folder)
        if manifest.fingerprint != recipe.fingerprint:
            differences = Recipe.from_json(manifest.recipe).differences(recipe)
            raise IndexMismatch(
                f"generation {number} was built with another recipe "
                f"({'; '.join(differences) or 'unknown differences'}); "
                "build the index again, or restore the generation that belongs here"
            )
        problems = self.verify(number)
        if problems:
            raise CorruptIndex("; ".join(problems))
        index = VectorIndex.load(folder / VECTORS, manifest.dim)
        projection: LinearProjection | None = None
        if manifest.projected:
            try:
                projection = _read_projection(load_file(folder / PROJECTION), recipe)
            except (SafetensorError, KeyError) as error:
                raise CorruptIndex(f"{folder / PROJECTION} cannot be read: {error}") from error
        return Generation(manifest, index, projection)

    def verify(self, number: int) -> list[str]:
        """Files of a generation that are missing or differ from their checksum; [] if none."""
        folder = self.path(number)
        problems = []
        for name, expected in Manifest.read(folder).files.items():
            file = folder / name
            if not file.is_file():
                problems.append(f"{file} is missing")
            elif _digest(file) != expected:
                problems.append(f"{file} does not have the content that was written")
        return problems

    def _fit(self, rows: Rows, read: ReadDescriptors, recipe: Recipe) -> PCAProjection | None:
        sample = _sample(rows, read) if len(rows) >= MIN_FIT_IMAGES else None
        if sample is None:
            return None
        try:
            return PCAProjection.fit(
                sample,
                recipe.projection_dim,
                recipe.projection_power,
                recipe.projection_shrinkage,
            )
        except ValueError as error:
            log.warning("no projection was fitted: %s", error)
            return None

    def _write(
        self, manifest: Manifest, index: VectorIndex, projection: LinearProjection | None
    ) -> Manifest:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{manifest.number}.part"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            index.save(partial / VECTORS)
            # Not `save_file`: it hides the error of a full disk in one of its own.
            (partial / PROJECTION).write_bytes(save(_tensors(projection)))
            files = {name: _digest(partial / name) for name in (VECTORS, PROJECTION)}
            manifest = replace(manifest, files=files)
            manifest.write(partial)
            for name in (VECTORS, PROJECTION, MANIFEST):
                fsync_file(partial / name)
            fsync_folder(partial)
            partial.rename(self.path(manifest.number))
            fsync_folder(self.folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return manifest


def _sample(rows: Rows, read: ReadDescriptors) -> Tensor | None:
    """(N, D) descriptors of an even sample; None if all of them were deleted meanwhile."""
    step = np.linspace(0, len(rows) - 1, min(len(rows), MAX_FIT_IMAGES)).astype(int)
    chunks = [vectors for _, vectors in read(rows[step])]
    return torch.from_numpy(np.concatenate(chunks)) if chunks else None


def _kept_variance(projection: LinearProjection, sample: Tensor | None) -> float:
    """Share of the variance of (N, D) descriptors in the span of the directions, in [0, 1]."""
    if sample is None:
        return 1.0
    centred = sample.double() - sample.double().mean(dim=0)
    total = float(centred.square().sum())
    basis, _ = torch.linalg.qr(projection.directions.double().T)  # (D, d), orthonormal
    return min(1.0, float((centred @ basis).square().sum()) / total) if total else 1.0


def _tensors(projection: LinearProjection | None) -> dict[str, Tensor]:
    if projection is None:
        return {}
    if isinstance(projection, PCAProjection):
        return projection.tensors()
    return {"mean": projection.mean, "directions": projection.directions}


def _read_projection(tensors: dict[str, Tensor], recipe: Recipe) -> LinearProjection:
    """Raises KeyError where `_tensors` wrote something else."""
    if recipe.projection_digest:
        return LinearProjection(tensors["mean"], tensors["directions"])
    return PCAProjection.from_tensors(tensors)


def project(projection: LinearProjection | None, vectors: Vectors) -> Vectors:
    """Raw descriptors as they are searched: projected, or unchanged where there is none."""
    if projection is None:
        return vectors
    projected: Vectors = projection(torch.from_numpy(vectors)).numpy()
    return projected


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
