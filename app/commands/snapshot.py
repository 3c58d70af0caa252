"""`cooc snapshot ...`: create, list, restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app import __version__
from app.settings import load_settings
from app.terminal import console, options

app = typer.Typer(
    help="Take snapshots of the index, also while it is in use, and restore them.",
    no_args_is_help=True,
)


@app.command()
def create(
    note: Annotated[str, typer.Option("--note", help="Kept with the snapshot.")] = "",
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for it; snapshots/ of the index if unset.")
    ] = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Copy catalog, live generation, what was learned and kept originals; nobody has to wait."""
    from engine.snapshots import create_snapshot

    console.log_to_stderr()
    settings = load_settings(data_dir=data_dir)
    with console.progress_bar("copying, MiB") as bar:
        snapshot, folder = create_snapshot(
            settings.data_dir,
            place=to,
            note=note,
            program_version=__version__,
            report=bar.update,
        )
    if json:
        console.print_json(
            {
                "name": snapshot.name,
                "folder": str(folder),
                "count": snapshot.count,
                "generation": snapshot.generation,
                "fingerprint": snapshot.fingerprint,
                "originals": snapshot.originals,
                "bytes": snapshot.bytes,
            }
        )
    else:
        console.out.print(
            f"{snapshot.count} images, {snapshot.bytes / (1 << 20):.1f} MiB in {folder}",
            soft_wrap=True,
        )


@app.command("list")
def list_(
    place: Annotated[
        Path | None, typer.Option("--from", help="Folder of snapshots, as given with --to.")
    ] = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Name the snapshots, oldest first."""
    from app.schemas import SnapshotOut
    from engine.snapshots import FOLDER, list_snapshots

    settings = load_settings(data_dir=data_dir)
    place = settings.data_dir / FOLDER if place is None else place
    found = [SnapshotOut.of(listed) for listed in list_snapshots(place)]
    if json:
        console.print_json({"snapshots": [entry.model_dump(mode="json") for entry in found]})
    elif not found:
        console.out.print(f"no snapshots in {place}", soft_wrap=True)
    else:
        rows = [
            [entry.name, entry.count, entry.bytes / (1 << 20), entry.problem or entry.note]
            for entry in found
        ]
        console.table(("name", "images", "MiB", "note"), rows)


@app.command()
def restore(
    name: Annotated[str, typer.Argument(help="Of a snapshot of the index, or its folder.")],
    into: Annotated[
        Path | None, typer.Option("--into", help="Folder for the index; its own if unset.")
    ] = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Check a snapshot, search it as when it was taken, and put it in the place of the index."""
    from engine.snapshots import find_snapshot, restore_snapshot

    console.log_to_stderr()
    settings = load_settings(data_dir=data_dir)
    source = find_snapshot(name, settings.data_dir)
    target = settings.data_dir if into is None else into
    with console.progress_bar("checking and copying, MiB") as bar:
        restored = restore_snapshot(source, target, report=bar.update)
    aside = None if restored.aside is None else str(restored.aside)
    snapshot = restored.snapshot
    if json:
        console.print_json(
            {
                "name": snapshot.name,
                "data_dir": str(target),
                "count": snapshot.count,
                "generation": snapshot.generation,
                "fingerprint": snapshot.fingerprint,
                "queries": len(snapshot.queries),
                "replaced": aside,
            }
        )
        return
    console.out.print(
        f"{snapshot.count} images in {target}; {len(snapshot.queries)} searches answered as when "
        "the snapshot was taken",
        soft_wrap=True,
    )
    if aside:
        console.out.print(
            f"what was there before is in {aside}: delete it when you are sure", soft_wrap=True
        )
