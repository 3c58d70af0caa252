"""Trained filters and projections: from the files that settings name, or an index's own copies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.settings import PROJECTION_FIELDS, Settings
from engine.backbones.weights import AUTO, Weights
from engine.cooccurrence_filter import Filter, pooling_with_filter
from engine.descriptor_weights import DescriptorWeights, read_cooccurrence, read_projection
from engine.errors import InvalidOption
from engine.learned_copies import drop_copies, keep_copy, read_copy
from engine.postprocess import LinearProjection
from engine.types import Recipe


@dataclass(frozen=True)
class Learned:
    """What was trained besides the trunk: a co-occurrence filter and a projection."""

    cooccurrence: DescriptorWeights | None = None
    projection: DescriptorWeights | None = None

    @property
    def filter(self) -> Filter | None:
        return None if self.cooccurrence is None else self.cooccurrence.cooccurrence

    @property
    def linear(self) -> LinearProjection | None:
        return None if self.projection is None else self.projection.projection


def read_learned(settings: Settings) -> Learned:
    """The files that the settings name. Raises InvalidOption."""
    cooccurrence, projection = settings.cooccurrence, settings.projection
    return Learned(
        None if cooccurrence is None else read_cooccurrence(cooccurrence),
        None if projection is None else read_projection(projection),
    )


def with_learned(settings: Settings, learned: Learned) -> Settings:
    """Settings whose pooling uses the filter.

    Raises: InvalidOption if it cannot, if what was learned belongs to another trunk, or for
        settings that a learned projection leaves without effect.
    """
    for part in (learned.cooccurrence, learned.projection):
        if part is not None:
            settings = with_trunk_of(settings, part)
            if settings.backbone != AUTO:
                part.check(settings.backbone, settings.layer)
    if learned.projection is not None:
        idle = [name for name in PROJECTION_FIELDS if settings.chosen(name)]
        if idle:
            raise InvalidOption(
                f"{', '.join(idle)} would have no effect: the projection "
                f"{learned.projection.name} is used as it was trained; leave out one or the other"
            )
    if learned.cooccurrence is None or learned.filter is None:
        return settings
    pooling = pooling_with_filter(settings.pooling, learned.filter, learned.cooccurrence.name)
    return settings.model_copy(update={"pooling": pooling})


def with_trunk_of(settings: Settings, learned: DescriptorWeights) -> Settings:
    """Settings that name the trunk `learned` was made for, if they left the choice open."""
    own = learned.made_for.get("backbone")
    if settings.backbone != AUTO or own is None:
        return settings
    return settings.model_copy(update={"backbone": own})


def check_learned(settings: Settings, weights: Weights, learned: Learned) -> None:
    """Raises InvalidOption if what was learned belongs to other weights, or another pooling."""
    cooccurrence, projection = learned.cooccurrence, learned.projection
    backbone, layer = settings.backbone, settings.layer
    if cooccurrence is not None:
        cooccurrence.check(backbone, layer, weights_digest=weights.digest)
    if projection is not None:
        projection.check(
            backbone,
            layer,
            weights_digest=weights.digest,
            pooling=settings.pooling,
            cooccurrence_digest=cooccurrence.digest if cooccurrence else "",
        )


def own_learned(data_dir: Path, recipe: Recipe, wished: Learned) -> Learned:
    """What an existing index keeps copies of. What is wished for is the same, and mends them.

    Raises: CorruptIndex naming a copy that is missing or damaged.
    """
    for wish in (wished.cooccurrence, wished.projection):
        if wish is not None:
            keep_copy(data_dir, wish)
    filter_digest, projection_digest = recipe.cooccurrence_digest, recipe.projection_digest
    return Learned(
        read_copy(data_dir, filter_digest, "--cooccurrence") if filter_digest else None,
        read_copy(data_dir, projection_digest, "--projection") if projection_digest else None,
    )


def keep_learned(data_dir: Path, learned: Learned) -> None:
    """Copy what a new index needs into its folder, and drop what an older one there needed."""
    parts = [part for part in (learned.cooccurrence, learned.projection) if part is not None]
    for part in parts:
        keep_copy(data_dir, part)
    drop_copies(data_dir, {part.digest for part in parts})
