"""`cooc keys ...`: create, list, revoke. A running service notices at once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from app.security.scopes import Scope
from app.settings import load_settings
from app.terminal import console, options

app = typer.Typer(
    help="Keys for those who may use the service; it need not be stopped for this.",
    no_args_is_help=True,
)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, or what for.")],
    scope: Annotated[
        list[Scope], typer.Option("--scope", help="What it is good for; write includes search.")
    ],
    expires: Annotated[
        str | None, typer.Option("--expires", help="When it ends by itself, e.g. 90d, 12h.")
    ] = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Make a key and show it: this once only, because just its digest is kept."""
    from app.security.keys import KeyFile, make_key, parse_lifetime

    settings = load_settings(data_dir=data_dir)
    now = datetime.now(UTC)
    expires_at = None if expires is None else now + parse_lifetime(expires)
    text, key = make_key(name, scope, expires_at=expires_at, now=now)
    KeyFile(settings.data_dir).add(key)
    if json:
        console.print_json({**_row(key, now), "key": text})
        return
    console.err.print(f"the key {key.id} for {name}; it is not shown again:", markup=False)
    console.out.print(text, soft_wrap=True, highlight=False)


@app.command("list")
def list_(data_dir: options.DataDir = None, json: options.Json = False) -> None:
    """Name the keys, oldest first, revoked and expired ones too."""
    from app.security.keys import KeyFile

    settings = load_settings(data_dir=data_dir)
    now = datetime.now(UTC)
    file = KeyFile(settings.data_dir)
    rows = [_row(key, now) for key in file.keys().values()]
    if json:
        console.print_json({"keys": rows})
    elif not rows:
        console.out.print(f"no keys in {file.path}", soft_wrap=True)
    else:
        columns = ("id", "name", "scopes", "created", "expires", "state")
        cells = [
            [
                row["id"],
                row["name"],
                " ".join(row["scopes"]),
                _day(row["created_at"]),
                _day(row["expires_at"]),
                row["state"],
            ]
            for row in rows
        ]
        console.table(columns, cells)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `cooc keys list` shows it.")],
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """End a key, for good."""
    from app.security.keys import KeyFile

    settings = load_settings(data_dir=data_dir)
    now = datetime.now(UTC)
    key = KeyFile(settings.data_dir).revoke(key_id, now)
    if json:
        console.print_json(_row(key, now))
    else:
        console.out.print(f"the key {key.id} of {key.name} is revoked", markup=False)


def _row(key: Any, now: datetime) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": list(key.scopes),
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
        "state": key.state(now),
    }


def _day(moment: str | None) -> str:
    return moment[:16].replace("T", " ") if moment else ""
