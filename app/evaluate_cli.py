"""`cooc evaluate`: mean average precision of poolings on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app import console, options
from app.settings import load_settings
from engine.errors import InvalidOption

PROJECTIONS = ("none", "fitted")


def evaluate(
    dataset: Annotated[Path, typer.Argument(help="Folder with images/ and gt.json.")],
    pooling: Annotated[
        list[str] | None, typer.Option("--pooling", help="Repeatable; default cbp_ac.")
    ] = None,
    projection: Annotated[
        list[str] | None,
        typer.Option("--projection", help="none or fitted (on the database); repeatable."),
    ] = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    max_side: options.MaxSide = None,
    scales: options.Scales = None,
    device: options.Device = None,
    precision: options.Precision = None,
    json: options.Json = False,
) -> None:
    """Rank the database for every query and print mAP, per kind of query."""
    from app.assembly import build_describer
    from app.files import FileSource
    from engine.evaluation.datasets import load_dataset
    from engine.evaluation.run import evaluate_poolings

    console.log_to_stderr()
    settings = load_settings(
        backbone=backbone,
        weights=weights,
        max_side=max_side,
        scales=scales,
        device=device,
        precision=precision,
    )
    projections = projection or list(PROJECTIONS)
    for name in projections:
        if name not in PROJECTIONS:
            raise InvalidOption(f"projection is {name!r}; choose from {', '.join(PROJECTIONS)}")
    content = load_dataset(dataset)
    describer = build_describer(settings)
    with console.progress_bar("describing") as bar:
        results = evaluate_poolings(
            content,
            describer,
            poolings=pooling or [settings.pooling],
            projections=projections,
            source=lambda name, box: FileSource(content.path(name), box),
            progress=bar.update,
        )
    if json:
        console.print_json({"dataset": content.name, "results": results})
        return
    console.table(
        ("pooling", "projection", "dim", "queries", "mAP"),
        [_row(result) for result in results],
        title=f"{content.name}: {len(content.database)} images, {describer.options.backbone}",
    )


def _row(result: dict[str, Any]) -> list[Any]:
    return [result[name] for name in ("pooling", "projection", "dim", "queries", "map")]
