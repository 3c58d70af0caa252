"""Comparing two images and bounding false positives, over HTTP and from the command line."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.drawing import encode, photo, scene
from tests.test_api import add, finished, make_client, put, search
from tests.test_cli import cooc, cooc_json

COUNT = 60


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an index of 60 scenes, built."""
    folder = tmp_path_factory.mktemp("compare") / "index"
    with make_client(folder, auto_build=False) as client:
        add(client, *((f"{seed}.jpg", photo(seed)) for seed in range(COUNT)))
        job = finished(client, client.post("/admin/index/build"))
        assert job["state"] == "succeeded"
    return folder


@pytest.fixture
def built(index: Path) -> Iterator[TestClient]:
    # A process has one service at a time.
    with make_client(index) as client:
        yield client


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[TestClient]:
    with make_client(tmp_path / "index") as client:
        yield client


def compare(client: TestClient, a: bytes, b: bytes) -> dict[str, Any]:
    answer = client.post("/compare", files={"image_a": a, "image_b": b})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_uploads_ids_and_base64_compare_alike(built: TestClient) -> None:
    a, b = photo(3), photo(4)
    uploaded = compare(built, a, b)
    by_id = built.post("/compare", json={"a": {"id": "3.jpg"}, "b": {"id": "4.jpg"}}).json()
    text = base64.b64encode(b).decode()
    mixed = built.post("/compare", json={"a": {"id": "3.jpg"}, "b": {"image_base64": text}}).json()
    form = built.post("/compare", files={"image_b": b}, data={"id_a": "3.jpg", "id_b": ""}).json()
    for other in (by_id, mixed, form, compare(built, b, a)):
        assert other["score"] == pytest.approx(uploaded["score"], abs=2e-3)
        assert other["match_type"] == uploaded["match_type"] == "similar"
        assert other["p_same_origin"] == pytest.approx(uploaded["p_same_origin"], abs=0.1)
    assert uploaded["index"] == search(built, a)["index"]


def test_a_comparison_says_what_a_search_says(built: TestClient) -> None:
    found = search(built, photo(3), limit=COUNT)["results"]
    for hit in found[:3] + found[-3:]:
        number = int(hit["id"].removesuffix(".jpg"))
        alone = compare(built, photo(3), photo(number))
        assert alone["score"] == pytest.approx(hit["score"], abs=2e-3)
        assert alone["match_type"] == hit["match_type"]


def test_the_same_bytes_are_exact_and_a_copy_is_likelier_than_another(built: TestClient) -> None:
    same = compare(built, photo(7), photo(7))
    assert [same[k] for k in ("score", "p_same_origin", "match_type")] == [1.0, 1.0, "exact"]
    copy = compare(built, photo(7), encode(scene(7), "jpg", quality=70))
    other = compare(built, photo(7), photo(8))
    assert copy["p_same_origin"] > 0.8 > other["p_same_origin"]


def test_without_a_build_there_is_no_probability(empty: TestClient) -> None:
    answer = compare(empty, photo(1), photo(2))
    assert answer["p_same_origin"] is None
    assert answer["index"]["generation"] == answer["index"]["count"] == 0
    put(empty, "a", photo(1))
    assert search(empty, photo(1))["results"][0]["p_same_origin"] is None
    refused = empty.post("/search", json={"query": {"id": "a"}, "max_fpr": 0.1})
    assert "not calibrated" in problem(refused, 409, "too_few_images")["detail"]


def problem(answer: Any, status: int, code: str) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["code"] == code
    return body


@pytest.mark.parametrize(
    ("content", "pointer"),
    [
        ({"a": {"id": "1.jpg"}}, "/b"),
        ({"a": {"id": "1.jpg"}, "b": {}}, "/b"),
        ({"a": {"id": "1.jpg", "image_base64": "AA=="}, "b": {"id": "2.jpg"}}, "/a"),
        ({"a": {"id": "1.jpg"}, "b": {"image_base64": "?"}}, "/b/image_base64"),
        ({"a": {"id": "1.jpg"}, "b": {"id": "2.jpg"}, "c": {}}, "/c"),
        ({"a": {"id": 7}, "b": {"id": "2.jpg"}}, "/a/id"),
    ],
)
def test_json_that_is_no_pair_is_refused(built: TestClient, content: Any, pointer: str) -> None:
    body = problem(built.post("/compare", json=content), 422, "invalid_fields")
    assert [entry["pointer"] for entry in body["errors"]] == [pointer]


def test_forms_that_are_no_pair_are_refused(built: TestClient) -> None:
    one = {"image_a": photo(1)}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"files": one}, "/image_b"),
        ({"files": one, "data": {"id_a": "1.jpg", "id_b": "2.jpg"}}, "/image_a"),
        ({"files": one, "data": {"id_b": "2.jpg", "limit": "3"}}, "/limit"),
        ({"files": {**one, "image": photo(2)}}, "/image"),
        ({"files": [("image_a", photo(1)), ("image_a", photo(2))]}, "/image_a"),
    ]
    for content, pointer in cases:
        body = problem(built.post("/compare", **content), 422, "invalid_fields")
        assert [entry["pointer"] for entry in body["errors"]] == [pointer]
    three = [("image_a", photo(1)), ("image_b", photo(2)), ("image_c", photo(3))]
    problem(built.post("/compare", files=three), 400, "malformed_request")


def test_what_cannot_be_compared_is_said(built: TestClient) -> None:
    unknown = {"a": {"id": "nobody"}, "b": {"id": "1.jpg"}}
    assert (
        "'nobody'" in problem(built.post("/compare", json=unknown), 404, "unknown_image")["detail"]
    )
    files = {"image_a": photo(1), "image_b": photo(2)[:300]}
    problem(built.post("/compare", files=files), 422, "bad_image")
    problem(built.post("/compare", content=b"x"), 415, "unsupported_body")
    wrong = {"content": b"{", "headers": {"content-type": "application/json"}}
    problem(built.post("/compare", **wrong), 400, "malformed_request")  # type: ignore[arg-type]


def test_two_images_of_the_largest_size_fit_into_a_request(tmp_path: Path) -> None:
    with make_client(tmp_path / "index", max_upload_mb=1) as client:
        # 1.2 times the bound for one image, each below it.
        padded = [photo(seed) + bytes(600 << 10) for seed in (1, 2)]
        assert compare(client, *padded)["match_type"] == "similar"
        both = [base64.b64encode(data).decode() for data in padded]
        content = {"a": {"image_base64": both[0]}, "b": {"image_base64": both[1]}}
        assert client.post("/compare", json=content).status_code == 200
        too_large = photo(1) + bytes(1 << 20)
        answer = client.post("/compare", files={"image_a": too_large, "image_b": photo(2)})
        problem(answer, 413, "image_too_large")


def test_max_fpr_leaves_out_what_is_not_alike(built: TestClient) -> None:
    copy = encode(scene(9), "jpg", quality=80)
    everything = search(built, copy, limit=COUNT)["results"]
    assert len(everything) == COUNT
    shares = []
    for rate in (0.5, 0.2, 0.1):
        kept = search(built, copy, limit=COUNT, max_fpr=rate)["results"]
        assert kept == everything[: len(kept)]
        assert kept[0]["id"] == "9.jpg"
        shares.append(len(kept) / COUNT)
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.4
    content = {"query": {"id": "9.jpg"}, "max_fpr": 0.1}
    by_id = built.post("/search", json=content).json()["results"]
    assert [by_id[0][k] for k in ("id", "p_same_origin")] == ["9.jpg", 1.0]


def test_a_rate_that_the_collection_is_too_small_for_is_refused(built: TestClient) -> None:
    answer = built.post("/search", files={"image": photo(1)}, data={"max_fpr": "0.001"})
    detail = problem(answer, 409, "too_few_images")["detail"]
    assert "max_fpr is 0.001" in detail
    assert "60 images" in detail
    for wrong in ("0", "0.6", "-1", "nan", "much"):
        answer = built.post("/search", files={"image": photo(1)}, data={"max_fpr": wrong})
        assert problem(answer, 422, "invalid_fields")["errors"][0]["pointer"] == "/max_fpr"


def test_the_command_line_compares_and_bounds(index: Path, tmp_path: Path) -> None:
    a, b = tmp_path / "1.jpg", tmp_path / "2.jpg"
    a.write_bytes(photo(1))
    b.write_bytes(photo(2))
    before = cooc("compare", a, b, "--data-dir", tmp_path / "empty").stdout
    assert "same origin  unknown" in before
    data = ("--data-dir", index)
    after = cooc_json("compare", a, b, *data)
    assert 0 < after["p_same_origin"] < 1
    found = cooc_json("search", a, "--max-fpr", 0.1, "--limit", 60, *data)["results"]
    assert found[0]["p_same_origin"] == 1.0
    assert len(found) < COUNT
    assert "max_fpr is 0.001" in cooc("search", a, "--max-fpr", 0.001, *data, code=1).stderr
