"""`cooc bench ...`: measurements, side by side in one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from app.allocator import keep_large_blocks
from app.settings import load_settings
from app.terminal import console, options
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


@app.command()
def search(
    size: Annotated[
        list[int] | None,
        typer.Option(min=1000, help="Images; 10000, 100000 and 1000000 otherwise. Repeatable."),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="ours, faiss-flat, lancedb-rq, lancedb-hnsw or hnswlib; all otherwise. Repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File of results; what is finished in it is not done again.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="For vectors and indexes, 12 GB a million. [in the cache folder]"),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what --out has.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build again what is measured.")
    ] = False,
    only_prepare: Annotated[
        bool,
        typer.Option(
            "--only-prepare", help="For a busy machine: build, unmeasured, and choose settings."
        ),
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="For each measurement.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="Of which the median is reported.")] = 2,
    questions: Annotated[int, typer.Option(min=8, help="Half of them to choose settings.")] = 1000,
    json: options.Json = False,
) -> None:
    """Nearest neighbours: ours against FAISS flat, LanceDB and hnswlib, at the same recall."""
    from benchmarks import search as bench
    from benchmarks.search_engines import ENGINES
    from engine.backbones.weights import default_cache_dir

    unknown = sorted(set(engine or ()) - set(ENGINES))
    if unknown:
        raise InvalidOption(f"{unknown[0]!r} is no engine; known are {', '.join(ENGINES)}")
    plan = bench.Plan(
        sizes=size or bench.SIZES,
        engines=engine or tuple(ENGINES),
        seconds=seconds,
        rounds=rounds,
        questions=4 * (questions // 4),
    )
    folder = folder or (load_settings().cache_dir or default_cache_dir()) / "bench-search"
    with console.progress_bar("measuring") as bar:
        report = bench.run(
            plan,
            folder,
            out,
            fresh=fresh,
            rebuild=rebuild,
            only_prepare=only_prepare,
            progress=bar.update,
            tell=lambda line: console.err.print(line, markup=False),
        )
    if not json:
        heads = ["images", "engine", "filter", "recall", "p50 ms", "p99 ms", "1 client/s"]
        lines = [line for row in report["rows"] for line in _search_lines(row, plan.filters)]
        console.table([*heads, "2 clients/s", "setting"], lines)
        heads = ["images", "engine", "build s", "build MB", "bytes/image", "mapped", "on disk", ""]
        console.table(heads, [_search_size(row) for row in report["rows"]])
    _show(report, json)


@app.command()
def growing(
    size: Annotated[int, typer.Option(min=1000, help="Images.")] = 1_000_000,
    folder: Annotated[
        Path | None, typer.Option(help="A data folder for made images, kept. [in the cache folder]")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="For each measurement.")] = 30.0,
    adds: Annotated[float, typer.Option(min=1, help="Images to add in a second.")] = 200.0,
    json: options.Json = False,
) -> None:
    """What searches wait for while a large collection is built and added to."""
    from benchmarks import growing as bench
    from engine.backbones.weights import default_cache_dir

    folder = folder or (load_settings().cache_dir or default_cache_dir()) / f"bench-growing-{size}"
    report = bench.run(
        folder,
        size,
        seconds=seconds,
        adds_per_s=adds,
        say=lambda line: console.err.print(line, markup=False),
    )
    parts = {name: part for name, part in report.items() if isinstance(part, dict)}
    if not json:
        for name, part in parts.items():
            console.table((name, ""), [[key, _cell(value)] for key, value in part.items()])
    _show(report if json else {k: v for k, v in report.items() if k not in parts}, json)


@app.command()
def http(
    clients: Annotated[int, typer.Option(min=1, help="That ask at once.")] = 16,
    seconds: Annotated[float, typer.Option(min=1, help="For each part of a round.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="Of which the median is reported.")] = 3,
    overload: Annotated[
        float, typer.Option(min=1, help="Seconds of ten times the capacity; 600 for the memory.")
    ] = 30.0,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds for an answer then.")] = 10.0,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    max_side: options.MaxSide = None,
    pooling: options.Pooling = None,
    device: options.Device = None,
    precision: options.Precision = None,
    json: options.Json = False,
) -> None:
    """The service against its own engine, and against a plain one without queue and batches."""
    import os
    from functools import partial

    from app.assembly import build_describer
    from benchmarks import http as bench

    chosen = {
        "backbone": backbone,
        "weights": weights,
        "max_side": max_side,
        "pooling": pooling,
        "device": device,
        "precision": precision,
    }
    settings = load_settings(**chosen)
    own = {f"COOC_{name.upper()}": str(value) for name, value in chosen.items() if value}
    report = bench.run(
        bench.Plan(clients, seconds, rounds, overload, deadline),
        partial(build_describer, settings),
        {**os.environ, **own},
        prepare=keep_large_blocks,
        say=lambda line: console.err.print(line, markup=False),
    )
    parts = {name: part for name, part in report.items() if isinstance(part, dict)}
    if not json:
        heads = ("", "engine", "http", "plain")
        console.table(heads, [_http_line(report, what) for what in ("per_s", "p50_ms", "p99_ms")])
        first, second = parts["overload"], parts["plain_overload"]
        rows = [[name, _cell(first[name]), _cell(second[name])] for name in first]
        console.table(("ten times the capacity", "http", "plain"), rows)
    _show(report if json else {k: v for k, v in report.items() if k not in parts}, json)


def _http_line(report: dict[str, Any], what: str) -> list[str]:
    return [what, *(_cell(report.get(f"{who}_{what}")) for who in ("engine", "http", "plain"))]


def _search_lines(row: dict[str, Any], filters: Sequence[int | None]) -> list[list[str]]:
    """What an engine does without a filter, with each, and while rows are added."""
    names = {"plain" if keep is None else f"keep_{keep}": keep for keep in filters}
    labels = {name: "" if keep is None else f"{keep} %" for name, keep in names.items()}
    lines = []
    for name, label in (labels | {"adds": "adds"}).items():
        if (cell := row[name]) is None:
            continue
        if name == "adds":
            label = f"adds, {cell['added_per_s']:.0f}/s"
        figures = ("recall", "p50_ms", "p99_ms", "per_s", "per_s_two")
        setting = " ".join(f"{knob}={value}" for knob, value in cell["knob"].items())
        lines.append(
            [str(row["size"]), row["engine"], label]
            + [_cell(cell.get(figure)) for figure in figures]
            + [setting]
        )
    return lines


def _search_size(row: dict[str, Any]) -> list[str]:
    build = _cell(row["build_s"])
    if row["build_s"] is None and row["build_s_estimate"] is not None:
        build = f"about {row['build_s_estimate']:.3g}"
    names = ("build_peak_mb", "own_bytes", "file_bytes", "disk_bytes")
    figures = [_cell(row[name]) for name in names]
    return [str(row["size"]), row["engine"], build, *figures, row["reason"] or ""]


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
