"""Bilinear poolings, full and compact, as modules (paper, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.pooling.base import Pooling
from engine.pooling.bilinear import CompactBilinear, bilinear
from engine.pooling.tensors import cooccurrence_module

MAX_DIM = 1 << 20


class SecondOrder(Pooling):
    """Pools the products of the activations with a second tensor, position by position."""

    second_order = True

    def other(self, features: Tensor) -> Tensor:
        """The second tensor: here the activations themselves."""
        return features

    def pool(self, masked: Tensor, features: Tensor) -> Tensor:
        return self.join(masked, self.other(features))

    def share(self, masked: Tensor, features: Tensor, target: Tensor) -> Tensor:
        weights = self.pairs(target)  # (B, C, C)
        seen = torch.einsum("bcd,bchw->bdhw", weights, masked)
        return (seen * self.other(features)).sum(dim=1)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Full bilinear pooling of two maps: (B, C * C)."""
        return bilinear(x, y).flatten(1)

    def pairs(self, target: Tensor) -> Tensor:
        """What each pair of channels sees of a (B, dim) target: (B, C, C)."""
        return target.reshape(-1, self.channels, self.channels)


class BilinearActivations(SecondOrder):
    """Bilinear pooling of the activations with themselves, BP(AA): C * C values."""

    def __init__(self, channels: int, *, mask: str = "none", root: bool | None = None) -> None:
        super().__init__(channels, mask=mask, root=root)
        self.dim = channels * channels


class BilinearCooccurrence(SecondOrder):
    """Bilinear pooling of the activations with their co-occurrences, BP(AC_T) (Eq 12)."""

    def __init__(
        self,
        channels: int,
        radius: int = 4,
        *,
        cooccurrence: str = "direct",
        mask: str = "none",
        root: bool | None = None,
    ) -> None:
        super().__init__(channels, mask=mask, root=root)
        self.dim = channels * channels
        self.cooccurrence = cooccurrence_module(cooccurrence, channels, radius)
        self.options = {**self.cooccurrence.options, **self.options}

    def other(self, features: Tensor) -> Tensor:
        tensor: Tensor = self.cooccurrence(features)
        return tensor


class Compact(SecondOrder):
    """A sketch of the C * C products with `dim` values."""

    def __init__(
        self,
        channels: int,
        dim: int = 8192,
        seed: int = 0,
        *,
        mask: str = "none",
        root: bool | None = None,
    ) -> None:
        super().__init__(channels, mask=mask, root=root)
        if not 1 <= dim <= MAX_DIM:
            raise ValueError(f"dim is {dim}; it must be in [1, {MAX_DIM}]")
        self.dim = dim
        self.options = {"dim": dim, "seed": seed, **self.options}
        self.sketch = CompactBilinear(channels, dim, seed)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        pooled: Tensor = self.sketch(x, y)
        return pooled

    def pairs(self, target: Tensor) -> Tensor:
        return self.sketch.expand(target)


class CompactBilinearActivations(Compact):
    """Compact bilinear pooling of the activations with themselves, BP(AA)."""


class CompactBilinearCooccurrence(Compact):
    """Compact bilinear pooling of the activations with their co-occurrences, BP(AC_T)."""

    def __init__(
        self,
        channels: int,
        dim: int = 8192,
        seed: int = 0,
        radius: int = 4,
        *,
        cooccurrence: str = "direct",
        mask: str = "none",
        root: bool | None = None,
    ) -> None:
        super().__init__(channels, dim, seed, mask=mask, root=root)
        self.cooccurrence = cooccurrence_module(cooccurrence, channels, radius)
        self.options = {**self.cooccurrence.options, **self.options}

    def other(self, features: Tensor) -> Tensor:
        tensor: Tensor = self.cooccurrence(features)
        return tensor
