"""What happens to a pooled vector: signed square root, L2, projection. Tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_FIT_IMAGES = 4096
"""Rows on which a projection is fitted: more cost cubic time and change it little."""


def signed_sqrt(x: Tensor) -> Tensor:
    """sign(x) sqrt(|x|), element by element; any shape."""
    return x.sign() * x.abs().sqrt()


def l2_normalize(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Each row divided by its Euclidean length; a row of zeros stays zero. (..., D) -> (..., D)."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.clamp(min=eps)


@dataclass(frozen=True)
class PCAProjection:
    """y = L2(Lambda^-power U^T (x - mean)): the leading principal directions, damped.

    power 0 is plain PCA, 0.5 full whitening; 0.25, between them, ranks best when fitted on the
    collection itself.

    Attributes:
        mean: (D,) float32.
        directions: (d, D) float32, rows scaled by eigenvalue^-power.
        eigenvalues: (d,) float32, variances along the directions, descending.
        explained: share of the total variance that the d directions keep, in [0, 1].
        power: exponent of the eigenvalues.
    """

    mean: Tensor
    directions: Tensor
    eigenvalues: Tensor
    explained: float
    power: float

    @classmethod
    def fit(cls, descriptors: Tensor, dim: int = 512, power: float = 0.25) -> PCAProjection:
        """Fit on (N, D) descriptors, N >= 2.

        The number of directions is bounded by `bounded_dim` and by the numerical rank: the last
        directions of a small sample are noise, and dividing by their tiny eigenvalues would let
        them decide the ranking.

        Raises: ValueError for fewer than two rows or no variance at all.
        """
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
        keep = max(1, min(bounded_dim(count, dim), rank, raw_dim))
        kept = values[:keep]
        if count <= raw_dim:
            vectors = centred.T @ left[:, :keep] / (kept * count).sqrt()  # (D, d), orthonormal
        directions = (vectors[:, :keep] * kept.pow(-power)).T
        return cls(
            mean=mean.float(),
            directions=directions.float().contiguous(),
            eigenvalues=kept.float(),
            explained=float(kept.sum() / values.clamp(min=0).sum()),
            power=power,
        )

    @property
    def dim(self) -> int:
        return self.directions.shape[0]

    def __call__(self, descriptors: Tensor) -> Tensor:
        """(N, D) -> (N, d) float32, L2-normalised."""
        return l2_normalize((descriptors.float() - self.mean) @ self.directions.T)

    def tensors(self) -> dict[str, Tensor]:
        """What has to be saved; `from_tensors` gives the projection back."""
        scalars = torch.tensor([self.explained, self.power], dtype=torch.float64)
        return {
            "mean": self.mean,
            "directions": self.directions,
            "eigenvalues": self.eigenvalues,
            "explained_power": scalars,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> PCAProjection:
        explained, power = tensors["explained_power"].tolist()
        return cls(tensors["mean"], tensors["directions"], tensors["eigenvalues"], explained, power)


def bounded_dim(count: int, dim: int) -> int:
    """Directions that `count` images can support: at most `dim`, at most 0.6 per image."""
    return max(1, min(dim, int(0.6 * count)))
