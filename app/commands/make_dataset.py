"""`cooc make-dataset`: a retrieval data set that is drawn here, with nothing to download."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.terminal import console, options
from engine.errors import InvalidOption


def make_dataset(
    folder: Annotated[Path, typer.Argument(help="Where it is written; continued if cut off.")],
    instances: Annotated[int, typer.Option(help="Objects to be found.")] = 50,
    views: Annotated[int, typer.Option(help="Pictures of each object.")] = 8,
    distractors: Annotated[int, typer.Option(help="Pictures without any of them.")] = 100,
    queries_per_instance: Annotated[
        int, typer.Option(help="Views of each object that are queries too.")
    ] = 2,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "320x240",
    difficulty: Annotated[
        float, typer.Option(help="0 (plain views) to 1: tilt, clutter, cover, light, noise.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Another seed draws other objects.")] = 0,
    first_instance: Annotated[
        int,
        typer.Option(
            help="Their numbers begin here, at a multiple of 5. For a test set take another "
            "thousand than for training: then the two have nothing in common."
        ),
    ] = 0,
    layout: Annotated[
        Literal["gt", "folders"],
        typer.Option(help="gt (images/ and gt.json), or folders: one for each object."),
    ] = "gt",
    boxes: Annotated[
        bool, typer.Option("--boxes", help="Give queries their box: the object is cut out.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Draw a retrieval data set: objects under changing view, light, clutter and cover."""
    # Every command imports this file, and the service starts as one.
    from engine.made.sets import SetOptions, write_set

    chosen = SetOptions(
        instances=instances,
        views=views,
        distractors=distractors,
        queries_per_instance=queries_per_instance,
        size=_size(size),
        difficulty=difficulty,
        seed=seed,
        first_instance=first_instance,
        layout=layout,
        boxes=boxes,
    )
    with console.progress_bar("drawing", chosen.total) as bar:
        written = write_set(folder, chosen, progress=bar.update)
    if json:
        console.print_json({"folder": str(folder), **asdict(written), "options": asdict(chosen)})
        return
    console.out.print(
        f"{written.images:,} images ({written.drawn:,} drawn now), {written.queries:,} queries "
        f"in {folder}; next: cooc evaluate {folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _size(text: str) -> tuple[int, int]:
    """Height and width of `WIDTHxHEIGHT`. Raises InvalidOption."""
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if found is None:
        raise InvalidOption(f"size is {text!r}; it must be WIDTHxHEIGHT, such as 320x240")
    return int(found[2]), int(found[1])
