"""Poolings with one value per channel, as modules."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.pooling import linear
from engine.pooling.base import Pooling
from engine.pooling.tensors import cooccurrence_module


class Mac(Pooling):
    def pool(self, masked: Tensor, features: Tensor) -> Tensor:
        return linear.mac(masked)

    def share(self, masked: Tensor, features: Tensor, target: Tensor) -> Tensor:
        return share_of_maxima(masked, target)


class Gem(Pooling):
    def __init__(
        self, channels: int, p: float = 3.0, *, mask: str = "none", root: bool | None = None
    ) -> None:
        super().__init__(channels, mask=mask, root=root)
        if not 0 < p <= 100:
            raise ValueError(f"p is {p}; it must be above 0 and at most 100")
        self.p = p
        self.options = {"p": p, **self.options}

    def pool(self, masked: Tensor, features: Tensor) -> Tensor:
        return linear.gem(masked, p=self.p)

    def share(self, masked: Tensor, features: Tensor, target: Tensor) -> Tensor:
        # Each channel's mean is shared out in proportion to the powers that make it.
        powers, _ = linear.gem_powers(masked, self.p)  # (B, C, H, W)
        weights = target * self.pool(masked, features) / powers.sum(dim=(2, 3))
        return torch.einsum("bchw,bc->bhw", powers, weights)


class WeightedSum(Pooling):
    """d_k = beta_k sum over positions p of alpha_p A_kp (Eq 8)."""

    def weights(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """alpha (B, H, W) and beta (B, C)."""
        raise NotImplementedError

    def pool(self, masked: Tensor, features: Tensor) -> Tensor:
        return linear.weighted_sum(masked, *self.weights(features))

    def share(self, masked: Tensor, features: Tensor, target: Tensor) -> Tensor:
        spatial, channel = self.weights(features)
        return spatial * torch.einsum("bchw,bc->bhw", masked, channel * target)


class Ucrow(WeightedSum):
    def weights(self, features: Tensor) -> tuple[Tensor, Tensor]:
        ones = features.new_ones(())
        return ones.expand_as(features[:, 0]), ones.expand(features.shape[:2])


class Spoc(Ucrow):
    def pool(self, masked: Tensor, features: Tensor) -> Tensor:
        return linear.spoc(masked)

    def share(self, masked: Tensor, features: Tensor, target: Tensor) -> Tensor:
        return super().share(masked, features, target) / masked[0, 0].numel()


class Crow(WeightedSum):
    def weights(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return linear.crow_weights(features)


class ChCoScT(WeightedSum):
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
        self.cooccurrence = cooccurrence_module(cooccurrence, channels, radius)
        self.options = {**self.cooccurrence.options, **self.options}

    def weights(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return linear.chco_sct_weights(self.cooccurrence(features))


def share_of_maxima(features: Tensor, target: Tensor) -> Tensor:
    """Each channel's maximum times its target, at the position of that maximum. -> (B, H, W)."""
    batch, _, height, width = features.shape
    maxima, positions = features.flatten(2).max(dim=2)  # (B, C)
    shares = features.new_zeros(batch, height * width)
    return shares.scatter_add_(1, positions, maxima * target).reshape(batch, height, width)
