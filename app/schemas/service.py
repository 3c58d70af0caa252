"""What the service is made of, and whether it is well."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from app.schemas.base import Out
from app.security.scopes import Scope
from engine.backbones.weights import Weights
from engine.descriptor_weights import DescriptorWeights


class WeightsOut(Out):
    """Where the model's parameters come from."""

    name: str
    """`imagenet`, `bundled`, `untrained` or a file."""
    trained: bool
    """Whether they were learned from anything."""
    fallback: bool
    """They are used because those that `auto` prefers could not be had."""
    digest: str
    """SHA-256 of their content."""
    notice: str
    """One sentence for people."""

    @classmethod
    def of(cls, weights: Weights) -> WeightsOut:
        return cls(
            name=weights.name,
            trained=weights.trained,
            fallback=weights.fallback,
            digest=weights.digest,
            notice=weights.notice,
        )


class LearnedOut(Out):
    """Something trained besides the trunk."""

    name: str
    """The file it was given as."""
    digest: str
    """SHA-256 of its content."""

    @classmethod
    def of(cls, weights: DescriptorWeights | None) -> LearnedOut | None:
        return None if weights is None else cls(name=weights.name, digest=weights.digest)


class AcceptsOut(Out):
    """What its operator has set about images."""

    urls: bool
    """Whether images are fetched from URLs of some hosts."""
    originals: bool
    """Whether the files that are added from now on are kept."""
    max_upload_mb: int
    """Size of one image."""
    max_bulk_mb: int
    """Size of one upload to `/index/add`."""


class VersionOut(Out):
    """What this is made of; null where the index cannot be used."""

    name: str
    """Of the program."""
    version: str
    """Of the program."""
    weights: WeightsOut | None
    """Parameters of the trunk."""
    backbone: str | None
    """The trunk, such as `vgg16`."""
    pooling: str | None
    """What makes a descriptor of its activations."""
    cooccurrence: LearnedOut | None
    """The co-occurrence filter, if one was trained."""
    projection: LearnedOut | None
    """The projection, if one was trained rather than fitted."""
    fingerprint: str | None
    """Of the recipe: descriptors can be compared only if it is the same."""
    device: str | None
    """Where the model runs."""
    precision: str | None
    """`float32` or `bfloat16`."""
    accepts: AcceptsOut
    """What clients may send, and what is kept of it."""


class HealthOut(Out):
    """All is well."""

    status: Literal["ok"]
    """Anything else is a problem document."""


class SessionOut(Out):
    """What the caller may do: nothing for a stranger, everything where keys are not required."""

    required: bool
    """Whether this service asks for keys."""
    scopes: list[Scope]
    """What the caller may do."""
    key_id: str | None
    """Of the caller's key."""
    key_name: str | None
    """As it was made for."""
    expires_at: datetime | None
    """When the key ends, if ever."""
