"""Settings to working parts: weights, describer, searcher."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from app.learned import (
    Learned,
    check_learned,
    keep_learned,
    own_learned,
    read_learned,
    with_learned,
)
from app.settings import RECIPE_FIELDS, Settings
from engine.backbones.weights import AUTO, Progress, Weights, choose_trunk
from engine.catalog import Catalog
from engine.data_folder import DataFolder
from engine.describer import Describer, DescriberOptions
from engine.errors import IndexMismatch, InvalidOption, WeightsUnavailable
from engine.pooling import format_spec, parse_spec
from engine.searcher import Searcher
from engine.types import Recipe

log = logging.getLogger(__name__)


def describer_options(settings: Settings) -> DescriberOptions:
    return DescriberOptions(
        backbone=settings.backbone,
        layer=settings.layer,
        max_side=settings.max_side,
        scales=settings.scales,
        pooling=settings.pooling,
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.batch_size,
        max_pixels=int(settings.max_megapixels * 1_000_000),
        max_bytes=settings.max_upload_mb << 20,
        projection_dim=settings.projection_dim,
        projection_power=settings.projection_power,
        projection_shrinkage=settings.projection_shrinkage,
    )


def make_describer(settings: Settings, weights: Weights, learned: Learned) -> Describer:
    """Raises InvalidOption or WeightsUnavailable."""
    return Describer(
        describer_options(settings),
        weights,
        cooccurrence_filter=learned.filter,
        projection=learned.linear,
    )


def build_describer(settings: Settings, progress: Progress | None = None) -> Describer:
    """The describer that the settings ask for, without regard to any index."""
    learned = read_learned(settings)
    settings, weights = find_trunk(with_learned(settings, learned), progress)
    check_learned(settings, weights, learned)
    return make_describer(settings, weights, learned)


def find_trunk(settings: Settings, progress: Progress | None = None) -> tuple[Settings, Weights]:
    """The weights, and settings that name their trunk. Raises WeightsUnavailable, InvalidOption."""
    backbone, weights = choose_trunk(
        settings.backbone, settings.weights, cache_dir=settings.cache_dir, progress=progress
    )
    log.info("%s", weights.notice)
    return settings.model_copy(update={"backbone": backbone}), weights


def stored_recipe(data_dir: Path) -> Recipe | None:
    """The recipe of an index that holds images; None for a new or an empty one."""
    path = data_dir / "catalog.sqlite"
    if not path.is_file():
        return None
    catalog = Catalog(path)
    try:
        return catalog.recipe() if catalog.count() else None
    finally:
        catalog.close()


def with_recipe(settings: Settings, recipe: Recipe, wished: Learned) -> Settings:
    """Settings that follow the recipe of an existing index.

    Args:
        wished: what the files hold that the settings name.

    Raises: IndexMismatch if somebody explicitly asked for something else.
    """
    stored = recipe.to_json()
    wishes = settings.model_dump()
    conflicts = [
        f"{name} is {stored[name]}, not {wishes[name]}"
        for name in RECIPE_FIELDS
        if name not in ("weights", "pooling")  # by content: in `open_searcher`, and below
        and settings.chosen(name)
        and wishes[name] not in (None, AUTO)
        and wishes[name] != stored[name]
    ]
    own_pooling = format_spec(recipe.pooling, recipe.pooling_options)
    if settings.chosen("pooling") and not _agrees(settings.pooling, recipe):
        conflicts.append(f"pooling is {own_pooling}, not {settings.pooling}")
    for name, digest, wish in (
        ("cooccurrence", recipe.cooccurrence_digest, wished.cooccurrence),
        ("projection", recipe.projection_digest, wished.projection),
    ):
        if wish is not None and wish.digest != digest:
            own = f"a file of digest {digest[:12]}..." if digest else "not from a file"
            conflicts.append(f"{name} is {own}, not {wish.name} ({wish.digest[:12]}...)")
    if conflicts:
        raise IndexMismatch(
            f"the index in {settings.data_dir} was made with another recipe "
            f"({'; '.join(conflicts)}): leave these options out, or choose another --data-dir"
        )
    kept = {name: stored[name] for name in RECIPE_FIELDS if name != "weights"}
    kept["pooling"] = own_pooling
    weights = settings.weights
    if not settings.chosen("weights") or weights == "auto":
        weights = recipe.weights
    return settings.model_copy(update={**kept, "weights": weights})


def _agrees(spec: str, recipe: Recipe) -> bool:
    """Whether a wish for a pooling says nothing else than the recipe does."""
    name, options = parse_spec(spec)
    return name == recipe.pooling and all(
        recipe.pooling_options.get(key) == value for key, value in options.items()
    )


@dataclass(frozen=True)
class Opened:
    """A searcher with what it was made of; `close` releases the data folder."""

    searcher: Searcher
    weights: Weights
    learned: Learned
    folder: DataFolder

    def close(self) -> None:
        self.searcher.close()
        self.folder.release()


def open_searcher(
    settings: Settings, *, url: str | None = None, progress: Progress | None = None
) -> Opened:
    """Take the data folder and open its index, with the recipe it was made with.

    Raises: DataFolderInUse, IndexMismatch, WeightsUnavailable, CorruptIndex, StorageReadOnly.
    """
    folder = DataFolder(settings.data_dir, url=url)
    try:
        recipe = stored_recipe(settings.data_dir)
        learned = read_learned(settings)
        if recipe is None:
            settings = with_learned(settings, learned)
        else:
            settings = with_recipe(settings, recipe, learned)
            learned = own_learned(settings.data_dir, recipe, learned)
        try:
            settings, weights = find_trunk(settings, progress)
        except (WeightsUnavailable, InvalidOption) as error:
            if recipe is None:
                raise
            raise type(error)(
                f"the weights of the index in {settings.data_dir} are missing: {error}"
            ) from error
        if recipe is None:
            check_learned(settings, weights, learned)
        describer = make_describer(settings, weights, learned)
        if describer.pooling.unfitted:
            raise InvalidOption(
                f"pooling {settings.pooling} has to be fitted on a collection first, which only "
                "`cooc evaluate` does; leave out whiten=yes"
            )
        if recipe is None:
            # Before the recipe is recorded that needs them.
            keep_learned(settings.data_dir, learned)
        searcher = Searcher(
            settings.data_dir,
            describer,
            deadline_s=settings.deadline_s,
            batch_wait_ms=settings.batch_wait_ms,
            max_queue=settings.max_queue,
        )
    except BaseException:
        folder.release()
        raise
    return Opened(searcher, weights, learned, folder)
