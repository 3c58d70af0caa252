"""`cooc compare`: two photos against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.settings import load_settings
from app.terminal import console, options
from app.terminal.files import read_file


def compare(
    a: Annotated[Path, typer.Argument(help="A photo.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    url: options.Url = None,
    data_dir: options.DataDir = None,
    device: options.Device = None,
    precision: options.Precision = None,
    json: options.Json = False,
) -> None:
    """How similar two photos are, and how probably they are of the same origin.

    By the model and the scores of the index; neither needs to be stored there.
    """
    from app.schemas import CompareOut
    from app.terminal.session import session

    settings = load_settings(data_dir=data_dir, device=device, precision=precision)
    first, second = read_file(a), read_file(b)
    with session(settings, url) as target:
        if target.client is not None:
            answer = target.client.compare((a.name, first), (b.name, second))
        else:
            found = target.searcher.compare(first, second)
            answer = CompareOut.of(found).model_dump(mode="json")
    if json:
        console.print_json(answer)
        return
    console.out.print(f"score        {answer['score']:.4f}")
    chance = answer["p_same_origin"]
    console.out.print(
        f"same origin  {100 * chance:.1f} %"
        if chance is not None
        else "same origin  unknown: build an index of 50 images or more"
    )
    console.out.print(f"match        {answer['match_type']}")
