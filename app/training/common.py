"""What the training commands share: options, a progress bar with loss and score, the last line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from app.settings import Settings
from app.terminal import console
from engine.errors import InvalidOption

if TYPE_CHECKING:
    from engine.training.loop import LoopOptions
    from engine.training.loop import Progress as Standing

_ELSEWHERE = ("out", "device", "precision", "checkpoint_seconds", "resume", "json")
"""Options that do not decide what is learned."""

Out = Annotated[
    Path, typer.Option("--out", help="Folder of the run: config, log, curves, checkpoints.")
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the run in --out; options are taken from there."),
]
Seed = Annotated[int, typer.Option(min=0, help="Of everything random.")]
Epochs = Annotated[int, typer.Option(min=1, help="At most.")]
LearningRate = Annotated[float, typer.Option(help="At its peak.")]
Optimizer = Annotated[str, typer.Option(help="adam, adamw or sgd.")]
Schedule = Annotated[str, typer.Option(help="constant, cosine or exponential.")]
Decay = Annotated[float, typer.Option(help="Of the exponential schedule, per epoch.")]
Warmup = Annotated[int, typer.Option(min=0, help="Steps in which the rate rises.")]
WeightDecay = Annotated[float, typer.Option(min=0.0, help="Of weights, not of biases.")]
Momentum = Annotated[float, typer.Option(min=0.0, max=0.999, help="Of SGD; beta 1 of Adam.")]
Clip = Annotated[float, typer.Option(min=0.0, help="Longest gradient; 0 for any.")]
Patience = Annotated[
    int, typer.Option(min=0, help="Epochs without a better score until it stops; 0 for never.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[
    str, typer.Option(help="auto, float32 or mixed (bfloat16 passes, float32 weights).")
]
CheckpointSeconds = Annotated[
    float, typer.Option(min=0.0, help="Between checkpoints within an epoch.")
]


def recipe(context: typer.Context, *, without: tuple[str, ...]) -> dict[str, Any]:
    """All options of the command by name, but those that do not decide the result."""
    left_out = (*without, *_ELSEWHERE)
    return {name: _plain(value) for name, value in context.params.items() if name not in left_out}


def loop_options(values: Mapping[str, Any]) -> LoopOptions:
    """Those of `values` that say how the loop goes. Raises: InvalidOption."""
    from engine.training.loop import LoopOptions

    return LoopOptions(**{field.name: values[field.name] for field in fields(LoopOptions)})


def numbers(text: str, name: str) -> tuple[float, ...]:
    """`0.7,1,1.4` as numbers. Raises: InvalidOption."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InvalidOption(f"--{name} is {text!r}; it must be numbers with commas") from error


def given(context: typer.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that somebody chose, rather than left at their defaults."""
    return {
        name: value
        for name, value in values.items()
        if getattr(context.get_parameter_source(name), "name", "DEFAULT") != "DEFAULT"
    }


def resumed(
    context: typer.Context, out: Path, kind: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of the run in `out`, for `--resume`; what was chosen anew must be the same.

    Args:
        values: the command's options as they are now, by the names of the config.

    Returns: `values`, with those of the config where nothing was chosen. Without a run in `out`
        that is what was given.
    Raises: InvalidOption naming an option that differs.
    """
    from engine.training.run_folder import stored_config

    if not (out / "config.json").is_file():
        return dict(values)
    stored = stored_config(out)
    if stored.get("kind") != kind:
        raise InvalidOption(f"the run in {out} is of kind {stored.get('kind')!r}, not {kind!r}")
    options = stored.get("options", {})
    for name, value in given(context, values).items():
        if name in options and options[name] != value:
            raise InvalidOption(
                f"the run in {out} has {_flag(name)} {options[name]}, not {value}; leave the "
                "option out, or begin in a new folder"
            )
    return {name: options.get(name, value) for name, value in values.items()}


def beside(
    context: typer.Context, out: Path, values: Mapping[str, Any], *, resume: bool
) -> dict[str, Any]:
    """Options that leave the result alone: where nothing was chosen, those of the resumed run.

    Folders are made absolute, as somebody may resume it from elsewhere.
    """
    from engine.training.run_folder import stored_beside

    found = {
        name: str(value.resolve()) if isinstance(value, Path) else value
        for name, value in values.items()
    }
    if not resume or not (out / "config.json").is_file():
        return found
    return found | stored_beside(out) | given(context, found)


def with_trunk(chosen: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """`chosen` with the name of the trunk where that was left to us, so that the run keeps it.

    It is the trunk that the co-occurrence filter was made for, if there is one, or the weights are.

    Raises: InvalidOption, WeightsUnavailable.
    """
    from app.assembly import find_trunk
    from app.learned import with_trunk_of
    from engine.backbones.weights import AUTO
    from engine.descriptor_weights import read_cooccurrence

    names = {name: chosen[name] for name in ("backbone", "weights")}
    settings = settings.model_copy(update=names)
    if chosen.get("cooccurrence") is not None:
        settings = with_trunk_of(settings, read_cooccurrence(Path(chosen["cooccurrence"])))
    if settings.backbone == AUTO:
        settings, _ = find_trunk(settings)
    return {**chosen, "backbone": settings.backbone}


@contextmanager
def training_bar(label: str) -> Iterator[Callable[[Standing], None]]:
    """A bar over the steps of a run, with epoch, loss, score and time left, on a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    disabled = not console.err.is_terminal
    with Progress(
        *columns, console=console.err, disable=disabled, speed_estimate_period=120
    ) as progress:
        task = progress.add_task(label, total=1, figures="")

        def update(standing: Standing) -> None:
            score = "" if standing.score is None else f"  best {standing.score:.4f}"
            figures = f"epoch {standing.epoch + 1}  loss {standing.loss:.4f}{score}"
            progress.update(task, completed=standing.step, total=standing.steps, figures=figures)

        yield update


def finish(result: Mapping[str, Any], out: Path, *, json: bool, file: str) -> None:
    """What came of a run: one JSON object, or two lines."""
    if json:
        console.print_json(dict(result))
        return
    scores = ", ".join(f"{name} {value:.4f}" for name, value in result["scores"].items())
    console.out.print(f"best epoch {result['best_epoch']}: {scores}", soft_wrap=True)
    console.out.print(f"{result[file]} (curves in {out / 'curves.png'})", soft_wrap=True)


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    if isinstance(value, Path):
        return str(value)
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
