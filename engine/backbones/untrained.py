"""Seeded parameters for a trunk when no trained ones are at hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.backbones import build_trunk

COLOUR_BIAS = 1.5
CONNECTED = 0.3


def untrained_state(backbone: str, seed: int = 0) -> dict[str, Tensor]:
    """A state dict of random parameters; equal for equal seeds on every machine.

    Plain random filters make all images nearly equal, as every layer adds to what they have in
    common. So the first layer reacts to ranges of colour as well as to edges (a colour part in
    each filter, and biases), and each later filter sees a third of its input channels, has zero
    mean and a Gaussian envelope around its centre. The scale is that for ReLU networks (He et
    al., arXiv:1502.01852).
    """
    # The legacy generator is frozen: its streams never change between NumPy versions.
    draw = np.random.RandomState(seed)
    state: dict[str, Tensor] = {}
    for name, parameter in build_trunk(backbone).state_dict().items():
        if not name.endswith("weight"):
            continue
        outputs, inputs, size, _ = parameter.shape
        bias = np.zeros(outputs)
        if inputs == 3:
            filters = draw.standard_normal((outputs, 3, size, size))
            filters += draw.standard_normal((outputs, 3, 1, 1))
            bias = COLOUR_BIAS * draw.standard_normal(outputs)
        else:
            filters = draw.standard_normal((outputs, inputs, size, size)) * _envelope(size)
            filters *= draw.random_sample((outputs, inputs, 1, 1)) < CONNECTED
            filters -= filters.mean(axis=(1, 2, 3), keepdims=True)
        energy = np.square(filters).sum(axis=(1, 2, 3), keepdims=True)
        # A 1x1 filter over few channels may have drawn none of them: it stays zero.
        filters *= np.sqrt(2.0 / np.where(energy > 0, energy, 1.0))
        state[name] = torch.from_numpy(filters.astype(np.float32))
        state[name.removesuffix("weight") + "bias"] = torch.from_numpy(bias.astype(np.float32))
    return state


def _envelope(size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """exp(-squared distance from the centre), (size, size)."""
    squared = np.square(np.arange(size) - (size - 1) / 2)
    return np.asarray(np.exp(-(squared[:, None] + squared[None, :])))
