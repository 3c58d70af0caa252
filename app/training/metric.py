"""`cooc train metric`: short descriptors in which the same thing comes together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.settings import load_settings
from app.terminal import console, options
from app.training import common
from engine.errors import InvalidOption

if TYPE_CHECKING:
    from engine.training.jobs.metric import MetricRun

_HEAD = ("dim", "basis", "power", "loss", "margin", "batching", "photos_each", "steps")
_RUN = ("validate", "hold_out", "instances", "views", "train_trunk", "trunk_rate")
_DESCRIPTORS = ("backbone", "weights", "layer", "max_side", "pooling", "cooccurrence")


def metric(
    context: typer.Context,
    out: common.Out,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Photos by what they show: a folder for each thing, gt.json and images/, or "
            "retrieval-SfM.",
        ),
    ] = None,
    validate: Annotated[
        str | None, typer.Option(help="Other photos to validate on; default a part of --data.")
    ] = None,
    hold_out: Annotated[float, typer.Option(help="That part, a share of the things.")] = 0.2,
    instances: Annotated[
        bool,
        typer.Option(
            "--instances", help="Without labels: each photo is a thing, known by made views of it."
        ),
    ] = False,
    views: Annotated[
        int | None,
        typer.Option(help="Made of each photo, to learn from too; default 0, with --instances 4."),
    ] = None,
    dim: Annotated[int, typer.Option(help="Values of a descriptor, at most 512.")] = 128,
    basis: Annotated[
        int, typer.Option(help="Principal directions of the raw descriptors that are used.")
    ] = 1024,
    power: Annotated[
        float, typer.Option(help="Of their eigenvalues, by which they are divided.")
    ] = 0.5,
    loss: Annotated[
        str, typer.Option(help="triplet, lifted, pair, multi_similarity or ntxent.")
    ] = "lifted",
    margin: Annotated[
        float | None, typer.Option(help="Default 0.5 (triplet), 1 (lifted), 0.7 (pair).")
    ] = None,
    batching: Annotated[
        str,
        typer.Option(
            help="balanced (photos of each of several things), or one-against-others (photos of "
            "one thing, one each of others)."
        ),
    ] = "balanced",
    things: Annotated[
        int | None, typer.Option(help="Of a batch; default 16, with --train-trunk 8.")
    ] = None,
    photos_each: Annotated[int, typer.Option(help="Of a thing in a batch.")] = 4,
    steps: Annotated[int, typer.Option(help="Of an epoch.")] = 50,
    train_trunk: Annotated[
        bool,
        typer.Option("--train-trunk", help="The trunk learns too; writes weights.safetensors."),
    ] = False,
    trunk_rate: Annotated[
        float, typer.Option(help="Its learning rate, as a share of that of the head.")
    ] = 0.01,
    backbone: options.Backbone = None,
    layer: options.Layer = None,
    weights: options.Weights = None,
    max_side: options.MaxSide = None,
    scales: options.Scales = None,
    pooling: options.Pooling = None,
    cooccurrence: options.Cooccurrence = None,
    epochs: common.Epochs = 10,
    learning_rate: common.LearningRate = 1e-3,
    optimizer: common.Optimizer = "adamw",
    schedule: common.Schedule = "cosine",
    decay: common.Decay = 0.99,
    warmup: common.Warmup = 0,
    weight_decay: common.WeightDecay = 0.0,
    momentum: common.Momentum = 0.9,
    clip: common.Clip = 0.0,
    patience: common.Patience = 0,
    seed: common.Seed = 0,
    device: common.Device = "auto",
    precision: common.Precision = "auto",
    described: Annotated[
        Path | None, typer.Option(help="Folder of raw descriptors, to share between runs.")
    ] = None,
    checkpoint_seconds: common.CheckpointSeconds = 60.0,
    resume: common.Resume = False,
    json: options.Json = False,
) -> None:
    """Learn a projection to short descriptors from photos of things; use it with --projection."""
    from engine.training.jobs.metric import learn_metric

    console.log_to_stderr()
    settings = load_settings(
        backbone=backbone,
        layer=layer,
        weights=weights,
        max_side=max_side,
        scales=scales,
        pooling=pooling,
        cooccurrence=cooccurrence,
    )
    chosen = common.recipe(context, without=("described",))
    # What the environment decides belongs to the run as well.
    chosen |= settings.model_dump(mode="json", include={*_DESCRIPTORS, "scales"})
    if views is None:
        chosen["views"] = 4 if instances else 0
    if things is None:
        chosen["things"] = 8 if train_trunk else 16
    if resume:
        chosen = common.resumed(context, out, "metric", chosen)
    chosen = common.with_trunk(chosen, settings)
    beside = common.beside(
        context, out, {"precision": precision, "described": described}, resume=resume
    )
    run = _run(chosen)
    with (
        console.late_progress_bar("describing photos") as describing,
        common.training_bar("training") as training,
    ):
        result = learn_metric(
            run,
            out,
            options=chosen,
            beside=beside,
            described=Path(beside["described"]) if beside["described"] else None,
            resume=resume,
            device=device,
            precision=beside["precision"],
            cache_dir=settings.cache_dir,
            checkpoint_s=checkpoint_seconds,
            report_described=describing,
            report=training,
        )
    common.finish(result, out, json=json, file="projection")


def _run(values: dict[str, Any]) -> MetricRun:
    """Raises: InvalidOption."""
    from engine.training.jobs.metric import MetricRun
    from engine.training.metric import MetricOptions

    if not values["data"]:
        raise InvalidOption("no photos to learn from; name a folder with --data")
    return MetricRun(
        data=values["data"],
        scales=tuple(values["scales"]),
        metric=MetricOptions(things=values["things"], **{name: values[name] for name in _HEAD}),
        loop=common.loop_options(values),
        **{name: values[name] for name in (*_RUN, *_DESCRIPTORS)},
    )
