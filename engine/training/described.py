"""Raw descriptors of photos and of made views of them: computed once, kept in files.

A trunk that stays as it is sees nothing new in the second epoch. What it makes of each photo, and
of some views of it, is therefore written down, in shards that are files of their own: work that
was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from engine.describer import Describer
from engine.errors import EngineError, InvalidOption
from engine.files.storage import storage_errors, write_atomically
from engine.training.photos import read_photo
from engine.training.views import Size, distort, views
from engine.types import Pixels

SHARD = 128
"""Photos per file."""
GROUP = 16
"""Photos that are in memory at once."""

Report = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Described:
    """Descriptors of the photos that can be read.

    Attributes:
        descriptors: (N, V + 1, D) float16 of unit length: of each photo as it is, then of V views.
        rows: (N,) int64, which of the photos asked for these are; ascending.
        faulty: why each of the others cannot be read, by its path.
    """

    descriptors: Tensor
    rows: Tensor
    faulty: Mapping[str, str]


def view_sizes(max_side: int) -> tuple[Size, ...]:
    """Heights and widths of made views, taken in turn: wide, tall and square ones.

    All have about the pixels of a photo of 4:3 whose longer side is `max_side`, and sides that are
    multiples of 16, at least 32.
    """
    sides = (max_side, round(0.75 * max_side), round(0.866 * max_side))
    long, short, square = (max(32, side // 16 * 16) for side in sides)
    return ((short, long), (long, short), (square, square))


def made_views(photos: Sequence[Pixels], size: Size, seed: int, *place: int) -> Tensor:
    """A made view of each photo, (N, 3, H, W) float32 in [0, 1].

    Raises: InvalidOption without kornia.
    """
    return distort(views(photos, seed, *place, size=size), seed, *place)


def describe_photos(
    folder: Path | None,
    files: Sequence[Path],
    describer: Describer,
    *,
    count: int,
    seed: int,
    report: Report | None = None,
) -> Described:
    """Describe what `folder` does not hold yet.

    Args:
        folder: None to keep nothing.
        files: photos; those that cannot be read are left out.
        count: V, made views of each photo.
        seed: of the views.

    Raises: InvalidOption if none can be read, or if the folder holds descriptors of something
        else; StorageFull, StorageReadOnly.
    """
    recipe = {"fingerprint": describer.recipe.fingerprint, "views": count, "seed": seed}
    with storage_errors(folder) if folder else nullcontext():
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            _claim(folder, {**recipe, "photos": [str(file) for file in files]})
        shards = []
        for start in range(0, len(files), SHARD):
            shards.append(_shard(folder, files, start, describer, count, seed))
            if report:
                report(min(start + SHARD, len(files)), len(files))
    good = torch.cat([shard["good"] for shard in shards])
    bad = [files[row] for row in torch.nonzero(~good).flatten().tolist()]
    faulty = {str(file): _reason(file, describer) for file in bad}
    if not good.any():
        raise InvalidOption(
            f"none of {len(files)} photos can be read, e.g. {bad[0]}: {faulty[str(bad[0])]}"
        )
    descriptors = torch.cat([shard["descriptors"][shard["good"]] for shard in shards])
    return Described(descriptors, torch.nonzero(good).flatten(), faulty)


def _shard(
    folder: Path | None,
    files: Sequence[Path],
    start: int,
    describer: Describer,
    count: int,
    seed: int,
) -> dict[str, Tensor]:
    """`good` (n,) and `descriptors` (n, V + 1, D) of the photos from `start` on."""
    here = files[start : start + SHARD]
    if folder is None:
        return _describe(describer, here, start, count, seed)
    path = folder / f"shard-{start // SHARD:05d}.safetensors"
    if not path.is_file():
        write_atomically(path, save(_describe(describer, here, start, count, seed)))
    return _read(path)


def _describe(
    describer: Describer, files: Sequence[Path], start: int, count: int, seed: int
) -> dict[str, Tensor]:
    good = torch.zeros(len(files), dtype=torch.bool)
    out = torch.zeros(len(files), count + 1, describer.pooling.dim, dtype=torch.float16)
    sizes = view_sizes(describer.options.max_side)
    for first in range(0, len(files), GROUP):
        rows, photos = [], []
        for row, file in enumerate(files[first : first + GROUP], start=first):
            photo = read_photo(file, max_side=describer.options.max_side)
            if not isinstance(photo, EngineError):
                rows.append(row)
                photos.append(photo)
        if not photos:
            continue
        good[rows] = True
        out[rows, 0] = torch.from_numpy(describer.describe(photos)).half()
        for view in range(count):
            made = made_views(photos, sizes[view % len(sizes)], seed, start + first, view)
            pixels = (made * 255).round().byte().permute(0, 2, 3, 1).numpy()
            out[rows, view + 1] = torch.from_numpy(describer.describe(list(pixels))).half()
    return {"descriptors": out, "good": good}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
        return {name: tensors[name] for name in ("descriptors", "good")}
    except (OSError, SafetensorError, KeyError) as error:
        raise InvalidOption(
            f"{path} is damaged ({error}); delete it and start again: it will be made anew"
        ) from error


def _reason(file: Path, describer: Describer) -> str:
    found = read_photo(file, max_side=describer.options.max_side)
    return str(found) if isinstance(found, EngineError) else "it could not be read before"


def _claim(folder: Path, recipe: dict[str, Any]) -> None:
    """Write down what is described. Raises: InvalidOption if it is something else."""
    file = folder / "described.json"
    if not file.is_file():
        write_atomically(file, json.dumps(recipe, indent=1).encode())
        return
    try:
        stored = json.loads(file.read_text())
    except ValueError as error:
        raise InvalidOption(f"{file} is damaged: {error}; delete {folder}") from error
    for name, value in recipe.items():
        if stored.get(name) != value:
            raise InvalidOption(
                f"the descriptors in {folder} are of other {name}; choose another folder, or "
                "delete this one"
            )
