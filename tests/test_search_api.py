"""Searches over HTTP beyond the plain one: batches, regions, examples."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from engine.images import decode
from engine.queries.examples import combine
from engine.searcher import Searcher
from tests.drawing import encode, photo, scene
from tests.test_api import make_client, put, search

REGION = {"x": 40, "y": 30, "width": 80, "height": 60}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Twelve photos, the even ones with `even`; their files are not kept."""
    with make_client(tmp_path_factory.mktemp("plain") / "index", max_side=160) as client:
        for seed in range(12):
            put(client, f"set/{seed}.jpg", photo(seed), even=seed % 2 == 0)
        yield client


def searcher_of(client: TestClient) -> Searcher:
    searcher: Searcher = client.app.state.cooc.service.searcher  # type: ignore[attr-defined]
    return searcher


def base64_of(data: bytes) -> dict[str, str]:
    return {"image_base64": base64.b64encode(data).decode()}


def posted(client: TestClient, path: str, content: Any, status: int = 200) -> dict[str, Any]:
    answer = client.post(path, json=content)
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert body["status"] == status
    return body


def described(client: TestClient, data: bytes) -> np.ndarray[Any, Any]:
    describer = searcher_of(client).describer
    vector: np.ndarray[Any, Any] = describer.describe([describer.decode(data).pixels])[0]
    return vector


# --- batches ------------------------------------------------------------------------------


def test_a_batch_answers_as_searches_one_by_one(client: TestClient) -> None:
    files = [("image", photo(seed)) for seed in (3, 50, 7)]
    answer = client.post("/search/batch", files=files, data={"limit": 4, "include": ""})
    assert answer.status_code == 200
    alone = [search(client, photo(seed), limit=4, include="") for seed in (3, 50, 7)]
    items = answer.json()["answers"]
    assert [item["status"] for item in items] == [200] * 3
    assert [item["problem"] for item in items] == [None] * 3
    for item, one in zip(items, alone, strict=True):
        found = [(r["id"], r["match_type"]) for r in item["answer"]["results"]]
        assert found == [(r["id"], r["match_type"]) for r in one["results"]]
        scores = [r["score"] for r in item["answer"]["results"]]
        assert scores == pytest.approx([r["score"] for r in one["results"]], abs=2e-3)
        assert item["answer"]["results"][0]["metadata"] is None


def test_one_bad_image_does_not_spoil_the_others(client: TestClient) -> None:
    images = [photo(1), b"this is text", photo(2)[:300], b"", photo(2)]
    items = client.post("/search/batch", files=[("image", i) for i in images]).json()["answers"]
    assert [item["status"] for item in items] == [200, 415, 422, 422, 200]
    assert [item["problem"] and item["problem"]["code"] for item in items] == [
        None,
        "unsupported_image",
        "bad_image",
        "bad_image",
        None,
    ]
    assert [items[n]["answer"]["results"][0]["id"] for n in (0, 4)] == ["set/1.jpg", "set/2.jpg"]


def test_queries_of_a_batch_have_their_own_options_and_problems(client: TestClient) -> None:
    content = {
        "limit": 2,
        "include": [],
        "queries": [
            {"query": {"id": "set/1.jpg"}},
            {"query": {"id": "set/1.jpg"}, "limit": 5, "filter": {"even": True}},
            {"query": {"id": "nobody"}},
            {"query": {"id": "set/1.jpg"}, "limit": 0},
            {"query": {"id": "set/1.jpg"}, "filter": {"field": "a", "near": 1}},
            {"query": base64_of(photo(3)), "region": REGION},
            "no object",
            {"query": {"id": "set/1.jpg"}, "region": REGION},
            {"query": {"id": "set/1.jpg"}, "min_generation": 9},
        ],
    }
    items = posted(client, "/search/batch", content)["answers"]
    statuses = [item["status"] for item in items]
    assert statuses == [200, 200, 404, 422, 422, 200, 422, 409, 409]
    assert [len(items[n]["answer"]["results"]) for n in (0, 1, 5)] == [2, 5, 2]
    pointers = [items[n]["problem"]["errors"][0]["pointer"] for n in (3, 4, 6)]
    assert pointers[0] == "/queries/3/limit"
    assert pointers[1].startswith("/queries/4/filter")
    assert pointers[2] == "/queries/6"
    assert items[7]["problem"]["code"] == "region_needs_original"
    assert items[8]["problem"]["code"] == "generation_not_reached"


@pytest.mark.parametrize(
    "content",
    [
        {"queries": []},
        {"queries": [{"query": {"id": "set/1.jpg"}}] * 17},
        {"queries": {"query": {"id": "set/1.jpg"}}},
        {"queries": [{"query": {"id": "set/1.jpg"}}], "limit": 0},
        {"queries": [{"query": {"id": "set/1.jpg"}}], "limits": 3},
        {"queries": [{"query": {"id": "set/1.jpg"}}], "include": ["explain"]},
        {},
        [],
    ],
)
def test_a_batch_that_is_wrong_as_a_whole_is_refused(client: TestClient, content: Any) -> None:
    assert posted(client, "/search/batch", content, 422)["code"] == "invalid_fields"


def test_a_form_of_more_than_16_images_is_refused(client: TestClient) -> None:
    files = [("image", photo(1))] * 17
    for path in ("/search/batch", "/search"):
        assert client.post(path, files=files).status_code == 400
    assert client.post("/search/batch", files={"negative": photo(1)}).status_code == 422
    assert client.post("/search/batch", files={"limit": (None, "3")}).status_code == 422


# --- regions ------------------------------------------------------------------------------


def test_a_region_is_searched_as_its_pixels(client: TestClient) -> None:
    """Against a file of just these pixels; nothing is resized at this size."""
    data = encode(scene(4), "png")
    part = encode(scene(4).crop((40, 30, 120, 90)), "png")
    whole = posted(client, "/search", {"query": base64_of(part)})["results"]
    for query in (
        posted(client, "/search", {"query": base64_of(data), "region": REGION}),
        search(client, data, region=json.dumps(REGION)),
        posted(
            client,
            "/search",
            {
                "query": base64_of(data),
                "region": {"x": 0.25, "y": 0.25, "width": 0.5, "height": 0.5, "unit": "norm"},
            },
        ),
    ):
        found = [(r["id"], r["match_type"]) for r in query["results"]]
        assert found == [(r["id"], r["match_type"]) for r in whole]
        scores = [r["score"] for r in query["results"]]
        assert scores == pytest.approx([r["score"] for r in whole], abs=2e-3)


def test_a_part_of_a_stored_image_is_not_exact_but_the_whole_is(client: TestClient) -> None:
    part = search(client, photo(3), region=json.dumps(REGION))["results"]
    assert "exact" not in {r["match_type"] for r in part}
    assert all(r["score"] < 1.0 for r in part)
    everything = {"x": 0, "y": 0, "width": 160, "height": 120}
    for region in (everything, {"x": 0, "y": 0, "width": 1, "height": 1, "unit": "norm"}):
        whole = search(client, photo(3), region=json.dumps(region))["results"]
        assert whole == search(client, photo(3))["results"]
        assert whole[0]["match_type"] == "exact"


def test_a_part_leaves_out_the_image_it_is_of_where_that_is_asked_for(client: TestClient) -> None:
    region = json.dumps(REGION)
    with_itself = [r["id"] for r in search(client, photo(3), region=region, limit=12)["results"]]
    others = search(client, photo(3), region=region, exclude_self=True, limit=11)["results"]
    assert "set/3.jpg" in with_itself
    assert [r["id"] for r in others] == [name for name in with_itself if name != "set/3.jpg"]


@pytest.mark.parametrize(
    ("region", "status", "words"),
    [
        ({**REGION, "x": 500}, 422, "160 x 120 pixels when upright"),
        ({**REGION, "width": 10}, 422, "at least 16"),
        ({**REGION, "width": 0}, 422, "greater than 0"),
        ({**REGION, "x": -1}, 422, "greater than or equal to 0"),
        ({**REGION, "unit": "cm"}, 422, "'px' or 'norm'"),
        ({**REGION, "z": 1}, 422, "not permitted"),
        ({"x": 1}, 422, "required"),
        ([1, 2, 3, 4], 422, "dictionary"),
    ],
)
def test_a_bad_region_says_why(client: TestClient, region: Any, status: int, words: str) -> None:
    content = {"query": base64_of(photo(3)), "region": region}
    assert words in posted(client, "/search", content, status)["detail"]


# --- several examples ---------------------------------------------------------------------


def test_several_examples_are_one_query(client: TestClient) -> None:
    """Against the vectors, combined and compared here."""
    positives, negatives = [photo(1), photo(2), photo(60)], [photo(5)]
    query = combine(
        np.stack([described(client, data) for data in positives]),
        np.stack([described(client, data) for data in negatives]),
        negative_weight=0.5,
    )
    expected = {
        f"set/{seed}.jpg": float(described(client, photo(seed)) @ query) for seed in range(12)
    }
    files = [("image", data) for data in positives] + [("negative", data) for data in negatives]
    fields = {"limit": 12, "negative_weight": 0.5}
    by_form = client.post("/search", files=files, data=fields).json()["results"]
    content = {
        "query": {
            "positives": [{"id": "set/1.jpg"}, base64_of(photo(2)), base64_of(photo(60))],
            "negatives": [{"id": "set/5.jpg"}],
        },
        **fields,
    }
    by_json = posted(client, "/search", content)["results"]
    for results in (by_form, by_json):
        assert {r["id"]: r["score"] for r in results} == pytest.approx(expected, abs=3e-3)
        assert "exact" not in {r["match_type"] for r in results}
    left = posted(client, "/search", {**content, "exclude_self": True})["results"]
    assert {r["id"] for r in left} == set(expected) - {"set/1.jpg", "set/2.jpg", "set/5.jpg"}


def test_one_positive_example_is_a_plain_search(client: TestClient) -> None:
    plain = posted(client, "/search", {"query": {"id": "set/1.jpg"}})["results"]
    one = {"query": {"positives": [{"id": "set/1.jpg"}]}}
    assert posted(client, "/search", one)["results"] == plain


def test_examples_may_be_regions(client: TestClient) -> None:
    examples = [{**base64_of(photo(1)), "region": REGION}, {"id": "set/2.jpg"}]
    assert posted(client, "/search", {"query": {"positives": examples}})["results"]
    alone = {"query": {"positives": examples[:1]}}
    part = posted(client, "/search", {"query": base64_of(photo(1)), "region": REGION})
    assert posted(client, "/search", alone)["results"] == part["results"]


@pytest.mark.parametrize(
    ("query", "more", "status", "words"),
    [
        ({"positives": []}, {}, 422, "at least 1 item"),
        ({"negatives": [{"id": "set/1.jpg"}]}, {}, 422, "negatives need `positives`"),
        ({"id": "set/1.jpg", "positives": [{"id": "set/1.jpg"}]}, {}, 422, "into `positives`"),
        ({"positives": [{"id": "set/1.jpg"}] * 17}, {}, 422, "at most 16"),
        (
            {"positives": [{"id": "set/1.jpg"}] * 9, "negatives": [{"id": "set/2.jpg"}] * 8},
            {},
            422,
            "17 examples; at most 16",
        ),
        ({"positives": [{"id": "set/1.jpg"}] * 2}, {"region": REGION}, 422, "belongs to one image"),
        ({"positives": [{}]}, {}, 422, "/query/positives/0: give exactly one"),
        ({"positives": [{"id": "set/1.jpg"}, {"id": "x"}]}, {}, 404, "positive example 2: "),
        (
            {"positives": [{"id": "set/1.jpg"}], "negatives": [{"image_base64": "AAAA"}]},
            {},
            415,
            "negative example 1: ",
        ),
        (
            {"positives": [{"id": "set/1.jpg"}], "negatives": [{"id": "set/1.jpg"}]},
            {"negative_weight": 1},
            422,
            "cancel each other",
        ),
        ({"positives": [{"id": "set/1.jpg"}] * 2}, {"include": ["explain"]}, 422, "explained"),
    ],
)
def test_examples_that_cannot_be_used_say_why(
    client: TestClient, query: Any, more: Any, status: int, words: str
) -> None:
    assert words in posted(client, "/search", {"query": query, **more}, status)["detail"]


# --- similar, conditions, parameters ------------------------------------------------------


def test_similar_images_are_those_of_a_search_without_itself(client: TestClient) -> None:
    content = {"query": {"id": "set/2.jpg"}, "limit": 4, "exclude_self": True}
    where = {"even": True}
    wanted = posted(client, "/search", {**content, "filter": where})["results"]
    parameters: dict[str, Any] = {"limit": 4, "filter": json.dumps(where)}
    found = client.get("/images/set/2.jpg/similar", params=parameters)
    assert found.json()["results"] == wanted
    assert "set/2.jpg" not in [r["id"] for r in wanted]
    assert found.json()["timing_ms"]["describe"] == 0
    bare = client.get("/images/set/2.jpg/similar?include=").json()["results"][0]
    assert bare["metadata"] is bare["thumbnail_url"] is None
    assert client.get("/images/nobody/similar").status_code == 404
    for wrong in ("limit=0", "include=everything", "filter=[]", "exclude_self=false"):
        assert client.get(f"/images/set/2.jpg/similar?{wrong}").status_code == 422


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/images?fitler=1", "/fitler: unknown parameter; did you mean `filter`?"),
        ("/images?curser=a&limit=1", "did you mean `cursor`?"),
        ("/jobs?stat=running", "did you mean `state`?"),
        ("/images/set/1.jpg/similar?limt=3", "did you mean `limit`?"),
        ("/images/set/1.jpg?x=1", "this address takes none"),
        ("/admin/index?zzz=1", "this address takes none"),
        ("/images?qqqqqq=1", "known are cursor, limit, filter"),
    ],
)
def test_parameters_that_nobody_knows_are_refused(
    client: TestClient, address: str, words: str
) -> None:
    answer = client.get(address)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_the_page_and_the_health_addresses_take_what_comes(client: TestClient) -> None:
    for address in ("/?utm_source=a", "/livez?now=1", "/web/app.js?v=1"):
        assert client.get(address).status_code == 200
    assert client.post("/search?limit=3", json={"query": {"id": "set/1.jpg"}}).status_code == 422


def test_decoded_parts_keep_the_size_of_the_whole() -> None:
    found = decode(photo(1), max_side=128, box=(40, 30, 120, 90))
    assert (found.width, found.height, found.pixels.shape) == (160, 120, (48, 64, 3))


def test_a_region_of_a_stored_image_needs_its_original(client: TestClient) -> None:
    content = {"query": {"id": "set/3.jpg"}, "region": REGION}
    refused = posted(client, "/search", content, 409)
    assert refused["code"] == "region_needs_original"
    assert "COOC_KEEP_ORIGINALS=true" in refused["detail"]
    posted(client, "/search", {**content, "region": {**REGION, "x": 900}}, 422)
    everything = {"x": 0, "y": 0, "width": 1, "height": 1, "unit": "norm"}
    whole = posted(client, "/search", {**content, "region": everything})["results"]
    assert whole[0]["match_type"] == "exact"


def test_what_is_not_kept_is_explained_from_its_thumbnail(client: TestClient) -> None:
    by_id = {"query": {"id": "set/2.jpg"}, "include": ["explain"], "limit": 1}
    why = posted(client, "/search", by_id)["results"][0]["explain"]
    assert (why["query_from"], why["result_from"]) == ("thumbnail", "thumbnail")
    found = client.get("/images/set/2.jpg/similar?include=explain&limit=1").json()
    assert found["results"][0]["explain"]["query_from"] == "thumbnail"


def test_what_is_too_thin_to_be_explained_is_found_all_the_same(client: TestClient) -> None:
    """Of a panorama that is not kept nothing is left but 10 rows."""
    for seed in (1, 2):
        put(client, f"thin/{seed}.jpg", encode(scene(seed, (640, 40)), "jpeg"), thin=True)
    parameters = {"include": "explain", "filter": json.dumps({"thin": True})}
    answer = client.get("/images/thin/1.jpg/similar", params=parameters)
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["results"]
    assert (found["id"], found["explain"]) == ("thin/2.jpg", None)
    for seed in (1, 2):
        client.delete(f"/images/thin/{seed}.jpg")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("limit", True, "a number (got True)"),
        ("limit", "5", "a number (got '5')"),
        ("score_threshold", "0.5", "a number"),
        ("nprobe", False, "a number"),
        ("exact", 1, "true or false"),
        ("exclude_self", "yes", "true or false"),
        ("region", {**REGION, "x": "40"}, "a number"),
    ],
)
def test_values_in_json_have_their_own_type(
    client: TestClient, field: str, value: Any, words: str
) -> None:
    content = {"query": {"id": "set/1.jpg"}, field: value}
    problem = posted(client, "/search", content, 422)
    assert words in problem["detail"]
    assert problem["errors"][0]["pointer"].startswith(f"/{field}")
    everything = {"limit": 5.0, "score_threshold": None, "nprobe": 3, "exact": True}
    assert posted(client, "/search", {"query": {"id": "set/1.jpg"}, **everything})["results"]


def test_what_an_address_does_not_do_names_all_that_it_does(client: TestClient) -> None:
    for address, allowed in (
        ("/images/set/1.jpg", "DELETE, GET, PATCH, PUT"),
        ("/jobs/1", "DELETE, GET"),
        ("/admin/snapshots", "GET, POST"),
        ("/search", "POST"),
    ):
        answer = client.options(address)
        assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
    for method in ("PUT", "PATCH", "DELETE"):
        for view in ("thumbnail", "original", "similar"):
            answer = client.request(method, f"/images/set/1.jpg/{view}?a=1")
            assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
