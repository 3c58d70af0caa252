"""Metrics of services that have keys, come one after the other, or cannot start."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi.testclient import TestClient

from app.main import create_app
from app.security.scopes import Scope
from app.settings import Settings
from tests.drawing import photo
from tests.keyed import key_id, new_key
from tests.live import WAIT_S, live, search_request
from tests.patience import until
from tests.test_bad_input import SMALL
from tests.test_metrics import labels, samples


def test_no_id_of_an_image_or_key_is_told(tmp_path: Path) -> None:
    key = new_key(tmp_path, Scope.ADMIN)
    app = create_app(Settings(data_dir=tmp_path, **SMALL))
    with TestClient(app, headers={"Authorization": f"Bearer {key}"}) as client:
        client.put("/images/secret-name", files={"image": photo(1)})
        client.get("/jobs", headers={"Authorization": f"Bearer {key[:-4]}0000"})
        client.get("/jobs", headers={"Authorization": ""})
        text = client.get("/metrics").text
        told = samples(client)["cooc_problems_total"]
    assert told[labels(code="key_refused")] == 1
    assert told[labels(code="key_required")] == 1
    for secret in ("secret-name", key_id(key), key):
        assert secret not in text


def test_services_of_one_process_count_for_themselves(tmp_path: Path) -> None:
    one, two = (create_app(Settings(data_dir=tmp_path / name, **SMALL)) for name in ("a", "b"))
    with TestClient(one) as client:
        client.get("/livez")
        asked = labels(method="GET", route="/livez", status="200")
        assert samples(client)["cooc_request_duration_seconds_count"][asked] == 1
    with TestClient(two) as other:
        assert asked not in samples(other).get("cooc_request_duration_seconds_count", {})


def test_a_service_that_cannot_use_its_index_says_so(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(data_dir=tmp_path, **SMALL))) as client:
        client.put("/images/a", files={"image": photo(1)})
    other = Settings(data_dir=tmp_path, **{**SMALL, "max_side": 256})
    with TestClient(create_app(other)) as client:
        found = samples(client)
        assert client.get("/readyz").status_code == 409
    assert found["cooc_ready"][labels()] == 0
    assert "cooc_index_images" not in found


def test_a_client_that_left_and_one_too_many_are_counted(tmp_path: Path) -> None:
    with live(tmp_path / "index", max_queue=1, batch_size=1) as server:
        server.gate.open.clear()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(server.search, 0)
            assert server.gate.inside.wait(WAIT_S)
            impatient = server.send(search_request(1))
            until(lambda: server.searcher.load.waiting_searches == 1)
            assert server.search(2).status_code == 503
            waiting = samples(server.http)
            impatient.close()
            until(lambda: server.admission.left == 1)
            server.gate.open.set()
            assert first.result().status_code == 200
        asked = {
            labels(method="POST", route="/search", status=status)
            for status in ("200", "499", "503")
        }
        # Requests are counted after they were answered.
        counted = "cooc_request_duration_seconds_count"
        until(lambda: asked <= samples(server.http).get(counted, {}).keys())
        # What was left in the queue is found out when the next is taken from it.
        until(lambda: server.searcher.load.cancelled == 1)
        told = samples(server.http)
    assert waiting["cooc_queue_images"][labels(priority="search")] == 1
    assert waiting["cooc_model_images"][labels()] == 1
    assert waiting["cooc_requests_open"][labels()] == 2
    assert waiting["cooc_queue_bytes"][labels()] > 0
    for which in asked:
        assert told[counted][which] == 1, which
    assert told["cooc_problems_total"][labels(code="client_left")] == 1
    assert told["cooc_problems_total"][labels(code="overloaded")] == 1
    assert told["cooc_requests_refused_total"][labels()] == 1
    assert told["cooc_requests_accepted_total"][labels()] == 2
    assert told["cooc_requests_abandoned_total"][labels(reason="client_left")] == 1
    assert told["cooc_queue_skipped_total"][labels(reason="client_left")] == 1
    assert told["cooc_requests_open"][labels()] == told["cooc_queue_bytes"][labels()] == 0
