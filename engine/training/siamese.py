"""Siamese learning of the co-occurrence filter (paper, section 5.1): the trunk stays as it is."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.cooccurrence import activation_mask
from engine.cooccurrence_filter import pooling_with_filter
from engine.errors import InvalidOption, TrainingFailed
from engine.pooling import build_pooling
from engine.pooling.second_order import BilinearCooccurrence, CompactBilinearCooccurrence
from engine.pooling.tensors import Cooccurrence, LearnedCooccurrence
from engine.training.descriptors import TrainableDescriptor
from engine.training.device import Compute
from engine.training.losses import contrastive
from engine.training.map_cache import MapCache
from engine.training.mining import draw_epoch, hard_negatives, validation_map
from engine.training.training_set import Rows, TrainingSet

log = logging.getLogger(__name__)

POSITIONS = 2048
"""Of maps that pass the filter at once: with r = 4 and 512 channels their windows take 170 MB."""


@dataclass(frozen=True)
class SiameseOptions:
    """What an epoch learns from.

    Attributes:
        margin: tau, the distance from which negatives are left alone. The published 0.85 is for
            descriptors that are only normalised: with the signed root the hardest negatives are
            about 1 apart, and 0.85 would leave all of them alone.
        negatives: of each query, the hardest of the epoch's pool.
        pairs: of query and positive, drawn for each epoch.
        pool: photos, drawn for each epoch, among which negatives are sought.
        batch: tuples of a step.
    """

    margin: float = 1.1
    negatives: int = 5
    pairs: int = 2000
    pool: int = 20_000
    batch: int = 5

    def __post_init__(self) -> None:
        """Raises InvalidOption naming what is out of range."""
        if not 0 < self.margin <= 2:
            raise InvalidOption(
                f"margin is {self.margin}; it must be above 0 and at most 2, the largest distance "
                "of two descriptors"
            )
        for name in ("negatives", "pairs", "pool", "batch"):
            if getattr(self, name) < 1:
                raise InvalidOption(f"{name} is {getattr(self, name)}; it must be at least 1")


class MixedCooccurrence(Cooccurrence):
    """A learned co-occurrence whose products are made in mixed precision.

    The mask is found before anything is rounded, so it is that of the service. On CPUs the
    convolution is made as one matrix product with the windows of all positions, which their
    matrix units take three times as fast as a convolution (512 channels, r = 4, with its
    gradient).
    """

    def __init__(self, learned: LearnedCooccurrence, compute: Compute) -> None:
        super().__init__()
        self.learned = learned
        self.compute = compute
        self.options = learned.options

    def forward(self, features: Tensor) -> Tensor:
        if not self.compute.mixed:
            exact: Tensor = self.learned(features)
            return exact
        mask = activation_mask(features)
        active = (features * mask).to(self.compute.dtype)
        if features.device.type == "cpu":
            filtered = filtered_by_product(active, self.learned.weight)
        else:
            weight = self.learned.weight.to(self.compute.dtype)
            filtered = F.conv2d(active, weight, padding=self.learned.radius)
        return filtered.float() / (features.shape[1] - 1) * mask


def filtered_by_product(features: Tensor, weight: Tensor) -> Tensor:
    """conv2d(features, weight) with zero padding, as one matrix product, in their dtype.

    Args:
        features: (B, C, H, W).
        weight: (K, C, 2r+1, 2r+1); gradients flow to it.

    Returns: (B, K, H, W).
    """
    batch, _, height, width = features.shape
    size = weight.shape[-1]
    margin = (size // 2,) * 4
    padded = F.pad(features.permute(0, 2, 3, 1), (0, 0, *margin))  # (B, H + 2r, W + 2r, C)
    windows = padded.unfold(1, size, 1).unfold(2, size, 1)  # (B, H, W, C, s, s)
    rows = windows.permute(0, 1, 2, 4, 5, 3).reshape(batch * height * width, -1)  # (BHW, ssC)
    taps = weight.to(features.dtype).permute(0, 2, 3, 1).reshape(len(weight), -1)  # (K, ssC)
    return (rows @ taps.T).reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def filter_spec(pooling: str, radius: int) -> str:
    """The pooling with a learned co-occurrence of that radius.

    Raises: InvalidOption for one without, or which says something else.
    """
    return pooling_with_filter(
        pooling, torch.zeros(2, 2, 2 * radius + 1, 2 * radius + 1), "trained"
    )


def filter_descriptor(
    spec: str, channels: int, compute: Compute
) -> tuple[TrainableDescriptor, LearnedCooccurrence]:
    """Descriptors by the pooling `spec`, of which nothing but the filter can be trained.

    Returns: the descriptor, and its co-occurrence, which begins as the direct filter.
    Raises: InvalidOption for a pooling that has no learned co-occurrence.
    """
    pooling = build_pooling(spec, channels).requires_grad_(False).to(compute.device)
    bilinear = isinstance(pooling, BilinearCooccurrence | CompactBilinearCooccurrence)
    learned = pooling.cooccurrence if bilinear else None
    if not isinstance(learned, LearnedCooccurrence):
        raise InvalidOption(f"pooling {spec} has no filter to be trained; choose cbp_ac or bp_ac")
    learned.requires_grad_(True)
    pooling.cooccurrence = MixedCooccurrence(learned, compute)
    return TrainableDescriptor(pooling), learned


class Siamese:
    """A task for `engine.training.loop.train`; see its `Task`.

    Learns from tuples of a query, its match, and the negatives that are the hardest for the
    filter as it is when the epoch begins. Validates by the mAP of finding the other photos of a
    held-out thing.

    Attributes:
        first_score: that mAP before the first epoch; NaN until then.
    """

    def __init__(
        self,
        descriptor: TrainableDescriptor,
        learned: nn.Module,
        maps: MapCache,
        training_set: TrainingSet,
        held_out: TrainingSet,
        options: SiameseOptions,
        *,
        seed: int,
    ) -> None:
        """Args:
            learned: the part of `descriptor` that is trained.
            held_out: photos of things that are not in the training set.

        Raises: InvalidOption for sets without a pair.
        """
        for what, found in (("training", training_set), ("validation", held_out)):
            if not len(found.queries):
                raise InvalidOption(f"the {what} set has no pair of photos that match")
        self._descriptor, self._learned = descriptor, learned
        self._maps, self._options, self._seed = maps, options, seed
        self._train, self._held_out = training_set, held_out
        self._tuples: Rows = np.empty((0, 2 + options.negatives), dtype=np.int64)
        self.first_score = math.nan
        self.steps = -(-min(options.pairs, len(training_set.queries)) // options.batch)

    @property
    def module(self) -> nn.Module:
        return self._learned

    def begin(self, epoch: int) -> None:
        """Draw pairs and a pool, and mine the negatives.

        Raises: TrainingFailed where no pair can be read, or the training diverged.
        """
        options, photos = self._options, self._train
        drawn = draw_epoch(
            photos, pairs=options.pairs, pool=options.pool, seed=self._seed, epoch=epoch
        )
        rows = np.unique(np.concatenate([drawn.queries, drawn.positives, drawn.pool]))
        log.info("epoch %d: mining negatives among %d photos", epoch + 1, len(drawn.pool))
        vectors, good = self.describe([photos.files[row] for row in rows])
        place = np.full(len(photos.names), -1, dtype=np.int64)
        place[rows[good]] = np.arange(len(good))
        kept = np.flatnonzero((place[drawn.queries] >= 0) & (place[drawn.positives] >= 0))
        if not len(kept):
            raise TrainingFailed(
                f"of {len(drawn.queries)} pairs of photos none can be read; the log names the "
                "photos"
            )
        if len(kept) < self.steps:
            # Every step needs one: some are taken twice.
            kept = np.resize(kept, self.steps)
        queries, positives = drawn.queries[kept], drawn.positives[kept]
        pool = drawn.pool[place[drawn.pool] >= 0]
        try:
            negatives = hard_negatives(
                vectors[place[queries]],
                photos.clusters[queries],
                vectors[place[pool]],
                photos.clusters[pool],
                count=options.negatives,
            )
        except ValueError as error:
            raise TrainingFailed(f"no negatives can be found: {error}") from error
        self._tuples = np.column_stack([queries, positives, pool[negatives]])

    def losses(self, epoch: int, step: int) -> Iterator[Tensor]:
        """Of one tuple after the other: the mean over the tuples of a step is what it learns."""
        count = len(self._tuples)
        chosen = self._tuples[step * count // self.steps : (step + 1) * count // self.steps]
        for rows in chosen:
            yield self.tuple_loss(rows) / len(chosen)

    def tuple_loss(self, rows: Rows) -> Tensor:
        """The contrastive loss of a query, its positive and its negatives, summed over pairs."""
        maps = self._maps.read([self._train.files[row] for row in rows])
        described: list[Tensor | None] = [None] * len(maps)
        for positions, batch in _by_shape(enumerate(maps)):
            for position, vector in zip(positions, self._descriptor(batch), strict=True):
                described[position] = vector
        vectors = torch.stack([vector for vector in described if vector is not None])
        others = vectors[1:]
        same = torch.arange(len(others), device=others.device) == 0
        return contrastive(vectors[:1].expand_as(others), others, same, margin=self._options.margin)

    def validate(self) -> Mapping[str, float]:
        photos = self._held_out
        vectors, good = self.describe(photos.files)
        if not bool(vectors.isfinite().all()):
            return {"mAP": float("nan")}
        place = np.full(len(photos.names), -1, dtype=np.int64)
        place[good] = np.arange(len(good))
        queries = place[photos.queries]
        try:
            score = validation_map(vectors, photos.clusters[good], queries[queries >= 0])
        except ValueError as error:
            raise TrainingFailed(f"the validation set is of no use: {error}") from error
        if math.isnan(self.first_score):
            self.first_score = score
        return {"mAP": score}

    def state(self) -> dict[str, Any]:
        return {"tuples": torch.from_numpy(self._tuples), "first_score": self.first_score}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._tuples = state["tuples"].numpy()
        self.first_score = float(state["first_score"])

    @torch.no_grad()
    def describe(self, files: Sequence[Path]) -> tuple[Tensor, Rows]:
        """Descriptors (n, D) of those photos that can be read, and their places in `files`."""
        found: dict[int, Tensor] = {}
        for positions, batch in _by_shape(self._maps.stream(files)):
            found.update(zip(positions, self._descriptor(batch), strict=True))
        good = np.array(sorted(found), dtype=np.int64)
        if not found:
            raise TrainingFailed(f"none of {len(files)} photos can be read; the log says why")
        return torch.stack([found[position] for position in good.tolist()]), good


def _by_shape(maps: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[list[int], Tensor]]:
    """Maps (1, C, h, w) of any shapes as batches of one shape, each with its positions."""
    waiting: defaultdict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)
    for position, features in maps:
        same = waiting[features.shape]
        same.append((position, features))
        if len(same) >= max(1, POSITIONS // features.shape[2:].numel()):
            yield _joined(waiting.pop(features.shape))
    for rest in waiting.values():
        yield _joined(rest)


def _joined(maps: Sequence[tuple[int, Tensor]]) -> tuple[list[int], Tensor]:
    return [position for position, _ in maps], torch.cat([features for _, features in maps])
