"""Every operation against every kind of caller, as the OpenAPI document says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from starlette.types import Message

from app.main import PAGES, create_app
from app.security.needs import ANYBODY, COOKIE, check_declared, needs
from app.security.scopes import Scope, included
from app.settings import Settings
from engine.errors import CorruptIndex, EngineError, IndexMismatch, WeightsUnavailable
from tests.keyed import key_id, keys_of_all_kinds, new_key
from tests.test_bad_input import SMALL

OPEN = {"/livez", "/readyz", "/session"}
WAYS = ("bearer", "header", "session")
KINDS = ("search", "write", "admin", "expired", "revoked", "forged", "nonsense")


def presented(key: str | None, way: str) -> dict[str, str]:
    """The headers by which a caller shows a key."""
    if key is None:
        return {}
    return {
        "bearer": {"Authorization": f"Bearer {key}"},
        "header": {"X-API-Key": key},
        "session": {"Cookie": f"{COOKIE}={key}"},
    }[way]


def meant(method: str, path: str) -> Scope | None:
    """What an operation has to need, by what it does."""
    if path in OPEN:
        return None
    if path.startswith(("/admin/", "/metrics")):
        return Scope.ADMIN
    if method == "GET" or path in ("/search", "/search/batch", "/compare"):
        return Scope.SEARCH
    return Scope.WRITE


def documented(app: FastAPI) -> dict[tuple[str, str], Scope | None]:
    """Method and path of every operation in the document, with the scope it says it needs."""
    found: dict[tuple[str, str], Scope | None] = {}
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            required = operation.get("security")
            assert required is None or [set(way) for way in required] == [{way} for way in WAYS]
            scopes = {scope for way in required or [] for one in way.values() for scope in one}
            assert len(scopes) == (0 if required is None else 1), (method, path)
            found[method.upper(), path] = Scope(scopes.pop()) if scopes else None
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access") / "index"


@pytest.fixture(scope="module")
def keys(folder: Path) -> dict[str, str]:
    return keys_of_all_kinds(folder)


@pytest.fixture(scope="module")
def app(folder: Path) -> FastAPI:
    return create_app(Settings(data_dir=folder, **SMALL))


@pytest.fixture(scope="module")
def client(app: FastAPI, keys: dict[str, str]) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_every_operation_needs_what_it_is_meant_to(app: FastAPI) -> None:
    found = documented(app)
    assert len(found) > 25
    assert found == {operation: meant(*operation) for operation in found}


def test_no_route_is_missing_from_the_document_but_pages(app: FastAPI) -> None:
    told = {(method, path) for method, path in documented(app)}
    for route in iter_route_contexts(app.routes):
        path = re.sub(r":\w+}", "}", route.path or "")
        for method in (route.methods or {"any"}) - {"HEAD"}:
            assert (method, path) in told or path in PAGES, f"{method} {path}"


def test_the_document_names_the_ways_to_show_a_key(app: FastAPI) -> None:
    schemes = app.openapi()["components"]["securitySchemes"]
    assert {name: entry["type"] for name, entry in schemes.items()} == {
        "bearer": "http",
        "header": "apiKey",
        "session": "apiKey",
    }


@pytest.mark.parametrize(("kind", "way"), [*product(KINDS, WAYS), (None, "bearer")])
def test_the_document_is_right_about_every_caller(
    client: TestClient, app: FastAPI, keys: dict[str, str], kind: str | None, way: str
) -> None:
    allowed = included([Scope(kind)]) if kind in list(Scope) else ()
    key = None if kind is None else keys[kind]
    asked = 0
    for (method, path), scope in documented(app).items():
        answer = client.request(method, re.sub(r"{\w+}", "x", path), headers=presented(key, way))
        what = f"{kind} {method} {path}: {answer.status_code} {answer.text[:200]}"
        asked += 1
        if scope is None or scope in allowed:
            # Also after so many wrong ones: a good key is never kept waiting.
            assert answer.status_code not in (401, 403, 429, 500), what
            continue
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json", what
        if allowed:
            assert (answer.status_code, problem["code"]) == (403, "scope_missing"), what
            assert problem["detail"] == f"this needs a key with the scope {scope.value}"
        elif kind in ("forged", "nonsense") and answer.status_code == 429:
            assert problem["code"] == "too_many_attempts"
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
        else:
            code = "key_required" if kind is None else "key_refused"
            assert (answer.status_code, problem["code"]) == (401, code), what
            assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        assert key is None or key not in answer.text
    assert asked == len(documented(app))


@pytest.mark.parametrize("path", sorted(PAGES | {"/web/app.js"}))
def test_pages_are_shown_to_strangers(client: TestClient, path: str) -> None:
    address = {
        "/web": "/web/style/base.css",
        "/static-offline-docs": "/static-offline-docs/favicon.png",
    }
    assert client.get(address.get(path, path)).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/livez", "/readyz"])
def test_monitors_may_ask_without_wanting_the_content(client: TestClient, path: str) -> None:
    asked, got = client.head(path), client.get(path)
    assert asked.status_code == got.status_code == 200
    assert asked.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("kind", [IndexMismatch, CorruptIndex, WeightsUnavailable])
def test_only_keys_are_told_what_is_wrong_with_the_index(
    tmp_path: Path, kind: type[EngineError]
) -> None:
    key = new_key(tmp_path, Scope.SEARCH)
    app = create_app(Settings(data_dir=tmp_path, **SMALL))
    app.state.cooc.failure = kind(f"{tmp_path}/generations/3 is damaged")
    client = TestClient(app, raise_server_exceptions=False)
    told, known = client.get("/readyz"), client.get("/readyz", headers={"X-API-Key": key})
    assert str(tmp_path) in known.json()["detail"]
    assert str(tmp_path) not in told.text
    assert (told.status_code, told.json()["code"]) == (known.status_code, known.json()["code"])


def test_the_key_of_a_header_comes_before_that_of_the_cookie(
    client: TestClient, keys: dict[str, str]
) -> None:
    both = {**presented(keys["search"], "header"), **presented(keys["admin"], "session")}
    assert client.get("/admin/index", headers=both).status_code == 403
    both = {**presented(keys["admin"], "bearer"), **presented(keys["search"], "header")}
    assert client.get("/admin/index", headers=both).status_code == 200


def test_what_a_proxy_asks_for_itself_is_no_key(client: TestClient, keys: dict[str, str]) -> None:
    basic = {"Authorization": "Basic aGVsbG86d29ybGQ="}
    assert client.get("/jobs", headers=basic).json()["code"] == "key_required"
    assert client.get("/jobs", headers=basic | {"X-API-Key": keys["search"]}).status_code == 200


def test_a_key_in_the_address_is_no_key(client: TestClient, keys: dict[str, str]) -> None:
    answer = client.get("/jobs", params={"key": keys["admin"], "api_key": keys["admin"]})
    assert answer.status_code == 401


def test_a_key_of_several_scopes_is_good_for_the_highest(client: TestClient, folder: Path) -> None:
    key = new_key(folder, Scope.SEARCH, Scope.WRITE)
    scopes = client.get("/session", headers=presented(key, "bearer")).json()["scopes"]
    assert scopes == ["search", "write"]


@pytest.mark.parametrize("path", ["/search", "/admin/snapshots", "/index/add", "/nowhere"])
def test_nobody_reads_what_a_stranger_sends(
    client: TestClient, app: FastAPI, keys: dict[str, str], path: str
) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 5),
        "http_version": "1.1",
        "root_path": "",
    }
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 401


def a_router(**route: Any) -> APIRouter:
    router = APIRouter()

    @router.post("/forgotten", **route)
    def forgotten() -> None:
        """Does something."""

    return router


@pytest.mark.parametrize("hidden", [True, False])
def test_a_service_with_a_route_that_declares_nothing_does_not_start(hidden: bool) -> None:
    app = FastAPI(openapi_url=None)
    app.include_router(a_router(include_in_schema=not hidden), prefix="/some")
    with pytest.raises(RuntimeError, match=r"POST /some/forgotten .*dependencies=\[needs\("):
        check_declared(app, without=())


def test_a_router_may_declare_for_its_routes() -> None:
    for router in (
        APIRouter(dependencies=[needs(Scope.WRITE)]),
        APIRouter(dependencies=[ANYBODY]),
    ):
        router.add_api_route("/declared", lambda: None, methods=["GET"])
        app = FastAPI(openapi_url=None)
        app.include_router(router)
        check_declared(app, without=())


def test_a_mounted_application_has_to_be_named_as_open() -> None:
    app = FastAPI(openapi_url=None)
    app.mount("/files", FastAPI(openapi_url=None))
    with pytest.raises(RuntimeError, match="any method /files"):
        check_declared(app, without=())
    check_declared(app, without={"/files"})


def test_a_key_is_named_where_it_is_known_to_its_owner(
    client: TestClient, keys: dict[str, str]
) -> None:
    for kind in ("expired", "revoked"):
        detail = client.get("/jobs", headers=presented(keys[kind], "bearer")).json()["detail"]
        assert f"{key_id(keys[kind])} is {kind}" in detail
    detail = client.get("/jobs", headers=presented(keys["forged"], "bearer")).json()["detail"]
    assert key_id(keys["forged"]) not in detail
