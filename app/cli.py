"""The command line: `cooc serve`, `cooc index add`, `cooc search`, ..."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from app import collector
from app.allocator import keep_large_blocks
from app.settings import Settings, load_settings
from app.terminal import console, options
from engine.errors import EngineError, InvalidOption
from engine.types import Expansion

log = logging.getLogger("app.cli")  # also when it is run as `python -m app.cli`

app = typer.Typer(
    help="Image search with co-occurrences of deep convolutional features.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the console script: errors of ours become one line and exit code 1."""
    with collector.left_alone():
        from app.commands import (
            bench,
            compare,
            evaluate,
            explain,
            index,
            keys,
            make_dataset,
            snapshot,
            train,
        )

    app.add_typer(index.app, name="index")
    app.add_typer(bench.app, name="bench")
    app.add_typer(train.app, name="train")
    app.add_typer(snapshot.app, name="snapshot")
    app.add_typer(keys.app, name="keys")
    app.command("compare")(compare.compare)
    app.command("evaluate")(evaluate.evaluate)
    app.command("explain")(explain.explain)
    app.command("make-dataset")(make_dataset.make_dataset)
    keep_large_blocks()
    try:
        app()
    except EngineError as error:
        text = f"[bold red]error:[/] {escape(str(error))}"
        console.err.print(text, highlight=False, soft_wrap=True)
        sys.exit(1)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [COOC_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [COOC_PORT]")] = None,
    root_path: Annotated[
        str | None, typer.Option(help="Prefix under which a proxy serves this. [COOC_ROOT_PATH]")
    ] = None,
    data_dir: options.DataDir = None,
    backbone: options.Backbone = None,
    layer: options.Layer = None,
    weights: options.Weights = None,
    max_side: options.MaxSide = None,
    pooling: options.Pooling = None,
    cooccurrence: options.Cooccurrence = None,
    projection: options.Projection = None,
    scales: options.Scales = None,
    device: options.Device = None,
    precision: options.Precision = None,
) -> None:
    """Start the service and its page."""
    import resource

    with collector.left_alone():
        import uvicorn

        from app.main import create_app, start
        from app.observing.logs import log_to_stderr
        from app.observing.traces import traces_from_environment
        from app.serving.server import KEEP_ALIVE_S, LAST_ANSWERS_S, Server

    settings = load_settings(
        host=host,
        port=port,
        root_path=root_path,
        data_dir=data_dir,
        backbone=backbone,
        layer=layer,
        weights=weights,
        max_side=max_side,
        pooling=pooling,
        cooccurrence=cooccurrence,
        projection=projection,
        scales=scales,
        device=device,
        precision=precision,
    )
    log_to_stderr(settings.log_format, settings.log_level)
    _check_port(settings)
    # Each file of an upload is open while it arrives.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    log.info("starting the service at %s (Ctrl+C stops it)", settings.place)
    service = create_app(settings, traces_from_environment())
    # Before the server runs: what keeps it from starting becomes one line, not a traceback.
    with console.late_progress_bar("downloading weights") as report:
        start(service.state.cooc, report)
    config = uvicorn.Config(
        service,
        host=settings.host,
        port=settings.port,
        root_path=settings.root_path,
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LAST_ANSWERS_S,
    )
    server = Server(
        config,
        service.state.admission,
        stop_s=settings.stop_s,
        lost=lambda: service.state.cooc.lost,
    )
    server.run()
    if server.failed or not server.started:
        raise SystemExit(1)


def _check_port(settings: Settings) -> None:
    """Say so at once if the port is taken, before a model is loaded."""
    import socket

    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise InvalidOption(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); "
                "stop what uses it or choose another --port"
            ) from error


@app.command()
def search(
    image: Annotated[Path, typer.Argument(help="The photo to look for.")],
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many results.")] = 10,
    expansion: Annotated[Expansion, typer.Option(help="Query expansion.")] = Expansion.NONE,
    neighbours: Annotated[
        int, typer.Option(min=1, max=50, help="How many may join an expanded query.")
    ] = 10,
    alpha: Annotated[
        float, typer.Option(min=0.0, max=10.0, help="Exponent of their weights.")
    ] = 3.0,
    augmentation: Annotated[
        int, typer.Option(min=0, max=50, help="Neighbours that join each stored photo.")
    ] = 0,
    max_fpr: Annotated[
        float | None,
        typer.Option(
            min=1e-9, max=0.5, help="Of images of other origin show no more than about this share."
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--filter", help='Only photos of such metadata: \'{"album": "2024"}\'.'),
    ] = None,
    url: options.Url = None,
    data_dir: options.DataDir = None,
    device: options.Device = None,
    precision: options.Precision = None,
    json: options.Json = False,
) -> None:
    """Find the stored images most similar to a photo."""
    from app.schemas import SearchFields, SearchOut
    from app.terminal.files import read_file
    from app.terminal.session import session

    settings = load_settings(data_dir=data_dir, device=device, precision=precision)
    data = read_file(image)
    fields = SearchFields(
        filter=None if where is None else _read_filter(where),
        limit=limit,
        query_expansion=expansion,
        query_expansion_neighbours=neighbours,
        query_expansion_alpha=alpha,
        database_augmentation=augmentation,
        max_fpr=max_fpr,
    )
    with session(settings, url) as target:
        if target.client is not None:
            # Defaults stay out: an older service does not know all fields.
            chosen = fields.model_dump(mode="json", exclude_defaults=True)
            answer = target.client.search(data, image.name, **chosen)
        else:
            found = target.searcher.search(data, fields.options())
            answer = SearchOut.of(found, fields, "local", "").model_dump(mode="json")
    if json:
        console.print_json(answer)
        return
    if not answer["results"]:
        if answer["index"]["count"]:
            console.out.print(f"nothing found among {answer['index']['count']:,} images")
        else:
            console.out.print("nothing found; the index is empty: add images with `cooc index add`")
        return
    rows = [
        [r["rank"], f"{r['score']:.4f}", _percent(r.get("p_same_origin")), r["match_type"], r["id"]]
        for r in answer["results"]
    ]
    console.table(("rank", "score", "same origin", "match", "id"), rows)


def _read_filter(text: str) -> dict[str, Any]:
    """The JSON of a filter, after a look at whether it is one. Raises InvalidOption."""
    from json import loads

    from engine.filters import parse_filter

    try:
        value: dict[str, Any] = loads(text)
    except ValueError as error:
        raise InvalidOption(f"--filter is not JSON: {error}") from error
    parse_filter(value)
    return value


def _percent(probability: float | None) -> str:
    return "" if probability is None else f"{100 * probability:.1f} %"


@app.command()
def describe(
    images: Annotated[list[Path], typer.Argument(help="Images or folders of images.")],
    out: Annotated[Path, typer.Option("--out", help="Where the (N, D) array is written (.npy).")],
    backbone: options.Backbone = None,
    layer: options.Layer = None,
    weights: options.Weights = None,
    max_side: options.MaxSide = None,
    pooling: options.Pooling = None,
    cooccurrence: options.Cooccurrence = None,
    projection: options.Projection = None,
    scales: options.Scales = None,
    device: options.Device = None,
    precision: options.Precision = None,
    json: options.Json = False,
) -> None:
    """Write the descriptors of images, one row each, in the order given.

    They are raw unless there is a --projection.
    """
    import numpy as np

    from app.assembly import build_describer
    from app.terminal.files import FileSource, find_images
    from engine.generations import project

    console.log_to_stderr()
    settings = load_settings(
        backbone=backbone,
        layer=layer,
        weights=weights,
        max_side=max_side,
        pooling=pooling,
        cooccurrence=cooccurrence,
        projection=projection,
        scales=scales,
        device=device,
        precision=precision,
    )
    if out.suffix != ".npy" or not out.parent.is_dir():
        raise InvalidOption(f"--out is {out}; it must be a .npy file in an existing folder")
    files = [path for _, path in find_images(images)]
    if not files:
        raise InvalidOption(f"no images were found in {', '.join(map(str, images))}")
    describer = build_describer(settings)
    vectors = np.zeros((len(files), describer.recipe.raw_dim), np.float32)
    failures: list[dict[str, str]] = []
    with console.progress_bar("describing", len(files)) as bar:
        stream = describer.stream((row, FileSource(path)) for row, path in enumerate(files))
        for done, (row, result) in enumerate(stream, start=1):
            if isinstance(result, EngineError):
                failures.append({"file": str(files[row]), "error": str(result)})
            else:
                (vectors[row],) = result
            bar.update(done, len(files))
    failed = {failure["file"] for failure in failures}
    kept = [row for row, path in enumerate(files) if str(path) not in failed]
    projected = project(describer.projection, vectors[kept])
    np.save(out, projected)
    report: dict[str, Any] = {
        "out": str(out),
        "files": [str(files[row]) for row in kept],
        "failures": failures,
        "dim": projected.shape[1],
        "fingerprint": describer.recipe.fingerprint,
    }
    if json:
        console.print_json(report)
    else:
        for failure in failures:
            console.err.print(f"skipped {failure['file']}: {failure['error']}", soft_wrap=True)
        console.out.print(f"{len(kept)} descriptors of {report['dim']} values in {out}")
    if failures:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
