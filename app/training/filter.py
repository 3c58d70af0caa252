"""`cooc train filter`: the co-occurrence filter of the paper's section 5, on a trunk as it is."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.settings import load_settings
from app.terminal import console, options
from app.training import common
from engine.errors import InvalidOption

if TYPE_CHECKING:
    from engine.training.jobs.filter import FilterRun

_SETTINGS = ("backbone", "weights", "layer", "max_side", "pooling")
"""Options that have a COOC_ variable."""


def train_filter(
    context: typer.Context,
    out: common.Out,
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder of a training set: a sub-folder for each thing, gt.json and images/, or "
            "retrieval-SfM."
        ),
    ] = None,
    validate: Annotated[
        str | None,
        typer.Option(help="Another one whose mAP is watched; default a part of --data."),
    ] = None,
    hold_out: Annotated[
        float, typer.Option(help="That part, of its things; retrieval-SfM has a split for it.")
    ] = 0.2,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    layer: options.Layer = None,
    max_side: options.MaxSide = None,
    pooling: Annotated[
        str | None, typer.Option(help="cbp_ac or bp_ac, with its options. [COOC_POOLING]")
    ] = None,
    radius: Annotated[
        int, typer.Option(min=1, max=4, help="Of the filter: 4 is 9 x 9, as published.")
    ] = 4,
    margin: Annotated[
        float,
        typer.Option(
            help="Distance from which negatives are left alone; 0.85, as published, is for "
            "descriptors without the signed root (--pooling cbp_ac:root=no)."
        ),
    ] = 1.1,
    negatives: Annotated[int, typer.Option(min=1, help="Of each query, the hardest.")] = 5,
    pairs: Annotated[int, typer.Option(min=1, help="That match, drawn for each epoch.")] = 2000,
    pool: Annotated[
        int, typer.Option(min=1, help="Photos of an epoch, among which negatives are sought.")
    ] = 20_000,
    batch: Annotated[
        int, typer.Option(min=1, help="Tuples of a step: a query, its match, its negatives.")
    ] = 5,
    epochs: common.Epochs = 30,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="At its peak; default 0.04 over the area of the window."),
    ] = None,
    optimizer: common.Optimizer = "adam",
    schedule: common.Schedule = "constant",
    decay: common.Decay = 0.99,
    warmup: common.Warmup = 0,
    weight_decay: common.WeightDecay = 0.0,
    momentum: common.Momentum = 0.85,
    clip: common.Clip = 0.0,
    patience: common.Patience = 5,
    seed: common.Seed = 0,
    cache_gb: Annotated[
        float, typer.Option(min=0.0, help="Memory for the maps of photos; others are made anew.")
    ] = 2.0,
    device: common.Device = "auto",
    precision: common.Precision = "auto",
    checkpoint_seconds: common.CheckpointSeconds = 120.0,
    resume: common.Resume = False,
    json: options.Json = False,
) -> None:
    """Learn a co-occurrence filter from photos that match; writes filter.safetensors."""
    from engine.training.jobs import filter as job

    console.log_to_stderr()
    chosen = common.recipe(context, without=("cache_gb",))
    if resume:
        chosen = common.resumed(context, out, "filter", chosen)
    if not chosen["data"]:
        raise InvalidOption("no photos to learn from; name a folder with --data")
    settings = load_settings(**{name: chosen[name] for name in _SETTINGS})
    chosen |= {name: getattr(settings, name) for name in _SETTINGS}
    if chosen["learning_rate"] is None:
        chosen["learning_rate"] = job.usual_learning_rate(radius=chosen["radius"])
    chosen = common.with_trunk(chosen, settings)
    beside = common.beside(context, out, {"precision": precision}, resume=resume)
    with common.training_bar("training") as bar:
        result = job.train_filter(
            _run(chosen),
            out,
            options=chosen,
            beside=beside,
            resume=resume,
            device=device,
            precision=beside["precision"],
            cache_gb=cache_gb,
            cache_dir=settings.cache_dir,
            checkpoint_s=checkpoint_seconds,
            report=bar,
        )
    common.finish(result, out, json=json, file="filter")


def _run(values: dict[str, Any]) -> FilterRun:
    """Raises: InvalidOption."""
    from engine.training.jobs.filter import FilterRun
    from engine.training.siamese import SiameseOptions

    own = {field.name for field in fields(FilterRun)} - {"siamese", "loop"}
    return FilterRun(
        siamese=SiameseOptions(
            **{field.name: values[field.name] for field in fields(SiameseOptions)}
        ),
        loop=common.loop_options(values),
        **{name: values[name] for name in own},
    )
