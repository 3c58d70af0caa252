"""What a service can tell that keeps the files of its images."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.drawing import photo
from tests.test_api import make_client, put, search
from tests.test_search_api import REGION, posted


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Six photos whose files are kept."""
    folder = tmp_path_factory.mktemp("keeping") / "index"
    with make_client(folder, keep_originals=True) as client:
        for seed in range(6):
            put(client, f"set/{seed}.jpg", photo(seed))
        yield client


def test_a_picture_is_sent_once_to_whoever_keeps_it(keeping: TestClient) -> None:
    digest = keeping.get("/images/set/1.jpg").json()["digest"]
    for kind in ("thumbnail", "original"):
        address = f"/images/set/1.jpg/{kind}"
        first = keeping.get(address)
        assert (first.status_code, first.headers["etag"]) == (200, f'"{digest}"')
        for tag in (f'"{digest}"', f'"other", W/"{digest}"', "*"):
            again = keeping.get(address, headers={"If-None-Match": tag})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == f'"{digest}"'
        other = keeping.get(address, headers={"If-None-Match": '"other"'})
        assert other.content == first.content
    put(keeping, "changing", photo(70))
    tag = keeping.get("/images/changing/thumbnail").headers["etag"]
    put(keeping, "changing", photo(71))
    changed = keeping.get("/images/changing/thumbnail", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    keeping.delete("/images/changing")


def test_the_first_results_are_explained_and_the_parts_add_up(keeping: TestClient) -> None:
    answer = search(keeping, photo(2), include="explain", limit=5)
    assert [r["explain"] is not None for r in answer["results"]] == [True] * 3 + [False] * 2
    assert set(answer["timing_ms"]) == {"decode", "queue", "describe", "search", "explain"}
    for result in answer["results"][:3]:
        why = result["explain"]
        assert (why["query_from"], why["result_from"]) == ("upload", "original")
        for grid in (why["query"], why["result"]):
            parts = np.array(grid["parts"])
            assert parts.shape == (grid["rows"], grid["columns"])
            assert max(parts.shape) <= 24
            assert parts.sum() == pytest.approx(why["score"], abs=1e-4)
        # Not projected yet, so the served score is the score of the result.
        assert why["served_score"] == pytest.approx(result["score"], abs=3e-3)
    assert answer["results"][0]["explain"]["score"] == pytest.approx(1.0, abs=1e-4)


def test_what_is_kept_is_explained_from_its_original(keeping: TestClient) -> None:
    by_id = {"query": {"id": "set/2.jpg"}, "include": ["explain"], "limit": 1}
    why = posted(keeping, "/search", by_id)["results"][0]["explain"]
    assert (why["query_from"], why["result_from"]) == ("original", "original")


def test_a_region_of_a_stored_image_is_that_of_its_file(keeping: TestClient) -> None:
    by_id = posted(keeping, "/search", {"query": {"id": "set/3.jpg"}, "region": REGION})["results"]
    assert by_id == search(keeping, photo(3), region=json.dumps(REGION))["results"]


def test_a_region_is_explained_as_a_region(keeping: TestClient) -> None:
    content = {"query": {"id": "set/2.jpg"}, "include": ["explain"], "limit": 1}
    whole = posted(keeping, "/search", content)["results"][0]["explain"]["query"]
    part = posted(keeping, "/search", {**content, "region": REGION})["results"][0]["explain"]
    rows, columns = part["query"]["rows"], part["query"]["columns"]
    assert rows * columns < whole["rows"] * whole["columns"]
