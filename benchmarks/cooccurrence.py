"""Direct co-occurrence: our box filter against the published convolution (Algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import machine, medians_ms, sparse_map
from engine.cooccurrence import direct_cooccurrence, direct_filter


def published(features: Tensor, weight: Tensor, radius: int) -> Tensor:
    """Algorithm 1 as printed: threshold, conv2d with the full filter, threshold."""
    mask = features > features.mean()
    return F.conv2d(features * mask, weight, padding=radius) / (features.shape[1] - 1) * mask


@torch.inference_mode()
def run(
    device: torch.device, *, channels: int = 512, height: int = 24, width: int = 32, radius: int = 4
) -> dict[str, Any]:
    """Times of one map, their ratio, and how far the results differ.

    `speedup` is published over ours; `max_relative_error` the largest difference over the
    largest value.
    """
    generator = torch.Generator().manual_seed(0)
    # Each in the layout that is best for it: that of the authors' code, and that of our trunks.
    planes = sparse_map((1, channels, height, width), generator).to(device)
    features = planes.contiguous(memory_format=torch.channels_last)
    weight = direct_filter(channels, radius).to(device)
    reference = published(planes.double(), weight.double(), radius)
    ours = direct_cooccurrence(features, radius)
    in_single_precision = published(planes, weight, radius)
    times = {
        **medians_ms({"published": lambda: published(planes, weight, radius)}, rounds=7),
        **medians_ms({"ours": lambda: direct_cooccurrence(features, radius)}, rounds=200),
    }
    return {
        "bench": "cooccurrence",
        "shape": [1, channels, height, width],
        "radius": radius,
        "ours_ms": times["ours"],
        "published_ms": times["published"],
        "speedup": times["published"] / times["ours"],
        "max_relative_error": _error(ours, reference),
        "published_max_relative_error": _error(in_single_precision, reference),
        "floor_ms": _floor_ms(channels, height, width),
        **machine(device),
    }


def _error(result: Tensor, reference: Tensor) -> float:
    return float((result.double() - reference).abs().max() / reference.abs().max())


def _floor_ms(channels: int, height: int, width: int, gigabytes_per_s: float = 20.0) -> float:
    """Reading the map and writing the result once, at a common memory bandwidth."""
    return 2 * 4 * channels * height * width / gigabytes_per_s / 1e6
