"""Options that mean the same in every command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the index. [COOC_DATA_DIR]")
]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone", help="auto, vgg16, squeezenet1_1, resnet101 or vgg_lite. [COOC_BACKBONE]"
    ),
]
Layer = Annotated[
    str | None,
    typer.Option("--layer", help="Layer of the trunk, or several joined by +. [COOC_LAYER]"),
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", help="auto, imagenet, bundled, untrained, or a file. [COOC_WEIGHTS]"),
]
MaxSide = Annotated[
    int | None, typer.Option("--max-side", help="Longest side of an image. [COOC_MAX_SIDE]")
]
Pooling = Annotated[
    str | None, typer.Option("--pooling", help="E.g. gem, cbp_ac, cbp_ac:mask=sptd. [COOC_POOLING]")
]
Scales = Annotated[
    str | None, typer.Option("--scales", help="Comma separated, e.g. 1,0.7,0.5. [COOC_SCALES]")
]
Cooccurrence = Annotated[
    Path | None,
    typer.Option(
        "--cooccurrence",
        help="Trained co-occurrence filter (.safetensors or .npy). [COOC_COOCCURRENCE]",
    ),
]
Projection = Annotated[
    Path | None,
    typer.Option(
        "--projection",
        help="Trained projection (.safetensors), in the place of a fitted one. [COOC_PROJECTION]",
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu, cuda, cuda:0,cuda:1, or all. [COOC_DEVICE]"),
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help="auto, float32 or bfloat16. [COOC_PRECISION]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Url = Annotated[
    str | None,
    typer.Option("--url", help="Talk to the service there instead of opening the folder."),
]
