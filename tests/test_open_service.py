"""A service without keys: for its own machine, and for nobody else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.deps import State
from app.errors import KeysUnreadable
from app.main import create_app, start
from app.security.keys import FILE, KeyFile
from app.security.local import is_loopback, why_not_local
from app.security.scopes import Scope
from app.settings import Settings, load_settings
from engine.errors import InvalidOption
from tests.keyed import LONG_AGO, key_id, new_key
from tests.test_bad_input import SMALL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


def check_start(folder: Path, **settings: Any) -> None:
    State(Settings(data_dir=folder, **settings)).access.check_start()


# --- starting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LOCALHOST"])
def test_without_keys_it_starts_on_loopback(folder: Path, host: str) -> None:
    check_start(folder, host=host)
    assert not folder.exists()


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.5", "photos.example", "localhost.example"]
)
def test_without_keys_it_does_not_start_where_others_reach_it(folder: Path, host: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        start(State(Settings(data_dir=folder, host=host, **SMALL)))
    assert "\n" not in str(caught.value)
    for word in (
        host,
        "`cooc keys create NAME --scope admin`",
        str(folder),
        "COOC_REQUIRE_KEYS=no",
    ):
        assert word in str(caught.value)
    assert not folder.exists()  # refused before anything was made


def test_with_a_key_it_starts_anywhere(folder: Path) -> None:
    new_key(folder, Scope.SEARCH)
    check_start(folder, host="0.0.0.0")
    check_start(folder, require_keys="yes")


def test_keys_that_nobody_may_use_are_none(folder: Path) -> None:
    new_key(folder, Scope.ADMIN, expires_at=LONG_AGO + timedelta(days=1))
    KeyFile(folder).revoke(key_id(new_key(folder, Scope.ADMIN)), datetime.now(UTC))
    for settings in ({"host": "0.0.0.0"}, {"require_keys": "yes"}):
        with pytest.raises(InvalidOption, match="there is no key"):
            check_start(folder, **settings)
    check_start(folder)  # on loopback it may wait for one
    assert State(Settings(data_dir=folder)).access.required()


def test_keys_may_be_demanded_on_loopback_too(folder: Path) -> None:
    with pytest.raises(InvalidOption, match="COOC_REQUIRE_KEYS is yes and there is no key"):
        check_start(folder, require_keys="yes")


def test_who_asks_for_no_keys_is_warned(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_start(folder, host="0.0.0.0", require_keys="no")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "can search, change and delete everything" in record.getMessage()


def test_a_prefix_without_keys_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_start(folder)
    assert caplog.records == []
    check_start(folder, root_path="/photos")
    assert "COOC_ROOT_PATH says that a proxy serves this" in caplog.text


def test_a_damaged_file_of_keys_is_no_reason_to_be_open(folder: Path) -> None:
    folder.mkdir()
    (folder / FILE).write_text("{")
    with pytest.raises(KeysUnreadable):
        check_start(folder)


# --- whom it answers --------------------------------------------------------------------------


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    # Without its lifespan there is no index: 500 is an answer of the route, which was reached.
    app = create_app(Settings(data_dir=folder, **SMALL))
    yield TestClient(app, raise_server_exceptions=False)


REACHED = 500
LOCAL = ["localhost", "localhost:8000", "127.0.0.1:8000", "127.0.0.1", "[::1]:8000", "a.localhost"]
FOREIGN = [
    *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"),
    *("192.168.1.5:8000", "0.0.0.0:8000", "[2001:db8::1]:8000", "", "127.0.0.1@evil.example"),
    *("127.0.0.1:80:evil.example", "[::1].evil.example"),
]


@pytest.mark.parametrize("host", LOCAL)
def test_names_of_this_machine_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/jobs", headers={"Host": host}).status_code == REACHED


@pytest.mark.parametrize("host", FOREIGN)
def test_names_that_lead_here_from_elsewhere_are_not(client: TestClient, host: str) -> None:
    for method, path in (("GET", "/jobs"), ("POST", "/search"), ("DELETE", "/images/x")):
        answer = client.request(method, path, headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (403, "not_local")
        assert "`cooc keys create NAME --scope admin`" in answer.json()["detail"]
    assert client.get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "name",
    ["X-Forwarded-For", "x-forwarded-host", "X-Forwarded-Proto", "Forwarded", "X-Real-IP", "Via"],
)
def test_what_came_through_a_proxy_is_not_answered(client: TestClient, name: str) -> None:
    answer = client.get("/jobs", headers={name: "127.0.0.1"})
    assert (answer.status_code, answer.json()["code"]) == (403, "not_local")
    assert f"the header {name.lower()} says" in answer.json()["detail"]


def test_what_something_else_guards_is_answered_as_it_comes(folder: Path) -> None:
    app = create_app(Settings(data_dir=folder, require_keys="no", **SMALL))
    client = TestClient(app, raise_server_exceptions=False)
    new_key(folder, Scope.SEARCH)  # even then
    for headers in ({"Host": "photos.example"}, {"X-Forwarded-For": "192.0.2.7"}):
        assert client.delete("/images/x", headers=headers).status_code == REACHED
    assert client.get("/session").json()["required"] is False


def test_the_first_key_closes_it_and_it_stays_closed(client: TestClient, folder: Path) -> None:
    assert client.get("/jobs").status_code == REACHED
    key = new_key(folder, Scope.SEARCH)
    assert client.get("/jobs").status_code == 401
    # With keys a proxy may be in front.
    headers = {"X-API-Key": key, "Host": "photos.example", "X-Forwarded-For": "192.0.2.7"}
    assert client.get("/jobs", headers=headers).status_code == REACHED
    KeyFile(folder).revoke(key_id(key), datetime.now(UTC))
    assert client.get("/jobs").status_code == 401
    (folder / FILE).unlink()
    assert client.get("/jobs").status_code == 401


def test_a_damaged_file_of_keys_is_told_and_lets_nobody_in(
    client: TestClient, folder: Path
) -> None:
    new_key(folder, Scope.SEARCH)
    (folder / FILE).write_text("{")
    for method, path in (("GET", "/jobs"), ("DELETE", "/images/x")):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (503, "keys_unreadable")
    assert client.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("server", "host", "local"),
    [
        (("127.0.0.1", 8000), b"127.0.0.1:8000", True),
        (("::1", 8000), b"localhost:8000", True),
        (("/run/cooc.sock", None), b"localhost", True),
        (None, b"localhost", True),
        # Listening elsewhere than the settings say.
        (("192.168.1.5", 8000), b"localhost:8000", False),
        (("192.168.1.5", 8000), b"192.168.1.5:8000", False),
        (("/run/cooc.sock", None), b"photos.example", False),
    ],
)
def test_where_a_request_was_received_counts(server: Any, host: bytes, local: bool) -> None:
    scope = {"type": "http", "server": server, "headers": [(b"host", host)]}
    assert (why_not_local(scope) is None) is local
    assert why_not_local({**scope, "headers": []}) is not None


def test_what_nginx_passes_on_as_it_comes_is_not_local() -> None:
    """It adds no header then, and names the service as this machine does."""
    headers = [(b"host", b"127.0.0.1:8000"), (b"connection", b"close")]
    scope = {"type": "http", "server": ("127.0.0.1", 8000), "headers": headers}
    assert why_not_local({**scope, "http_version": "1.1"}) is None
    assert "HTTP/1.0" in str(why_not_local({**scope, "http_version": "1.0"}))


@pytest.mark.parametrize("host", ["", "::", "0.0.0.0", "127.0.0.1.", "127.1", "10.0.0.1", "host"])
def test_what_is_not_surely_loopback_is_not(host: str) -> None:
    assert not is_loopback(host)


# --- settings ---------------------------------------------------------------------------------


def test_proxies_are_addresses_and_networks() -> None:
    settings = load_settings(trusted_proxies="10.0.0.0/8, ::1,192.0.2.7")
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1", "192.0.2.7")


@pytest.mark.parametrize("text", ["*", "proxy.example", "10.0.0.1/8", "10.0.0.0/33"])
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(InvalidOption, match="trusted_proxies"):
        load_settings(trusted_proxies=text)


def test_a_key_in_the_settings_is_never_shown() -> None:
    settings = load_settings(api_key="cooc_secret")
    assert "cooc_secret" not in repr(settings) + str(settings.model_dump())
