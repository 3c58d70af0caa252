"""What all projections are once they are fitted: a mean and directions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engine.postprocess.normalization import l2_normalize


@dataclass(frozen=True)
class LinearProjection:
    """y = L2(P (x - mean)).

    Attributes:
        mean: (D,) float32.
        directions: P, (d, D) float32.
    """

    mean: Tensor
    directions: Tensor

    @property
    def dim(self) -> int:
        return self.directions.shape[0]

    def __call__(self, descriptors: Tensor) -> Tensor:
        """(N, D) -> (N, d) float32, L2-normalised."""
        return l2_normalize((descriptors.float() - self.mean) @ self.directions.T)


def check_share(name: str, value: float) -> None:
    """Raises ValueError unless `value` is in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value}; it must be in [0, 1]")
