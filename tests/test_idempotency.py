from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.serving.idempotency import BodyDigest
from app.serving.idempotency_store import KEPT_S, MAX_KEYS, Answer, IdempotencyStore
from tests.drawing import photo
from tests.patience import until
from tests.server import serving
from tests.test_api import add, finished, make_client

ANSWER = Answer(202, ((b"location", b"/jobs/1"),), b'{"id": "1"}')


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Of all tests here, so each has keys of its own."""
    with make_client(tmp_path_factory.mktemp("keys") / "index") as client:
        add(client, *[(f"{seed}.jpg", photo(seed)) for seed in range(3)])
        yield client


def send(client: Any, key: str, seed: int = 1, owner: str = "") -> Any:
    return client.post(
        "/index/add",
        files={"files": (f"{seed}.jpg", photo(seed))},
        headers={"Idempotency-Key": key, "X-API-Key": owner},
    )


def jobs(client: Any) -> list[str]:
    return [job["id"] for job in client.get("/jobs").json()["jobs"]]


def test_the_same_request_again_is_answered_as_before_and_done_once(client: TestClient) -> None:
    before = jobs(client)
    first = send(client, "again")
    finished(client, first)
    # Another form boundary each time, as clients make them up.
    again = send(client, "again")
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert jobs(client) == [first.json()["id"], *before]
    assert send(client, "not-again").json()["id"] != first.json()["id"]


def test_another_request_with_the_same_key_is_refused(client: TestClient) -> None:
    finished(client, send(client, "other"))
    before = jobs(client)
    for answer in (
        send(client, "other", seed=2),
        client.post("/admin/index/build", headers={"Idempotency-Key": "other"}),
    ):
        assert answer.status_code == 422
        assert answer.json()["code"] == "idempotency_mismatch"
        assert "use a new key" in answer.json()["detail"]
    assert jobs(client) == before


def test_a_key_is_of_those_who_sent_it(client: TestClient) -> None:
    mine = send(client, "owned", owner="mine")
    theirs = send(client, "owned", owner="theirs")
    assert mine.json()["id"] != theirs.json()["id"]
    again = send(client, "owned", owner="mine")
    assert again.json()["id"] == mine.json()["id"]


def test_what_was_refused_leaves_the_key_free(client: TestClient) -> None:
    headers, path = {"Idempotency-Key": "refused"}, "/admin/index/duplicates"
    assert client.post(path, json={"min_score": 2}, headers=headers).status_code == 422
    made = client.post(path, json={"min_score": 0.9}, headers=headers)
    assert made.status_code == 202
    assert "Idempotency-Replayed" not in made.headers


def test_a_redirect_leaves_the_key_free_for_where_it_leads(client: TestClient) -> None:
    """As a client does that was given the address with a slash too many."""
    before = jobs(client)
    answer = client.post(
        "/admin/index/build/", headers={"Idempotency-Key": "redirected"}, follow_redirects=True
    )
    assert [step.status_code for step in answer.history] == [307]
    assert answer.status_code == 202, answer.text
    finished(client, answer)
    assert len(jobs(client)) == len(before) + 1


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/admin/index/build", None),
        ("/admin/index/duplicates", {"min_score": 0.9}),
        ("/admin/snapshots", {"note": "a"}),
    ],
)
def test_every_write_that_makes_a_job_knows_keys(
    client: TestClient, path: str, content: Any
) -> None:
    before = len(jobs(client))
    headers = {"Idempotency-Key": path.replace("/", "-")}
    first = client.post(path, json=content, headers=headers)
    again = client.post(path, json=content, headers=headers)
    assert (first.status_code, again.content) == (202, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert finished(client, first)["state"] == "succeeded"
    assert len(jobs(client)) == before + 1


def test_going_back_is_not_done_twice_where_the_first_answer_was_lost(client: TestClient) -> None:
    def live() -> int:
        return int(client.get("/admin/index").json()["generation"])

    for _ in range(3):
        finished(client, client.post("/admin/index/build"))
    newest, headers = live(), {"Idempotency-Key": "back"}
    assert client.post("/admin/index/rollback", headers=headers).status_code == 200
    before = live()
    assert before < newest
    # As a crash leaves it, after it was done and before its answer was kept.
    folder: Path = client.app.state.cooc.settings.data_dir  # type: ignore[attr-defined]
    with closing(sqlite3.connect(folder / "idempotency.sqlite")) as keys, keys:
        keys.execute("UPDATE answers SET status = NULL, process = '' WHERE status = 200")
    for _ in range(2):
        again = client.post("/admin/index/rollback", headers=headers)
        assert (again.status_code, again.json()["code"]) == (409, "outcome_unknown")
        assert live() == before
    named = client.post("/admin/index/rollback", json={"generation": before})
    assert (named.status_code, live()) == (200, before)


@pytest.mark.parametrize("key", ["", "a" * 256, "a b", "é".encode().decode("latin-1")])
def test_a_key_that_is_none_is_refused(client: TestClient, key: str) -> None:
    answer = client.post(
        "/admin/index/build", headers=[(b"Idempotency-Key", key.encode("latin-1"))]
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/Idempotency-Key"


def test_searches_and_puts_take_no_notice_of_keys(client: TestClient) -> None:
    for seed in (1, 2):
        found = client.post(
            "/search", files={"image": photo(seed)}, headers={"Idempotency-Key": "one"}
        )
        assert found.status_code == 200
        assert "Idempotency-Replayed" not in found.headers


def test_answers_survive_a_kill_and_a_request_in_flight_is_told_to_wait(tmp_path: Path) -> None:
    with serving(tmp_path / "index") as server:
        first = send(server.http, "one")
        server.finish(first.headers["Location"])
        answered = threading.Event()
        slow: list[httpx.Response] = []

        whole = httpx.Request("POST", server.url, files={"files": ("2.jpg", photo(2))})
        content = whole.read()

        def body() -> Iterator[bytes]:
            yield content[:100]
            answered.wait()
            yield content[100:]

        headers = {"Idempotency-Key": "two", "Content-Type": whole.headers["Content-Type"]}

        def upload() -> None:
            with httpx.Client(base_url=server.url, timeout=60) as http:
                slow.append(http.post("/index/add", content=body(), headers=headers))

        thread = threading.Thread(target=upload)
        thread.start()
        with closing(sqlite3.connect(tmp_path / "index" / "idempotency.sqlite")) as keys:
            until(lambda: keys.execute("SELECT count(*) FROM answers").fetchone() == (2,))
        conflict = send(server.http, "two", seed=2)
        answered.set()
        thread.join()
        assert conflict.status_code == 409
        assert conflict.json()["code"] == "idempotency_conflict"
        assert conflict.headers["Retry-After"] == "1"
        assert slow[0].status_code == 202

        server.kill()
        server.start()
        for key, seed, earlier in (("one", 1, first), ("two", 2, slow[0])):
            again = send(server.http, key, seed)
            assert again.content == earlier.content
            assert again.headers["Idempotency-Replayed"] == "true"
        assert len(jobs(server.http)) == 2


# --- the store ----------------------------------------------------------------------------


def test_a_claim_of_a_process_that_ended_is_taken_over_with_its_job(tmp_path: Path) -> None:
    before, after = (IdempotencyStore(tmp_path / "keys.sqlite") for _ in range(2))
    claim = before.claim("key", 0.0)
    assert claim.mine
    assert before.begin(claim, "digest")
    assert not before.claim("key", 1.0).mine  # at work
    taken = after.claim("key", 2.0)
    assert (taken.mine, taken.job_id, taken.digest) == (True, claim.job_id, "digest")
    assert not after.begin(taken, "another")
    after.release(taken, forget=True)
    again = after.claim("key", 3.0)
    assert (again.mine, again.job_id) == (True, claim.job_id)
    assert after.begin(again, "digest")
    after.keep(again, ANSWER)
    after.release(again, forget=True)
    assert before.claim("key", 4.0).answer == ANSWER


def test_a_request_that_failed_here_comes_to_the_same_job_again(tmp_path: Path) -> None:
    store = IdempotencyStore(tmp_path / "keys.sqlite")
    failed = store.claim("key", 0.0)
    store.begin(failed, "digest")
    store.release(failed, forget=False)
    assert store.claim("key", 1.0).job_id == failed.job_id
    refused = store.claim("other", 0.0)
    store.begin(refused, "digest")
    store.release(refused, forget=True)
    assert store.claim("other", 1.0).job_id != refused.job_id


def test_answers_are_forgotten_after_a_day_and_when_there_are_too_many(tmp_path: Path) -> None:
    store = IdempotencyStore(tmp_path / "keys.sqlite")
    store.keep(store.claim("old", 0.0), ANSWER)
    assert store.claim("old", KEPT_S - 1).answer == ANSWER
    assert store.claim("old", KEPT_S + 1).answer is None
    with closing(sqlite3.connect(tmp_path / "keys.sqlite")) as connection, connection:
        connection.execute("DELETE FROM answers")
        rows = [(f"{n:05d}", KEPT_S + n) for n in range(MAX_KEYS)]
        connection.executemany("INSERT INTO answers VALUES (?, ?, '', '', '', 200, '[]', '')", rows)
    store.claim("new", KEPT_S + MAX_KEYS)
    assert store.claim("00000", KEPT_S + MAX_KEYS).answer is None
    assert store.claim("00002", KEPT_S + MAX_KEYS).answer is not None


# --- the digest of a body -----------------------------------------------------------------


def digest_of(body: bytes, boundary: str, chunk: int, **scope: Any) -> str:
    kind = f"multipart/form-data; boundary={boundary}".encode()
    found = BodyDigest(
        {"path": "/index/add", "query_string": b"", "headers": [(b"content-type", kind)], **scope}
    )
    for start in range(0, len(body), chunk):
        found.update(body[start : start + chunk])
    return found.hexdigest()


def form(boundary: str, content: bytes) -> bytes:
    mark = b"--" + boundary.encode()
    return mark + b"\r\n\r\n" + content + b"\r\n" + mark + b"--\r\n"


def test_the_digest_of_a_form_does_not_depend_on_boundary_and_chunks() -> None:
    content = photo(1) + b"-" * 50 + b"--bo" * 9
    digests = {
        digest_of(form(boundary, content), boundary, chunk)
        for boundary in ("boundary", "7d1f0e2a9c", "x")
        for chunk in (1, 7, 64, 100_000)
    }
    plain = json.dumps(["/index/add", "", "multipart/form-data"]).encode()
    expected = hashlib.sha256(plain + b"\r\n\r\n" + content + b"\r\n--\r\n").hexdigest()
    assert digests == {expected}
    changed = content[:100] + bytes([content[100] ^ 1]) + content[101:]
    assert digest_of(form("x", changed), "x", 64) not in digests
    assert digest_of(form("x", content), "x", 64, path="/index/other") not in digests
    assert digest_of(form("x", content), "x", 64, query_string=b"a=1") not in digests
