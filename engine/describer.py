"""Images to raw descriptors: batches by shape, several scales, any device and precision."""

from __future__ import annotations

import logging
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.backbones import build_trunk
from engine.backbones.trunk import Trunk
from engine.backbones.weights import Weights
from engine.descriptor_weights import filter_digest, projection_digest
from engine.errors import (
    BadImage,
    DeviceLost,
    EngineError,
    InvalidOption,
    OutOfMemory,
    WeightsUnavailable,
)
from engine.images import Box, Cut, DecodedImage, decode, pixels_of
from engine.passes.cores import cores
from engine.passes.devices import is_out_of_memory, still_computes
from engine.passes.freed_memory import give_back
from engine.passes.pass_size import PassSize
from engine.pooling import Pooling, build_pooling, load_filter, parse_spec
from engine.postprocess import LinearProjection, l2_normalize, signed_sqrt
from engine.types import Pixels, Recipe, Vectors

T = TypeVar("T")

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "float32", "bfloat16")

PIXELS_PER_PASS = {"cpu": 1 << 17, "cuda": 1 << 24}
"""Input pixels of one forward pass. On a CPU larger batches only push activations out of the
caches (VGG16, two images of 512 x 384 at once: 1.2 times the time of one after the other)."""

LARGE_PIXELS = 25_000_000
"""Images of more are decoded one at a time: one of 100 million takes up to a gigabyte."""


@dataclass(frozen=True)
class DescriberOptions:
    """The choices behind a descriptor. `device` and `precision` do not change its meaning."""

    backbone: str = "vgg16"
    layer: str | None = None
    max_side: int = 512
    scales: tuple[float, ...] = (1.0,)
    pooling: str = "cbp_ac"
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = 8
    max_pixels: int = 100_000_000
    max_bytes: int = 64 << 20
    projection_dim: int = 512
    projection_power: float = 0.25
    projection_shrinkage: float = 0.0


class Source(Protocol):
    """An image whose bytes can be read when its turn comes; `box` is the part that is meant.

    `upright` says whether its EXIF orientation is applied; a box then counts from there.
    """

    @property
    def box(self) -> Box | None: ...

    @property
    def upright(self) -> bool: ...

    def read(self) -> bytes: ...


class Describer:
    """A frozen trunk and poolings over it: everything between a file's bytes and its descriptor.

    One instance may be shared between threads. On a CPU passes share its cores
    (`engine.passes.cores`); put `engine.batcher.Batcher` in front where several callers compete.
    """

    lost: str | None = None
    """Why the device computes no more; None as long as it does."""

    def __init__(
        self,
        options: DescriberOptions,
        weights: Weights,
        *,
        cooccurrence_filter: Tensor | None = None,
        projection: LinearProjection | None = None,
    ) -> None:
        """Build the trunk on its device.

        Args:
            cooccurrence_filter: (C, C, 2r+1, 2r+1), for poolings with a learned co-occurrence.
            projection: a learned one, which belongs to the recipe: an index searches what it
                makes of raw descriptors, and fits none of its own.

        Raises: InvalidOption or WeightsUnavailable.
        """
        if not options.scales or not all(0.1 <= scale <= 2.0 for scale in options.scales):
            raise InvalidOption(f"scales are {options.scales}; each must be in [0.1, 2]")
        if options.max_side < 32:
            raise InvalidOption(f"max_side is {options.max_side}; it must be at least 32")
        self.options = options
        # Decoding a large image takes a gigabyte: no more at once than keep the cores busy.
        self._decoding = threading.BoundedSemaphore((os.cpu_count() or 1) + 2)
        self._decoding_large = threading.Lock()
        self.weights = weights
        self.device = choose_device(options.device)
        self.dtype = choose_dtype(options.precision, self.device)
        self._pass_size = PassSize(PIXELS_PER_PASS[self.device.type])
        self.cooccurrence_filter = cooccurrence_filter
        self.projection = projection
        self.trunk, self.pooling = cores().run(self._model)
        self._check_projection()
        uses_filter = self.pooling.options.get("cooccurrence") == "learned"
        used = cooccurrence_filter if uses_filter else None
        # Taken once: a filter has 85 MB.
        self._filter_digest = "" if used is None else filter_digest(used)
        self._projection_digest = "" if projection is None else projection_digest(projection)
        mean, std = weights.preprocessing.mean, weights.preprocessing.std
        self._mean = torch.tensor(mean, device=self.device).reshape(1, 3, 1, 1) * 255
        self._inverse_std = 1 / (torch.tensor(std, device=self.device).reshape(1, 3, 1, 1) * 255)

    def _model(self) -> tuple[Trunk, Pooling]:
        # Without drawing parameters at random only to replace them.
        with torch.device("meta"):
            trunk = build_trunk(self.options.backbone, self.options.layer)
        try:
            trunk.load(self.weights.state)
        except ValueError as error:
            raise WeightsUnavailable(
                f"weights {self.weights.name!r} do not fit the trunk {self.options.backbone}: "
                f"{error}"
            ) from error
        trunk = trunk.prepare(self.device, self.dtype)
        return trunk, self._pooling_of(trunk, self.options.pooling)

    def build_pooling(self, spec: str) -> Pooling:
        """A pooling for the maps of this trunk, frozen. Raises InvalidOption."""
        return self._pooling_of(self.trunk, spec)

    def _pooling_of(self, trunk: Trunk, spec: str) -> Pooling:
        pooling = build_pooling(spec, trunk.map_channels)
        load_filter(pooling, self.cooccurrence_filter)
        return pooling.eval().requires_grad_(False).to(self.device)

    @property
    def recipe(self) -> Recipe:
        """What the descriptors mean; see `Recipe`."""
        name, _ = parse_spec(self.options.pooling)
        options, learned = self.options, self.projection
        return Recipe(
            backbone=self.options.backbone,
            layer=self.trunk.layer,
            weights=self.weights.name,
            weights_digest=self.weights.digest,
            max_side=self.options.max_side,
            scales=self.options.scales,
            pooling=name,
            pooling_options=self.pooling.options,
            pooling_digest=self.pooling.digest(),
            raw_dim=self.pooling.dim,
            # With a learned projection none is fitted, and how it would be makes no difference.
            projection_dim=learned.dim if learned else options.projection_dim,
            projection_power=0.0 if learned else options.projection_power,
            projection_shrinkage=0.0 if learned else options.projection_shrinkage,
            cooccurrence_digest=self._filter_digest,
            projection_digest=self._projection_digest,
        )

    def _check_projection(self) -> None:
        """Raises InvalidOption for a projection of descriptors of another length."""
        if self.projection is not None and len(self.projection.mean) != self.pooling.dim:
            raise InvalidOption(
                f"the projection is for descriptors of {len(self.projection.mean)} values, pooling "
                f"{self.options.pooling} gives {self.pooling.dim}; choose the --pooling and the "
                "--layer that it was trained with"
            )

    @property
    def precision(self) -> str:
        return "bfloat16" if self.dtype == torch.bfloat16 else "float32"

    def decode(
        self, data: bytes, *, box: Box | Cut | None = None, upright: bool = True
    ) -> DecodedImage:
        """Decode with this recipe's size and limits; raises as `engine.images.decode` does."""
        large = pixels_of(data) > LARGE_PIXELS
        with self._decoding_large if large else nullcontext(), self._decoding:
            try:
                return decode(
                    data,
                    box=box,
                    upright=upright,
                    max_side=self.options.max_side,
                    max_pixels=self.options.max_pixels,
                    max_bytes=self.options.max_bytes,
                )
            finally:
                if large:  # what the model needs again is far less
                    give_back()

    def describe(self, images: Sequence[Pixels]) -> Vectors:
        """Raw descriptors of images of any shapes; (N, D) float32, row i for image i.

        Images of one shape share a forward pass of at most `batch_size`. A row depends only on
        its own image, up to rounding: alone or in company, its cosine with itself is over 0.9999.
        """
        (vectors,) = self.describe_with(images, [self.pooling])
        return vectors

    def describe_with(self, images: Sequence[Pixels], poolings: Sequence[Pooling]) -> list[Vectors]:
        """As `describe`, for several poolings of the same forward passes; one array each."""
        out = [np.zeros((len(images), pooling.dim), np.float32) for pooling in poolings]
        by_shape: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for position, pixels in enumerate(images):
            by_shape[pixels.shape].append(position)

        def describe(places: Sequence[int]) -> list[Vectors]:
            return self._describe_fitting([images[place] for place in places], poolings)

        def keep(places: Sequence[int], described: Sequence[Vectors]) -> None:
            for vectors, result in zip(out, described, strict=True):
                vectors[places] = result

        batches = self._batches(images, by_shape.values())
        if self.device.type == "cpu":
            listed = list(batches)
            for batch, described in zip(listed, cores().map(describe, listed), strict=True):
                keep(batch, described)
        else:
            # One after the other, so that one that does not fit makes those after it smaller.
            for batch in batches:
                keep(batch, describe(batch))
        return out

    def _batches(
        self, images: Sequence[Pixels], of_one_shape: Iterable[list[int]]
    ) -> Iterator[list[int]]:
        """Positions that share a pass."""
        for waiting in of_one_shape:
            while waiting:
                size = self.images_per_pass(images[waiting[0]].shape)
                batch, waiting = waiting[:size], waiting[size:]
                yield batch

    def images_per_pass(self, shape: tuple[int, ...]) -> int:
        """How many images of `shape` (H, W, ...) share a forward pass; fewer after one that did
        not fit in the memory of the device."""
        return min(self.options.batch_size, self._pass_size.images(self._pixels_each(shape)))

    def _pixels_each(self, shape: tuple[int, ...]) -> float:
        return float(shape[0] * shape[1] * max(self.options.scales) ** 2)

    def _describe_fitting(
        self, images: Sequence[Pixels], poolings: Sequence[Pooling]
    ) -> list[Vectors]:
        """One array for each pooling, of images of one shape: in one pass, or in smaller ones
        where that does not fit. Raises OutOfMemory for an image that does not even fit alone,
        DeviceLost."""
        pixels_each = self._pixels_each(images[0].shape)
        for last_try in (False, True):
            try:
                described = self._describe_batch(torch.from_numpy(np.stack(images)), poolings)
                arrays = [result.cpu().numpy() for result in described]
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    self._check_device(error)
                    raise
                # As text: the error itself holds on to the tensors of the pass.
                reason = str(error).split("\n", 1)[0]
            else:
                self._pass_size.passed(len(images), pixels_each)
                return arrays
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(images) > 1:
                self._pass_size.failed(len(images), pixels_each)
                log.warning("%d images did not fit in one pass: %s", len(images), reason)
                halves = (images[: len(images) // 2], images[len(images) // 2 :])
                parts = [self._describe_fitting(half, poolings) for half in halves]
                return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
            if last_try:
                break
        height, width = images[0].shape[:2]
        raise OutOfMemory(
            f"an image of {width} x {height} pixels does not fit in the memory of {self.device} "
            f"({reason}); free memory there, or lower COOC_MAX_SIDE or the largest of COOC_SCALES"
        )

    def _check_device(self, error: RuntimeError) -> None:
        """Raises DeviceLost if it was not the images that made a pass fail."""
        if still_computes(self.device):
            return
        reason = str(error).split("\n", 1)[0]
        self.lost = (
            f"{self.device} computes no more for this process ({reason}); start it anew, and look "
            "at what the driver has logged (dmesg, nvidia-smi) if that happens again"
        )
        raise DeviceLost(self.lost) from error

    @torch.inference_mode()
    def _describe_batch(self, pixels: Tensor, poolings: Sequence[Pooling]) -> list[Tensor]:
        totals: list[Tensor | float] = [0.0 for _ in poolings]
        for maps in self.maps(pixels):
            for position, pooling in enumerate(poolings):
                pooled = pooling(maps[0] if len(maps) == 1 else maps)  # (B, D)
                rooted = signed_sqrt(pooled) if pooling.signed_root else pooled
                totals[position] = totals[position] + l2_normalize(rooted)
        return [l2_normalize(torch.as_tensor(total)) for total in totals]

    def maps(self, pixels: Tensor) -> Iterator[list[Tensor]]:
        """For each scale, the activations of each layer of the recipe.

        Args:
            pixels: (B, H, W, 3) bytes.

        Yields: float32 maps (B, C_i, h_i, w_i), shallow to deep.
        """
        images = self.normalise(pixels)  # (B, 3, H, W)
        for scale in self.options.scales:
            resized = self._resize(images, scale)
            yield [features.float() for features in self.features(resized)]

    def features(self, images: Tensor) -> list[Tensor]:
        """The trunk on normalised images (B, 3, H, W), in the chosen precision."""
        return self.trunk.maps(images.to(dtype=self.dtype, memory_format=torch.channels_last))

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) bytes to (B, 3, H, W) float32, padded by its edges to the smallest map."""
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        images = (images - self._mean) * self._inverse_std
        short = [max(0, self.smallest_side - side) for side in images.shape[-2:]]
        if any(short):
            # Thin images would vanish in the trunk; their edge is repeated instead.
            images = F.pad(images, (0, short[1], 0, short[0]), mode="replicate")
        return images

    def _resize(self, images: Tensor, scale: float) -> Tensor:
        if scale == 1.0:
            return images
        height, width = (max(self.smallest_side, round(side * scale)) for side in images.shape[-2:])
        # Bilinear on the normalised tensor, as the multi-scale results of the literature.
        return F.interpolate(images, (height, width), mode="bilinear", align_corners=False)

    @property
    def smallest_side(self) -> int:
        """Pixels; smaller inputs have no output in the trunk."""
        return 32

    def stream(
        self,
        items: Iterable[tuple[T, Source]],
        *,
        poolings: Sequence[Pooling] | None = None,
        workers: int = 2,
    ) -> Iterator[tuple[T, list[Vectors] | EngineError]]:
        """Describe many images; decoding of the next ones overlaps the forward pass.

        Args:
            items: a key and where its pixels come from, for each image.
            poolings: default: the one of the recipe.
            workers: threads that read and decode.

        Yields: the key with either a (D,) descriptor per pooling or the error that this image
            alone met. Order may change within a window of a few batches.
        """
        chosen = [self.pooling] if poolings is None else poolings
        for window in self.load(items, workers=workers):
            good: list[tuple[T, Pixels]] = []
            for key, loaded in window:
                if isinstance(loaded, EngineError):
                    yield key, loaded
                else:
                    good.append((key, loaded))
            described = self.describe_with([pixels for _, pixels in good], chosen)
            for row, (key, _) in enumerate(good):
                yield key, [vectors[row] for vectors in described]

    def load(
        self, items: Iterable[tuple[T, Source]], *, workers: int = 2
    ) -> Iterator[list[tuple[T, Pixels | EngineError]]]:
        """Pixels of many images, a few batches at a time; the next ones are decoded meanwhile."""
        window = 4 * self.options.batch_size
        with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
            waiting: list[tuple[T, Future[Pixels | EngineError]]] = []
            source = iter(items)
            exhausted = False
            while True:
                while not exhausted and len(waiting) < 2 * window:
                    item = next(source, None)
                    if item is None:
                        exhausted = True
                    else:
                        waiting.append((item[0], pool.submit(self._load, item[1])))
                if not waiting:
                    return
                head, waiting = waiting[:window], waiting[window:]
                yield [(key, future.result()) for key, future in head]

    def _load(self, source: Source) -> Pixels | EngineError:
        try:
            return self.decode(source.read(), box=source.box, upright=source.upright).pixels
        except EngineError as error:
            return error
        except OSError as error:
            return BadImage(f"cannot read the file: {error}")


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one. Raises InvalidOption for an absent device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidOption(f"device {name!r} is unknown; use auto, cpu or cuda") from error
    if device.type not in PIXELS_PER_PASS:
        raise InvalidOption(f"device {name!r} is not supported; use auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidOption(f"device is {name!r}, but no CUDA GPU is available; use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise InvalidOption(f"device is {name!r}, but the last GPU is cuda:{last}")
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CPUs with matrix units for it (AMX), else float32.

    There VGG16 is 4 to 5 times faster in bfloat16. Descriptors of the two precisions have a
    cosine of 0.9999 (linear poolings), 0.9996 (`cbp_aa`) and 0.99 to 0.998 (`cbp_ac`, whose mask
    turns over where an activation is close to the mean); rankings across precisions are as good as
    within one. Raises InvalidOption.
    """
    if precision not in PRECISIONS:
        raise InvalidOption(f"precision is {precision!r}; choose from {', '.join(PRECISIONS)}")
    if precision == "auto":
        fast = device.type == "cpu" and _has_amx()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _has_amx() -> bool:
    probe: Any = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe and probe())
