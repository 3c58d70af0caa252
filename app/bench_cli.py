"""`cooc bench ...`: measurements, side by side in one run."""

from __future__ import annotations

from typing import Any

import typer

from app import console, options
from app.settings import load_settings

app = typer.Typer(help="Measure this machine.", no_args_is_help=True)


@app.command()
def cooccurrence(device: options.Device = None, json: options.Json = False) -> None:
    """Direct co-occurrence against the published convolution, one map of 512 x 24 x 32."""
    from benchmarks import cooccurrence as bench
    from engine.describer import choose_device

    with console.progress_bar("measuring"):
        report = bench.run(choose_device(load_settings(device=device).device))
    _show(report, json)


@app.command()
def bilinear(device: options.Device = None, json: options.Json = False) -> None:
    """Compact bilinear pooling against FFTs per position, one map of 512 x 24 x 32."""
    from benchmarks import bilinear as bench
    from engine.describer import choose_device

    with console.progress_bar("measuring"):
        report = bench.run(choose_device(load_settings(device=device).device))
    _show(report, json)


@app.command()
def extract(
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    pooling: options.Pooling = None,
    device: options.Device = None,
    precision: options.Precision = None,
    json: options.Json = False,
) -> None:
    """The whole path from a JPEG to its descriptor against the bare trunk."""
    from app.assembly import build_describer, describer_options
    from benchmarks import extract as bench

    settings = load_settings(
        backbone=backbone, weights=weights, pooling=pooling, device=device, precision=precision
    )
    with console.progress_bar("measuring"):
        report = bench.run(describer_options(settings), build_describer(settings))
    rows = report["rows"]
    if not json:
        console.table(list(rows[0]), [list(row.values()) for row in rows])
    _show(report, json)


def _show(report: dict[str, Any], json: bool) -> None:
    if json:
        console.print_json(report)
        return
    rows = [
        [name, f"{value:.4g}" if isinstance(value, float) else str(value)]
        for name, value in report.items()
        if name != "rows"
    ]
    console.table(("what", "value"), rows)
