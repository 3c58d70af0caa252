"""Images by URL through the API: searches, comparisons, and jobs that fetch."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.fetching import hosts
from app.jobs import downloads
from app.security.scopes import Scope
from tests.drawing import photo
from tests.keyed import new_key
from tests.patience import until
from tests.server import serving
from tests.test_api import finished, make_client, put, until_ended
from tests.web import Answer, Web, body, endless, raw, redirect, status, web


@pytest.fixture
def here() -> Iterator[Web]:
    with web() as server:
        for seed in range(40):
            server.answers[f"/{seed}.jpg"] = body(photo(seed))
        yield server


@pytest.fixture
def client(tmp_path: Path, here: Web) -> Iterator[TestClient]:
    with allowing(tmp_path / "index", here) as client:
        yield client


def allowing(folder: Path, here: Web, **settings: Any) -> TestClient:
    return make_client(
        folder,
        url_allow=(f"127.0.0.1:{here.port}",),
        url_allow_private=("127.0.0.1/32",),
        max_upload_mb=1,
        **settings,
    )


def offer(client: TestClient, *images: dict[str, Any]) -> Any:
    return client.post("/index/add", json={"images": list(images)})


def post(client: TestClient, path: str, content: Any) -> Any:
    """With half characters spelt as JSON spells them."""
    headers = {"content-type": "application/json"}
    return client.post(path, content=json.dumps(content), headers=headers)


def problem(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


# --- searching --------------------------------------------------------------------------------


def test_a_search_by_url_is_the_search_with_its_image(client: TestClient, here: Web) -> None:
    for seed in range(5):
        put(client, f"{seed}", photo(seed))
    here.answers["/moved"] = redirect("/3.jpg")
    uploaded = client.post("/search", files={"image": photo(3)}).json()["results"]
    for path in ("/3.jpg", "/moved"):
        answer = client.post("/search", json={"query": {"url": here.url(path)}})
        assert answer.json()["results"] == uploaded
    assert uploaded[0]["match_type"] == "exact"


def test_two_urls_are_compared_like_their_images(client: TestClient, here: Web) -> None:
    a, b = {"url": here.url("/1.jpg")}, {"url": here.url("/2.jpg")}
    by_url = client.post("/compare", json={"a": a, "b": b}).json()
    files = {"image_a": photo(1), "image_b": photo(2)}
    assert by_url == client.post("/compare", files=files).json()
    put(client, "two", photo(2))
    mixed = client.post("/compare", json={"a": a, "b": {"id": "two"}}).json()
    assert mixed["score"] == pytest.approx(by_url["score"], abs=1e-5)


def test_what_is_not_fetched_or_no_image_is_a_problem(client: TestClient, here: Web) -> None:
    here.answers |= {
        "/text": body(b"<html>hello"),
        "/large": body(bytes(2 << 20)),
        "/busy": status(503),
        "/inside": redirect("http://169.254.169.254/latest"),
    }
    cases = [
        (here.url("/text"), 415, "unsupported_image"),
        (here.url("/large"), 413, "image_too_large"),
        (here.url("/busy"), 422, "url_fetch_failed"),
        (here.url("/none"), 422, "url_fetch_failed"),
        (here.url("/inside"), 403, "url_not_allowed"),
        (here.url("/1.jpg", "localhost"), 403, "url_not_allowed"),
        ("http://example.com/", 403, "url_not_allowed"),
        ("file:///etc/passwd", 422, "invalid_fields"),
        (f"http://0x7f.1:{here.port}/1.jpg", 422, "invalid_fields"),
        ("http://example.com/\ud800", 422, "invalid_fields"),
    ]
    for url, code, name in cases:
        answer = post(client, "/search", {"query": {"url": url}})
        assert problem(answer) == (code, name), answer.text
        assert "hello" not in answer.text
        other = post(client, "/compare", {"a": {"url": url}, "b": {"url": url}})
        assert problem(other) == (code, name)
    pointer = client.post("/search", json={"query": {"url": "x"}}).json()["errors"][0]["pointer"]
    assert pointer == "/query/url"
    both = client.post("/search", json={"query": {"url": here.url("/1.jpg"), "id": "x"}})
    assert problem(both) == (422, "invalid_fields")


def test_what_is_fetched_for_a_request_is_as_much_as_may_be_sent_with_one(
    client: TestClient, here: Web
) -> None:
    here.answers["/large"] = body(bytes(1 << 20))

    def examples(count: int) -> dict[str, Any]:
        return {"query": {"positives": [{"url": here.url("/large")}] * count}}

    assert problem(client.post("/search", json=examples(4))) == (415, "unsupported_image")
    assert problem(client.post("/search", json=examples(5))) == (413, "payload_too_large")
    assert here.counts() == {"/large": 9}
    one = {"query": {"url": here.url("/large")}}
    batch = client.post("/search/batch", json={"queries": [one] * 6}).json()["answers"]
    assert [item["status"] for item in batch] == [415] * 4 + [413] * 2


def test_what_is_fetched_takes_of_the_memory_of_uploads(client: TestClient, here: Web) -> None:
    held: list[int] = []

    def looking(request: BaseHTTPRequestHandler) -> None:
        held.append(admission.bytes_held)
        body(bytes(1 << 20))(request)

    admission = client.app.state.admission  # type: ignore[attr-defined]
    here.answers["/large"] = looking
    content = {"query": {"positives": [{"url": here.url("/large")}] * 3}}
    client.post("/search", json=content)
    assert [later - before for before, later in pairwise(held)] == [1 << 20] * 2
    assert admission.bytes_held == 0


def test_a_search_does_not_fetch_beyond_its_deadline(client: TestClient, here: Web) -> None:
    here.answers["/slow"] = endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x", here.stopped, 0.05)
    content = {"query": {"url": here.url("/slow")}}
    answer = client.post("/search", json=content, headers={"X-Deadline-Ms": "300"})
    assert problem(answer) == (504, "deadline_exceeded")


def test_no_url_is_fetched_by_default(tmp_path: Path, here: Web) -> None:
    with make_client(tmp_path / "index") as client:
        url = here.url("/1.jpg")
        for answer in (
            client.post("/search", json={"query": {"url": url}}),
            client.post("/compare", json={"a": {"url": url}, "b": {"url": url}}),
            offer(client, {"url": url}),
        ):
            assert problem(answer) == (403, "url_not_allowed")
            assert "COOC_URL_ALLOW" in answer.json()["detail"]
        assert client.get("/jobs").json()["jobs"] == []
    assert here.asked == []


def test_a_private_network_has_to_be_named_too(tmp_path: Path, here: Web) -> None:
    for rule in (f"127.0.0.1:{here.port}", f"*:{here.port}"):
        with make_client(tmp_path / rule.replace("*", "any"), url_allow=(rule,)) as client:
            answer = client.post("/search", json={"query": {"url": here.url("/1.jpg")}})
            assert problem(answer) == (403, "url_not_allowed")
    assert here.asked == []


# --- adding -----------------------------------------------------------------------------------


def test_a_list_of_urls_is_a_job_with_an_error_for_each_that_fails(
    client: TestClient, here: Web
) -> None:
    here.answers["/text"] = body(b"hello")
    here.answers["/again.jpg?size=2"] = body(photo(1))
    images: list[dict[str, Any]] = [
        *({"url": here.url(f"/{seed}.jpg")} for seed in range(20)),
        {"url": here.url("/21.jpg"), "id": "mine/21", "metadata": {"album": "2024"}},
        {"url": here.url("/none.jpg"), "id": "mine/none"},
        {"url": here.url("/text")},
        {"url": here.url("/again.jpg?size=2")},
        {"url": "http://example.com/x.jpg"},
        {"url": "no-url"},
    ]
    answer = offer(client, *images)
    job = finished(client, answer)
    assert (job["type"], job["state"]) == ("add", "partial")
    expected = {"total": 26, "processed": 26, "added": 21, "replaced": 0, "skipped": 1, "failed": 4}
    assert job["progress"] == expected
    errors = client.get(answer.headers["Location"] + "/errors").json()["errors"]
    told = {error["name"]: error["detail"] for error in errors}
    assert "status 404" in told[here.url("/none.jpg")]
    assert "not an image" in told[here.url("/text")]
    assert "same bytes" in told[here.url("/again.jpg?size=2")]
    assert "not on the list" in told["http://example.com/x.jpg"]
    assert "no address that begins with http" in told["no-url"]
    assert len(told) == 5
    mine = client.get("/images/mine/21").json()
    assert (mine["metadata"], mine["width"]) == ({"album": "2024"}, 160)
    first = client.post("/search", files={"image": photo(7)}, data={"limit": "1"}).json()
    # Called after host and path.
    assert first["results"][0]["id"] == "127.0.0.1/7.jpg"
    assert max(here.counts().values()) == 1


def test_signatures_are_told_to_those_who_may_add_only(tmp_path: Path, here: Web) -> None:
    signed = here.url("/none.jpg?signature=4711")
    folder = tmp_path / "index"
    keys = {scope: new_key(folder, scope) for scope in Scope}
    with allowing(folder, here) as client:

        def errors_for(scope: Scope) -> str:
            client.headers["Authorization"] = f"Bearer {keys[scope]}"
            return client.get(f"{location}/errors").text

        client.headers["Authorization"] = f"Bearer {keys[Scope.WRITE]}"
        location = offer(client, {"url": signed}).headers["Location"]
        until_ended(client, location)
        assert signed in errors_for(Scope.WRITE)
        assert signed in errors_for(Scope.ADMIN)
        assert f"{here.url('/none.jpg')}?..." in errors_for(Scope.SEARCH)
        assert "4711" not in errors_for(Scope.SEARCH)
        assert "4711" not in client.get(location).text
        refused = client.post("/search", json={"query": {"url": signed}}).json()
    assert "4711" not in refused["detail"]
    assert "none.jpg?..." in refused["detail"]


def test_an_id_that_is_stored_is_replaced(client: TestClient, here: Web) -> None:
    put(client, "mine", photo(1))
    job = finished(client, offer(client, {"url": here.url("/2.jpg"), "id": "mine"}))
    assert (job["progress"]["replaced"], job["progress"]["added"]) == (1, 0)
    found = client.post("/search", files={"image": photo(2)}).json()["results"]
    assert [(hit["id"], hit["match_type"]) for hit in found] == [("mine", "exact")]


def test_lists_that_are_wrong_as_a_whole_are_not_accepted(client: TestClient, here: Web) -> None:
    url = here.url("/1.jpg")
    deep: Any = {}
    for _ in range(70):
        deep = {"a": deep}
    cases: list[tuple[Any, str]] = [
        ({}, "/images"),
        ({"images": []}, "/images"),
        ({"images": [{"url": url}] * 10_001}, "/images"),
        ({"images": [{}]}, "/images/0/url"),
        ({"images": [{"url": url}, {"url": url, "name": "x"}]}, "/images/1/name"),
        ({"images": [{"url": url, "metadata": deep}]}, "/images/0/metadata"),
        ({"images": [{"url": url, "metadata": {"a": "b" * 70_000}}]}, "/images/0/metadata"),
        ({"images": [{"url": url}, {"url": url, "id": "\ud800"}]}, "/images/1/id"),
    ]
    for content, pointer in cases:
        answer = post(client, "/index/add", content)
        assert problem(answer) == (422, "invalid_fields"), answer.text
        assert answer.json()["errors"][0]["pointer"] == pointer
    long = {"images": [{"url": url, "metadata": {"a": "b" * 60_000}}] * 300}
    assert problem(client.post("/index/add", json=long)) == (413, "payload_too_large")
    assert here.asked == []


def test_a_server_that_is_busy_is_asked_again_later(
    client: TestClient, here: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "ASKED_TO_WAIT_S", (0.05, 0.1, 0.15))
    monkeypatch.setattr(downloads, "RETRY_S", 0.05)
    here.answers["/1.jpg"] = first(status(429, retry_after="0"), status(503), body(photo(1)))
    here.answers["/2.jpg"] = first(status(500), body(photo(2)))
    here.answers["/3.jpg"] = status(503)
    here.answers["/4.jpg"] = status(500)
    job = finished(client, offer(client, *({"url": here.url(f"/{n}.jpg")} for n in range(1, 6))))
    assert (job["progress"]["added"], job["progress"]["failed"]) == (3, 2)
    assert here.counts() == {"/1.jpg": 3, "/2.jpg": 2, "/3.jpg": 4, "/4.jpg": 2, "/5.jpg": 1}


def first(*answers: Answer) -> Answer:
    """One after the other; the last for ever."""
    left = list(answers)

    def answer(request: BaseHTTPRequestHandler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(request)

    return answer


def test_a_host_that_does_not_answer_is_given_up(
    client: TestClient, here: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "RETRY_S", 0.05)
    monkeypatch.setattr(hosts, "PATIENCE_S", 0.5)
    dead = [{"url": here.url(f"/dead/{number}.jpg")} for number in range(200)]
    here.answers |= {f"/dead/{number}.jpg": raw(b"") for number in range(200)}
    answer = offer(client, *dead)
    assert finished(client, answer)["progress"]["failed"] == 200
    assert len(here.asked) < 200  # each of them twice otherwise
    told = client.get(answer.headers["Location"] + "/errors").json()["errors"]
    assert "has not answered" in told[-1]["detail"]
    # The next job begins anew.
    job = finished(client, offer(client, {"url": here.url("/1.jpg")}))
    assert job["progress"]["added"] == 1


def test_one_host_gets_a_few_connections_at_a_time(client: TestClient, here: Web) -> None:
    lock, open_now, most = threading.Lock(), 0, 0
    full = threading.Event()

    def counted(data: bytes) -> Answer:
        def answer(request: BaseHTTPRequestHandler) -> None:
            nonlocal open_now, most
            with lock:
                open_now += 1
                most = max(most, open_now)
                if open_now == hosts.PER_HOST:
                    full.set()
            full.wait(10)
            with lock:
                open_now -= 1
            body(data)(request)

        return answer

    for seed in range(20):
        here.answers[f"/{seed}.jpg"] = counted(photo(seed))
    job = finished(client, offer(client, *({"url": here.url(f"/{n}.jpg")} for n in range(20))))
    assert job["progress"]["added"] == 20
    assert most == hosts.PER_HOST


def test_a_cancelled_job_fetches_no_more(client: TestClient, here: Web, tmp_path: Path) -> None:
    here.answers["/slow"] = endless(b"HTTP/1.1 200 OK\r\n\r\n", b"", here.stopped, 0.05)
    answer = offer(client, *({"url": here.url("/slow")} for _ in range(30)))
    until(lambda: here.asked)
    assert client.delete(answer.headers["Location"]).json()["state"] == "cancelled"
    assert until_ended(client, answer.headers["Location"])["state"] == "cancelled"
    spool = tmp_path / "index" / "spool"
    until(lambda: not list(spool.iterdir()))
    assert len(here.asked) <= hosts.PER_HOST


# --- kill -9 ----------------------------------------------------------------------------------


def test_a_killed_job_goes_on_and_fetches_nothing_twice_that_it_had(tmp_path: Path) -> None:
    """Twice: killed while it fetches, then after it has added some."""
    count = 80
    with web() as here:
        gates = {number: threading.Event() for number in range(count)}

        def gated(number: int) -> Answer:
            def answer(request: BaseHTTPRequestHandler) -> None:
                # One that says nothing for long is taken to be gone.
                request.wfile.write(b"HTTP/1.1 200 OK\r\n")
                while not gates[number].wait(1):
                    request.wfile.write(b"X-Wait: yes\r\n")
                data = photo(number)
                request.wfile.write(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))

            return answer

        for number in range(count):
            here.answers[f"/{number}.jpg"] = gated(number)
        environment = {
            "COOC_URL_ALLOW": f"127.0.0.1:{here.port}",
            "COOC_URL_ALLOW_PRIVATE": "127.0.0.1/32",
            # Longer than any gate is closed: on a busy machine that may be many seconds.
            "COOC_URL_TIMEOUT_S": "600",
        }
        with serving(tmp_path / "index", **environment) as server:
            own = [{"id": f"own/{n}"} if n % 2 else {} for n in range(count)]
            images = [
                {"url": here.url(f"/{n}.jpg"), "metadata": {"n": n}, **own[n]} for n in range(count)
            ]
            answer = server.http.post("/index/add", json={"images": images})
            assert answer.status_code == 202, answer.text
            location = answer.headers["Location"]
            job_folder = tmp_path / "index" / "spool" / location.rsplit("/", 1)[1]
            # The first kill: ten files are there, nothing is added.
            for number in range(10):
                gates[number].set()
            until(lambda: len(kept(job_folder)) == 10)
            had = kept(job_folder)
            server.kill()
            before = here.counts()
            server.start()
            # The second: two steps of 16 are recorded, some of the third are there.
            for number in range(10, 36):
                gates[number].set()
            until(lambda: server.http.get(location).json()["progress"]["processed"] >= 32)
            until(lambda: {f"url-{n:06d}" for n in range(32, 36)} <= kept(job_folder))
            had |= kept(job_folder)
            server.kill()
            server.start()
            for gate in gates.values():
                gate.set()
            job = server.finish(location)
            assert job["state"] == "succeeded", job
            progress: Any = job["progress"]
            assert progress["added"] == progress["processed"] == progress["total"] == count
            listed = server.http.get("/images", params={"limit": 1000}).json()["images"]
            ids = sorted(image["id"] for image in listed)
            assert ids == sorted(
                f"own/{n}" if n % 2 else f"127.0.0.1/{n}.jpg" for n in range(count)
            )
            assert {image["metadata"]["n"] for image in listed} == set(range(count))
            assert server.http.get(f"{location}/errors").json()["total"] == 0
            assert not job_folder.exists()
        counts = here.counts()
        assert sum(before.values()) >= 10
        # What was on disk at a kill was asked for once; others twice more at most, as they were
        # on their way at both kills.
        assert {name: counts[f"/{int(name[4:])}.jpg"] for name in had} == dict.fromkeys(had, 1)
        assert max(counts.values()) <= 3


def kept(folder: Path) -> set[str]:
    """Images that were fetched and wait to be added."""
    return {path.name for path in folder.glob("url-*") if path.suffix == ""}
