"""A bank of made views with the teacher's maps of them, on disk.

A teacher that looks at each view six times costs several times what training the student does.
So its maps are computed once, in shards that are files of their own: a bank that was interrupted
goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from engine.backbones.trunk import Trunk
from engine.errors import EngineError, InvalidOption
from engine.files.storage import storage_errors, write_atomically
from engine.pooling import Pooling
from engine.training.folder_lock import FolderLock, make_folder
from engine.training.grid import cells_of, grid_of
from engine.training.photos import read_photo
from engine.training.seeds import generator
from engine.training.teacher import Teacher
from engine.training.training_set import Rows
from engine.training.views import Size, distort, views
from engine.types import Pixels

MAX_SIDE = 320
"""Photos are decoded to at most this, or more for views above 192 pixels: see `_decoded_side`."""

Normalise = Callable[[Tensor], Tensor]
"""(B, 3, H, W) in [0, 1] to the input of a trunk."""

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class BankOptions:
    """What decides the content of a bank, besides photos and teacher.

    Attributes:
        count: views in all.
        shard: views per file.
        sizes: of the views, taken in turn by the shards; multiples of the student's stride.
    """

    count: int = 40_000
    shard: int = 500
    sizes: tuple[Size, ...] = ((160, 160), (128, 192), (192, 128))
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.shard <= self.count:
            raise InvalidOption(
                f"a bank of {self.count} views in shards of {self.shard} has no shard"
            )

    @property
    def shards(self) -> int:
        return -(-self.count // self.shard)


class Shard(NamedTuple):
    """Views (n, H, W, 3) bytes, the teacher's maps (n, h, w, C) and descriptors (n, D), float16."""

    views: Tensor
    maps: Tensor
    descriptors: Tensor | None


class Bank:
    """Views and what the teacher makes of them, in memory-mapped files."""

    def __init__(self, folder: Path, options: BankOptions) -> None:
        self.folder = folder
        self.options = options
        self._open: dict[int, Shard] = {}

    def file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.safetensors"

    def read(self, shard: int) -> Shard:
        """A shard by its number. Raises: InvalidOption for a file that is damaged."""
        if shard not in self._open:
            try:
                tensors = load_file(self.file(shard))
                self._open[shard] = Shard(
                    tensors["views"], tensors["maps"], tensors.get("descriptors")
                )
            except (OSError, SafetensorError, KeyError) as error:
                raise InvalidOption(
                    f"{self.file(shard)} is damaged ({error}); delete it and start again: "
                    "it will be made anew"
                ) from error
        return self._open[shard]

    def size(self, shard: int) -> Size:
        sizes = self.options.sizes
        return sizes[shard % len(sizes)]


def build_bank(
    folder: Path,
    photos: Sequence[Path],
    teacher: Teacher,
    student: Trunk,
    normalise: Normalise,
    options: BankOptions,
    *,
    recipe: dict[str, object],
    pooling: Pooling | None = None,
    report: Report | None = None,
) -> tuple[Bank, dict[str, str]]:
    """Make what is missing of a bank.

    Photos that cannot be read are left out: the next ones take their places.

    Args:
        student: whose grid the maps are to have; it is not run.
        recipe: what decides the targets (teacher, photos); a folder of another one is refused.
        pooling: keep the teacher's descriptors by it as well.

    Returns: the bank, and why each photo that was left out cannot be read, by its path; of shards
        that were there already nothing is said.
    Raises: InvalidOption, also while another process makes the bank; StorageFull.
    """
    bank = Bank(folder, options)
    with storage_errors(folder):
        make_folder(folder)
        with FolderLock(folder):
            # Not the count: a bank may grow.
            _claim(folder, {**recipe, **asdict(options), "count": None})
            order = generator(options.seed, 0).permutation(len(photos))
            faulty: dict[str, str] = {}
            for shard in range(options.shards):
                if not bank.file(shard).is_file():
                    found = _photos(photos, order, shard, options, faulty)
                    _make(bank, shard, found, teacher, student, normalise, pooling)
                if report:
                    report(min((shard + 1) * options.shard, options.count), options.count)
    return bank, faulty


def _decoded_side(options: BankOptions) -> int:
    """Views show parts of photos, which need some more pixels than they have."""
    return max(MAX_SIDE, 5 * max(max(size) for size in options.sizes) // 3)


def _photos(
    files: Sequence[Path],
    order: Rows,
    shard: int,
    options: BankOptions,
    faulty: dict[str, str],
) -> list[Pixels]:
    """A shard full of photos: from its place in `order` on, around, those that can be read.

    What is wrong with others is added to `faulty`. Raises: InvalidOption where none can be read.
    """
    found: list[Pixels] = []
    side = _decoded_side(options)
    place, missed = shard * options.shard, 0
    while len(found) < options.shard:
        file = files[order[place % len(order)]]
        photo = read_photo(file, max_side=side)
        if isinstance(photo, EngineError):
            faulty[str(file)] = str(photo)
            missed += 1
            if missed == len(order):
                raise InvalidOption(f"none of {missed} photos can be read, e.g. {file}: {photo}")
        else:
            found.append(photo)
            missed = 0
        place += 1
    return found


def _make(
    bank: Bank,
    shard: int,
    photos: Sequence[Pixels],
    teacher: Teacher,
    student: Trunk,
    normalise: Normalise,
    pooling: Pooling | None,
) -> None:
    size, seed = bank.size(shard), bank.options.seed
    onto, cells = grid_of(student), cells_of(student, *size)
    seen, maps, descriptors = [], [], []
    for start in range(0, len(photos), 50):
        clean = views(photos[start : start + 50], seed, 1, shard, start, size=size)
        images = normalise(clean)
        targets = teacher.maps(images, onto, cells)
        if pooling is not None:
            descriptors.append(teacher.descriptors(images, pooling).half().cpu())
        seen.append((distort(clean, seed, 2, shard, start) * 255).round().byte())
        maps.append(targets.half().cpu())
    tensors = {
        "views": torch.cat(seen).permute(0, 2, 3, 1).contiguous(),
        "maps": torch.cat(maps).permute(0, 2, 3, 1).contiguous(),
    }
    if descriptors:
        tensors["descriptors"] = torch.cat(descriptors)
    write_atomically(bank.file(shard), save(tensors))


def _claim(folder: Path, recipe: dict[str, object]) -> None:
    """Write down what the bank is made of. Raises: InvalidOption if it is of something else."""
    file = folder / "bank.json"
    text = json.dumps(recipe, indent=1, sort_keys=True)
    if not file.is_file():
        write_atomically(file, text.encode())
        return
    wanted = json.loads(text)
    try:
        stored = {**json.loads(file.read_text())}
    except (ValueError, TypeError) as error:
        raise InvalidOption(
            f"{file} is damaged: {error}; choose another folder, or delete this one"
        ) from error
    other = [name for name in {**stored, **wanted} if stored.get(name) != wanted.get(name)]
    if other:
        name = other[0]
        raise InvalidOption(
            f"the bank in {folder} was made with another {name} ({stored.get(name)!r}, not "
            f"{wanted.get(name)!r}); choose another folder, or delete this one"
        )
