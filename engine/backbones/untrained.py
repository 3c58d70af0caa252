"""Seeded parameters for a trunk when no trained ones are at hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.backbones import build_trunk

MEAN_REMOVED = 0.9
CONNECTED = 0.5


def untrained_state(backbone: str, seed: int = 0) -> dict[str, Tensor]:
    """A state dict of random parameters; equal for equal seeds on every machine.

    Plain random filters make all images nearly equal, as every layer adds to what they have in
    common. Here each filter sees half of its input channels, has most of its mean removed and a
    Gaussian envelope around its centre; the scale is that for ReLU networks (He et al.,
    arXiv:1502.01852), biases are zero. The constants were chosen on photos cropped to 70 %,
    shrunk and recompressed: see `docs/architecture.md`.
    """
    # The legacy generator is frozen: its streams never change between NumPy versions.
    draw = np.random.RandomState(seed)
    state: dict[str, Tensor] = {}
    for name, parameter in build_trunk(backbone).state_dict().items():
        if name.endswith("bias"):
            state[name] = torch.zeros_like(parameter)
            continue
        outputs, inputs, size, _ = parameter.shape
        filters = draw.standard_normal((outputs, inputs, size, size)) * _envelope(size)
        if inputs > 3:  # all colours are seen
            filters *= draw.random_sample((outputs, inputs, 1, 1)) < CONNECTED
        filters -= MEAN_REMOVED * filters.mean(axis=(1, 2, 3), keepdims=True)
        filters *= np.sqrt(2.0 / np.square(filters).sum(axis=(1, 2, 3), keepdims=True))
        state[name] = torch.from_numpy(filters.astype(np.float32))
    return state


def _envelope(size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """exp(-squared distance from the centre / 2), (size, size)."""
    squared = np.square(np.arange(size) - (size - 1) / 2)
    return np.asarray(np.exp(-(squared[:, None] + squared[None, :]) / 2))
