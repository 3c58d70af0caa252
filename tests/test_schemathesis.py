"""What the OpenAPI document says, against what a real service does.

Once without keys, once with them; there every answer is also asked for without the key and with a
wrong one. All checks of schemathesis but one: made-up bytes are no image, made-up words no filter
and no cursor, a key that was used is not new, though a schema cannot say so: they are refused, as
documented.

More of the same: `COOC_SCHEMA_EXAMPLES=300 python -m pytest tests/test_schemathesis.py`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    negative_data_rejection,
    positive_data_acceptance,
)

from app.api_document import OPERATIONS
from app.security.scopes import Scope
from tests.drawing import photo
from tests.keyed import new_key
from tests.server import Server, serving

EXAMPLES = int(os.environ.get("COOC_SCHEMA_EXAMPLES", "12"))
"""Requests to each address that are made up; the same ones in each run."""
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
"""As the document allows, and as it does not."""

ADDRESSES = itertools.count()
"""Each request comes from another: after twenty wrong keys from the same the answer is 429, which
no check expects."""

Operations = Mapping[tuple[str, str], Any]


def _fill(server: Server) -> None:
    for number, name in enumerate(("beach", "pier", "dunes")):
        added = server.http.put(f"/images/holiday/{name}.jpg", files={"image": photo(number)})
        added.raise_for_status()


def _operations(server: Server) -> Operations:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", timeout=60)
    found = {}
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        found[operation.method.lower(), operation.path] = operation
    return found


@pytest.fixture(scope="module")
def without_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    with serving(tmp_path_factory.mktemp("open") / "index", COOC_AUTO_BUILD="false") as server:
        _fill(server)
        yield _operations(server)


@pytest.fixture(scope="module")
def with_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Operations, str]]:
    """And the key of an administrator."""
    folder = tmp_path_factory.mktemp("keyed") / "index"
    key = new_key(folder, Scope.ADMIN)
    environment = {"COOC_AUTO_BUILD": "false", "COOC_TRUSTED_PROXIES": "127.0.0.1"}
    with serving(folder, **environment) as server:
        server.http.headers["Authorization"] = f"Bearer {key}"
        _fill(server)
        yield _operations(server), key


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS))
def test_the_service_does_as_its_document_says(
    without_keys: Operations, method: str, path: str
) -> None:
    _hold(without_keys[method, path], {}, left_out=[ignored_auth])


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS))
def test_a_service_with_keys_does_as_its_document_says(
    with_keys: tuple[Operations, str], method: str, path: str
) -> None:
    operations, key = with_keys
    _hold(operations[method, path], {"Authorization": f"Bearer {key}"}, left_out=[])


def _hold(operation: Any, headers: Mapping[str, str], *, left_out: list[Any]) -> None:
    excluded = [positive_data_acceptance, *left_out]
    if operation.path == "/search/batch":
        excluded.append(negative_data_rejection)  # what is wrong with one query is its answer

    @seed(7)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in MODES)))
    def answers(case: Any) -> None:
        allowed_ms = str((case.headers or {}).get("X-Deadline-Ms", ""))
        if allowed_ms.isdigit() and 0 < int(allowed_ms) < 10_000:
            # On a busy machine it is right to answer a deadline of a millisecond with 504.
            case.headers["X-Deadline-Ms"] = "10000"
        number = next(ADDRESSES)
        case.headers["X-Forwarded-For"] = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        case.call_and_validate(timeout=60, headers=dict(headers), excluded_checks=excluded)

    answers()
