"""Keys for tests, in every state that a key can be in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.security.keys import KeyFile, make_key
from app.security.scopes import Scope

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def new_key(folder: Path, *scopes: Scope, expires_at: datetime | None = None) -> str:
    """A key for the service of that data folder."""
    text, key = make_key("test", scopes, expires_at=expires_at, now=LONG_AGO)
    KeyFile(folder).add(key)
    return text


def key_id(text: str) -> str:
    return text.split("_")[1]


def keys_of_all_kinds(folder: Path) -> dict[str, str]:
    """By scope, and those that nobody may use any more."""
    keys = {scope.value: new_key(folder, scope) for scope in Scope}
    keys["expired"] = new_key(folder, Scope.ADMIN, expires_at=LONG_AGO + timedelta(days=1))
    keys["revoked"] = new_key(folder, Scope.ADMIN)
    KeyFile(folder).revoke(key_id(keys["revoked"]), datetime.now(UTC))
    # The id of a good key with the secret of another.
    keys["forged"] = f"cooc_{key_id(keys['admin'])}_{keys['search'].split('_')[2]}"
    keys["nonsense"] = "hunter2"
    return keys


def reworded(text: str) -> str:
    """The same key but for its last character."""
    return text[:-1] + ("0" if text[-1] != "0" else "1")
