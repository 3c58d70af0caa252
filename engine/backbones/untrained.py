"""Seeded parameters for a trunk when no trained ones are at hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.backbones import build_trunk

COLOUR_BIAS = 1.5
CONNECTED = 0.3
BRANCH = 0.3
"""Scale of what a residual block adds to what came in. At 1, activations grow 50-fold from the
first to the last stage of ResNet101, and images become alike."""


def untrained_state(backbone: str, seed: int = 0) -> dict[str, Tensor]:
    """A state dict of random parameters; equal for equal seeds on every machine.

    Plain random filters make all images nearly equal, as every layer adds to what they have in
    common. So the first layer reacts to ranges of colour as well as to edges (a colour part in
    each filter, and biases), and each later filter sees a third of its input channels, has zero
    mean and a Gaussian envelope around its centre. The scale is that for ReLU networks (He et
    al., arXiv:1502.01852). Batch norms pass on what they are given, the first with the biases of
    the colours, the last of each block a part of it. Raises InvalidOption.
    """
    # The legacy generator is frozen: its streams never change between NumPy versions.
    draw = np.random.RandomState(seed)
    state: dict[str, Tensor] = {}
    with torch.device("meta"):  # only to be asked
        trunk = build_trunk(backbone)
    shapes = trunk.shapes()
    for name, shape in shapes.items():
        if len(shape) != 4:
            state.setdefault(name, _constant(name, shape))
            continue
        outputs, inputs, size, _ = shape
        if inputs == 3:
            filters = draw.standard_normal((outputs, 3, size, size))
            filters += draw.standard_normal((outputs, 3, 1, 1))
            bias = COLOUR_BIAS * draw.standard_normal(outputs)
            # Where the convolution has none, the bias is that of the batch norm after it.
            own = name.removesuffix("weight") + "bias"
            state[own if own in shapes else "bn1.bias"] = torch.from_numpy(bias.astype(np.float32))
        else:
            filters = draw.standard_normal((outputs, inputs, size, size)) * _envelope(size)
            filters *= draw.random_sample((outputs, inputs, 1, 1)) < CONNECTED
            filters -= filters.mean(axis=(1, 2, 3), keepdims=True)
        energy = np.square(filters).sum(axis=(1, 2, 3), keepdims=True)
        # A 1x1 filter over few channels may have drawn none of them: it stays zero.
        filters *= np.sqrt(2.0 / np.where(energy > 0, energy, 1.0))
        state[name] = torch.from_numpy(filters.astype(np.float32))
    return state


def _constant(name: str, shape: torch.Size) -> Tensor:
    """An entry with one value per channel: a bias, or one of the four of a batch norm."""
    if name.endswith(("bias", "running_mean")):
        return torch.zeros(shape)
    return torch.full(shape, BRANCH if name.endswith("bn3.weight") else 1.0)


def _envelope(size: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """exp(-squared distance from the centre), (size, size)."""
    squared = np.square(np.arange(size) - (size - 1) / 2)
    return np.asarray(np.exp(-(squared[:, None] + squared[None, :])))
