"""`cooc bench ...`: measurements, side by side in one run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app import console, options
from app.allocator import keep_large_blocks
from app.settings import load_settings
from engine.errors import InvalidOption

app = typer.Typer(help="Measure this machine.", no_args_is_help=True)


@app.command()
def cooccurrence(
    table6: Annotated[
        bool,
        typer.Option(
            "--table6", help="The paper's Table 6: three sizes, batches, and Shih et al. Minutes."
        ),
    ] = False,
    channels: Annotated[
        list[int] | None,
        typer.Option(min=2, help="With --table6: only maps of so many channels. Repeatable."),
    ] = None,
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Direct co-occurrence against the published convolution, one map of 512 x 24 x 32."""
    from benchmarks import cooccurrence as bench
    from engine.describer import choose_device

    if table6:
        _table6(channels, device, json)
        return
    if channels:
        raise InvalidOption("--channels goes with --table6; leave it out or add that")
    with console.progress_bar("measuring"):
        report = bench.run(choose_device(load_settings(device=device).device))
    _show(report, json)


def _table6(channels: list[int] | None, device: str | None, json: bool) -> None:
    from benchmarks import table6 as bench
    from engine.describer import choose_device

    sizes = [(count, 24, 32) for count in channels] if channels else bench.SIZES
    with console.progress_bar("measuring") as bar:
        report = bench.run(
            choose_device(load_settings(device=device).device),
            sizes=sizes,
            prepare=keep_large_blocks,
            progress=bar.update,
        )
    if not json:
        heads = ("channels", "batch", "method", "ms", "ratio", "MB", "paper ms", "")
        console.table(heads, [_table6_row(row) for row in report["rows"]])
    _show(report, json)


def _table6_row(row: dict[str, Any]) -> list[str]:
    paper = "no memory" if row["paper_fits"] is False else row["paper_ms"]
    names = ("channels", "batch", "method", "ms_per_image", "ratio", "peak_mb")
    return [*(_cell(row[name]) for name in names), _cell(paper), row["reason"] or ""]


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
    from app.assembly import build_describer
    from benchmarks import extract as bench

    settings = load_settings(
        backbone=backbone, weights=weights, pooling=pooling, device=device, precision=precision
    )
    with console.progress_bar("measuring"):
        describer = build_describer(settings)
        report = bench.run(describer.options, describer)
    rows = report["rows"]
    if not json:
        console.table(list(rows[0]), [list(row.values()) for row in rows])
    _show(report, json)


@app.command()
def trunks(
    device: options.Device = None, precision: options.Precision = None, json: options.Json = False
) -> None:
    """All trunks on one image of 512 x 384, in float32 and bfloat16, against VGG16."""
    from benchmarks import trunks as bench
    from engine.describer import choose_device, choose_dtype

    settings = load_settings(device=device, precision=precision)
    chosen = choose_device(settings.device)
    names = ("float32", "bfloat16") if settings.precision == "auto" else (settings.precision,)
    with console.progress_bar("measuring"):
        report = bench.run(chosen, tuple(choose_dtype(name, chosen) for name in names))
    rows = report["rows"]
    if not json:
        console.table(list(rows[0]), [list(row.values()) for row in rows])
    _show(report, json)


def _show(report: dict[str, Any], json: bool) -> None:
    if json:
        console.print_json(report)
        return
    rows = [[name, _cell(value)] for name, value in report.items() if name != "rows"]
    console.table(("what", "value"), rows)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
