"""What a service can tell that keeps the files of its images."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
from fastapi.testclient import TestClient

from engine.catalog import Catalog
from engine.describer import Describer
from engine.errors import Overloaded, UnknownImage
from engine.queries.explained_hits import HitExplainer
from engine.queries.querying import Example
from tests.drawing import photo
from tests.patience import PATIENCE_S
from tests.test_api import make_client, put, search
from tests.test_search_api import REGION, posted, searcher_of


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


def test_an_original_that_cannot_be_read_does_not_cost_the_answer(keeping: TestClient) -> None:
    """Damaged here; as one whose decoder is not installed any more."""
    put(keeping, "damaged", photo(80))
    originals = searcher_of(keeping).originals
    assert originals is not None
    path = originals.path(keeping.get("/images/damaged").json()["digest"])
    path.write_bytes(b"no picture" + path.read_bytes()[10:])
    hit = search(keeping, photo(80), include="explain", limit=1)["results"][0]
    assert hit["id"] == "damaged"
    assert (hit["explain"]["query_from"], hit["explain"]["result_from"]) == ("upload", "thumbnail")
    similar = keeping.get("/images/damaged/similar?include=explain&limit=1")
    assert similar.json()["results"][0]["explain"]["query_from"] == "thumbnail"
    keeping.delete("/images/damaged")


class SlowCatalog:
    """Knows no image, and takes until it is told to go on to say so."""

    def __init__(self) -> None:
        self.asked, self.go_on = threading.Event(), threading.Event()

    def get(self, image_id: str) -> None:
        self.asked.set()
        assert self.go_on.wait(PATIENCE_S)
        raise UnknownImage(image_id)


def test_only_so_many_searches_wait_to_be_explained(describer: Describer) -> None:
    catalog = SlowCatalog()
    explainer = HitExplainer(describer, cast(Catalog, catalog), None, 60.0, waiting=1)
    raised: list[BaseException] = []

    def explain() -> None:
        try:
            explainer.explain(Example("a"), [])
        except UnknownImage as error:
            raised.append(error)

    first = threading.Thread(target=explain)
    first.start()
    assert catalog.asked.wait(PATIENCE_S)
    with pytest.raises(Overloaded, match="leave `explain` out of `include`") as refused:
        explainer.explain(Example("b"), [])
    assert refused.value.retry_after_s > 0
    catalog.go_on.set()
    first.join()
    assert len(raised) == 1
    explain()  # its place is free again
    assert len(raised) == 2
