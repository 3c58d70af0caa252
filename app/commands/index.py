"""`cooc index ...`: add, build, reload, rollback, stats, verify, rebuild, duplicates."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.duplicates import duplicates
from app.commands.rebuild import rebuild
from app.settings import load_settings
from app.terminal import console, options
from app.terminal.client import Client, ServiceProblem
from app.terminal.files import find_images
from engine.errors import InvalidOption

if TYPE_CHECKING:
    from engine.searcher import Searcher

app = typer.Typer(help="Add to the index, build it, look at it.", no_args_is_help=True)


@app.command()
def add(
    paths: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    url: options.Url = None,
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
    json: options.Json = False,
) -> None:
    """Add images; what is stored already is skipped, so an interrupted add can be repeated."""
    from app.terminal.session import session

    settings = load_settings(
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
    files = find_images(paths)
    if not files:
        raise InvalidOption(f"no images were found in {', '.join(map(str, paths))}")
    with session(settings, url) as target:
        if target.client is not None:
            wishes = (backbone, layer, weights, max_side, pooling, cooccurrence, projection)
            if any(wish is not None for wish in (*wishes, scales, device, precision)):
                raise InvalidOption(
                    f"the service at {target.client.url} adds the images, with its own recipe: "
                    "leave out --backbone, --layer, --weights, --max-side, --pooling, "
                    "--cooccurrence, --projection, --scales, --device and --precision"
                )
            report = _add_remotely(target.client, files)
        else:
            report = _add_here(target.searcher, files)
    if json:
        console.print_json(report)
    else:
        for entry in report["errors"]:
            if entry["outcome"] == "failed":
                console.err.print(f"failed {entry['name']}: {entry['detail']}", soft_wrap=True)
        counts = ", ".join(
            f"{report[name]} {name}" for name in ("added", "replaced", "skipped", "failed")
        )
        console.out.print(f"{report['total']} images: {counts}")
    if report["failed"]:
        raise typer.Exit(1)


def _add_here(searcher: Searcher, files: list[tuple[str, Path]]) -> dict[str, Any]:
    from engine.ingest import CHUNK, Offered, add_chunk

    counts: Counter[str] = Counter()
    errors: list[dict[str, str]] = []
    with console.progress_bar("adding", len(files)) as bar:
        for start in range(0, len(files), CHUNK):
            chunk = files[start : start + CHUNK]
            results = add_chunk(searcher, [Offered(name, path.read_bytes) for name, path in chunk])
            for result in results:
                counts[result.outcome.value] += 1
                if result.detail:
                    errors.append(
                        {
                            "name": result.name,
                            "outcome": result.outcome.value,
                            "detail": result.detail,
                        }
                    )
            bar.update(min(start + CHUNK, len(files)), len(files))
    return _report(len(files), counts, errors)


def _add_remotely(client: Client, files: list[tuple[str, Path]]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    errors: list[dict[str, str]] = []
    before = 0
    with console.progress_bar("adding", len(files)) as bar:
        for job in client.add(files):

            def show(state: dict[str, Any], before: int = before) -> None:
                bar.update(before + state["progress"]["processed"], len(files))

            job = client.follow(job, show)
            if job["state"] in ("failed", "cancelled") and not job["progress"]["failed"]:
                raise ServiceProblem(f"job {job['id']} {job['state']}: {job['error']}")
            counts.update({k: v for k, v in job["progress"].items() if k not in _TOTALS})
            before += job["progress"]["total"]
            errors += client.call("GET", f"/jobs/{job['id']}/errors")["errors"]
    return _report(before, counts, errors)


_TOTALS = ("total", "processed")


def _report(total: int, counts: Counter[str], errors: list[dict[str, str]]) -> dict[str, Any]:
    names = ("added", "replaced", "skipped", "failed")
    return {"total": total, **{name: counts[name] for name in names}, "errors": errors}


@app.command()
def build(
    url: options.Url = None,
    data_dir: options.DataDir = None,
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Fit the projection on the collection and publish a new generation."""
    from app.terminal.session import session

    settings = load_settings(data_dir=data_dir, device=device)
    with session(settings, url) as target, console.progress_bar("building") as bar:
        if target.client is not None:
            job = target.client.follow(
                target.client.call("POST", "/admin/index/build"),
                lambda state: bar.update(
                    state["progress"]["processed"], state["progress"]["total"]
                ),
            )
            if job["state"] != "succeeded":
                raise ServiceProblem(f"the build {job['state']}: {job['error']}")
            report = job["result"]
        else:
            manifest = target.searcher.build(bar.update)
            report = {
                "generation": manifest.number,
                "count": manifest.count,
                "dim": manifest.dim,
                "explained_variance": manifest.explained,
            }
    if json:
        console.print_json(report)
    else:
        console.out.print(
            f"generation {report['generation']}: {report['count']} images, "
            f"{report['dim']} values each, {report['explained_variance']:.1%} of the variance"
        )


@app.command()
def reload(
    url: options.Url = None, data_dir: options.DataDir = None, json: options.Json = False
) -> None:
    """Tell the running service to load the generation that CURRENT names."""
    from app.terminal.session import session

    settings = load_settings(data_dir=data_dir)
    with session(settings, url) as target:
        if target.client is not None:
            report = target.client.call("POST", "/admin/index/reload")
        else:
            # Opening the folder has loaded and checked it; this proves that it can be done again.
            number = target.searcher.reload()
            report = {"generation": number, "count": target.searcher.stats().count}
    if json:
        console.print_json(report)
    else:
        console.out.print(f"generation {report['generation']} is live, {report['count']} images")


@app.command()
def rollback(
    to: Annotated[
        int | None, typer.Option(min=1, help="Generation; without it the one before the live one.")
    ] = None,
    url: options.Url = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Go back to an earlier generation; images that came or went since are seen to."""
    from app.terminal.session import session

    settings = load_settings(data_dir=data_dir)
    with session(settings, url) as target:
        if target.client is not None:
            wish = {} if to is None else {"generation": to}
            report = target.client.call("POST", "/admin/index/rollback", json=wish)
        else:
            number = target.searcher.rollback(to)
            report = {"generation": number, "count": target.searcher.stats().count}
    if json:
        console.print_json(report)
    else:
        console.out.print(f"generation {report['generation']} is live, {report['count']} images")


@app.command()
def stats(
    url: options.Url = None, data_dir: options.DataDir = None, json: options.Json = False
) -> None:
    """Size, generation and recipe of the index."""
    from app.routes.admin import index_out
    from app.terminal.session import session

    settings = load_settings(data_dir=data_dir)
    with session(settings, url) as target:
        if target.client is not None:
            report = target.client.call("GET", "/admin/index")
        else:
            report = index_out(target.searcher.stats()).model_dump(mode="json")
    if json:
        console.print_json(report)
        return
    rows = [[name, str(value)] for name, value in report.items() if name != "recipe"]
    rows += [[name, str(value)] for name, value in report["recipe"].items()]
    console.table(("what", "value"), rows)


@app.command()
def verify(
    full: Annotated[
        bool, typer.Option("--full", help="Read every original and thumbnail, not a sample.")
    ] = False,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Check catalog, generation, vectors, self-searches, thumbnails and kept originals.

    Nothing is changed; also while a service uses the folder.
    """
    from app.job_files import check_job_files
    from engine.folder_verification import verify_folder

    settings = load_settings(data_dir=data_dir)
    with console.progress_bar("verifying") as bar:
        found = verify_folder(settings.data_dir, full=full, progress=bar.update)
    problems, notes = check_job_files(settings.data_dir)
    problems, notes = found.problems + problems, found.notes + notes
    if json:
        report = {"problems": problems, "ok": not problems, "notes": notes}
        console.print_json({**report, "checked": found.checked})
    else:
        for problem in problems:
            console.out.print(problem, markup=False, soft_wrap=True)
        for note in notes:
            console.err.print(f"note: {note}", markup=False, soft_wrap=True)
        if not problems:
            looked = ", ".join(f"{count} {name}" for name, count in found.checked.items())
            console.out.print(f"no problems found ({looked})")
    if problems:
        raise typer.Exit(1)


app.command("rebuild")(rebuild)
app.command("duplicates")(duplicates)
