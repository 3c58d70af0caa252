"""Progress of jobs as server-sent events, read from a real server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.security.keys import KeyFile
from app.security.scopes import Scope
from tests.drawing import photo
from tests.keyed import key_id, new_key
from tests.server import Server, serving
from tests.web import endless, web


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With few threads, so that listeners would soon hold all of them."""
    with serving(tmp_path_factory.mktemp("events") / "index", COOC_MAX_QUEUE="1") as server:
        yield server


@pytest.fixture
def server(one: Server) -> Server:
    """The same for all tests, also after one that has stopped it."""
    if one.process.poll() is not None:
        one.start()
    return one


def add(server: Server, start: int, count: int) -> str:
    files = [("files", (f"{seed}.jpg", photo(seed))) for seed in range(start, start + count)]
    answer = server.http.post("/index/add", files=files)
    assert answer.status_code == 202
    return str(answer.headers["Location"])


def events(response: httpx.Response) -> Iterator[dict[str, str]]:
    """As an EventSource reads them; comments are left out."""
    event: dict[str, str] = {}
    for line in response.iter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
        elif event:
            yield event
            event = {}


def followed(server: Server, location: str, **headers: str) -> list[dict[str, str]]:
    with server.http.stream("GET", f"{location}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["cache-control"] == "no-cache"
        return [event for event in events(response) if "data" in event]


def test_a_job_is_followed_to_its_end(server: Server) -> None:
    location = add(server, 0, 120)
    found = followed(server, location)
    assert [event["event"] for event in found[:-1]] == ["progress"] * (len(found) - 1)
    assert found[-1]["event"] == "end"
    states: list[dict[str, Any]] = [json.loads(event["data"]) for event in found]
    assert states[-1] == server.http.get(location).json()
    assert states[-1]["state"] == "succeeded"
    processed = [state["progress"]["processed"] for state in states]
    assert processed == sorted(processed)
    assert len({event["id"] for event in found}) == len(found)


def test_who_comes_back_is_told_what_is_new_and_then_to_stop(server: Server) -> None:
    location = add(server, 200, 3)
    server.finish(location)
    (last,) = followed(server, location)
    assert last["event"] == "end"
    again = server.http.get(f"{location}/events", headers={"Last-Event-ID": last["id"]})
    assert (again.status_code, again.content) == (204, b"")
    assert followed(server, location, **{"Last-Event-ID": "another"}) == [last]


def test_an_unknown_job_is_a_problem_not_a_stream(server: Server) -> None:
    answer = server.http.get("/jobs/nothing/events")
    assert answer.status_code == 404
    assert answer.json()["code"] == "unknown_job"


def test_a_stream_ends_with_the_key_it_was_opened_with(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    write, search = new_key(folder, Scope.WRITE), new_key(folder, Scope.SEARCH)
    with web() as slow:
        slow.answers["/a.jpg"] = endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x", slow.stopped, 0.05)
        allowed = {"COOC_URL_ALLOW": f"127.0.0.1:{slow.port}", "COOC_URL_TIMEOUT_S": "300"}
        with serving(folder, COOC_URL_ALLOW_PRIVATE="127.0.0.1/32", **allowed) as server:
            images = {"images": [{"url": slow.url("/a.jpg")}]}
            answer = server.http.post("/index/add", json=images, headers={"X-API-Key": write})
            location, headers = answer.headers["Location"], {"X-API-Key": search}
            with server.http.stream("GET", f"{location}/events", headers=headers) as response:
                lines = events(response)
                while "data" not in next(lines):
                    pass
                KeyFile(folder).revoke(key_id(search), datetime.now(UTC))
                rest = list(lines)
            assert "end" not in [event.get("event") for event in rest]
            assert server.http.get(f"{location}/events", headers=headers).status_code == 401
            headers = {"X-API-Key": write}
            assert server.http.get(location, headers=headers).json()["finished_at"] is None
            server.http.delete(location, headers=headers)


def test_listeners_hold_no_thread(server: Server) -> None:
    """More of them than the service has threads, on a job that waits; others are answered."""
    first, waiting = add(server, 300, 80), add(server, 400, 2)
    ends: list[str] = []

    def listen() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            with http.stream("GET", f"{waiting}/events") as response:
                ends.extend(e["event"] for e in events(response) if e.get("event") == "end")

    threads = [threading.Thread(target=listen) for _ in range(30)]
    for thread in threads:
        thread.start()
    while server.http.get(first).json()["state"] in ("queued", "running"):
        assert server.http.get("/images?limit=1").status_code == 200
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert ends == ["end"] * 30


def test_a_stop_does_not_wait_for_listeners(server: Server) -> None:
    location = add(server, 500, 300)
    with server.http.stream("GET", f"{location}/events") as response:
        lines = events(response)
        next(lines)
        stopped = threading.Thread(target=server.stop)
        stopped.start()
        # The stream ends in good order, which it would not if it were cut off after 30 s;
        # without `end`, as the job goes on at the next start.
        assert "end" not in [event.get("event") for event in lines]
    stopped.join()
