"""What services log that have keys, or fail; nothing of it is secret."""

from __future__ import annotations

import json
import logging
import signal
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.observing.logs import Format
from app.security.scopes import Scope
from tests.drawing import photo
from tests.keyed import key_id, new_key
from tests.live import WAIT_S, live
from tests.patience import until
from tests.server import serving
from tests.test_api import make_client
from tests.test_logs import listening

log = logging.getLogger("engine.tests")


def test_every_line_of_a_request_has_its_id_in_every_thread(tmp_path: Path) -> None:
    with live(tmp_path / "index", batch_size=2) as server, listening() as lines:
        describer = server.searcher.describer
        decode, describe = describer.decode, describer.describe

        def telling_decode(data: bytes, **options: Any) -> Any:
            log.info("a line while decoding")
            return decode(data, **options)

        def telling_describe(images: Sequence[np.ndarray]) -> Any:
            log.info("a line of a pass with %d", len(images))
            return describe(images)

        describer.decode = telling_decode  # type: ignore[method-assign]
        describer.describe = telling_describe  # type: ignore[method-assign]

        def search(name: str, seed: int) -> int:
            return server.search(seed, headers={"X-Request-ID": name}).status_code

        server.gate.open.clear()
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(search, "first", 0)
            assert server.gate.inside.wait(WAIT_S)
            others = [pool.submit(search, name, n) for n, name in enumerate(("one", "two"), 1)]
            until(lambda: server.searcher.load.waiting_searches == 2)
            server.gate.open.set()
            assert [future.result() for future in (first, *others)] == [200] * 3
        until(lambda: len(lines.of("POST /search")) == 3)
    decoded = [line["request_id"] for line in lines.of("a line while decoding")]
    assert sorted(decoded) == ["first", "one", "two"]
    alone, together = lines.of("a line of a pass")
    assert (alone["event"], alone["request_id"]) == ("a line of a pass with 1", "first")
    assert together["event"] == "a line of a pass with 2"
    assert sorted(together["request_ids"]) == ["one", "two"]
    assert sorted(line["request_id"] for line in lines.of("POST")) == ["first", "one", "two"]


def test_what_fails_unforeseen_is_logged_under_its_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_client(tmp_path) as client, listening() as lines, monkeypatch.context() as broken:
        state: Any = client.app.state.cooc  # type: ignore[attr-defined]
        broken.setattr(state, "service", None)
        broken.setattr(state, "failure", RuntimeError("it broke"))
        quiet = TestClient(client.app, raise_server_exceptions=False)
        answer = quiet.get("/images", headers={"X-Request-ID": "unlucky"})
    assert answer.status_code == 500
    assert answer.json()["request_id"] == "unlucky"
    (failed,) = lines.of("GET /images failed")
    assert failed["request_id"] == "unlucky"
    assert "RuntimeError: it broke" in failed["exception"]
    (line,) = lines.of("GET /images 500")
    assert (line["request_id"], line["problem"]) == ("unlucky", "internal_server_error")


def test_the_key_of_a_request_is_told_by_its_id(tmp_path: Path) -> None:
    key = new_key(tmp_path, Scope.SEARCH)
    with make_client(tmp_path) as client, listening() as lines:
        client.get("/jobs", headers={"Authorization": f"Bearer {key}"})
        client.get("/jobs")
    told, stranger = lines.of("GET /jobs")
    assert told["key_id"] == key_id(key)
    assert ("key_id" in stranger, stranger["problem"]) == (False, "key_required")


def every_way(client: Any, key: str) -> None:
    """Somebody puts a key wherever keys might go, and where they should not."""
    client.get("/jobs", headers={"Authorization": f"Bearer {key}"})
    client.get("/jobs", headers={"Authorization": f"Basic {key}"})
    client.get("/jobs", headers={"X-API-Key": f"{key}!"})
    client.get("/jobs", headers={"Cookie": f"cooc_session={key}"})
    client.get("/jobs", params={"api_key": key})
    client.get(f"/images/{key}")
    client.get(f"/{key}", headers={"User-Agent": key, "Referer": key})
    client.post("/session", json={"key": key})
    client.post("/session", content=key, headers={"Content-Type": "application/json"})
    client.post(f"/admin/{key}/build")


@pytest.mark.parametrize("format", ["json", "text"])
def test_no_line_has_a_secret(tmp_path: Path, format: Format) -> None:
    key = new_key(tmp_path, Scope.ADMIN)
    secret = key.split("_")[2]
    with make_client(tmp_path) as client, listening(format, logging.DEBUG) as lines:
        every_way(client, key)
    assert lines.text.count(key_id(key)) >= 5
    assert secret not in lines.text
    assert "api_key" not in lines.text


def test_all_that_a_service_writes_is_json(tmp_path: Path) -> None:
    key = new_key(tmp_path / "index", Scope.ADMIN)
    with serving(tmp_path / "index", COOC_LOG_FORMAT="json") as server:
        server.http.headers["Authorization"] = f"Bearer {key}"
        every_way(server.http, key)
        job = server.http.post("/index/add", files=[("files", ("a.jpg", photo(1)))])
        server.finish(job.headers["Location"])
        with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as raw:
            raw.sendall(b"this is no HTTP\r\n\r\n")
            while raw.recv(1000):
                pass
        assert server.stop() == -signal.SIGTERM
    text = (tmp_path / "server.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    loggers = {line["logger"] for line in lines}
    assert {
        "app.cli",
        "app.main",
        "app.observing.requests",
        "app.observing.jobs",
        "uvicorn.error",
    } <= loggers
    assert all({"time", "level", "event"} <= line.keys() for line in lines)
    assert key.split("_")[2] not in text
    added = next(line for line in lines if line["event"] == "POST /index/add 202")
    assert added["key_id"] == key_id(key)
