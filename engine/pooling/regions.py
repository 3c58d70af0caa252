"""R-MAC as a module, with the place of a whitening between its regions and their sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.errors import InvalidOption
from engine.pooling.base import Pooling
from engine.pooling.first_order import share_of_maxima
from engine.pooling.masks import apply_mask
from engine.pooling.regional import region_maxima, region_slices
from engine.postprocess import PCAProjection, l2_normalize

MAX_LEVELS = 8


class RMac(Pooling):
    """Regional maxima, each L2-normalised, whitened if asked for, L2-normalised again, summed.

    The place of the whitening is that of the fully connected layer of deep image retrieval
    (arXiv:1610.07940, section 3.1), which starts as a PCA over region vectors. It is fitted on
    a collection with `fit`; until then a whitening pooling cannot describe anything. `power` is
    the exponent of its eigenvalues: 0.5 whitens fully, as published, less damps weak directions.
    """

    mean: Tensor | None
    directions: Tensor | None

    def __init__(
        self,
        channels: int,
        levels: int = 3,
        whole_map: bool = True,
        *,
        whiten: bool = False,
        power: float = 0.5,
        mask: str = "none",
        root: bool | None = None,
    ) -> None:
        super().__init__(channels, mask=mask, root=root)
        if not 1 <= levels <= MAX_LEVELS:
            raise ValueError(f"levels is {levels}; it must be in [1, {MAX_LEVELS}]")
        if not 0 <= power <= 0.5:
            raise ValueError(f"power is {power}; it must be in [0, 0.5]")
        self.levels, self.whole_map, self.whiten, self.power = levels, whole_map, whiten, power
        self.unfitted = whiten
        self.options = {"levels": levels, "whole_map": whole_map, **self.options}
        if whiten:
            self.options = {**self.options, "whiten": True, "power": power}
        self.register_buffer("mean", None)
        self.register_buffer("directions", None)

    def pool(self, masked: Tensor, features: Tensor) -> Tensor:
        regions = region_maxima(masked, self.levels, self.whole_map)  # (B, R, C)
        if self.whiten:
            mean, directions = self._fitted()
            regions = l2_normalize((regions - mean) @ directions.T)  # (B, R, d)
        return regions.sum(dim=1)

    def share(self, masked: Tensor, features: Tensor, target: Tensor) -> Tensor:
        shares = torch.zeros_like(masked[:, 0])
        regions = region_maxima(masked, self.levels, self.whole_map)  # (B, R, C)
        slices = region_slices(masked, self.levels, self.whole_map)
        for number, (rows, columns) in enumerate(slices):
            part = masked[:, :, rows, columns]
            length = part.amax(dim=(2, 3)).norm(dim=1, keepdim=True).clamp(min=1e-12)
            weights, constant = target, 0.0
            if self.whiten:
                mean, directions = self._fitted()
                whitened = (regions[:, number] - mean) @ directions.T  # (B, d)
                weights = target / whitened.norm(dim=1, keepdim=True).clamp(min=1e-12)
                weights = weights @ directions  # (B, C)
                # What the mean takes away belongs to no position more than to another.
                constant = (weights @ mean / part[0, 0].numel())[:, None, None]
            shares[:, rows, columns] += share_of_maxima(part, weights / length) - constant
        return shares

    def samples(self, features: Tensor) -> Tensor:
        """Region vectors to fit the whitening on: (B, C, H, W) -> (B, R, C)."""
        return region_maxima(apply_mask(features, self.mask), self.levels, self.whole_map)

    def fit(self, samples: Tensor) -> None:
        """Fit the whitening on (N, C) region vectors; `dim` becomes what they support."""
        projection = PCAProjection.fit(samples, dim=self.channels, power=self.power)
        self.restore({"mean": projection.mean, "directions": projection.directions})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.mean, self.directions = state["mean"], state["directions"]
        self.dim = self.directions.shape[0]
        self.unfitted = False

    def _fitted(self) -> tuple[Tensor, Tensor]:
        if self.mean is None or self.directions is None:
            raise InvalidOption("rmac:whiten=yes has to be fitted on a collection first")
        return self.mean, self.directions
