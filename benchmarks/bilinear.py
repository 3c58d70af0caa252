"""Compact bilinear pooling: our single matrix product against FFTs at each position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import machine, medians_ms, sparse_map
from engine.pooling.bilinear import CompactBilinear


def count_sketch(sketch: CompactBilinear, x: Tensor, buckets: Tensor, signs: Tensor) -> Tensor:
    """psi(x) at each position; (B, C, H, W) to (B HW, d)."""
    flat = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])  # (B HW, C)
    empty = flat.new_zeros(flat.shape[0], sketch.dim)
    return empty.index_add_(1, buckets, flat * signs)  # (B HW, d)


def fft_per_position(sketch: CompactBilinear, x: Tensor, y: Tensor) -> Tensor:
    """arXiv:1511.06062, Algorithm 2 as printed: FFT, product and inverse FFT at each position."""
    left = torch.fft.fft(count_sketch(sketch, x, sketch.h1, sketch.s1))
    right = torch.fft.fft(count_sketch(sketch, y, sketch.h2, sketch.s2))
    per_position: Tensor = torch.fft.ifft(left * right).real  # (B HW, d)
    return per_position.reshape(x.shape[0], -1, sketch.dim).sum(dim=1)  # (B, d)


def rfft_per_position(sketch: CompactBilinear, x: Tensor, y: Tensor) -> Tensor:
    """The same with transforms of real signals, which halve its work."""
    left = torch.fft.rfft(count_sketch(sketch, x, sketch.h1, sketch.s1))
    right = torch.fft.rfft(count_sketch(sketch, y, sketch.h2, sketch.s2))
    per_position: Tensor = torch.fft.irfft(left * right, n=sketch.dim)  # (B HW, d)
    return per_position.reshape(x.shape[0], -1, sketch.dim).sum(dim=1)  # (B, d)


@torch.inference_mode()
def run(
    device: torch.device, *, channels: int = 512, height: int = 24, width: int = 32, dim: int = 8192
) -> dict[str, Any]:
    """Times of one map, their ratios, and how far the results differ.

    `speedup` is over Algorithm 2 as printed, `speedup_over_rfft` over its real-valued form.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (1, channels, height, width)
    x, y = (
        sparse_map(shape, generator).to(device).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    sketch = CompactBilinear(channels, dim).to(device)
    ours, reference = sketch(x, y), fft_per_position(sketch, x, y)
    slow = {
        "fft": lambda: fft_per_position(sketch, x, y),
        "rfft": lambda: rfft_per_position(sketch, x, y),
    }
    times = {
        **medians_ms(slow, rounds=15),
        **medians_ms({"ours": lambda: sketch(x, y)}, rounds=100),
    }
    return {
        "bench": "bilinear",
        "shape": list(shape),
        "dim": dim,
        "ours_ms": times["ours"],
        "fft_ms": times["fft"],
        "rfft_ms": times["rfft"],
        "speedup": times["fft"] / times["ours"],
        "speedup_over_rfft": times["rfft"] / times["ours"],
        "max_relative_error": float((ours - reference).abs().max() / reference.abs().max()),
        "gflop": 2 * channels * channels * height * width / 1e9,
        **machine(device),
    }
