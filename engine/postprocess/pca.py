"""Projection on the principal directions of a collection, fitted without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.postprocess.projection import LinearProjection, check_share

MAX_FIT_IMAGES = 4096
"""Rows on which a projection is fitted: more cost cubic time and change it little."""


@dataclass(frozen=True)
class PCAProjection(LinearProjection):
    """y = L2(Lambda^-power U^T (x - mean)): the leading principal directions, damped.

    power 0 is plain PCA, 0.5 full whitening; 0.25, between them, ranks best when fitted on the
    collection itself. Shrinkage s damps as if each eigenvalue were (1 - s) lambda + s m, with m
    the mean over all D directions: small ones, which a small sample underestimates, count less.

    Attributes:
        mean: (D,) float32.
        directions: (d, D) float32, rows scaled by (shrunk eigenvalue)^-power.
        eigenvalues: (d,) float32, variances along the directions, descending; not shrunk.
        explained: share of the total variance that the d directions keep, in [0, 1].
        power: exponent of the eigenvalues.
        shrinkage: s, in [0, 1].
    """

    eigenvalues: Tensor
    explained: float
    power: float
    shrinkage: float = 0.0

    @classmethod
    def fit(
        cls,
        descriptors: Tensor,
        dim: int = 512,
        power: float = 0.25,
        shrinkage: float = 0.0,
        *,
        bounded: bool = True,
    ) -> PCAProjection:
        """Fit on (N, D) descriptors, N >= 2.

        The number of directions is bounded by `bounded_dim` and by the numerical rank: the last
        directions of a small sample are noise, and dividing by their tiny eigenvalues would let
        them decide the ranking. `bounded=False` leaves out the first bound, to do as published.
        `ledoit_wolf_shrinkage` is a shrinkage that the data suggest.

        Raises: ValueError for fewer than two rows, no variance at all, or a shrinkage outside
            [0, 1].
        """
        check_share("shrinkage", shrinkage)
        if descriptors.ndim != 2 or descriptors.shape[0] < 2:
            raise ValueError(
                f"descriptors have shape {tuple(descriptors.shape)}; expected (N >= 2, D)"
            )
        count, raw_dim = descriptors.shape
        x = descriptors.double()
        mean = x.mean(dim=0)
        centred = x - mean  # (N, D)
        # The smaller of the two products has the same non-zero eigenvalues.
        if count <= raw_dim:
            values, left = torch.linalg.eigh(centred @ centred.T / count)  # ascending
            values, left = values.flip(0), left.flip(1)
        else:
            values, vectors = torch.linalg.eigh(centred.T @ centred / count)
            values, vectors = values.flip(0), vectors.flip(1)
        largest = float(values[0])
        if not largest > 1e-12:
            raise ValueError("all descriptors are equal; there is nothing to fit a projection on")
        rank = int((values > 1e-7 * largest).sum())
        keep = max(1, min(bounded_dim(count, dim) if bounded else dim, rank, raw_dim))
        kept = values[:keep]
        if count <= raw_dim:
            vectors = centred.T @ left[:, :keep] / (kept * count).sqrt()  # (D, d), orthonormal
        # Directions without a value here have none: the mean is over all D of them.
        total = values.clamp(min=0).sum()
        shrunk = (1 - shrinkage) * kept + shrinkage * (total / raw_dim)
        directions = (vectors[:, :keep] * shrunk.pow(-power)).T
        return cls(
            mean=mean.float(),
            directions=directions.float().contiguous(),
            eigenvalues=kept.float(),
            explained=float(kept.sum() / total),
            power=power,
            shrinkage=shrinkage,
        )

    def tensors(self) -> dict[str, Tensor]:
        """What has to be saved; `from_tensors` gives the projection back."""
        return {
            "mean": self.mean,
            "directions": self.directions,
            "eigenvalues": self.eigenvalues,
            "explained_power": torch.tensor([self.explained, self.power], dtype=torch.float64),
            "shrinkage": torch.tensor(self.shrinkage, dtype=torch.float64),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> PCAProjection:
        explained, power = tensors["explained_power"].tolist()
        # Files from before there was any shrinkage do not name it.
        shrinkage = float(tensors["shrinkage"]) if "shrinkage" in tensors else 0.0
        return cls(
            tensors["mean"],
            tensors["directions"],
            tensors["eigenvalues"],
            explained,
            power,
            shrinkage,
        )


def bounded_dim(count: int, dim: int) -> int:
    """Directions that `count` images can support: at most `dim`, at most 0.6 per image."""
    return max(1, min(dim, int(0.6 * count)))
