"""The OpenAPI document: complete, and true where it gives examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api_document import OPERATIONS, TAGS
from app.errors import STATUS, ClientLeft
from tests.drawing import photo
from tests.test_api import make_client, put, until_ended

Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """With the images that the examples name."""
    with make_client(tmp_path_factory.mktemp("document") / "index") as client:
        for seed, name in enumerate(("beach", "pier", "dunes")):
            put(client, f"holiday/{name}.jpg", photo(seed), album="2024")
        yield client


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> list[Operation]:
    return [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    found = operations(document)
    assert {(method, path) for method, path, _ in found} == set(OPERATIONS)
    names = [operation["operationId"] for _, _, operation in found]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)
    known = {tag["name"] for tag in TAGS}
    for _, _, operation in found:
        assert operation["description"].rstrip().endswith((".", "?"))
        assert set(operation["tags"]) <= known
        for parameter in operation.get("parameters", []):
            assert parameter["description"], parameter["name"]


def test_every_field_is_described(document: dict[str, Any]) -> None:
    def fields(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(schema, dict):
            for name, value in schema.get("properties", {}).items():
                yield f"{place}/{name}", value
            for name, value in schema.items():
                yield from fields(value, f"{place}/{name}")
        elif isinstance(schema, list):
            for value in schema:
                yield from fields(value, place)

    bodies = {
        path: op["requestBody"] for _, path, op in operations(document) if "requestBody" in op
    }
    found = [*fields(document["components"]["schemas"], ""), *fields(bodies, "")]
    assert len(found) > 100
    assert [place for place, field in found if not field.get("description")] == []


def test_every_problem_has_an_example_of_a_code_that_there_is(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) < 400:
                continue
            (content,) = response["content"].items()
            assert content[0] == "application/problem+json"
            assert content[1]["schema"] == {"$ref": "#/components/schemas/ProblemOut"}
            assert content[1]["example"]["status"] == int(status), (method, path)
            if status in ("429", "503"):
                assert "Retry-After" in response["headers"]


def test_every_status_of_an_error_is_documented_somewhere(document: dict[str, Any]) -> None:
    documented = {int(status) for _, _, op in operations(document) for status in op["responses"]}
    # Nobody is there to read that a client has left.
    sent = {status for error, status in STATUS.items() if error is not ClientLeft}
    assert sent <= documented


def test_nothing_of_the_framework_is_left_in_the_document(document: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in document["components"]["schemas"]


def examples(document: dict[str, Any]) -> list[tuple[str, str, str, str, Any]]:
    return [
        (method, path, kind, name, example["value"])
        for method, path, operation in operations(document)
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
        for name, example in content.get("examples", {}).items()
    ]


def test_every_example_of_a_request_runs(client: TestClient, document: dict[str, Any]) -> None:
    sent = examples(document)
    assert len(sent) >= 10
    for method, path, kind, name, value in sent:
        address = path.replace("{image_id}", "holiday/beach.jpg")
        answer = client.request(method, address, json=value, headers={"Content-Type": kind})
        assert answer.status_code in (200, 202), (path, name, answer.text)
        if answer.status_code == 202:
            assert until_ended(client, answer.headers["Location"])["state"] == "succeeded"
        if path == "/search":
            assert answer.json()["results"], name
        if path == "/search/batch":
            assert [item["status"] for item in answer.json()["answers"]] == [200, 200]


def test_who_is_told_of_a_new_job_is_told_where_it_is(
    client: TestClient, document: dict[str, Any]
) -> None:
    job = client.post("/admin/index/build")
    until_ended(client, job.headers["Location"])
    cancelled = client.delete(job.headers["Location"])
    for answer, path, method in (
        (job, "/admin/index/build", "post"),
        (cancelled, "/jobs/{job_id}", "delete"),
    ):
        documented = document["paths"][path][method]["responses"]["202"].get("headers", {})
        assert {name for name in ("Location", "Retry-After") if name in answer.headers} == set(
            documented
        ), path


def test_what_can_be_asked_for_conditionally_says_so(
    client: TestClient, document: dict[str, Any]
) -> None:
    conditional = set()
    for _, path, operation in operations(document):
        names = {parameter["name"] for parameter in operation.get("parameters", [])}
        if "If-None-Match" in names:
            conditional.add(path)
            for status in ("200", "304"):
                assert set(operation["responses"][status]["headers"]) == {"ETag"}
    assert conditional == {"/images/{image_id}/thumbnail", "/images/{image_id}/original"}
    first = client.get("/images/holiday/beach.jpg/thumbnail")
    again = client.get(
        "/images/holiday/beach.jpg/thumbnail", headers={"If-None-Match": first.headers["ETag"]}
    )
    assert (again.status_code, again.headers["ETag"]) == (304, first.headers["ETag"])


def test_writes_with_keys_say_so(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        names = {parameter["name"] for parameter in operation.get("parameters", [])}
        writes = method == "post" and path.startswith(("/index/", "/admin/"))
        assert ("Idempotency-Key" in names) == writes, path
