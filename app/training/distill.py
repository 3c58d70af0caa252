"""`cooc train distill`: a small trunk, or one pass, learns from a larger one, or from several."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.settings import load_settings
from app.terminal import console, options
from app.training import common
from engine.errors import InvalidOption

if TYPE_CHECKING:
    from engine.training.jobs.distill import DistillRun

_TRUNKS = (
    "teacher",
    "teacher_weights",
    "teacher_layer",
    "mirrored",
    "power",
    "student",
    "student_weights",
    "student_layer",
    "pooling",
)


def distill(
    context: typer.Context,
    out: common.Out,
    photos: Annotated[
        list[str] | None,
        typer.Option("--photos", help="Folder of photos, labels are not needed. Repeatable."),
    ] = None,
    teacher: Annotated[str, typer.Option(help="Trunk that is imitated.")] = "squeezenet1_1",
    teacher_weights: Annotated[
        str, typer.Option(help="auto, imagenet, bundled, or a file.")
    ] = "auto",
    teacher_layer: Annotated[str | None, typer.Option(help="Default its last.")] = None,
    scales: Annotated[
        str, typer.Option(help="At which the teacher looks, comma separated.")
    ] = "0.7,1,1.4",
    mirrored: Annotated[
        bool, typer.Option(help="The teacher also looks at mirrored views.")
    ] = True,
    power: Annotated[
        float, typer.Option(min=0.1, max=2.0, help="Of the mean over what it sees.")
    ] = 0.5,
    student: Annotated[str, typer.Option(help="Trunk that learns.")] = "vgg_lite",
    student_weights: Annotated[
        str, typer.Option(help="scratch, or where it begins: imagenet, bundled, or a file.")
    ] = "scratch",
    student_layer: Annotated[str | None, typer.Option(help="Default its last.")] = None,
    pooling: Annotated[str, typer.Option(help="Of the descriptors compared.")] = "cbp_ac",
    views: Annotated[int, typer.Option(min=2, help="Made views in all.")] = 40_000,
    shard: Annotated[int, typer.Option(min=1, help="Views per file of the bank.")] = 500,
    sizes: Annotated[
        str, typer.Option(help="Heights x widths of views, comma separated.")
    ] = "160x160,128x192,192x128",
    maps: Annotated[float, typer.Option(help="Weight of the feature maps.")] = 1.0,
    descriptors: Annotated[float, typer.Option(help="Weight of the descriptors.")] = 0.0,
    pairs: Annotated[float, typer.Option(help="Weight of distances within a batch.")] = 0.0,
    sharpness: Annotated[
        float, typer.Option(help="Exponent of the teacher's maps; above 1 strong ones count more.")
    ] = 1.0,
    pair_loss: Annotated[str, typer.Option(help="sum or logarithm.")] = "sum",
    batch: Annotated[int, typer.Option(min=1, help="Views of a step.")] = 32,
    epochs: common.Epochs = 20,
    learning_rate: common.LearningRate = 2e-3,
    optimizer: common.Optimizer = "adamw",
    schedule: common.Schedule = "cosine",
    decay: common.Decay = 0.99,
    warmup: common.Warmup = 300,
    weight_decay: common.WeightDecay = 0.02,
    momentum: common.Momentum = 0.9,
    clip: common.Clip = 0.0,
    patience: common.Patience = 0,
    seed: common.Seed = 0,
    device: common.Device = "auto",
    precision: common.Precision = "auto",
    threshold: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=20.0,
            help="Cut off weak activations of the result: so many times each channel's mean.",
        ),
    ] = 0.0,
    half: Annotated[bool, typer.Option(help="Save float16, half the size.")] = False,
    bank: Annotated[
        Path | None, typer.Option(help="Folder of views and targets, to share between runs.")
    ] = None,
    checkpoint_seconds: common.CheckpointSeconds = 60.0,
    resume: common.Resume = False,
    json: options.Json = False,
) -> None:
    """Teach a student trunk what a teacher sees; writes weights.safetensors."""
    from engine.training.jobs.distill import distill as run_distillation

    console.log_to_stderr()
    chosen = common.recipe(context, without=("half", "threshold", "bank"))
    if resume:
        chosen = common.resumed(context, out, "distill", chosen)
    beside = common.beside(context, out, {"precision": precision, "bank": bank}, resume=resume)
    run = _run(chosen)
    settings = load_settings()
    with (
        console.late_progress_bar("making views") as making,
        common.training_bar("training") as training,
    ):
        result = run_distillation(
            run,
            out,
            options=chosen,
            beside=beside,
            bank_folder=Path(beside["bank"]) if beside["bank"] else None,
            resume=resume,
            device=device,
            precision=beside["precision"],
            threshold=threshold,
            half=half,
            cache_dir=settings.cache_dir,
            checkpoint_s=checkpoint_seconds,
            report_bank=making,
            report=training,
        )
    common.finish(result, out, json=json, file="weights")


def _run(values: dict[str, Any]) -> DistillRun:
    """Raises: InvalidOption."""
    from engine.training.bank import BankOptions
    from engine.training.distill import DistillOptions
    from engine.training.jobs.distill import DistillRun

    if not values["photos"]:
        raise InvalidOption("no photos to learn from; name a folder with --photos")
    return DistillRun(
        photos=tuple(values["photos"]),
        scales=common.numbers(values["scales"], "scales"),
        bank=BankOptions(
            count=values["views"],
            shard=min(values["shard"], max(1, values["views"] // 2)),
            sizes=_sizes(values["sizes"]),
            seed=values["seed"],
        ),
        distill=DistillOptions(
            **{field.name: values[field.name] for field in fields(DistillOptions)}
        ),
        loop=common.loop_options(values),
        **{name: values[name] for name in _TRUNKS},
    )


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    """`160x160,128x192` as heights and widths. Raises: InvalidOption."""
    found = []
    for part in text.split(","):
        height, cross, width = part.strip().partition("x")
        if not (cross and height.isdecimal() and width.isdecimal()):
            raise InvalidOption(f"--sizes has {part!r}; write heights x widths, e.g. 160x160")
        size = int(height), int(width)
        if not all(32 <= side <= 1024 for side in size):
            raise InvalidOption(f"--sizes has {part!r}; each side must be in 32 to 1024")
        found.append(size)
    return tuple(found)
