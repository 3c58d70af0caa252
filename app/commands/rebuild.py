"""`cooc index rebuild`: the same images under another recipe."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.settings import PROJECTION_FIELDS, RECIPE_FIELDS, Settings, load_settings
from app.terminal import console, options
from engine.errors import IndexMismatch, InvalidOption
from engine.types import Recipe

if TYPE_CHECKING:
    from engine.rebuilding import Rebuild

TRUNK_FIELDS = ("backbone", "layer", "weights")


def rebuild(
    source: Annotated[
        str,
        typer.Option(
            "--from", help="originals, thumbnails, or auto: originals where they were kept."
        ),
    ] = "auto",
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", help="JSON of a whole recipe, as /admin/index shows it."),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out images that cannot be described.")
    ] = False,
    data_dir: options.DataDir = None,
    backbone: options.Backbone = None,
    layer: options.Layer = None,
    weights: options.Weights = None,
    max_side: options.MaxSide = None,
    pooling: options.Pooling = None,
    cooccurrence: options.Cooccurrence = None,
    projection: options.Projection = None,
    scales: options.Scales = None,
    device: options.Device = None,
    precision: options.Precision = None,
    json: options.Json = False,
) -> None:
    """Describe every image anew and change over to the new recipe in one step.

    What is not named stays as in the old recipe. Interrupted work goes on where it was.
    """
    from app.assembly import find_trunk, make_describer
    from app.learned import check_learned, keep_learned, with_learned
    from engine.files.data_folder import DataFolder
    from engine.rebuilding import Rebuild, Source

    console.log_to_stderr()
    settings = load_settings(
        data_dir=data_dir,
        backbone=backbone,
        layer=layer,
        weights=weights,
        max_side=max_side,
        pooling=pooling,
        cooccurrence=cooccurrence,
        projection=projection,
        scales=scales,
        device=device,
        precision=precision,
    )
    if source not in list(Source):
        raise InvalidOption(f"--from is {source!r}; choose from {', '.join(Source)}")
    folder = DataFolder(settings.data_dir)
    try:
        old = _stored_recipe(settings.data_dir)
        wanted = None if recipe is None else _read_recipe(recipe)
        settings, learned = _following(settings, wanted or old, whole=wanted is not None)
        with console.late_progress_bar("downloading weights") as report:
            settings, found = find_trunk(with_learned(settings, learned), report)
        check_learned(settings, found, learned)
        describer = make_describer(settings, found, learned)
        if wanted is not None and describer.recipe.fingerprint != wanted.fingerprint:
            differences = "; ".join(wanted.differences(describer.recipe))
            raise IndexMismatch(f"{recipe} cannot be followed here ({differences})")
        # Before a catalog names them; the old ones are never removed.
        keep_learned(settings.data_dir, learned)
        work = Rebuild(settings.data_dir, describer, Source(source))
        try:
            answer = _run(work, allow_missing)
        finally:
            work.close()
    finally:
        folder.release()
    if json:
        console.print_json({**answer, "recipe": describer.recipe.to_json()})
    else:
        console.out.print(
            f"{answer['count']} images are described anew, {answer['left_out']} left out; "
            f"generation {answer['generation']} is live",
            soft_wrap=True,
        )
        console.out.print(
            f"the old index is in {answer['replaced']}: delete it when you are sure",
            soft_wrap=True,
        )


def _run(work: Rebuild, allow_missing: bool) -> dict[str, Any]:
    from engine.rebuilding import Source

    plan = work.plan()
    console.err.print(
        f"{plan.images} images, {plan.originals} with their originals, {plan.done} described "
        "already; Ctrl+C leaves the old index in use and keeps what is done"
    )
    small = plan.images - plan.originals if work.source is Source.AUTO else 0
    if small:
        console.err.print(
            f"[bold]warning:[/] {small} images have no original and are described by their "
            "thumbnails of 256 pixels: they will be found less well. Add them again to mend that."
        )
    with console.progress_bar("describing") as bar:
        described = work.describe(bar.update)
    for image_id, reason in described.failures:
        console.err.print(f"failed {image_id}: {reason}", markup=False, soft_wrap=True)
    with console.progress_bar("building") as bar:
        rebuilt = work.finish(allow_missing=allow_missing, progress=bar.update)
    return {
        "count": rebuilt.count,
        "left_out": rebuilt.left_out,
        "generation": rebuilt.generation,
        "from_originals": described.originals,
        "from_thumbnails": described.thumbnails,
        "described_before": plan.done,
        "failures": [{"id": name, "error": reason} for name, reason in described.failures],
        "replaced": str(rebuilt.aside),
    }


def _stored_recipe(data_dir: Path) -> Recipe:
    from contextlib import closing

    from engine.catalog.reader import CatalogReader
    from engine.snapshots import CATALOG

    with closing(CatalogReader(data_dir / CATALOG)) as reader:
        stored = reader.recipe()
    if stored is None:
        raise InvalidOption(f"the index in {data_dir} is new; start with the recipe you want")
    return stored


def _read_recipe(path: Path) -> Recipe:
    """A recipe, or the answer of /admin/index around one. Raises InvalidOption."""
    try:
        content = json_module.loads(path.read_bytes())
        return Recipe.from_json(content.get("recipe", content))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidOption(f"{path} holds no recipe: {error!r}") from error


def _following(settings: Settings, recipe: Recipe, *, whole: bool) -> tuple[Settings, Any]:
    """`settings`, and for what they leave open the recipe's choice; and what was learned for it.

    Args:
        whole: the recipe was asked for as such, so that settings must not say otherwise.
    """
    from app.learned import Learned, read_learned
    from engine.learned_copies import read_copy
    from engine.pooling import format_spec

    chosen = {
        name
        for name in (*RECIPE_FIELDS, "cooccurrence", "projection")
        if settings.chosen(name) and getattr(settings, name) not in (None, "auto")
    }
    if whole and chosen - {"weights", "cooccurrence", "projection"}:
        names = ", ".join(sorted(chosen - {"weights", "cooccurrence", "projection"}))
        raise InvalidOption(f"--recipe says all of it; leave out {names}")
    stored = {**recipe.to_json(), "pooling": format_spec(recipe.pooling, recipe.pooling_options)}
    # Another trunk has its own layers and weights, and what was learned is for one of them.
    other_trunk = not whole and any(
        name in chosen and getattr(settings, name) != stored[name] for name in TRUNK_FIELDS
    )
    learned = read_learned(settings)
    copies = settings.data_dir, recipe
    cooccurrence, projection = learned.cooccurrence, learned.projection
    keeps_pooling = "pooling" not in chosen and not other_trunk
    if cooccurrence is None and recipe.cooccurrence_digest and keeps_pooling:
        cooccurrence = read_copy(copies[0], recipe.cooccurrence_digest, "--cooccurrence")
    same_descriptors = keeps_pooling and "cooccurrence" not in chosen
    fits_own = bool(chosen & set(PROJECTION_FIELDS))
    if projection is None and recipe.projection_digest and same_descriptors and not fits_own:
        projection = read_copy(copies[0], recipe.projection_digest, "--projection")
    dropped = set(TRUNK_FIELDS) if other_trunk else set()
    if other_trunk and set(TRUNK_FIELDS) & chosen <= {"layer"}:
        dropped = {"layer"}  # another layer of the same trunk
    if projection is not None or recipe.projection_digest:
        dropped |= set(PROJECTION_FIELDS)  # those of the recipe say nothing, as none was fitted
    kept = {name: stored[name] for name in RECIPE_FIELDS if name not in chosen | dropped}
    if kept.get("weights") == "":
        del kept["weights"]
    return settings.model_copy(update=kept), Learned(cooccurrence, projection)
