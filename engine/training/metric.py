"""Metric learning: descriptors become short, and the same thing comes together in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import InvalidOption
from engine.pooling import Pooling
from engine.postprocess import LinearProjection, PCAProjection, l2_normalize
from engine.training.adjusted import AdjustedTrunk
from engine.training.descriptors import TrainableDescriptor
from engine.training.device import Compute
from engine.training.losses import labelled_loss
from engine.training.mining import validation_map
from engine.training.sampling import balanced_batch, one_against_others
from engine.training.seeds import generator
from engine.training.training_set import Rows

MAX_DIM = 512
BATCHINGS = ("balanced", "one-against-others")


@dataclass(frozen=True)
class MetricOptions:
    """What a head is, and what it learns from.

    Attributes:
        dim: length of the descriptors it makes.
        basis: leading principal directions of the raw descriptors that it may use; those after
            them are left out, as a few thousand photos say nothing about them.
        power: of the eigenvalues by which those are divided, see `PCAProjection`.
        loss: one of `engine.training.losses.LABELLED_LOSSES`.
        margin: None for the loss's own.
        batching: `balanced` (some photos of each of several things) or `one-against-others` (many
            photos of one thing, one each of others).
        things, photos_each: of a batch; one against others takes `photos_each` of the one and
            `things` others.
        steps: of an epoch.
    """

    dim: int = 128
    basis: int = 1024
    power: float = 0.5
    loss: str = "lifted"
    margin: float | None = None
    batching: str = "balanced"
    things: int = 16
    photos_each: int = 4
    steps: int = 50

    def __post_init__(self) -> None:
        """Raises InvalidOption naming what is out of range."""
        if not 1 <= self.dim <= MAX_DIM:
            raise InvalidOption(f"dim is {self.dim}; it must be in [1, {MAX_DIM}]")
        if self.basis < self.dim:
            raise InvalidOption(f"basis is {self.basis}; it must be at least dim, {self.dim}")
        if not 0 <= self.power <= 0.5:
            raise InvalidOption(f"power is {self.power}; it must be in [0, 0.5]")
        if self.batching not in BATCHINGS:
            raise InvalidOption(
                f"batching {self.batching!r} is unknown; choose from {', '.join(BATCHINGS)}"
            )
        if self.things < 1 or self.photos_each < 2:
            raise InvalidOption(
                f"things is {self.things} and photos_each {self.photos_each}; "
                "they must be at least 1 and 2"
            )
        if self.steps < 1:
            raise InvalidOption(f"steps is {self.steps}; it must be at least 1")
        labelled_loss(self.loss, margin=self.margin)


class Head(nn.Module):
    """y = L2(W (x - m)) with W = (E + M) s B, of which M is learned.

    B are the K leading principal directions of the descriptors, each divided by its eigenvalue to
    some power; E keeps the first d of them, so that with M = 0 the head is that PCA; s makes
    s B (x - m) of length 1 on average. Learning changes every direction about as fast as its
    spread, not as the few strongest would have it, and weight decay draws the head back to the PCA.

    Attributes:
        mean: m, (D,).
        basis: s B, (K, D).
        change: M, (d, K).
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, pca: PCAProjection, dim: int) -> None:
        """`pca` has K directions, undamped by `dim`; d is `dim`, or K if that is less."""
        super().__init__()
        count = len(pca.directions)
        # Along a direction of the PCA the variance is lambda^(1 - 2 power).
        length = float(pca.eigenvalues.double().pow(1 - 2 * pca.power).sum().sqrt())
        self.register_buffer("mean", pca.mean.clone())
        self.register_buffer("basis", pca.directions / length)
        self.change = nn.Parameter(torch.zeros(min(dim, count), count))

    @property
    def dim(self) -> int:
        return len(self.change)

    def coordinates(self, descriptors: Tensor) -> Tensor:
        """(..., D) raw descriptors to s B (x - m), (..., K) float32."""
        return (descriptors.float() - self.mean) @ self.basis.T

    def forward(self, coordinates: Tensor) -> Tensor:
        """What `coordinates` gave, (..., K), to descriptors (..., d) of unit length."""
        found = coordinates[..., : self.dim] + coordinates @ self.change.T
        # What overflows would be divided to zero, and no loss would complain.
        overflown = torch.linalg.vector_norm(found.detach(), dim=-1, keepdim=True).isinf()
        return l2_normalize(found).masked_fill(overflown, torch.nan)

    def projection(self) -> LinearProjection:
        """The same, of raw descriptors; float32 on the CPU."""
        kept = torch.eye(*self.change.shape, dtype=torch.float64)
        directions = (kept + self.change.detach().double().cpu()) @ self.basis.double().cpu()
        return LinearProjection(self.mean.detach().cpu().clone(), directions.float().contiguous())


def start_pca(descriptors: Tensor, options: MetricOptions) -> PCAProjection:
    """The PCA of (N, D) descriptors with which a head begins.

    Raises: InvalidOption for fewer than two descriptors, or if all are equal.
    """
    try:
        return PCAProjection.fit(descriptors, options.basis, options.power, bounded=False)
    except ValueError as error:
        raise InvalidOption(f"a head cannot be started: {error}") from error


class Batches:
    """Which photos a step sees, in which views."""

    def __init__(
        self, clusters: Rows, options: MetricOptions, *, views: int, instances: bool
    ) -> None:
        """
        Args:
            clusters: (N,) int64 of the photos.
            views: V, made ones of each photo.
            instances: each photo counts as a thing of its own, whose views are its photos.

        Raises: InvalidOption where there is nothing to compare.
        """
        self._options, self._views, self._instances = options, views, instances
        if instances and views < 1:
            raise InvalidOption("photos as things of their own need made views; set views above 0")
        photos = np.arange(len(clusters), dtype=np.int64)
        self._photos = np.repeat(photos, views + 1) if instances else photos
        self._clusters = self._photos if instances else clusters
        _, sizes = np.unique(self._clusters, return_counts=True)
        several = int((sizes > 1).sum())
        if not several or len(sizes) < 2:
            raise InvalidOption(
                f"there are {len(sizes)} things to learn from, {several} of them with two photos "
                "or more; at least 2 and 1 are needed"
            )
        balanced = options.batching == "balanced"
        if balanced and several < 2:
            raise InvalidOption(
                "there is 1 thing with two photos or more; balanced batches need at least 2, "
                "one-against-others does with 1"
            )
        self.things = min(options.things, several if balanced else len(sizes) - 1)

    def draw(self, seed: int, step: int) -> tuple[Rows, Rows, Rows]:
        """(n,) rows of photos, which view of each (0 for the photo itself), and its cluster."""
        options = self._options
        if options.batching == "balanced":
            rows = balanced_batch(
                self._clusters,
                things=self.things,
                photos_each=options.photos_each,
                seed=seed,
                step=step,
            )
        else:
            rows = one_against_others(
                self._clusters, same=options.photos_each, others=self.things, seed=seed, step=step
            )
        if self._instances:
            seen = rows % (self._views + 1)
        else:
            seen = generator(seed, 6, step).integers(self._views + 1, size=len(rows))
        return self._photos[rows], seen, self._clusters[rows]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Photos on which validation ranks; none of their things is learned from.

    Attributes:
        descriptors: (N, D) raw.
        clusters: (N,) int64.
        queries: (Q,) int64 rows, each of which is to find the rest of its cluster.
    """

    descriptors: Tensor
    clusters: Rows
    queries: Rows

    def score(self, descriptors: Tensor) -> float:
        """Mean average precision of (N, d) descriptors of these photos; NaN if some are NaN."""
        if not descriptors.isfinite().all():
            return math.nan
        return validation_map(descriptors, self.clusters, self.queries)


class HeadLearning:
    """A task for `engine.training.loop.train`: the head alone, over a trunk that stays as it is.

    Validates by the mAP of the head on what was held out; `raw` and `PCA`, beside it, are those of
    the whole raw descriptors and of the head as it began.
    """

    def __init__(
        self,
        head: Head,
        coordinates: Tensor,
        batches: Batches,
        held_out: HeldOut,
        options: MetricOptions,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        """
        Args:
            coordinates: (N, V + 1, K) of the photos to learn from and their views.
        """
        self.steps = options.steps
        self._head = head.to(device)
        self._coordinates, self._batches, self._seed = coordinates, batches, seed
        self._device = device
        self._loss = labelled_loss(options.loss, margin=options.margin)
        self._held_out = held_out
        with torch.no_grad():
            self._seen = head.coordinates(held_out.descriptors.to(device))
            self._fixed = {
                "raw": held_out.score(held_out.descriptors.float()),
                "PCA": held_out.score(self._seen[:, : head.dim]),
            }

    @property
    def module(self) -> nn.Module:
        return self._head

    def begin(self, epoch: int) -> None:
        pass

    def losses(self, epoch: int, step: int) -> Iterator[Tensor]:
        rows, views, clusters = self._batches.draw(self._seed, epoch * self.steps + step)
        seen = self._coordinates[torch.from_numpy(rows), torch.from_numpy(views)]
        labels = torch.from_numpy(clusters).to(self._device)
        yield self._loss(self._head(seen.to(self._device)), labels)

    def validate(self) -> Mapping[str, float]:
        with torch.no_grad():
            return {"mAP": self._held_out.score(self._head(self._seen)), **self._fixed}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass


class TrunkAndHead(nn.Module):
    """What is learned where the trunk learns too."""

    def __init__(self, trunk: AdjustedTrunk, head: Head) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head


class TrunkLearning:
    """A task for `engine.training.loop.train`: trunk and head together, from pixels.

    Validates as `HeadLearning` does, with raw descriptors by the trunk as it is now.
    """

    def __init__(
        self,
        model: TrunkAndHead,
        pooling: Pooling,
        images: Callable[[Rows, int], Tensor],
        batches: Batches,
        held_out: HeldOut,
        describe: Callable[[Mapping[str, Tensor]], Tensor],
        options: MetricOptions,
        *,
        seed: int,
        compute: Compute,
    ) -> None:
        """
        Args:
            images: normalised views (n, 3, H, W) of photos (n,), made anew for each step.
            held_out: its descriptors are not looked at, as those of a trunk that learns change.
            describe: (N, D) in their place, by a trunk of a state dict.
        """
        self.steps = options.steps
        self._model = model.to(compute.device)
        self._descriptor = TrainableDescriptor(pooling).to(compute.device).requires_grad_(False)
        self._images, self._batches, self._seed = images, batches, seed
        self._compute = compute
        self._loss = labelled_loss(options.loss, margin=options.margin)
        self._held_out, self._describe = held_out, describe
        self._start, _ = self._rank()

    @property
    def module(self) -> nn.Module:
        return self._model

    def begin(self, epoch: int) -> None:
        pass

    def losses(self, epoch: int, step: int) -> Iterator[Tensor]:
        number = epoch * self.steps + step
        rows, _, clusters = self._batches.draw(self._seed, number)
        images = self._images(rows, number).to(self._compute.device)
        with self._compute.autocast():
            maps = self._model.trunk(images.contiguous(memory_format=torch.channels_last))
        head = self._model.head
        found = head(head.coordinates(self._descriptor(maps.float())))
        yield self._loss(found, torch.from_numpy(clusters).to(self._compute.device))

    def validate(self) -> Mapping[str, float]:
        found, raw = self._rank()
        return {"mAP": found, "raw": raw, "PCA": self._start}

    def trunk_state(self) -> dict[str, Tensor]:
        """State dict of the trunk as it is now; float32 copies on the CPU."""
        return self._model.trunk.state()

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass

    def _rank(self) -> tuple[float, float]:
        """mAP by the head, and by raw descriptors."""
        with torch.no_grad():
            raw = self._describe(self.trunk_state()).to(self._compute.device)
            found = self._model.head(self._model.head.coordinates(raw))
            return self._held_out.score(found), self._held_out.score(raw.float())
