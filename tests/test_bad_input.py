"""What people and programs send by mistake: the right status, a helpful message, still alive."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api_document import OPERATIONS
from app.main import create_app
from app.settings import Settings
from tests.drawing import encode, photo, scene

SMALL: dict[str, Any] = {"backbone": "squeezenet1_1", "weights": "untrained", "max_side": 128}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("bad") / "index"
    settings = Settings(data_dir=folder, max_upload_mb=1, max_bulk_mb=2, **SMALL)
    # Errors become answers, as for a real client, instead of being raised into the test.
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def check(client: TestClient, answer: Any, status: int, *words: str) -> dict[str, Any]:
    """A problem document of that status whose text has the words; the service lives on."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert set(body) == {
        "type", "title", "status", "detail", "instance", "code", "request_id", "errors"
    }  # fmt: skip
    for word in words:
        assert word in body["detail"], body["detail"]
    assert client.post("/search", files={"image": photo(1)}).status_code == 200
    return body


def bomb(side: int) -> bytes:
    """A small PNG that announces `side` x `side` pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100_000)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


IMAGES = {
    "empty": (b"", 422, "empty"),
    "truncated": (photo(1)[:600], 422, "damaged"),
    "text": (b"hello, I am no image", 415, "not an image"),
    "bomb": (bomb(30_000), 422, "30000 x 30000"),
    "1x1": (encode(scene(1, (16, 16)).resize((1, 1)), "png"), 422, "1 x 1"),
    "5000x10": (encode(scene(1, (500, 16)).resize((5000, 10)), "png"), 422, "5000 x 10"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not an image"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_unusable_images_are_explained(client: TestClient, name: str) -> None:
    data, status, word = IMAGES[name]
    file = ("photo.jpg", data)
    check(client, client.post("/search", files={"image": file}), status, word)
    check(client, client.put("/images/x", files={"image": file}), status, word)


FIELDS = [
    ({"limit": "0"}, "/limit", "got '0'"),
    ({"limit": "101"}, "/limit", "got '101'"),
    ({"limit": "ten"}, "/limit", "got 'ten'"),
    ({"offset": "-1"}, "/offset", "got '-1'"),
    ({"score_threshold": "7"}, "/score_threshold", "got '7'"),
    ({"query_expansion": "magic"}, "/query_expansion", "'none', 'average', 'alpha' or 'auto'"),
    ({"colour": "red"}, "/colour", "Extra inputs"),
    ({"include": "metadata,secrets"}, "/include/1", "secrets"),
    ({"id": "also"}, "/image", "exactly one"),
]


@pytest.mark.parametrize(("fields", "pointer", "word"), FIELDS)
def test_wrong_fields_are_named(
    client: TestClient, fields: dict[str, str], pointer: str, word: str
) -> None:
    answer = client.post("/search", files={"image": photo(1)}, data=fields)
    body = check(client, answer, 422, word)
    assert body["errors"][0]["pointer"] == pointer


def test_a_search_needs_exactly_one_query(client: TestClient) -> None:
    check(client, client.post("/search", files={"limit": (None, "3")}), 422, "exactly one")
    check(client, client.post("/search", json={"query": {}}), 422, "exactly one")
    check(client, client.post("/search", json={"query": {"image_base64": "%%"}}), 422, "base64")
    check(client, client.post("/search", json={"limit": 3}), 422, "/query")
    check(client, client.post("/search", json=[1]), 422, "dictionary")


def test_bodies_of_another_form_are_refused(client: TestClient) -> None:
    check(client, client.post("/search", content=b"x"), 415, "multipart/form-data")
    headers = {"content-type": "application/json"}
    check(client, client.post("/search", content=b"{", headers=headers), 400, "not JSON")
    headers = {"content-type": "multipart/form-data"}
    check(client, client.post("/search", content=b"x", headers=headers), 400, "form")
    headers = {"content-type": "multipart/form-data; boundary=x"}
    check(client, client.post("/search", content=b"--y\r\n", headers=headers), 400, "form")


def test_what_json_can_spell_but_no_service_can_use_is_explained(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    bodies = [
        (b'{"query": {"id": "\\ud800"}}', 422, "/query/id: '\\ud800' has a half character"),
        (b"[" * 100_000, 400, "nested too deep"),
        (b'{"limit": ' + b"9" * 5000 + b"}", 400, "more than 4300 digits"),
        (b'{"query": {"id": "x"}, "filter": {"a": NaN}}', 422, "/filter/a"),
    ]
    for content, status, words in bodies:
        check(client, client.post("/search", content=content, headers=headers), status, words)
    half = b'{"a": {"id": "x"}, "b": {"id": "\\ud800"}}'
    check(client, client.post("/compare", content=half, headers=headers), 422, "/b/id")


@pytest.mark.parametrize("path", ["/search", "/search/batch", "/compare", "/index/add"])
def test_json_of_more_values_than_anybody_needs_is_not_read(client: TestClient, path: str) -> None:
    """3 MB that would be 80 in memory, and a gigabyte at the limit of the body."""
    content = b'{"queries": [' + b"{}," * 1_000_001 + b"{}]}"
    headers = {"content-type": "application/json"}
    check(client, client.post(path, content=content, headers=headers), 413, "1,000,000 values")


def test_what_takes_only_a_few_options_takes_no_large_body(client: TestClient) -> None:
    writes = [path for method, path in OPERATIONS if method == "post" and "/admin/" in path]
    assert len(writes) >= 5
    for path in writes:
        answer = client.post(path, json={"note": "x" * (2 << 20)})
        check(client, answer, 413, "larger than 1 MB")


def test_addresses_that_are_no_utf8_are_refused(client: TestClient) -> None:
    # Each such byte would be read as the same replacement character, one id for all of them.
    for wrong in ("%FF", "a/%ED%A0%80.jpg"):
        answer = client.put(f"/images/{wrong}", files={"image": photo(1)})
        check(client, answer, 422, "not UTF-8")


def test_places_of_wrong_values_are_told_alike_by_all_routes(client: TestClient) -> None:
    def place(answer: Any, *words: str) -> str:
        body = check(client, answer, 422, *words)
        return str(body["errors"][0]["pointer"])

    assert place(client.get("/images?limit=0"), "/limit") == "/limit"
    assert place(client.post("/admin/index/rollback", json={"generation": 0})) == "/generation"
    assert place(client.post("/admin/index/rollback", json=[1]), "the body") == ""
    assert place(client.post("/search", json=[1]), "the body") == ""
    assert place(client.patch("/images/x", json=[1]), "the body: must be a JSON object") == ""
    headers = {"content-type": "application/json"}
    broken = client.post("/admin/index/rollback", content=b"{bad", headers=headers)
    assert check(client, broken, 400, "the body is not JSON")["code"] == "malformed_request"


def test_names_with_slashes_are_escaped_in_pointers(client: TestClient) -> None:
    """As RFC 6901 says, so that a program finds the field."""
    query = {"query": {"id": "x"}, "a/b~c": 1}
    for answer in (
        client.post("/search", json=query),
        client.post("/search", files={"image": photo(1)}, data={"a/b~c": "1"}),
        client.post("/search", files={"image": photo(1), "a/b~c": photo(1)}),
        client.get("/images", params={"a/b~c": "1"}),
    ):
        assert check(client, answer, 422)["errors"][0]["pointer"] == "/a~1b~0c"


def test_an_address_that_is_none_says_where_they_are(client: TestClient) -> None:
    check(client, client.get("/serach"), 404, "GET /serach: Not Found; /docs has all addresses")
    check(client, client.post("/images"), 405, "this address takes GET")


def test_unknown_ids_are_404(client: TestClient) -> None:
    check(client, client.get("/images/none"), 404, "'none'")
    check(client, client.delete("/images/none"), 404, "'none'")
    check(client, client.get("/images/none/thumbnail"), 404, "'none'")
    check(client, client.post("/search", json={"query": {"id": "none"}}), 404, "'none'")


def test_unusable_ids_are_refused(client: TestClient) -> None:
    files = {"image": photo(1)}
    check(client, client.put(f"/images/{'x' * 600}", files=files), 422, "512")
    check(client, client.put("/images/a%01b", files=files), 422, "cannot be shown")


def test_metadata_must_be_an_object(client: TestClient) -> None:
    for text, word in (("[1]", "object"), ("{", "not JSON")):
        answer = client.put("/images/x", files={"image": photo(1)}, data={"metadata": text})
        check(client, answer, 422, word)


def test_metadata_that_could_never_be_sent_back_is_refused(client: TestClient) -> None:
    for text, word in (
        (r'{"a": "\ud800"}', "surrogates"),
        ('{"a": NaN}', "not JSON"),
        ("[" * 60_000, "not JSON"),
        (json.dumps({"a": "x" * 70_000}), "at most 65,536"),
    ):
        answer = client.put("/images/x", files={"image": photo(1)}, data={"metadata": text})
        check(client, answer, 422, word)
    assert client.get("/images/x").status_code == 404


def test_other_web_sites_cannot_make_a_browser_change_anything(client: TestClient) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    answer = client.post("/index/add", files={"files": photo(9)}, headers=headers)
    check(client, answer, 403, "another web site")
    assert client.get("/livez", headers=headers).status_code == 200
    own = {"Sec-Fetch-Site": "same-origin"}
    assert client.post("/search", files={"image": photo(1)}, headers=own).status_code == 200


def test_unknown_addresses_and_methods_are_problems_too(client: TestClient) -> None:
    check(client, client.get("/nowhere"), 404, "/nowhere")
    check(client, client.get("/search"), 405, "GET /search")


def test_bodies_over_the_limit_are_refused_announced_or_not(client: TestClient) -> None:
    large = b"\0" * (9 << 20)
    check(client, client.post("/search", files={"image": large}), 413, "limit")

    def chunks() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(90):
            yield b"\0" * 100_000

    headers = {"content-type": "multipart/form-data; boundary=x"}
    check(client, client.post("/search", content=chunks(), headers=headers), 413, "limit")


def test_one_image_over_its_limit_is_refused(client: TestClient) -> None:
    image = b"\xff\xd8\xff" + b"\0" * (2 << 20)
    check(client, client.put("/images/x", files={"image": image}), 413, "1,048,576")


def test_bulk_adds_need_files(client: TestClient) -> None:
    check(client, client.post("/index/add", files={"limit": (None, "3")}), 422, "/limit")
    check(client, client.post("/index/add", files={"photos": photo(1)}), 422, "unknown field")
    check(client, client.post("/index/add", json={}), 422, "/images")
    check(client, client.post("/index/add", content=b"x"), 415, "multipart/form-data")


def test_an_internal_error_tells_its_request_id_and_nothing_else(client: TestClient) -> None:
    state = client.app.state.cooc  # type: ignore[attr-defined]
    searcher, state.service = state.service, None
    try:
        answer = client.get("/admin/index")
    finally:
        state.service = searcher
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_does_not_change_the_answer(client: TestClient, orientation: int) -> None:
    from PIL import Image

    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = scene(77, (120, 90))
    client.put("/images/upright", files={"image": encode(upright, "png")})
    stored = upright.transpose(turn[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, "png", exif=exif)
    answer = client.post("/search", files={"image": data}, data={"limit": "1"}).json()
    assert answer["results"][0]["id"] == "upright"
    assert answer["results"][0]["score"] > 0.99999, json.dumps(answer)
