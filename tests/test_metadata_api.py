"""Filters, changes of metadata and listing, over HTTP and the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app import cli
from app.cursor import from_cursor, to_cursor
from app.errors import InvalidFields
from app.settings import Settings
from app.terminal.session import session
from tests.drawing import photo
from tests.stored import an_image
from tests.test_api import SMALL, make_client, put, search

MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with make_client(tmp_path_factory.mktemp("service") / "index") as client:
        for n in range(12):
            metadata = {"album": f"{n % 3}", "year": 2010 + n, "tags": ["all", n]}
            assert put(client, f"{n:02d}.jpg", photo(n), **metadata).status_code == 201
        yield client


def found(answer: dict[str, Any]) -> set[str]:
    return {result["id"] for result in answer["results"]}


def problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    return body


# --- filters in a search ------------------------------------------------------------------


def test_a_search_answers_only_what_passes_the_filter(client: TestClient) -> None:
    where = {"and": [{"album": "1"}, {"field": "year", "gte": 2013}]}
    query = {"query": {"id": "00.jpg"}, "limit": 100}
    by_json = client.post("/search", json={**query, "filter": where}).json()
    by_form = search(client, photo(0), limit=100, filter=json.dumps(where))
    # The query itself is stored, but does not pass.
    assert found(by_json) == found(by_form) == {"04.jpg", "07.jpg", "10.jpg"}
    everything = [r["id"] for r in search(client, photo(0), limit=100)["results"]]
    kept = [image_id for image_id in everything if image_id in found(by_form)]
    assert [r["id"] for r in by_form["results"]] == kept
    assert [r["rank"] for r in by_form["results"]] == [1, 2, 3]
    itself = search(client, photo(4), filter=json.dumps(where))["results"][0]
    assert (itself["id"], itself["match_type"], itself["score"]) == ("04.jpg", "exact", 1.0)


def test_pages_of_a_filtered_search_join_without_a_gap(client: TestClient) -> None:
    where = json.dumps({"field": "tags", "in": [0, 2, 3, 5, 7, 8, 11]})
    whole = [r["id"] for r in search(client, photo(1), limit=100, filter=where)["results"]]
    pages = [
        r["id"]
        for offset in range(0, 8, 2)
        for r in search(client, photo(1), limit=2, offset=offset, filter=where)["results"]
    ]
    assert pages == whole and len(whole) == 7


def test_an_empty_filter_field_of_a_form_counts_as_absent(client: TestClient) -> None:
    assert len(search(client, photo(0), limit=100, filter="")["results"]) == 12


@pytest.mark.parametrize(
    ("where", "pointer", "words"),
    [
        ({"and": [{"album": "1"}, {"field": "a", "gt": None}]}, "/filter/and/1/gt", "use `eq`"),
        ({}, "/filter", "leave the filter out"),
        ({"field": "a", "like": "x"}, "/filter/like", "known are eq"),
        ({"\ud800": []}, "/filter/?", "not a list"),
    ],
)
def test_a_wrong_filter_names_its_place(
    client: TestClient, where: Any, pointer: str, words: str
) -> None:
    content = json.dumps({"query": {"id": "00.jpg"}, "filter": where})
    headers = {"Content-Type": "application/json"}
    body = problem(client.post("/search", content=content, headers=headers), 422)
    assert body["code"] == "invalid_filter"
    ((entry),) = body["errors"]
    assert entry["pointer"] == pointer and words in entry["detail"]
    assert words in body["detail"]


def test_a_filter_that_is_no_json_is_refused(client: TestClient) -> None:
    for text, words in (("{", "not JSON"), ("[1]", "must be a JSON object"), ('{"a": NaN}', "NaN")):
        files = {"image": photo(0)}
        for answer in (
            client.post("/search", files=files, data={"filter": text}),
            client.get("/images", params={"filter": text}),
        ):
            (entry,) = problem(answer, 422)["errors"]
            assert entry["pointer"] == "/filter"
            assert words in entry["detail"] or "JSON compliant" in entry["detail"]
    wrong = client.post("/search", json={"query": {"id": "00.jpg"}, "filter": "{}"})
    assert problem(wrong, 422)["errors"][0]["pointer"] == "/filter"


# --- changing metadata --------------------------------------------------------------------


def test_a_patch_is_seen_by_the_next_filter(client: TestClient) -> None:
    put(client, "changing/a b.jpg", photo(50), draft=True, keep={"x": 1, "y": 2})
    drafts = json.dumps({"draft": True})
    assert found(search(client, photo(50), filter=drafts)) == {"changing/a b.jpg"}
    change = {"draft": None, "keep": {"x": None}, "new": ["ü"]}
    for headers in (MERGE, {"Content-Type": "application/json; charset=utf-8"}):
        answer = client.patch(
            "/images/changing/a b.jpg", content=json.dumps(change), headers=headers
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["metadata"] == {"keep": {"y": 2}, "new": ["ü"]}
        assert answer.json() == client.get("/images/changing/a b.jpg").json()
    assert found(search(client, photo(50), filter=drafts)) == set()
    found_by_new = search(client, photo(50), filter=json.dumps({"new": "ü"}))["results"]
    assert found_by_new[0]["match_type"] == "exact"
    assert found_by_new[0]["metadata"] == {"keep": {"y": 2}, "new": ["ü"]}
    assert client.delete("/images/changing/a b.jpg").status_code == 204
    assert found(search(client, photo(50), filter=json.dumps({"new": "ü"}))) == set()


@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        ("{}", {}, 415, "application/merge-patch+json"),
        ("{}", {"Content-Type": "text/plain"}, 415, "'text/plain'"),
        ("{", MERGE, 400, "not JSON"),
        (b"\xff\xfe{}", MERGE, 400, "not JSON"),
        ("[]", MERGE, 422, "must be a JSON object"),
        ("null", MERGE, 422, "must be a JSON object"),
        ('{"a": NaN}', MERGE, 422, "not JSON"),
        ('{"a": "\\ud800"}', MERGE, 422, "not JSON"),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", MERGE, 422, "nested more than 64 deep"),
        ('{"a": "' + "x" * 70_000 + '"}', MERGE, 422, "at most 65,536"),
        ('{"a": "' + "x" * (1 << 20) + '"}', MERGE, 413, "larger than 1 MB"),
    ],
)
def test_a_wrong_patch_is_refused_and_changes_nothing(
    client: TestClient, content: str | bytes, headers: dict[str, str], status: int, words: str
) -> None:
    before = client.get("/images/01.jpg").json()
    answer = client.patch("/images/01.jpg", content=content, headers=headers)
    assert words in problem(answer, status)["detail"]
    assert client.get("/images/01.jpg").json() == before


def test_a_patch_of_an_unknown_image_is_404(client: TestClient) -> None:
    body = problem(client.patch("/images/nobody", json={"a": 1}), 404)
    assert body["code"] == "unknown_image" and "'nobody'" in body["detail"]


def test_other_sites_and_long_bodies_are_kept_from_patching(client: TestClient) -> None:
    headers = {**MERGE, "Sec-Fetch-Site": "cross-site"}
    problem(client.patch("/images/01.jpg", content="{}", headers=headers), 403)

    def chunks() -> Iterator[bytes]:
        # Of no announced length.
        for _ in range(3):
            yield b" " * (1 << 19)

    answer = client.patch("/images/01.jpg", content=chunks(), headers=MERGE)
    assert problem(answer, 413)["code"] == "payload_too_large"


def test_metadata_that_is_too_deep_to_be_sent_is_not_stored(client: TestClient) -> None:
    deep: Any = 1
    for _ in range(63):
        deep = {"a": deep}
    assert put(client, "deep", photo(51), a=deep).status_code == 201
    body = problem(put(client, "deep", photo(51), a={"b": deep}), 422)
    assert body["errors"][0]["pointer"] == "/metadata"
    assert client.get("/images/deep").json()["metadata"] == {"a": deep}
    # Merging makes nothing deeper than the deeper of the two.
    assert client.patch("/images/deep", json={"a": deep}).json()["metadata"] == {"a": deep}
    assert client.delete("/images/deep").status_code == 204


# --- listing ------------------------------------------------------------------------------


def pages(client: TestClient, **params: Any) -> list[list[dict[str, Any]]]:
    listed: list[list[dict[str, Any]]] = []
    cursor: str | None = None
    while not listed or cursor is not None:
        asked = params if cursor is None else {**params, "cursor": cursor}
        answer = client.get("/images", params=asked)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert set(body) == {"images", "next_cursor"}
        listed.append(body["images"])
        cursor = body["next_cursor"]
    return listed


def test_all_images_are_listed_page_by_page(client: TestClient) -> None:
    ids = [f"{n:02d}.jpg" for n in range(12)]
    listed = pages(client, limit=5)
    assert [len(page) for page in listed] == [5, 5, 2]
    images = [image for page in listed for image in page]
    assert [image["id"] for image in images] == ids
    assert images == [client.get(f"/images/{image_id}").json() for image_id in ids]
    assert [[i["id"] for i in page] for page in pages(client)] == [ids]
    assert pages(client, limit=4, cursor="") == pages(client, limit=4)


def test_a_filter_picks_what_is_listed(client: TestClient) -> None:
    where = json.dumps({"field": "year", "lt": 2013})
    listed = pages(client, limit=2, filter=where)
    assert [[i["id"] for i in page] for page in listed] == [["00.jpg", "01.jpg"], ["02.jpg"]]
    assert pages(client, filter='{"album": "none"}') == [[]]


@pytest.mark.parametrize("cursor", ["x", "AAAA", "!!!!", "é", "a" * 5000, to_cursor("a")[:-1]])
def test_a_wrong_cursor_is_named(client: TestClient, cursor: str) -> None:
    (entry,) = problem(client.get("/images", params={"cursor": cursor}), 422)["errors"]
    assert entry["pointer"] == "/cursor"
    assert cursor[:30] in entry["detail"] and "leave it out" in entry["detail"]


def test_limits_of_a_page_are_checked(client: TestClient) -> None:
    for limit in (0, 1001, "x"):
        problem(client.get("/images", params={"limit": limit}), 422)


def test_cursors_of_any_id_come_back() -> None:
    for place in ("a", "写真/東京タワー.png", "🦉" * 100, "a b%2Fc?d#e", "\U0010ffff"):
        cursor = to_cursor(place)
        assert from_cursor(cursor) == place
        assert cursor.replace("-", "").replace("_", "").isalnum()
        with pytest.raises(InvalidFields, match="no cursor"):
            from_cursor(cursor + "AAAA")


def test_a_few_hundred_images_are_listed_once_while_others_come_and_go(
    client: TestClient,
) -> None:
    random = np.random.default_rng(3)
    searcher = client.app.state.cooc.service.searcher  # type: ignore[attr-defined]
    dim = searcher.recipe.raw_dim
    searcher.store([an_image(f"many/{n:03d}", seed=n, dim=dim) for n in range(300)])
    stays = {f"many/{n:03d}" for n in range(300)}
    listed: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        body = client.get("/images", params={"limit": 23, "cursor": cursor}).json()
        listed += [image["id"] for image in body["images"]]
        cursor = body["next_cursor"]
        gone, patched = (f"many/{n:03d}" for n in random.choice(300, 2, replace=False))
        if gone in stays:
            assert client.delete(f"/images/{gone}").status_code == 204
            stays.remove(gone)
        if patched in stays:
            assert client.patch(f"/images/{patched}", json={"x": 1}).status_code == 200
        put(client, f"many/{random.integers(300):03d}-new", photo(int(random.integers(9))))
        # Replaced: the same id must not be listed again, nor be left out.
        for image_id, seed in (("many/007", 90), ("many/292", 91)):
            put(client, image_id, photo(seed))
            stays.add(image_id)
    assert len(listed) == len(set(listed))
    assert stays <= set(listed)
    for page in pages(client, limit=1000):
        for image_id in (image["id"] for image in page if image["id"].startswith("many/")):
            client.delete(f"/images/{image_id}")
    assert [len(page) for page in pages(client)] == [12]


# --- the command line ---------------------------------------------------------------------


def test_the_command_line_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setenv(f"COOC_{name.upper()}", str(value))
    (tmp_path / "photo.jpg").write_bytes(photo(1))
    with session(Settings(data_dir=tmp_path / "index", **SMALL), None) as target:
        for n in range(4):
            target.searcher.put(str(n), photo(n), {"album": str(n % 2)})
    arguments = ["search", str(tmp_path / "photo.jpg"), "--data-dir", str(tmp_path / "index")]
    found = CliRunner().invoke(cli.app, [*arguments, "--filter", '{"album": "0"}', "--json"])
    assert found.exit_code == 0, found.output
    assert {r["id"] for r in json.loads(found.stdout)["results"]} == {"0", "2"}
    for text, words in (("{", "--filter is not JSON"), ('{"eq": 1}', "needs the long form")):
        refused = CliRunner().invoke(cli.app, [*arguments, "--filter", text])
        assert refused.exit_code == 1
        assert words in str(refused.exception)
