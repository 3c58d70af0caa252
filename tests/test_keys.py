from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.commands import keys
from app.errors import KeysUnreadable
from app.security.attempts import Attempts
from app.security.keys import FILE, KeyFile, find_key, make_key, parse_lifetime
from app.security.scopes import Scope, included
from engine.errors import InvalidOption
from engine.snapshots import create_snapshot, restore_snapshot
from tests.indexes import make_index
from tests.keyed import LONG_AGO, key_id, new_key, reworded

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(keys.app, [*arguments, "--data-dir", str(folder)])
    assert done.exit_code == code, done.output
    return done.stdout


def listed(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(folder, "list", "--json"))["keys"]
    return found


# --- keys -------------------------------------------------------------------------------------


def test_a_key_has_256_random_bits_and_only_its_digest_is_kept(tmp_path: Path) -> None:
    text, key = make_key("me", [Scope.WRITE], expires_at=None, now=NOW)
    match = re.fullmatch(r"cooc_([0-9a-f]{8})_([0-9a-f]{64})", text)
    assert match is not None
    assert key.id == match[1]
    KeyFile(tmp_path).add(key)
    kept = (tmp_path / FILE).read_text()
    assert match[2] not in kept
    assert hashlib.sha256(text.encode()).hexdigest() in kept
    others = {make_key("me", [Scope.WRITE], expires_at=None, now=NOW)[0] for _ in range(100)}
    assert len(others | {text}) == 101


def test_a_key_is_known_by_all_of_its_characters(tmp_path: Path) -> None:
    text = new_key(tmp_path, Scope.SEARCH)
    keys = KeyFile(tmp_path).keys()
    found = find_key(keys, text)
    assert found is not None
    assert found.id == key_id(text)
    wrong = [reworded(text), text.upper(), text[:-1], text + "0", " " + text, text + "\n", ""]
    wrong += [found.sha256, f"cooc_{found.id}_{found.sha256}", "ü" * 78]
    assert [find_key(keys, other) for other in wrong] == [None] * len(wrong)


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        ([], []),
        ([Scope.SEARCH], ["search"]),
        ([Scope.WRITE], ["search", "write"]),
        ([Scope.ADMIN], ["search", "write", "admin"]),
        ([Scope.WRITE, Scope.SEARCH], ["search", "write"]),
    ],
)
def test_a_scope_includes_those_below(scopes: list[Scope], expected: list[str]) -> None:
    assert list(included(scopes)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90d", timedelta(days=90)),
        ("12h", timedelta(hours=12)),
        ("30m", timedelta(minutes=30)),
        ("2w", timedelta(days=14)),
    ],
)
def test_lifetimes_are_read(text: str, expected: timedelta) -> None:
    assert parse_lifetime(text) == expected


@pytest.mark.parametrize("text", ["", "0d", "90", "d", "-1d", "1.5d", "90 days", "999999999d"])
def test_what_is_no_lifetime_is_named(text: str) -> None:
    with pytest.raises(InvalidOption, match=rf"--expires is {re.escape(repr(text))}"):
        parse_lifetime(text)


def test_a_key_ends_at_its_moment() -> None:
    _, key = make_key("me", [Scope.ADMIN], expires_at=NOW, now=LONG_AGO)
    assert key.state(NOW - timedelta(microseconds=1)) == "active"
    assert key.state(NOW) == "expired"


# --- their file -------------------------------------------------------------------------------


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        new_key(tmp_path / "index", Scope.ADMIN)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "index" / FILE).stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "index").iterdir()] == [FILE]


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    _, key = make_key("Ünal's", [Scope.SEARCH, Scope.WRITE], expires_at=NOW, now=LONG_AGO)
    KeyFile(tmp_path).add(key)
    assert KeyFile(tmp_path).keys() == {key.id: key}


def test_changes_of_others_are_seen(tmp_path: Path) -> None:
    reader = KeyFile(tmp_path)
    assert reader.keys() == {}
    first = new_key(tmp_path, Scope.SEARCH)
    assert list(reader.keys()) == [key_id(first)]
    KeyFile(tmp_path).revoke(key_id(first), NOW)
    assert reader.keys()[key_id(first)].revoked_at == NOW


WRITER = """
import sys
from pathlib import Path
from tests.keyed import new_key
from app.security.scopes import Scope
for _ in range(25):
    print(new_key(Path(sys.argv[1]), Scope.SEARCH))
"""


def test_processes_that_write_at_once_lose_no_key(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "index")]
    writers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        for _ in range(3)
    ]
    told = [line for writer in writers for line in writer.communicate(timeout=300)[0].split()]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(told) == 75
    assert set(KeyFile(tmp_path / "index").keys()) == {key_id(text) for text in told}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"version": 1}',
        b'{"version": 2, "keys": []}',
        b'{"version": 1, "keys": [{"id": "a"}]}',
        b'{"version": 1, "keys": [7]}',
    ],
)
def test_a_damaged_file_is_named_and_lets_nobody_in(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    file = KeyFile(tmp_path)
    for _ in range(2):  # not only at the first look
        with pytest.raises(KeysUnreadable, match=re.escape(str(tmp_path / FILE))):
            file.keys()
    with pytest.raises(KeysUnreadable):
        new_key(tmp_path, Scope.ADMIN)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_file_that_was_damaged_and_mended_is_read_again(tmp_path: Path) -> None:
    text = new_key(tmp_path, Scope.ADMIN)
    file = KeyFile(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:50])
    with pytest.raises(KeysUnreadable):
        file.keys()
    (tmp_path / FILE).write_bytes(whole)
    assert list(file.keys()) == [key_id(text)]


def test_a_data_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("")
    with pytest.raises(InvalidOption, match="is, or lies in, a file"):
        new_key(tmp_path / "index" / "deeper", Scope.ADMIN)


def test_snapshots_hold_no_keys_and_a_restore_changes_none(tmp_path: Path) -> None:
    index = make_index(tmp_path / "index", range(60))
    early = new_key(index, Scope.ADMIN)
    snapshot, place = create_snapshot(index)
    late = new_key(index, Scope.SEARCH)
    secrets = [key.sha256.encode() for key in KeyFile(index).keys().values()]
    for path in place.rglob("*"):
        assert path.name != FILE
        assert path.is_dir() or not any(secret in path.read_bytes() for secret in secrets)
    restore_snapshot(place, index)
    assert snapshot.count == 60
    assert set(KeyFile(index).keys()) == {key_id(early), key_id(late)}


# --- the command ------------------------------------------------------------------------------


def test_a_key_is_made_listed_and_revoked(tmp_path: Path) -> None:
    text = run(tmp_path, "create", "page [of] Ada", "--scope", "search", "--expires", "90d").strip()
    assert find_key(KeyFile(tmp_path).keys(), text) is not None
    (row,) = listed(tmp_path)
    assert (row["name"], row["scopes"], row["state"]) == ("page [of] Ada", ["search"], "active")
    lifetime = datetime.fromisoformat(row["expires_at"]) - datetime.fromisoformat(row["created_at"])
    assert lifetime == timedelta(days=90)
    shown = run(tmp_path, "list")
    assert "page [of] Ada" in shown
    assert text not in shown
    assert f"{row['id']} of page [of] Ada is revoked" in run(tmp_path, "revoke", row["id"])
    (after,) = listed(tmp_path)
    assert after["state"] == "revoked"
    again = json.loads(run(tmp_path, "revoke", row["id"], "--json"))
    assert again["revoked_at"] == after["revoked_at"]  # once is for good


def test_several_scopes_and_json(tmp_path: Path) -> None:
    made = json.loads(
        run(tmp_path, "create", "robot", "--scope", "search", "--scope", "write", "--json")
    )
    assert made["scopes"] == ["search", "write"]
    assert made["key"].startswith(f"cooc_{made['id']}_")
    assert made["expires_at"] is None


def test_nothing_is_a_list_too(tmp_path: Path) -> None:
    assert f"no keys in {tmp_path / FILE}" in run(tmp_path, "list")
    assert listed(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("revoke", "00000000"), "there is no key '00000000'"),
        (("create", " ", "--scope", "search"), "1 to 100 printable characters"),
        (("create", "a\nb", "--scope", "search"), "printable"),
        (("create", "x" * 101, "--scope", "search"), "1 to 100"),
        (("create", "me", "--scope", "search", "--expires", "soon"), "--expires is 'soon'"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = CliRunner().invoke(keys.app, [*arguments, "--data-dir", str(tmp_path)])
    assert isinstance(done.exception, InvalidOption)
    assert words in str(done.exception)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("arguments", [("create", "me"), ("create", "me", "--scope", "root")])
def test_a_key_needs_a_scope_that_there_is(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    run(tmp_path, *arguments, code=2)
    assert not (tmp_path / FILE).exists()


# --- failed attempts --------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_failures_beyond_the_limit_are_counted_until_their_window_ends() -> None:
    clock = Clock()
    attempts = Attempts(limit=3, window_s=60, clock=clock)
    assert [attempts.failed("10.0.0.1") for _ in range(3)] == [(0, 60)] * 3
    clock.now += 20.5
    assert [attempts.failed("10.0.0.1") for _ in range(2)] == [(1, 40), (2, 40)]
    assert attempts.failed("10.0.0.2") == (0, 60)
    clock.now += 39.5
    assert attempts.failed("10.0.0.1") == (0, 60)


def test_addresses_of_one_ipv6_client_are_counted_together() -> None:
    attempts = Attempts(limit=2)
    for host in ("2001:db8::1", "2001:db8::ffff:1"):
        assert attempts.failed(host)[0] == 0
    assert attempts.failed("2001:db8:0:0:1::1")[0] == 1
    assert attempts.failed("2001:db8:0:1::1")[0] == 0
    assert [attempts.failed(host)[0] for host in ("10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1")] == [
        0,
        0,
        1,
    ]


def test_the_table_of_failures_does_not_grow() -> None:
    attempts = Attempts(limit=1, addresses=100)
    for number in range(1000):
        attempts.failed(f"10.0.{number // 256}.{number % 256}")
        attempts.failed("192.0.2.1")  # one that never stops is not forgotten for the others
    assert len(attempts) == 100
    assert attempts.failed("192.0.2.1")[0] == 1000
    attempts.failed("x" * 10**6)
    assert len(attempts) == 100
