"""Values that travel between the parts of the engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.filters import Filter

Vectors = NDArray[np.float32]
"""(N, D) or (D,) float32 descriptors."""

Rows = NDArray[np.int64]
"""(N,) row numbers of the catalog."""

Pixels = NDArray[np.uint8]
"""(H, W, 3) upright RGB."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a descriptor means.

    Two descriptors may be compared only if their recipes have the same fingerprint.
    `weights` is the name by which the weights were found and stays out of the fingerprint:
    `weights_digest`, their content, is in it. `cooccurrence_digest` is that of a learned filter and
    `projection_digest` that of a learned projection; both are empty where there is none.
    """

    backbone: str
    layer: str
    weights: str
    weights_digest: str
    max_side: int
    scales: tuple[float, ...]
    pooling: str
    pooling_options: Mapping[str, float | int | str]
    pooling_digest: str
    raw_dim: int
    projection_dim: int
    projection_power: float
    projection_shrinkage: float = 0.0
    cooccurrence_digest: str = ""
    projection_digest: str = ""

    def to_json(self) -> Json:
        """A plain object; `from_json` gives the recipe back."""
        return asdict(replace(self, pooling_options=dict(self.pooling_options)))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recipe:
        return cls(**{**value, "scales": tuple(value["scales"])})

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the recipe, as 64 hexadecimal digits."""
        content = {name: value for name, value in self.to_json().items() if name != "weights"}
        for name in _LATER_ENTRIES:
            if not content[name]:
                # Indexes from before there was this entry keep their fingerprint.
                del content[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def differences(self, other: Recipe) -> list[str]:
        """`name: ours, theirs` of each entry of the fingerprint in which the two differ."""
        ours, theirs = self.to_json(), other.to_json()
        return [
            f"{name}: {_short(ours[name])}, not {_short(theirs[name])}"
            for name in ours
            if name != "weights" and ours[name] != theirs[name]
        ]


_LATER_ENTRIES = ("projection_shrinkage", "cooccurrence_digest", "projection_digest")
"""Zero or empty in a recipe that does without them."""


def _short(value: object) -> str:
    text = str(value) or "none"
    return text[:12] + "..." if len(text) == 64 else text


class MatchType(StrEnum):
    """How sure a hit is: the same bytes, nearly the same picture, or something alike."""

    EXACT = "exact"
    NEAR = "near"
    SIMILAR = "similar"


@dataclass(frozen=True)
class Hit:
    """One answer of a search. `score` is a cosine in [-1, 1]; `rank` starts at 1.

    `p_same_origin` is None where scores are not calibrated; see `engine.calibration.Calibration`.
    """

    id: str
    score: float
    rank: int
    match_type: MatchType
    metadata: Json
    width: int
    height: int
    p_same_origin: float | None = None


class Expansion(StrEnum):
    """Query expansion: off, mean of the neighbours, weighted by similarity, or only when safe."""

    NONE = "none"
    AVERAGE = "average"
    ALPHA = "alpha"
    AUTO = "auto"


@dataclass(frozen=True)
class SearchOptions:
    """What a caller may ask of a search besides the query itself.

    `expansion_neighbours` may join an expanded query, with weights of exponent `expansion_alpha`;
    `augmentation` neighbours join each candidate before it is compared (database-side
    augmentation): pages of over 100 results in all may then overlap. `exact` compares with every
    stored vector; else `nprobe` cells of a coded index are looked into, by default as many as its
    build found necessary. `max_fpr` leaves out what is less like the query than all but this share
    of images of other origin. Only images whose metadata passes `filter` are answered. A generation
    before `min_generation` is not searched.
    """

    limit: int = 10
    offset: int = 0
    score_threshold: float | None = None
    expansion: Expansion = Expansion.NONE
    exclude_self: bool = False
    expansion_neighbours: int = 10
    expansion_alpha: float = 3.0
    augmentation: int = 0
    exact: bool = False
    nprobe: int | None = None
    max_fpr: float | None = None
    filter: Filter | None = None
    min_generation: int = 0


@dataclass(frozen=True)
class SearchAnswer:
    """Hits, best first, with what is needed to judge and reproduce them."""

    hits: tuple[Hit, ...]
    fingerprint: str
    generation: int
    count: int
    expanded_with: int
    timing_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageRecord:
    """What the catalog knows of one image, without its descriptor and thumbnail."""

    row: int
    id: str
    digest: str
    width: int
    height: int
    format: str
    metadata: Json
    created_at: str


@dataclass(frozen=True)
class NewImage:
    """One image ready to be stored: identity, metadata and its raw descriptor.

    `data` are the bytes of its file, where originals are kept.
    """

    id: str
    digest: str
    width: int
    height: int
    format: str
    metadata: Json
    thumbnail: bytes
    descriptor: Vectors
    data: bytes | None = field(default=None, repr=False)


class AddOutcome(StrEnum):
    """What became of an image that was offered to the index."""

    ADDED = "added"
    REPLACED = "replaced"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class AddResult:
    """The outcome for one offered image; `detail` says why it was skipped or failed."""

    name: str
    outcome: AddOutcome
    id: str | None = None
    detail: str | None = None
