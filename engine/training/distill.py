"""Distillation: a student learns to see in one pass what a teacher sees in several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import InvalidOption
from engine.pooling import Pooling
from engine.training.bank import Bank, Normalise
from engine.training.descriptors import TrainableDescriptor
from engine.training.device import Compute
from engine.training.grid import Grid
from engine.training.losses import (
    descriptor_distance,
    log_pair_distances,
    map_distance,
    pair_distances,
)
from engine.training.seeds import generator

PAIR_LOSSES = {"sum": pair_distances, "logarithm": log_pair_distances}


@dataclass(frozen=True)
class DistillOptions:
    """What the student is to agree with the teacher on, and how much each counts.

    Attributes:
        maps: weight of the feature maps, cell by cell.
        descriptors: weight of the squared distance of descriptors.
        pairs: weight of the distances between the descriptors of a batch.
        sharpness: exponent of the teacher's maps before they are targets; above 1 strong
            activations count more. (The teacher of 50.1 mAP in `Teacher`: 53.1 with 1.4.)
        pair_loss: `sum` or `logarithm` (which looks at the worst pairs).
        batch: views of a step.
    """

    maps: float = 1.0
    descriptors: float = 0.0
    pairs: float = 0.0
    sharpness: float = 1.0
    pair_loss: str = "sum"
    batch: int = 32

    def __post_init__(self) -> None:
        """Raises InvalidOption naming what is out of range."""
        weights = {"maps": self.maps, "descriptors": self.descriptors, "pairs": self.pairs}
        for name, value in weights.items():
            if not 0 <= value < float("inf"):
                raise InvalidOption(f"the weight of {name} is {value}; it must be 0 or more")
        if not any(weights.values()):
            raise InvalidOption("the weights of maps, descriptors and pairs are all 0")
        if not 0.5 <= self.sharpness <= 3:
            raise InvalidOption(f"sharpness is {self.sharpness}; it must be in [0.5, 3]")
        if self.pair_loss not in PAIR_LOSSES:
            raise InvalidOption(
                f"pair loss {self.pair_loss!r} is unknown; choose from {', '.join(PAIR_LOSSES)}"
            )
        if self.batch < 1:
            raise InvalidOption(f"batch is {self.batch}; it must be at least 1")

    @property
    def compares_descriptors(self) -> bool:
        return self.descriptors > 0 or self.pairs > 0


class Distillation:
    """A task for `engine.training.loop.train`; see its `Task`.

    Targets are scaled to a mean square of 1: descriptors do not depend on the scale of maps, and a
    student whose batch norms begin at 1 need not grow first.

    The last shard of the bank is kept for validation: the mean cosine between the student's and
    the teacher's descriptors of views that the student never learned from. Where their channels
    differ and only distances are learned, directions may differ too: minus the error of the
    distances is the score then.
    """

    def __init__(
        self,
        student: nn.Module,
        bank: Bank,
        pooling: Pooling,
        normalise: Normalise,
        options: DistillOptions,
        *,
        teacher_pooling: Pooling | None = None,
        mirrored: bool,
        grid: Grid,
        seed: int,
        compute: Compute,
    ) -> None:
        """Args:
            student: (B, 3, H, W) to maps of the bank's cells.
            pooling: makes the student's descriptors that are compared.
            teacher_pooling: makes the teacher's where its maps have other channels, in a bank that
                holds descriptors if they are learned from; None for the same one.
            mirrored: the teacher looks both ways, so that its maps of mirrored views are mirrored
                and its descriptors the same; half of the batches are then mirrored.
            grid: of the student. Views that it does not cover symmetrically are not mirrored.

        Raises: InvalidOption for a bank of one shard, or one without full batches, or weights of
            what cannot be compared.
        """
        check_comparable(options, pooling, teacher_pooling)
        if bank.options.shards < 2:
            raise InvalidOption("a bank needs at least two shards: the last one validates")
        self._student = student.to(compute.device)
        self._bank, self._options, self._seed = bank, options, seed
        self._mirrored, self._grid = mirrored, grid
        self._same_channels = teacher_pooling is None
        self._normalise, self._compute = normalise, compute
        self._descriptor, self._teacher_descriptor = (
            TrainableDescriptor(chosen).to(compute.device).requires_grad_(False)
            for chosen in (pooling, teacher_pooling or pooling)
        )
        batches = [
            len(bank.read(shard).views) // options.batch for shard in range(bank.options.shards - 1)
        ]
        self._places = [(shard, k) for shard, count in enumerate(batches) for k in range(count)]
        if not self._places:
            raise InvalidOption(
                f"no shard of the bank holds a batch of {options.batch} views; choose a smaller "
                "--batch or larger shards"
            )
        self.steps = len(self._places)
        kept = bank.read(bank.options.shards - 1).maps.float() ** options.sharpness
        self._scale = 1 / float(kept.square().mean().sqrt().clamp(min=1e-12))

    @property
    def module(self) -> nn.Module:
        return self._student

    def begin(self, epoch: int) -> None:
        self._student.train()

    def losses(self, epoch: int, step: int) -> Iterator[Tensor]:
        self._student.train()
        shard, part = self._places[self._order(epoch)[step]]
        rows = generator(self._seed, 4, epoch, shard).permutation(len(self._bank.read(shard).views))
        chosen = torch.from_numpy(rows[part * self._options.batch :][: self._options.batch])
        images, maps, descriptors = self._load(shard, chosen)
        symmetric = self._grid.is_symmetric(maps.shape[3], images.shape[3])
        mirrored = self._mirrored and symmetric
        if mirrored and generator(self._seed, 5, epoch, step).random() < 0.5:
            images, maps = images.flip(-1), maps.flip(-1)
        yield self._loss(self._see(images), maps, descriptors)

    def validate(self) -> Mapping[str, float]:
        shard = self._bank.options.shards - 1
        count = len(self._bank.read(shard).views)
        self._student.eval()
        found, wanted, distances = [], [], []
        with torch.inference_mode():
            for rows in torch.split(torch.arange(count), self._options.batch):
                images, maps, descriptors = self._load(shard, rows)
                seen = self._see(images)
                found.append(self._descriptor(seen))
                wanted.append(self._wanted(maps, descriptors))
                if self._same_channels:
                    distances.append(map_distance(seen, maps))
        ours, theirs = torch.cat(found), torch.cat(wanted)
        if not self._same_channels and not self._options.descriptors:
            return {"minus pair distance": -float(pair_distances(ours, theirs))}
        scores = {"cosine": float((ours * theirs).sum(dim=1).mean())}
        if distances:
            scores["map distance"] = float(torch.stack(distances).mean())
        return scores

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass

    def _order(self, epoch: int) -> list[int]:
        order: list[int] = generator(self._seed, 3, epoch).permutation(self.steps).tolist()
        return order

    def _load(self, shard: int, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normalised views (B, 3, H, W), the teacher's maps (B, C, h, w) and its descriptors."""
        tensors = self._bank.read(shard)
        views = tensors.views[rows].to(self._compute.device).permute(0, 3, 1, 2).float() / 255
        maps = tensors.maps[rows].to(self._compute.device).permute(0, 3, 1, 2).float()
        maps = maps**self._options.sharpness * self._scale
        descriptors = None
        if self._options.compares_descriptors and tensors.descriptors is not None:
            descriptors = tensors.descriptors[rows].to(self._compute.device).float()
        return self._normalise(views), maps, descriptors

    def _see(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        with self._compute.autocast():
            maps: Tensor = self._student(images)
        return maps.float()

    def _loss(self, seen: Tensor, maps: Tensor, descriptors: Tensor | None) -> Tensor:
        options = self._options
        total = torch.zeros((), device=self._compute.device)
        if options.maps:
            total = total + options.maps * map_distance(seen, maps)
        if options.compares_descriptors:
            found = self._descriptor(seen)
            wanted = self._wanted(maps, descriptors)
            if options.descriptors:
                total = total + options.descriptors * descriptor_distance(found, wanted)
            if options.pairs:
                total = total + options.pairs * PAIR_LOSSES[options.pair_loss](found, wanted)
        return total

    @torch.no_grad()
    def _wanted(self, maps: Tensor, descriptors: Tensor | None) -> Tensor:
        """The teacher's descriptors: the bank's, or of its maps."""
        if descriptors is not None:
            return descriptors
        found: Tensor = self._teacher_descriptor(maps)
        return found


def check_comparable(
    options: DistillOptions, pooling: Pooling, teacher_pooling: Pooling | None
) -> None:
    """Raises InvalidOption for weights of what has two shapes."""
    if teacher_pooling is None:
        return
    if options.maps:
        raise InvalidOption(
            "the maps of teacher and student have different channels: set the weight of maps to 0 "
            "and give weight to descriptors or pairs"
        )
    if options.descriptors and pooling.dim != teacher_pooling.dim:
        raise InvalidOption(
            f"descriptors of the student have {pooling.dim} values, those of the teacher "
            f"{teacher_pooling.dim}: set the weight of descriptors to 0 and learn from pairs, or "
            "choose a pooling of fixed length such as cbp_ac"
        )
