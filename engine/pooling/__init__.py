"""Poolings by name: modules from a feature map to one descriptor per image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from engine.cooccurrence import direct_cooccurrence
from engine.errors import InvalidOption
from engine.pooling import linear
from engine.pooling.bilinear import CompactBilinear


class Pooling(nn.Module):
    """A feature map (B, C, H, W) to a descriptor (B, dim), not yet rooted or normalised.

    `options` are the parameters that enter the fingerprint; `signed_root` says whether the
    signed square root comes before L2, as for all second-order poolings.
    """

    dim: int
    options: Mapping[str, float | int | str]
    signed_root = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dim = channels
        self.options = {}

    def digest(self) -> str:
        """SHA-256 over the buffers (the hash functions), as 64 hexadecimal digits."""
        content = hashlib.sha256()
        for name, values in sorted(self.state_dict().items()):
            content.update(f"{name}:{values.dtype}:{tuple(values.shape)}".encode())
            content.update(values.cpu().numpy().tobytes())
        return content.hexdigest()


class Mac(Pooling):
    def forward(self, features: Tensor) -> Tensor:
        return linear.mac(features)


class Spoc(Pooling):
    def forward(self, features: Tensor) -> Tensor:
        return linear.spoc(features)


class Gem(Pooling):
    def __init__(self, channels: int, p: float = 3.0) -> None:
        super().__init__(channels)
        self.p = p
        self.options = {"p": p}

    def forward(self, features: Tensor) -> Tensor:
        return linear.gem(features, p=self.p)


class CompactBilinearActivations(Pooling):
    """Compact bilinear pooling of the activations with themselves, BP(AA)."""

    signed_root = True

    def __init__(self, channels: int, dim: int = 8192, seed: int = 0) -> None:
        super().__init__(channels)
        self.dim = dim
        self.options = {"dim": dim, "seed": seed}
        self.sketch = CompactBilinear(channels, dim, seed)

    def forward(self, features: Tensor) -> Tensor:
        pooled: Tensor = self.sketch(features, features)
        return pooled


class CompactBilinearCooccurrence(Pooling):
    """Compact bilinear pooling of the activations with their co-occurrences, BP(AC_T)."""

    signed_root = True

    def __init__(self, channels: int, dim: int = 8192, seed: int = 0, radius: int = 4) -> None:
        super().__init__(channels)
        self.dim = dim
        self.radius = radius
        self.options = {"dim": dim, "seed": seed, "radius": radius}
        self.sketch = CompactBilinear(channels, dim, seed)

    def forward(self, features: Tensor) -> Tensor:
        pooled: Tensor = self.sketch(features, direct_cooccurrence(features, self.radius))
        return pooled


POOLINGS: dict[str, type[Pooling]] = {
    "mac": Mac,
    "spoc": Spoc,
    "gem": Gem,
    "cbp_aa": CompactBilinearActivations,
    "cbp_ac": CompactBilinearCooccurrence,
}


def build_pooling(name: str, channels: int, **options: Any) -> Pooling:
    """The pooling called `name` for maps of `channels` channels. Raises InvalidOption."""
    if name not in POOLINGS:
        raise InvalidOption(f"pooling {name!r} is unknown; choose from {', '.join(POOLINGS)}")
    try:
        return POOLINGS[name](channels, **options)
    except TypeError as error:
        raise InvalidOption(f"pooling {name!r} does not take {options}: {error}") from error
