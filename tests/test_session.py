"""Signing in from a browser."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from starlette.types import Message

from app.main import create_app
from app.routes import session
from app.security.keys import KeyFile
from app.security.needs import COOKIE
from app.security.scopes import Scope
from app.settings import Settings
from tests.keyed import key_id, new_key, reworded
from tests.test_bad_input import SMALL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


def browser(folder: Path, base_url: str = "http://localhost", **settings: Any) -> TestClient:
    """It keeps cookies. There is no index: routes that are reached answer 500."""
    app = create_app(Settings(data_dir=folder, **SMALL, **settings))
    root = settings.get("root_path", "")
    return TestClient(app, base_url, raise_server_exceptions=False, root_path=root)


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    yield browser(folder)


def cookie_of(answer: Response) -> dict[str, str]:
    """The attributes of the cookie that an answer sets."""
    (morsel,) = SimpleCookie(answer.headers["set-cookie"]).values()
    return {name: str(value) for name, value in morsel.items() if value} | {"value": morsel.value}


def test_a_key_that_was_sent_once_is_good_for_pictures_and_changes(
    client: TestClient, folder: Path
) -> None:
    key = new_key(folder, Scope.WRITE)
    assert client.get("/session").json() == {
        "required": True,
        "scopes": [],
        "key_id": None,
        "key_name": None,
        "expires_at": None,
    }
    answer = client.post("/session", json={"key": key})
    assert answer.status_code == 200
    assert answer.json() == client.get("/session").json()
    assert answer.json()["scopes"] == ["search", "write"]
    assert (answer.json()["key_id"], answer.json()["key_name"]) == (key_id(key), "test")
    assert client.get("/images/x/thumbnail").status_code == 500
    assert client.delete("/images/x").status_code == 500
    assert client.get("/admin/index").status_code == 403
    assert client.delete("/session").status_code == 204
    assert client.get("/images/x/thumbnail").status_code == 401
    assert client.get("/session").json()["scopes"] == []


def test_scripts_other_sites_and_other_paths_do_not_get_the_cookie(folder: Path) -> None:
    key = new_key(folder, Scope.SEARCH)
    cookie = cookie_of(browser(folder).post("/session", json={"key": key}))
    assert cookie == {
        "value": key,
        "httponly": "True",
        "samesite": "strict",
        "path": "/",
        "max-age": str(30 * 24 * 3600),
    }
    secure = browser(folder, "https://photos.example").post("/session", json={"key": key})
    assert cookie_of(secure)["secure"] == "True"
    prefixed = browser(folder, root_path="/photos").post("/photos/session", json={"key": key})
    assert cookie_of(prefixed)["path"] == "/photos"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"base_url": "http://nas:8080"}, {"base_url": "http://nas:8081"}),
        ({"base_url": "http://nas"}, {"base_url": "http://nas:8081"}),
        ({}, {"root_path": "/photos"}),
        ({"root_path": "/photos"}, {"root_path": "/photos/old"}),
    ],
)
def test_services_on_one_host_do_not_sign_each_other_out(
    tmp_path: Path, one: dict[str, str], other: dict[str, str]
) -> None:
    # Each by itself; what a browser would send to one of them are the cookies of all.
    sent: list[str] = []
    sites = []
    for number, options in enumerate((one, other)):
        folder, root = tmp_path / str(number), options.get("root_path", "")
        key = new_key(folder, Scope.SEARCH)
        answer = browser(folder, **options).post(f"{root}/session", json={"key": key})
        sent.append(answer.headers["set-cookie"].split(";")[0])
        sites.append((browser(folder, **options), f"{root}/session", key_id(key)))
    for cookies in (sent, sent[::-1]):
        for site, path, known in sites:
            answer = site.get(path, headers={"Cookie": "; ".join(cookies)})
            assert answer.json()["key_id"] == known


def test_signing_out_takes_the_cookie_that_signing_in_set(folder: Path) -> None:
    at = browser(folder, "http://nas:8080")
    at.post("/session", json={"key": new_key(folder, Scope.SEARCH)})
    assert [cookie.name for cookie in at.cookies.jar] == [f"{COOKIE}_8080"]
    assert at.delete("/session").status_code == 204
    assert list(at.cookies.jar) == []


def stranger_signing_in(app: FastAPI, asked: Callable[[], Awaitable[Message]]) -> Any:
    """A sign-in as the server hands it on, and the list of what is answered."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/session",
        "raw_path": b"/session",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "client": ("192.0.2.7", 5),
        "http_version": "1.1",
        "root_path": "",
    }
    return app(scope, asked, send), sent


def test_strangers_who_never_send_their_key_hold_no_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_S", 0.5)
    new_key(folder, Scope.SEARCH)
    app = create_app(Settings(data_dir=folder, max_queue=1, **SMALL))

    async def several() -> list[Message]:
        waiting = asyncio.Semaphore(0)

        async def never() -> Message:
            waiting.release()
            await asyncio.Event().wait()
            raise AssertionError

        calls = [stranger_signing_in(app, never) for _ in range(20)]
        tasks = [asyncio.create_task(call) for call, _ in calls]
        for _ in tasks:
            await waiting.acquire()
        assert len(app.state.admission) == 0
        await asyncio.gather(*tasks)
        return [sent[0] for _, sent in calls]

    assert {message["status"] for message in asyncio.run(several())} == {504}


def test_who_leaves_before_the_key_is_there_is_no_failure(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new_key(folder, Scope.SEARCH)

    async def left() -> Message:
        return {"type": "http.disconnect"}

    call, sent = stranger_signing_in(create_app(Settings(data_dir=folder, **SMALL)), left)
    asyncio.run(call)
    assert sent[0]["status"] == 408
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_more_than_a_key_is_refused_as_soon_as_it_is_announced(client: TestClient) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": "4097"}
    answer = client.post("/session", content=b"{}", headers=headers)
    assert answer.status_code == 413
    assert "4,096 bytes" in answer.json()["detail"]


def test_the_cookie_ends_with_its_key(folder: Path) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    key = new_key(folder, Scope.SEARCH, expires_at=ends)
    cookie = cookie_of(browser(folder).post("/session", json={"key": key}))
    assert 3000 < int(cookie["max-age"]) <= 3600


def test_another_site_cannot_use_the_cookie_of_a_visitor(client: TestClient, folder: Path) -> None:
    client.post("/session", json={"key": new_key(folder, Scope.ADMIN)})
    for origin in ("cross-site", "same-site"):
        answer = client.delete("/images/x", headers={"Sec-Fetch-Site": origin})
        assert answer.status_code == 403
        assert "another web site" in answer.json()["detail"]
    own = client.delete("/images/x", headers={"Sec-Fetch-Site": "same-origin"})
    assert own.status_code == 500


def test_another_site_cannot_sign_a_visitor_in(client: TestClient, folder: Path) -> None:
    body = {"key": new_key(folder, Scope.SEARCH)}
    answer = client.post("/session", json=body, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    # Nor by a form, from a browser that does not tell where it comes from.
    answer = client.post(
        "/session", content=json.dumps(body), headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 415
    assert "set-cookie" not in answer.headers


def test_a_stale_cookie_neither_hides_the_page_nor_the_way_back_in(
    client: TestClient, folder: Path
) -> None:
    client.cookies.set(COOKIE, reworded(new_key(folder, Scope.ADMIN)))
    for _ in range(40):  # as often as a page with many parts asks
        assert client.get("/").status_code == 200
        assert client.get("/web/app.js").status_code == 200
    assert client.get("/session").json()["scopes"] == []
    good = new_key(folder, Scope.SEARCH)
    assert client.post("/session", json={"key": good}).status_code == 200


def test_a_wrong_key_sets_no_cookie(client: TestClient, folder: Path) -> None:
    key = new_key(folder, Scope.SEARCH)
    answers = [client.post("/session", json={"key": reworded(key)}) for _ in range(25)]
    assert not any("set-cookie" in answer.headers for answer in answers)
    assert [answer.status_code for answer in answers] == [401] * 20 + [429] * 5
    assert answers[0].json()["code"] == "key_refused"
    assert answers[-1].json()["code"] == "too_many_attempts"
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    KeyFile(folder).revoke(key_id(key), datetime.now(UTC))
    assert client.post("/session", json={"key": key}).status_code == 401


def test_where_no_keys_are_asked_for_none_is_kept(client: TestClient) -> None:
    answer = client.post("/session", json={"key": "anything"})
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert answer.json()["required"] is False
    assert answer.json()["scopes"] == ["search", "write", "admin"]
    elsewhere = client.get("/session", headers={"Host": "evil.example"})
    assert elsewhere.json()["scopes"] == []
    answer = client.post("/session", json={"key": "any"}, headers={"Host": "evil.example"})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ("{%s", 400),
        ('["%s"]', 422),
        ('{"keys": "%s"}', 422),
        ('{"key": ["%s"]}', 422),
        ('{"key": "%s", "more": 1}', 422),
        ('"%s"', 422),
        ('{"key": "%s\\ud800"}', 401),
        ('{"key": "%s", "more": "' + "x" * 5000 + '"}', 413),
    ],
)
def test_no_message_repeats_what_was_sent(
    client: TestClient, folder: Path, content: str, status: int
) -> None:
    key = new_key(folder, Scope.SEARCH)
    headers = {"Content-Type": "application/json"}
    answer = client.post("/session", content=content % key, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert key not in answer.text
    assert key.split("_")[2] not in answer.text


def test_nothing_that_is_logged_has_a_key(
    client: TestClient, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    good = new_key(folder, Scope.ADMIN)
    bad = reworded(good)
    for key in (good, bad):
        client.cookies.clear()
        client.post("/session", json={"key": key})
        client.post("/session", json={"kee": key})
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
            # Reached with the good one, these fail inside, which is logged with a traceback.
            client.get("/admin/index", headers=headers)
            client.delete("/images/x", headers=headers)
            client.get("/nowhere", headers=headers)
            client.request("PATCH", "/images/x", headers=headers, content=b"{")
            for _ in range(25):
                client.get("/jobs", headers=headers)
    text = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert "/admin/index failed" in text  # the log was listened to
    assert "keeps presenting keys that nobody has" in text
    assert caplog.text.count("keeps presenting keys") == 1  # not once for each
    for key in (good, bad):
        assert key not in text
        assert key.split("_")[2] not in text
        assert key.split("_")[2][:16] not in text
