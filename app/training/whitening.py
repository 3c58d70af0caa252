"""`cooc train whitening`: a projection that damps what differs between photos of one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.settings import load_settings
from app.terminal import console, options
from app.training import common

_SETTINGS = (
    "backbone",
    "weights",
    "layer",
    "max_side",
    "pooling",
    "scales",
    "cooccurrence",
    "device",
    "precision",
)
"""Options that have a COOC_ variable."""


def train_whitening(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            help="Folder of a training set: a sub-folder for each thing, gt.json and images/, or "
            "retrieval-SfM."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for what is learned.")],
    dim: Annotated[
        int, typer.Option(min=1, max=8192, help="Values of a descriptor, at most.")
    ] = 512,
    shrinkage: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Towards PCA; default by the number of pairs, 0 as published."
        ),
    ] = None,
    hold_out: Annotated[
        float, typer.Option(help="Share of the things by which it is measured; 0 for none.")
    ] = 0.2,
    seed: common.Seed = 0,
    cooccurrence: options.Cooccurrence = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    layer: options.Layer = None,
    max_side: options.MaxSide = None,
    pooling: options.Pooling = None,
    scales: options.Scales = None,
    device: options.Device = None,
    precision: options.Precision = None,
    json: options.Json = False,
) -> None:
    """Learn a whitening from photos that match; writes projection.safetensors."""
    from app.assembly import build_describer
    from engine.training.jobs.whitening import WhiteningRun, learn_whitening

    console.log_to_stderr()
    chosen = common.recipe(context, without=())
    run = WhiteningRun(data, dim, shrinkage, hold_out, seed)
    settings = load_settings(**{name: context.params[name] for name in _SETTINGS})
    # A trained projection in the environment is what takes this one's place, not its ground.
    settings = settings.model_copy(update={"projection": None})
    chosen |= {name: getattr(settings, name) for name in _SETTINGS if name in chosen}
    describer = build_describer(settings)
    with console.late_progress_bar("describing") as bar:
        result = learn_whitening(run, describer, out, options=_plain(chosen), report=bar)
    if json:
        console.print_json(result)
        return
    if result["scores"]:
        rows = [(name, 100 * score) for name, score in result["scores"].items()]
        console.table(("descriptor", "mAP"), rows, title=f"{hold_out:g} of the things held out")
    console.out.print(
        f"{result['projection']}: {result['dim']} values, shrinkage {result['shrinkage']:.3g}, "
        f"learned from all {result['photos']} photos; next: cooc evaluate DATASET --projection "
        f"{result['projection']}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _plain(values: dict[str, object]) -> dict[str, object]:
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in values.items()
    }
