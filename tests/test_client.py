"""The Python client against a real server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import cooc_client
from cooc_client import Client, Example, Job, Problem, Region, Stored
from tests.drawing import photo
from tests.server import serving

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(
        tmp_path_factory.mktemp("client") / "index",
        COOC_KEEP_ORIGINALS="true",
        COOC_AUTO_BUILD="false",
        COOC_MAX_UPLOAD_MB="1",
    ) as server:
        with Client(server.url) as client:
            client.add({f"set/{seed}.jpg": photo(seed) for seed in range(25)})
        yield server.url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


def test_an_image_is_found_however_it_is_given(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "query.jpg"
    path.write_bytes(photo(3))
    answers = [
        client.search(photo(3)),
        client.search(path),
        client.search(str(path)),
        client.search(io.BytesIO(photo(3))),
        client.search(Stored("set/3.jpg")),
        client.search(id="set/3.jpg"),
    ]
    assert len({tuple(answer.results[n].id for n in range(10)) for answer in answers}) == 1
    first = answers[0].results[0]
    assert (first.id, first.rank, first.score) == ("set/3.jpg", 1, 1.0)
    assert (first.match_type, first.width, first.height) == ("exact", 160, 120)
    assert answers[0].index["count"] == 25


def test_options_regions_and_examples(client: Client) -> None:
    limited = client.search(photo(3), limit=2, include=["metadata"], exclude_self=True)
    assert [result.rank for result in limited.results] == [1, 2]
    assert limited.results[0].thumbnail_url is None
    region = Region(0.25, 0.25, 0.5, 0.5, unit="norm")
    by_file = client.search(photo(3), region=region).results
    by_id = client.search(id="set/3.jpg", region=region).results
    assert by_file == by_id
    assert by_file[0].match_type != "exact"
    examples: list[bytes | Stored | Example] = [
        Stored("set/1.jpg"),
        photo(2),
        Example(photo(4), region),
    ]
    mixed = client.search(positives=examples, negatives=[Stored("set/5.jpg")], limit=3)
    assert len(mixed.results) == 3
    away = client.search(photo(1), negatives=[photo(2)], negative_weight=0.5)
    assert away.results[0].id == "set/1.jpg"
    with pytest.raises(ValueError, match="exactly one"):
        client.search(photo(1), id="set/1.jpg")


def test_results_and_images_are_read_page_by_page(client: Client) -> None:
    everything = [result.id for result in client.results(photo(3), limit=7)]
    assert len(everything) == len(set(everything)) == 25
    assert everything[:10] == [result.id for result in client.search(photo(3)).results]
    ids = [image.id for image in client.images(page=4)]
    assert ids == sorted(f"set/{seed}.jpg" for seed in range(25))


def test_a_batch_has_answers_and_problems(client: Client) -> None:
    good, bad, missing = client.search_batch([photo(1), b"text", Stored("nobody")], limit=1)
    assert isinstance(good, cooc_client.SearchAnswer)
    assert good.results[0].id == "set/1.jpg"
    assert isinstance(bad, cooc_client.InvalidRequest)
    assert isinstance(missing, cooc_client.NotFound)


def test_similar_compare_and_explanations(client: Client) -> None:
    similar = client.similar("set/3.jpg", limit=3, include=["explain"])
    assert "set/3.jpg" not in [result.id for result in similar.results]
    why = similar.results[0].explain
    assert why is not None
    total = sum(sum(row) for row in why.query.parts)
    assert total == pytest.approx(why.score, abs=1e-4)
    assert client.compare(photo(1), Stored("set/1.jpg")).match_type == "exact"


def test_single_images(client: Client) -> None:
    image = client.put("one/new ü.jpg", photo(90), {"a": 1, "b": 2})
    assert (image.id, image.metadata) == ("one/new ü.jpg", {"a": 1, "b": 2})
    assert client.patch(image.id, {"a": None, "c": [3]}).metadata == {"b": 2, "c": [3]}
    assert client.get(image.id).digest == image.digest
    assert [one.id for one in client.images(filter={"b": 2})] == [image.id]
    assert client.original(image.id) == photo(90)
    assert client.thumbnail(image.id)[:2] == b"\xff\xd8"
    client.delete(image.id)
    with pytest.raises(cooc_client.NotFound, match=r"404 unknown_image: .*one/new ü\.jpg"):
        client.get(image.id)


def test_bulk_adds_jobs_and_builds(client: Client, tmp_path: Path) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("bulk/1.jpg", photo(101))
        archive.writestr("bulk/bad.jpg", b"no image")
    loose = tmp_path / "loose.jpg"
    loose.write_bytes(photo(102))
    seen: list[Job] = []
    files: dict[str, bytes | Path] = {"a.zip": zipped.getvalue(), "bulk/2.jpg": loose}
    job = client.add(files, progress=seen.append)
    assert (job.state, job.progress.added, job.progress.failed) == ("partial", 2, 1)
    assert seen[-1] == job
    assert [error.name for error in client.job_errors(job.id)] == ["bulk/bad.jpg"]
    (again,) = client.add_all({"bulk/2.jpg": loose}, metadata={"x": 1})
    assert again.progress.skipped == 1
    assert {one.id for one in client.jobs(type="add", limit=2)} == {job.id, again.id}
    built = client.build()
    assert (built.state, built.type) == ("succeeded", "build")
    assert client.index()["generation"] == 1
    assert client.version()["backbone"] == "squeezenet1_1"
    assert client.cancel(built.id).state == "succeeded"
    for name in ("bulk/1.jpg", "bulk/2.jpg"):
        client.delete(name)


def test_files_of_one_name_in_several_folders_are_all_added(client: Client, tmp_path: Path) -> None:
    paths = [tmp_path / folder / "twin.jpg" for folder in ("a", "b", "c")]
    for seed, path in enumerate(paths, start=200):
        path.parent.mkdir()
        path.write_bytes(photo(seed))
    job = client.add(paths, metadata={"twins": True})
    assert (job.state, job.progress.added) == ("succeeded", 3)
    stored = [image.id for image in client.images(filter={"twins": True})]
    assert len(stored) == 3
    assert "twin.jpg" in stored
    for image_id in stored:
        client.delete(image_id)


def test_an_option_of_none_is_left_out_whatever_is_searched_with(client: Client) -> None:
    nothing: dict[str, Any] = {"limit": None, "filter": None, "include": None}
    by_file = client.search(photo(3), **nothing).results
    assert client.search(id="set/3.jpg", **nothing).results == by_file
    (batched,) = client.search_batch([Stored("set/3.jpg")], **nothing)
    assert isinstance(batched, cooc_client.SearchAnswer)
    assert batched.results == by_file


def test_problems_are_exceptions_by_kind(client: Client) -> None:
    with pytest.raises(cooc_client.InvalidRequest) as invalid:
        client.search(photo(1), limit=0)
    assert invalid.value.errors[0]["pointer"] == "/limit"
    assert (invalid.value.status, invalid.value.code) == (422, "invalid_fields")
    with pytest.raises(cooc_client.Conflict):
        client.search(photo(1), min_generation=99)
    with pytest.raises(cooc_client.TooLarge):
        client.search(bytes(9 << 20))
    with pytest.raises(cooc_client.Unreachable), Client("http://127.0.0.1:9", retries=0) as nobody:
        nobody.version()
    assert issubclass(cooc_client.Conflict, Problem)


def answering(*answers: httpx.Response) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A service that gives these answers one after the other, and what it was asked."""
    asked: list[httpx.Request] = []
    left = iter(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        request.read()
        asked.append(request)
        return next(left)

    return httpx.MockTransport(handle), asked


def busy(status: int) -> httpx.Response:
    headers = {"Retry-After": "0", "Content-Type": "application/problem+json"}
    content = {"status": status, "code": "overloaded", "detail": "later"}
    return httpx.Response(status, headers=headers, json=content)


def test_a_busy_service_is_asked_again_with_the_same_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COOC_API_KEY", "secret")
    file = tmp_path / "a.jpg"
    file.write_bytes(photo(1))
    job: dict[str, Any] = {"id": "1", "type": "add", "state": "succeeded", "new field": 1}
    transport, asked = answering(busy(503), busy(502), busy(429), httpx.Response(202, json=job))
    with Client("http://test", transport=transport) as client:
        assert client.add([file]).state == "succeeded"
    assert len({request.headers["Idempotency-Key"] for request in asked}) == 1
    assert [photo(1) in request.content for request in asked] == [True] * 4
    assert asked[0].headers["Authorization"] == "Bearer secret"


def test_a_service_that_stays_busy_is_given_up() -> None:
    transport, asked = answering(busy(503), busy(503), busy(503))
    with Client("http://test", transport=transport, retries=2, key="") as client:
        with pytest.raises(cooc_client.Unavailable, match="503 overloaded: later"):
            client.version()
    assert len(asked) == 3
    assert "Authorization" not in asked[0].headers


class Broken:
    """A service that is met by these errors and gives these answers, one after the other."""

    def __init__(self, *turns: httpx.RequestError | httpx.Response) -> None:
        self.turns, self.asked = list(turns), 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        turn = self.turns.pop(0)
        if isinstance(turn, httpx.RequestError):
            raise turn
        return turn

    def client(self, **options: Any) -> Client:
        return Client("http://test", transport=httpx.MockTransport(self), **options)


def test_a_redirect_is_no_success() -> None:
    """As of a proxy that knows only HTTPS: nothing was done."""
    answer = httpx.Response(301, headers={"Location": "https://photos.test/"}, text="<html>")
    calls: list[Callable[[Client], object]] = [
        lambda client: client.delete("a.jpg"),
        lambda client: client.thumbnail("a.jpg"),
        lambda client: client.put("a.jpg", b"data"),
    ]
    for call in calls:
        service = Broken(answer)
        with service.client() as client, pytest.raises(cooc_client.Unreachable) as told:
            call(client)
        assert "redirected to https://photos.test/" in str(told.value)
        assert service.asked == 1


def test_a_delete_whose_answer_was_lost_has_been_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cooc_client.transport._backoff_s", lambda _: 0.0)
    gone = httpx.Response(404, json={"code": "unknown_image", "detail": "no image has this id"})
    lost = Broken(httpx.ReadError("reset"), gone)
    with lost.client() as client:
        client.delete("a.jpg")
    assert lost.asked == 2
    with Broken(gone).client() as client, pytest.raises(cooc_client.NotFound):
        client.delete("a.jpg")
    with Broken(httpx.ReadError("reset"), gone).client() as client:
        with pytest.raises(cooc_client.NotFound):
            client.get("a.jpg")


def test_what_would_fail_again_is_not_tried_again() -> None:
    slow = Broken(httpx.ReadTimeout("timed out"))
    with slow.client(timeout_s=7) as client:
        with pytest.raises(cooc_client.Unreachable, match=r"within 7 s; .* larger timeout_s"):
            client.build()
    for error in (httpx.UnsupportedProtocol("no http://"), httpx.DecodingError("bad gzip")):
        service = Broken(error)
        with service.client() as client, pytest.raises(cooc_client.Unreachable):
            client.version()
        assert service.asked == 1


def test_all_results_end_where_the_service_stops_paging() -> None:
    """At an offset of 10,000, which the service takes, and no further."""
    asked: list[dict[str, Any]] = []

    def page(request: httpx.Request) -> httpx.Response:
        content = json.loads(request.content)
        asked.append(content)
        if content["offset"] > 10_000:
            return httpx.Response(422, json={"code": "invalid_fields", "detail": "/offset"})
        row = {"id": "a", "score": 0.1, "rank": 1, "match_type": "similar", "width": 1, "height": 1}
        answer = {
            "results": [row] * content["limit"],
            "query_id": "1",
            "index": {},
            "query_expansion": {},
            "timing_ms": {},
        }
        return httpx.Response(200, json=answer)

    with Client("http://test", transport=httpx.MockTransport(page)) as client:
        # An open file, which can be read only once.
        examples = [io.BytesIO(b"data"), Example(io.BytesIO(b"more"))]
        assert len(list(client.results(positives=examples))) == 10_100
    sent = [[one["image_base64"] for one in page["query"]["positives"]] for page in asked]
    assert sent == [["ZGF0YQ==", "bW9yZQ=="]] * 101


def test_what_is_no_service_of_ours_is_said_so() -> None:
    for answer, kind in (
        (httpx.Response(200, text="<html>"), cooc_client.Unreachable),
        (httpx.Response(404, text="<html>"), cooc_client.NotFound),
    ):
        transport, _ = answering(answer)
        with Client("http://test", transport=transport) as client, pytest.raises(kind):
            client.version()


def test_the_client_loads_nothing_of_the_service() -> None:
    code = "import json, sys, cooc_client; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert {"cooc_client", "httpx"} <= loaded
    assert not loaded & {"torch", "numpy", "faiss", "engine", "app", "fastapi", "PIL", "pydantic"}
