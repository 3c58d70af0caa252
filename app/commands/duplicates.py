"""`cooc index duplicates`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from app.settings import load_settings
from app.terminal import console, options
from app.terminal.client import Client, ServiceProblem
from engine.errors import InvalidOption


def duplicates(
    min_score: Annotated[
        float | None,
        typer.Option(min=-1.0, max=1.0, help="From which similarity on two images are near."),
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Or from which probability of the same origin on."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="Groups that are listed, the largest first.")
    ] = 1000,
    report: Annotated[
        Path | None, typer.Option(help="Write a page of the groups, with pictures (.html).")
    ] = None,
    url: options.Url = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Find images of the collection that show the same picture, group by group."""
    from app.commands.duplicates_report import write_duplicates
    from app.duplicates import duplicates_of
    from app.terminal.session import session
    from engine.duplicates import DuplicateOptions

    chosen = DuplicateOptions(min_score, min_probability, limit)
    if report is not None and (report.suffix != ".html" or not report.parent.is_dir()):
        raise InvalidOption(f"--report is {report}; it must be a .html file in an existing folder")
    settings = load_settings(data_dir=data_dir)
    with session(settings, url) as target:
        with console.progress_bar("comparing") as bar:
            if target.client is not None:
                found = _ask(target.client, chosen, bar)
            else:
                found = duplicates_of(target.searcher, chosen, progress=bar.update).to_json()
        if report is not None:
            client = target.client
            with console.progress_bar("pictures") as bar:
                write_duplicates(
                    report,
                    found,
                    target.searcher.catalog.thumbnail
                    if client is None
                    else lambda image_id: client.fetch(f"images/{quote(image_id)}/thumbnail"),
                    title=settings.data_dir.name if client is None else client.url,
                    progress=bar.update,
                )
    if json:
        console.print_json(found)
    else:
        _show(found)


def _ask(client: Client, chosen: Any, bar: console.Bar) -> dict[str, Any]:
    """The report of a service, all pages of it."""
    fields = {"min_score": chosen.min_score, "min_probability": chosen.min_probability}
    wishes = {name: value for name, value in fields.items() if value is not None}
    job = client.follow(
        client.call("POST", "/admin/index/duplicates", json={**wishes, "limit": chosen.limit}),
        lambda state: bar.update(state["progress"]["processed"], state["progress"]["total"]),
    )
    if job["state"] != "succeeded":
        raise ServiceProblem(f"the search for duplicates {job['state']}: {job['error']}")
    groups: list[Any] = []
    page: dict[str, Any] = {"next_cursor": "0"}
    while page["next_cursor"] is not None:
        place = {"limit": 1000, "cursor": page["next_cursor"]}
        page = client.call("GET", f"/jobs/{job['id']}/result", params=place)
        groups += page["groups"]
    return {**{k: v for k, v in page.items() if k != "next_cursor"}, "groups": groups}


def _show(found: dict[str, Any]) -> None:
    bound = found["bound"]["min_score"]
    console.out.print(
        f"{found['images']} images: {found['group_count']} groups of near-duplicates "
        f"(similarity from {bound:.4f} on), {found['redundant']} images could go"
    )
    rows = [
        [
            group["size"],
            sum(member["kind"] == "exact" for member in group["members"][1:]),
            f"{min(member['score'] for member in group['members']):.4f}",
            group["keep"],
            ", ".join(member["id"] for member in group["members"][1:4])
            + (", ..." if group["size"] > 4 else ""),
        ]
        for group in found["groups"][:20]
    ]
    if rows:
        console.table(("images", "exact", "lowest score", "keep", "others"), rows)
    if len(found["groups"]) > len(rows):
        console.out.print(f"and {len(found['groups']) - len(rows)} more: --json lists them all")
