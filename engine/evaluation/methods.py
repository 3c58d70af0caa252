"""What is compared: a pooling with all that is done to its descriptors before ranking."""

from __future__ import annotations

from dataclasses import dataclass

from engine.descriptor_weights import DescriptorWeights
from engine.errors import InvalidOption
from engine.types import Expansion

PROJECTIONS = ("none", "fitted", "lw")
EXPANSIONS = (Expansion.NONE, Expansion.AVERAGE, Expansion.ALPHA)


@dataclass(frozen=True)
class Projection:
    """How raw descriptors become what is ranked.

    Attributes:
        kind: `none`; `fitted`, a PCA without labels; `lw`, learned from matched pairs; or the
            name of the file that `given` was read from.
        dim: at most so many values.
        power: exponent of the eigenvalues of the PCA; 0.5 whitens.
        shrinkage: of the eigenvalues of the PCA, in [0, 1]; None for that of Ledoit and Wolf. For
            `lw` it is that of the covariance of matches, unless it is 0 or None: then the number
            of pairs decides.
        bounded: at most 0.6 values per image, fitted on as many images as a build takes; False
            for published results that were not.
        given: a projection that was trained before, to which the others do not apply.
    """

    kind: str = "none"
    dim: int = 512
    power: float = 0.25
    shrinkage: float | None = 0.0
    bounded: bool = True
    given: DescriptorWeights | None = None

    def __post_init__(self) -> None:
        if self.given is None and self.kind not in PROJECTIONS:
            raise InvalidOption(
                f"projection is {self.kind!r}; choose from {', '.join(PROJECTIONS)}, or give a "
                ".safetensors file"
            )

    @property
    def is_fitted(self) -> bool:
        """Whether it is found from the descriptors of the evaluation."""
        return self.given is None and self.kind != "none"


@dataclass(frozen=True)
class QueryExpansion:
    """The published forms, without the guard that the service has.

    `neighbours` is how many join the query, `exponent` that of their weights in the alpha form.
    """

    kind: Expansion = Expansion.NONE
    neighbours: int = 10
    exponent: float = 3.0

    def __post_init__(self) -> None:
        if self.kind not in EXPANSIONS:
            raise InvalidOption(
                f"expansion is {self.kind.value!r}; evaluation knows "
                f"{', '.join(kind.value for kind in EXPANSIONS)}"
            )
        if not 1 <= self.neighbours <= 1000:
            raise InvalidOption(f"neighbours is {self.neighbours}; it must be in [1, 1000]")


@dataclass(frozen=True)
class Method:
    """One row of a table; `augmentation` is how many neighbours join each database image."""

    pooling: str
    projection: Projection = Projection()
    expansion: QueryExpansion = QueryExpansion()
    augmentation: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.augmentation <= 1000:
            raise InvalidOption(f"augmentation is {self.augmentation}; it must be in [0, 1000]")
