"""Trained filters and projections: from the files that settings name, or an index's own copies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.settings import PROJECTION_FIELDS, Settings
from engine.backbones.weights import AUTO, Weights
from engine.cooccurrence_filter import Filter, pooling_with_filter
from engine.descriptor_weights import DescriptorWeights, read_cooccurrence, read_projection
from engine.errors import InvalidOption
from engine.learned_copies import keep_copy, read_copy
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
    settings = with_trunk_of(settings, learned.cooccurrence, learned.projection)
    for part in (learned.cooccurrence, learned.projection):
        if part is not None:
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


def with_trunk_of(settings: Settings, *learned: DescriptorWeights | None) -> Settings:
    """Settings that name the trunk all of `learned` was made for, if they left the choice open.

    Raises: InvalidOption if nothing says which that is, or if two say different ones.
    """
    parts = [part for part in learned if part is not None]
    if settings.backbone != AUTO or not parts:
        return settings
    made_for = {part.made_for.get("backbone"): part for part in parts}
    named = {str(name): part for name, part in made_for.items() if name is not None}
    if not named:
        # Filters of one size fit several trunks: which is meant must not depend on the network.
        raise InvalidOption(
            f"{parts[0].called} does not say which trunk it was made for: choose --backbone"
        )
    if len(named) > 1:
        made = ", ".join(f"{part.called} was made for {name}" for name, part in named.items())
        raise InvalidOption(f"{made}: leave out one or the other")
    return settings.model_copy(update={"backbone": next(iter(named))})


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
    keep_learned(data_dir, wished)
    filter_digest, projection_digest = recipe.cooccurrence_digest, recipe.projection_digest
    return Learned(
        read_copy(data_dir, filter_digest, "--cooccurrence") if filter_digest else None,
        read_copy(data_dir, projection_digest, "--projection") if projection_digest else None,
    )


def keep_learned(data_dir: Path, learned: Learned) -> None:
    """Copy what an index needs into its folder."""
    for part in (learned.cooccurrence, learned.projection):
        if part is not None:
            keep_copy(data_dir, part)
