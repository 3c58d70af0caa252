"""Which co-occurrence tensor a pooling uses, by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engine.cooccurrence import direct_cooccurrence, direct_filter, learned_cooccurrence
from engine.max_correlation import max_correlation_tensor

COOCCURRENCES = ("direct", "learned", "max")
MAX_RADIUS = 32


class Cooccurrence(nn.Module):
    """(B, C, H, W) activations to a tensor of the same shape; `options` enter the fingerprint."""

    options: Mapping[str, int | str]


class DirectCooccurrence(Cooccurrence):
    """Box filter (Eq 3, 6); see `engine.cooccurrence.direct_cooccurrence`."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.options = {"radius": radius}

    def forward(self, features: Tensor) -> Tensor:
        return direct_cooccurrence(features, self.radius)


class LearnedCooccurrence(Cooccurrence):
    """Convolution with the parameter `weight` (Eq 6).

    It starts as the direct filter over the area of the window, 1 / s^2, which is the better
    scale to learn at; descriptors are normalised and do not depend on it.
    """

    def __init__(self, channels: int, radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.options = {"radius": radius, "cooccurrence": "learned"}
        self.weight = nn.Parameter(direct_filter(channels, radius) / (2 * radius + 1) ** 2)

    def forward(self, features: Tensor) -> Tensor:
        return learned_cooccurrence(features, self.weight)

    def load(self, weight: Tensor) -> None:
        """Take over a learned filter. Raises ValueError for another shape or infinite values."""
        if weight.shape != self.weight.shape:
            raise ValueError(
                f"the co-occurrence filter has shape {tuple(weight.shape)}, "
                f"this pooling needs {tuple(self.weight.shape)}"
            )
        if not bool(torch.isfinite(weight).all()):
            raise ValueError("the co-occurrence filter has values that are not finite")
        with torch.no_grad():
            self.weight.copy_(weight)


class MaxCorrelation(Cooccurrence):
    """Shih et al.'s maximal correlation as a tensor (paper, section 6.1): the baseline."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.options = {"radius": radius, "cooccurrence": "max"}

    def forward(self, features: Tensor) -> Tensor:
        return max_correlation_tensor(features, self.radius)


def cooccurrence_module(name: str, channels: int, radius: int) -> Cooccurrence:
    """The co-occurrence called `name`: direct, learned or max. Raises ValueError."""
    if not 0 <= radius <= MAX_RADIUS:
        raise ValueError(f"radius is {radius}; it must be in [0, {MAX_RADIUS}]")
    if name == "direct":
        return DirectCooccurrence(radius)
    if name == "learned":
        return LearnedCooccurrence(channels, radius)
    if name == "max":
        return MaxCorrelation(radius)
    raise ValueError(f"cooccurrence is {name!r}; choose from {', '.join(COOCCURRENCES)}")
