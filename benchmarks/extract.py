"""The whole path from a JPEG's bytes to its descriptor, against the bare trunk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.harness import machine, medians_ms
from engine.describer import Describer, DescriberOptions
from engine.images import Box, encode_jpeg
from engine.types import Pixels

SIZES = ((512, 384), (1024, 768))
BATCHES = (1, 8)


@dataclass(frozen=True)
class Memory:
    """An encoded image in memory."""

    data: bytes
    box: Box | None = None
    upright: bool = True

    def read(self) -> bytes:
        return self.data


@torch.inference_mode()
def run(options: DescriberOptions, describer: Describer) -> dict[str, Any]:
    """Per size and batch: milliseconds an image, bare and whole; `overhead` is the largest ratio.

    The pipeline decodes JPEGs, describes and normalises; with several images decoding overlaps
    the forward pass. The trunk gets ready-made float tensors in the same batches.
    """
    rows = [_row(options, describer, size, batch) for size in SIZES for batch in BATCHES]
    return {
        "bench": "extract",
        "backbone": options.backbone,
        "pooling": options.pooling,
        "precision": describer.precision,
        "rows": rows,
        "overhead": max(row["overhead"] for row in rows),
        **machine(describer.device),
    }


def _row(
    options: DescriberOptions, base: Describer, size: tuple[int, int], batch: int
) -> dict[str, Any]:
    describer = Describer(
        replace(options, max_side=max(size), batch_size=batch),
        base.weights,
        cooccurrence_filter=base.cooccurrence_filter,
        projection=base.projection,
    )
    width, height = size
    files = [Memory(encode_jpeg(textured(height, width, seed))) for seed in range(batch)]
    pixels = np.stack([describer.decode(file.data).pixels for file in files])
    images = describer.normalise(torch.from_numpy(pixels))
    passes = describer.images_per_pass((height, width))

    def trunk() -> None:
        for start in range(0, batch, passes):
            describer.features(images[start : start + passes])

    def whole() -> None:
        if batch == 1:
            describer.describe([describer.decode(files[0].data).pixels])
        else:
            list(describer.stream((file, file) for file in files))

    # Short ones are repeated more often: a neighbour on the machine must not decide.
    rounds = 15 if max(size) <= 512 else 5
    times = medians_ms({"trunk": trunk, "whole": whole}, rounds=rounds)
    return {
        "size": [width, height],
        "batch": batch,
        "trunk_ms": times["trunk"] / batch,
        "whole_ms": times["whole"] / batch,
        "overhead": times["whole"] / times["trunk"],
    }


def textured(height: int, width: int, seed: int) -> Pixels:
    """A made picture with edges and smooth parts, so that its JPEG costs what a photo's does."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = sum(
        np.sin(columns / random.uniform(5, 90) + rows / random.uniform(5, 90)) for _ in range(4)
    )
    colour = random.uniform(-40, 40, size=3)
    noise = random.normal(0, 8, size=(height, width, 3))
    return np.clip(128 + 25 * np.asarray(waves)[..., None] + colour + noise, 0, 255).astype(
        np.uint8
    )
