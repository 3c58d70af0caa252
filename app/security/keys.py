"""API keys: how they look, and the file that knows them."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

from app.errors import KeysUnreadable
from app.security.scopes import Scope
from engine.errors import InvalidOption
from engine.files.storage import storage_errors, write_atomically

FILE = "keys.json"
ID_BYTES, SECRET_BYTES = 4, 32
MAX_NAME = 100

_KEY = re.compile(
    rf"cooc_(?P<id>[0-9a-f]{{{2 * ID_BYTES}}})_(?P<secret>[0-9a-f]{{{2 * SECRET_BYTES}}})"
)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NOBODY = "0" * 64


@dataclass(frozen=True)
class Key:
    """What is kept of a key: enough to know it again, not enough to use it."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    sha256: str = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def state(self, now: datetime) -> str:
        """active, expired or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


def make_key(
    name: str, scopes: Sequence[Scope], *, expires_at: datetime | None, now: datetime
) -> tuple[str, Key]:
    """A new key, and what is kept of it. Raises InvalidOption for a name that is none."""
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidOption(
            f"the name {name!r} of a key must have 1 to {MAX_NAME} printable characters"
        )
    if not scopes:
        raise InvalidOption("a key needs a scope: --scope search, write or admin")
    key_id = secrets.token_hex(ID_BYTES)
    text = f"cooc_{key_id}_{secrets.token_hex(SECRET_BYTES)}"
    return text, Key(key_id, name, tuple(scopes), _digest(text), now, expires_at)


def _digest(text: str) -> str:
    # A fast hash is right here: the secret has 256 random bits, so there is nothing to try out.
    # Slow ones protect passwords, which people choose.
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def find_key(keys: dict[str, Key], text: str) -> Key | None:
    """The key that `text` is, whatever its state. Takes as long for a wrong secret as for none."""
    match = _KEY.fullmatch(text)
    key = keys.get(match["id"]) if match else None
    same = hmac.compare_digest(_digest(text), key.sha256 if key else _NOBODY)
    return key if same else None


def parse_lifetime(text: str) -> timedelta:
    """`90d`, `12h`, `30m`, `2w`. Raises InvalidOption for anything else."""
    match = re.fullmatch(r"([1-9]\d{0,4})([mhdw])", text.strip())
    if match is None:
        raise InvalidOption(f"--expires is {text!r}; give a number with m, h, d or w, such as 90d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


class KeyFile:
    """The keys of a data folder. Others may change the file at any time: it is asked each time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._folder = folder
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}

    def keys(self) -> dict[str, Key]:
        """All keys by id, revoked ones too. Raises KeysUnreadable."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._seen, self._keys = None, {}
            return self._keys
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from error
        # Each change is another file under the same name.
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        if stamp != self._seen:
            self._keys = self._read()
            self._seen = stamp
        return self._keys

    def add(self, key: Key) -> None:
        """Raises KeysUnreadable, StorageFull, StorageReadOnly."""
        with self._changing() as keys:
            keys[key.id] = key

    def revoke(self, key_id: str, now: datetime) -> Key:
        """The key as it is then. Raises InvalidOption for one that is not there; see `add`."""
        with self._changing() as keys:
            if key_id not in keys:
                raise InvalidOption(
                    f"there is no key {key_id!r} in {self.path}; `cooc keys list` shows them"
                )
            if keys[key_id].revoked_at is None:
                # It stays on the list: without its last key a service must not become open.
                keys[key_id] = replace(keys[key_id], revoked_at=now)
            return keys[key_id]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Key]]:
        """The keys, to be changed in place and then written, while others wait."""
        with storage_errors(self._folder):
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise InvalidOption(
                    f"the data folder {self._folder} is, or lies in, a file"
                ) from error
            lock = os.open(self._folder, os.O_RDONLY)
            try:
                flock(lock, LOCK_EX)  # on the folder: the file itself is replaced
                keys = self._read() if self.path.exists() else {}
                yield keys
                content = {"version": 1, "keys": [_to_json(key) for key in keys.values()]}
                write_atomically(self.path, json.dumps(content, indent=1).encode(), mode=0o600)
                if os.geteuid() == 0:  # made by an administrator, read by the service
                    owner = self._folder.stat()
                    os.chown(self.path, owner.st_uid, owner.st_gid)
            finally:
                os.close(lock)

    def _read(self) -> dict[str, Key]:
        try:
            content = json.loads(self.path.read_bytes())
            if content["version"] != 1:
                raise self._unreadable(f"it has version {content['version']!r}, not 1")
            keys = [_from_json(entry) for entry in content["keys"]]
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._unreadable(f"it is damaged ({error!r})") from error
        return {key.id: key for key in keys}

    def _unreadable(self, why: str) -> KeysUnreadable:
        return KeysUnreadable(
            f"the keys in {self.path} cannot be read: {why}; run `cooc keys` as the user that runs "
            "the service, or move the file away and create new keys"
        )


def _to_json(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": list(key.scopes),
        "sha256": key.sha256,
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }


def _from_json(entry: dict[str, Any]) -> Key:
    """Raises ValueError, KeyError or TypeError for what `_to_json` did not write."""
    return Key(
        id=str(entry["id"]),
        name=str(entry["name"]),
        scopes=tuple(Scope(scope) for scope in entry["scopes"]),
        sha256=bytes.fromhex(entry["sha256"]).hex(),
        created_at=_moment(entry["created_at"]),
        expires_at=_moment(entry["expires_at"]) if entry["expires_at"] else None,
        revoked_at=_moment(entry["revoked_at"]) if entry["revoked_at"] else None,
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
