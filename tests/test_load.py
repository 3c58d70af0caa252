"""More than the service can do, and clients that leave, are late, or never finish."""

from __future__ import annotations

import inspect
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from app.routes import search
from engine.passes.calls import current_call
from engine.queries.querying import Example
from tests.drawing import photo
from tests.live import WAIT_S, Live, answer_to, live, search_request
from tests.patience import PATIENCE_S, until
from tests.server import serving
from tests.test_metrics import labels, samples


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    """One whose model is held up until its `gate` is opened."""
    with live(tmp_path / "index", max_queue=4, batch_size=2) as server:
        server.gate.open.clear()
        yield server


def pixels(server: Live, seed: int) -> bytes:
    return server.searcher.describer.decode(photo(seed)).pixels.tobytes()


def test_a_client_that_leaves_is_not_worked_for(server: Live) -> None:
    before = server.searcher.load
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.search, 0)
        assert server.gate.inside.wait(WAIT_S)
        impatient = server.send(search_request(1))
        until(lambda: server.searcher.load.waiting_searches == 1)
        left = server.admission.left
        impatient.close()
        until(lambda: server.admission.left == left + 1)
        until(lambda: len(server.admission) == 1)
        server.gate.open.set()
        assert first.result().status_code == 200
    assert server.admission.seconds_each == 0, "that it left is no answer that was made"
    assert server.search(2).status_code == 200
    assert server.gate.seen == [pixels(server, 0), pixels(server, 2)]
    after = server.searcher.load
    assert (after.cancelled - before.cancelled, after.done - before.done) == (1, 2)


def test_a_client_that_leaves_in_the_middle_of_its_upload_is_forgotten(server: Live) -> None:
    held = server.admission.bytes_held
    half = search_request(1)[:-500]
    connection = server.send(half)
    # It is let in, and then its bytes are counted; both end in that order, too.
    until(lambda: server.admission.bytes_held > held)
    assert len(server.admission) == 1
    connection.close()
    until(lambda: server.admission.bytes_held == held == 0)
    assert not len(server.admission)


@pytest.mark.parametrize("path", ["/search", "/images/new"])
def test_an_answer_that_is_late_is_a_504_and_its_image_is_not_described(
    server: Live, path: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.search, 0)
        assert server.gate.inside.wait(WAIT_S)
        method = "PUT" if path != "/search" else "POST"
        answer = server.http.request(
            method, path, files={"image": photo(1)}, headers={"X-Deadline-Ms": "150"}
        )
        assert answer.status_code == 504
        assert answer.json()["code"] == "deadline_exceeded"
        assert "within 0.15 s" in answer.json()["detail"]
        server.gate.open.set()
        assert first.result().status_code == 200
    assert server.search(2).status_code == 200
    assert pixels(server, 1) not in server.gate.seen
    assert server.http.get("/images/new").status_code == 404


def test_an_upload_uses_up_the_time_of_its_request(server: Live) -> None:
    request = search_request(1, "X-Deadline-Ms: 200\r\n")
    status, text = answer_to(server.send(request[:-500]))
    assert status == 504
    assert b"deadline_exceeded" in text
    until(lambda: not len(server.admission))


def test_the_deadline_of_a_request_is_not_that_of_the_one_before_it(server: Live) -> None:
    server.gate.open.set()
    server.searcher.put("a", photo(1), {})
    server.searcher.put("b", photo(2), {})
    explain = server.searcher.explainer.explain
    allowed_s: list[float] = []

    def telling(query: Example, hit_ids: Sequence[str]) -> Any:
        allowed_s.append(current_call(math.inf).seconds)
        return explain(query, hit_ids)

    server.searcher.explainer.explain = telling  # type: ignore[method-assign]
    first = search_request(1, "X-Deadline-Ms: 50000\r\n")
    second = (
        b"GET /images/a/similar?include=explain HTTP/1.1\r\n"
        b"Host: localhost\r\nConnection: close\r\n\r\n"
    )
    # On one connection, sent together.
    with closing(server.send(first + second)) as connection:
        arrived = b""
        while part := connection.recv(1 << 16):
            arrived += part
    assert arrived.count(b"HTTP/1.1 200") == 2, arrived[-500:]
    assert b'"explain":{' in arrived
    assert allowed_s == [math.inf]


@pytest.mark.parametrize("value", ["0", "-5", "1.5", "soon", "9999999999"])
def test_a_deadline_that_is_none_is_named(server: Live, value: str) -> None:
    answer = server.http.post(
        "/search", files={"image": photo(1)}, headers={"X-Deadline-Ms": value}
    )
    assert answer.status_code == 400
    assert value in answer.json()["detail"]


def test_beyond_the_bound_requests_are_refused_and_the_others_answered(server: Live) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(server.search, seed) for seed in range(16)]
        # Four may wait beside a pass of two.
        until(lambda: sum(answer.done() for answer in answers) == 10)
        for answer in answers:
            if answer.done():
                refused = answer.result()
                assert refused.status_code == 503
                assert refused.json()["code"] == "overloaded"
                assert int(refused.headers["Retry-After"]) >= 1
                assert refused.headers["content-type"] == "application/problem+json"
        assert server.http.get("/livez").status_code == 200
        assert server.http.get("/readyz").status_code == 200
        server.gate.open.set()
        codes = sorted(answer.result().status_code for answer in answers)
    assert codes == [200] * 6 + [503] * 10
    assert len(server.gate.seen) == 6
    assert server.search(0).status_code == 200


def test_images_of_one_shape_share_a_pass(server: Live) -> None:
    before = server.searcher.load.batch_sizes
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(server.search, 0)
        assert server.gate.inside.wait(WAIT_S)
        others = []
        for number, size in enumerate([(160, 120), (120, 160), (160, 120), (120, 160)]):
            data = photo(10 + number, size)
            others.append(pool.submit(server.http.post, "/search", files={"image": data}))
            until(lambda n=number: server.searcher.load.waiting_searches == n + 1)  # type: ignore[misc]
        server.gate.open.set()
        assert [answer.result().status_code for answer in [first, *others]] == [200] * 5
    after = server.searcher.load.batch_sizes
    assert {size: after[size] - before.get(size, 0) for size in (1, 2)} == {1: 1, 2: 2}


def test_the_bytes_of_all_uploads_together_are_bounded(tmp_path: Path) -> None:
    image = b"\xff\xd8\xff" + bytes(20 << 20)
    head = (
        "POST /search HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: multipart/form-data; boundary=cut"
    )
    with live(tmp_path / "index", max_waiting_mb=64) as server:
        # Announced, and not sent: 40 MB in two copies.
        slow = server.send(f"{head}\r\nContent-Length: {20 << 20}\r\n\r\n".encode())
        until(lambda: server.admission.bytes_held > 0)
        refused = server.http.post("/search", files={"image": image})
        assert refused.status_code == 503
        assert "MB are in hand" in refused.json()["detail"]
        # A body that does not say its length is stopped once it is too much.
        chunks = (b" " * (1 << 20) for _ in range(20))
        kind = {"Content-Type": "application/json"}
        assert server.http.post("/search", content=chunks, headers=kind).status_code == 503
        assert server.search(1).status_code == 200, "there is room for a small one"
        slow.close()
        until(lambda: not server.admission.bytes_held)
        assert not len(server.admission)
        assert server.http.post("/search", files={"image": image}).status_code == 422


def test_a_stop_finishes_what_was_accepted_and_refuses_the_rest(tmp_path: Path) -> None:
    with live(tmp_path / "index", stop_s=PATIENCE_S) as server:
        assert server.http.get("/readyz").status_code == 200
        server.gate.open.clear()
        with ThreadPoolExecutor(3) as pool:
            accepted = [pool.submit(server.search, seed) for seed in range(3)]
            until(lambda: len(server.admission) == 3)
            server.stop()
            until(lambda: server.admission.draining)
            for refused in (server.http.get("/readyz"), server.search(9)):
                assert refused.status_code == 503
                assert refused.json()["code"] == "shutting_down"
                assert int(refused.headers["Retry-After"]) >= 1
            assert server.http.get("/livez").status_code == 200
            assert not server.ended()
            server.gate.open.set()
            assert [answer.result().status_code for answer in accepted] == [200] * 3
        until(server.ended)


def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    with live(tmp_path / "index", stop_s=0.2) as server:
        server.gate.open.clear()
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(server.search, 0)
            assert server.gate.inside.wait(WAIT_S)
            second = pool.submit(server.search, 1)
            until(lambda: server.searcher.load.waiting_searches == 1)
            server.stop()
            assert second.result().json()["code"] == "shutting_down"
            assert not first.done(), "it is in a pass that has begun"
            server.gate.open.set()
            assert first.result().status_code == 200
        until(server.ended)
        assert pixels(server, 1) not in server.gate.seen


def test_sigterm_lets_an_upload_end_and_turns_others_away(tmp_path: Path) -> None:
    with serving(tmp_path / "index", COOC_STOP_S=f"{PATIENCE_S}") as server:
        address = httpx.URL(server.url)
        request = search_request(3)
        import socket

        connection = socket.create_connection((address.host, server.port), timeout=PATIENCE_S)
        connection.sendall(request[:-300])
        until(lambda: samples(server.http)["cooc_requests_open"][labels()] == 1)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.http.get("/readyz").status_code == 503)
        assert server.http.get("/readyz").json()["code"] == "shutting_down"
        refused = server.http.post("/search", files={"image": photo(1)})
        assert refused.status_code == 503
        assert server.process.poll() is None
        connection.sendall(request[-300:])
        status, text = answer_to(connection)
        assert status == 200 and b'"results"' in text
        assert server.ended() in (0, -signal.SIGTERM)


def asked_for(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    """What is called before a route, at any depth."""
    for one in dependant.dependencies:
        assert one.call is not None
        yield one.call
        yield from asked_for(one)


def test_a_search_takes_no_thread_before_its_own() -> None:
    routes = [route for route in search.router.routes if isinstance(route, APIRoute)]
    assert len(routes) == 2
    for route in routes:
        calls = list(asked_for(route.dependant))
        assert len(calls) > 5
        for call in calls:
            own = call if inspect.isfunction(call) else type(call).__call__
            assert inspect.iscoroutinefunction(own), call
