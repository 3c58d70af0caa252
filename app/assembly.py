"""Settings to working parts: weights, describer, searcher."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from app.learned import (
    Learned,
    check_learned,
    keep_learned,
    own_learned,
    read_learned,
    with_learned,
)
from app.settings import RECIPE_FIELDS, Settings
from engine.backbones.weights import (
    AUTO,
    NAMED,
    PREFERRED,
    Progress,
    Weights,
    cached,
    choose_trunk,
    load_weights,
)
from engine.catalog import Catalog
from engine.describer import Describer, DescriberOptions
from engine.errors import IndexMismatch, InvalidOption, WeightsUnavailable
from engine.files.data_folder import DataFolder
from engine.originals import FOLDER as ORIGINALS
from engine.originals import Originals
from engine.passes.devices import device_names
from engine.pooling import build_pooling, format_spec, parse_spec
from engine.searcher import Searcher
from engine.types import Recipe
from engine.vector_index import BuildOptions

log = logging.getLogger(__name__)


def describer_options(settings: Settings) -> DescriberOptions:
    return DescriberOptions(
        backbone=settings.backbone,
        layer=settings.layer,
        max_side=settings.max_side,
        scales=settings.scales,
        pooling=settings.pooling,
        device=device_names(settings.device)[0],
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


def make_describers(settings: Settings, weights: Weights, learned: Learned) -> list[Describer]:
    """One for each device of the settings. Raises as `make_describer` does."""
    return [
        make_describer(settings.model_copy(update={"device": name}), weights, learned)
        for name in device_names(settings.device)
    ]


def build_describer(settings: Settings, progress: Progress | None = None) -> Describer:
    """The describer that the settings ask for, without regard to any index."""
    learned = read_learned(settings)
    settings, weights = find_trunk(with_learned(settings, learned), progress)
    check_learned(settings, weights, learned)
    return make_describer(settings, weights, learned)


def find_trunk(settings: Settings, progress: Progress | None = None) -> tuple[Settings, Weights]:
    """The weights, and settings that name their trunk. Raises WeightsUnavailable, InvalidOption."""
    backbone, weights = choose_trunk(
        settings.backbone,
        settings.weights,
        layer=settings.layer,
        cache_dir=settings.cache_dir,
        progress=progress,
    )
    log.log(logging.WARNING if weights.fallback else logging.INFO, "%s", weights.notice)
    return settings.model_copy(update={"backbone": backbone}), weights


def own_weights(settings: Settings, recipe: Recipe, progress: Progress | None = None) -> Weights:
    """The weights of an existing index.

    Args:
        settings: after `with_recipe`.

    Raises: WeightsUnavailable or InvalidOption if they cannot be had, IndexMismatch if somebody
        explicitly asked for others.
    """
    try:
        weights = load_weights(
            settings.backbone, settings.weights, cache_dir=settings.cache_dir, progress=progress
        )
    except (WeightsUnavailable, InvalidOption) as error:
        if settings.weights == recipe.weights:
            trouble = f"the weights of the index in {settings.data_dir} are missing: {error}"
        else:
            trouble = (
                f"the index in {settings.data_dir} was made with weights {recipe.weights}: leave "
                f"{settings.weights} out ({error})"
            )
        raise type(error)(trouble) from error
    if settings.weights != recipe.weights and weights.digest != recipe.weights_digest:
        raise _mismatch(settings, [f"weights is {recipe.weights}, not {settings.weights}"])
    log.info("%s", weights.notice)
    return weights


def stored_recipe(settings: Settings) -> Recipe | None:
    """The recipe of an existing index; None for a new one.

    One that is empty is new again if somebody chose anything of a recipe, or has copied the weights
    to their place that could not be had before: else uploads may wait that were accepted with its
    own.
    """
    path = settings.data_dir / "catalog.sqlite"
    if not path.is_file():
        return None
    catalog = Catalog(path)
    try:
        recipe = catalog.recipe()
        if recipe is None or catalog.count():
            return recipe
        return None if _chose_recipe(settings) or _can_do_better(settings, recipe) else recipe
    finally:
        catalog.close()


def _can_do_better(settings: Settings, recipe: Recipe) -> bool:
    """Whether `auto` made do with the bundled weights, and would not now."""
    left_to_us = settings.weights == settings.backbone == AUTO
    return (
        left_to_us
        and recipe.weights == "bundled"
        and cached(PREFERRED, settings.cache_dir) is not None
    )


def _chose_recipe(settings: Settings) -> bool:
    names = (*RECIPE_FIELDS, "cooccurrence", "projection")
    return any(
        settings.chosen(name) and getattr(settings, name) not in (None, AUTO) for name in names
    )


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
        if name not in ("weights", "pooling")  # by content: in `own_weights`, and below
        and settings.chosen(name)
        and wishes[name] not in (None, AUTO)
        and wishes[name] != stored[name]
    ]
    named = set(NAMED) - {AUTO}
    if (
        settings.chosen("weights")
        and {settings.weights, recipe.weights} <= named
        and settings.weights != recipe.weights
    ):
        conflicts.append(f"weights is {recipe.weights}, not {settings.weights}")
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
        raise _mismatch(settings, conflicts)
    kept = {name: stored[name] for name in RECIPE_FIELDS if name != "weights"}
    kept["pooling"] = own_pooling
    weights = settings.weights
    if not settings.chosen("weights") or weights == "auto":
        weights = recipe.weights
    return settings.model_copy(update={**kept, "weights": weights})


def _mismatch(settings: Settings, conflicts: list[str]) -> IndexMismatch:
    return IndexMismatch(
        f"the index in {settings.data_dir} was made with another recipe "
        f"({'; '.join(conflicts)}): leave these options out, or choose another --data-dir"
    )


def _agrees(spec: str, recipe: Recipe) -> bool:
    """Whether a wish for a pooling says nothing else than the recipe does. Raises InvalidOption."""
    name, named = parse_spec(spec)
    # A recipe leaves out most defaults; so does the pooling, whether they were named or not.
    wished = build_pooling(spec, 2).options  # they do not depend on the channels
    own = recipe.pooling_options
    return name == recipe.pooling and all(wished.get(key) == own.get(key) for key in named)


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
        recipe = stored_recipe(settings)
        learned = read_learned(settings)
        if recipe is None:
            settings, weights = find_trunk(with_learned(settings, learned), progress)
            check_learned(settings, weights, learned)
        else:
            settings = with_recipe(settings, recipe, learned)
            learned = own_learned(settings.data_dir, recipe, learned)
            weights = own_weights(settings, recipe, progress)
        describer, *others = make_describers(settings, weights, learned)
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
            # Who was let in (`create_app`) has a place, whether the first pass is full or not.
            max_queue=settings.max_queue + settings.batch_size,
            max_waiting_bytes=settings.max_waiting_mb << 20,
            more_describers=others,
            build_options=BuildOptions(
                settings.index_type, settings.recall_target, settings.min_recall
            ),
            originals=Originals(settings.data_dir / ORIGINALS, keeps=settings.keep_originals),
        )
    except BaseException:
        folder.release()
        raise
    return Opened(searcher, weights, learned, folder)
