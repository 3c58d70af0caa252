"""What the OpenAPI document says, against what a real service does.

All checks of schemathesis but two. This service asks for no keys; `test_access` has those. And
made-up bytes are no image, made-up words no filter and no cursor, a key that was used is not new,
though a schema cannot say so: they are refused, as documented.

More of the same: `schemathesis run http://127.0.0.1:8000/openapi.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from tests.drawing import photo
from tests.server import Server, serving

EXAMPLES = 12
"""Requests to each address that are made up; the same ones in each run."""
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
"""As the document allows, and as it does not."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("schema") / "index", COOC_AUTO_BUILD="false") as server:
        for number, name in enumerate(("beach", "pier", "dunes")):
            server.http.put(f"/images/holiday/{name}.jpg", files={"image": photo(number)})
        yield server


@pytest.fixture(scope="module")
def operations(server: Server) -> dict[tuple[str, str], Any]:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    found = {}
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        found[operation.method.lower(), operation.path] = operation
    return found


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS))
def test_the_service_does_as_its_document_says(
    operations: dict[tuple[str, str], Any], method: str, path: str
) -> None:
    operation = operations[method, path]

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
        left_out = [positive_data_acceptance, ignored_auth]
        allowed_ms = str((case.headers or {}).get("X-Deadline-Ms", ""))
        if allowed_ms.isdigit() and 0 < int(allowed_ms) < 10_000:
            # On a busy machine it is right to answer a deadline of a millisecond with 504.
            case.headers["X-Deadline-Ms"] = "10000"
        if path == "/search/batch":
            left_out.append(negative_data_rejection)  # what is wrong with one query is its answer
        case.call_and_validate(timeout=30, excluded_checks=left_out)

    answers()
