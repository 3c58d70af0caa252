"""What /metrics says, read by another parser, against what a client did."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from sqlalchemy.exc import OperationalError

from app.main import create_app
from app.settings import Settings
from app.state_metrics import job_metrics
from tests.drawing import photo
from tests.test_api import add, finished
from tests.test_bad_input import SMALL

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}

Labels = frozenset[tuple[str, str]]


class Counted:
    """A client that keeps its own books: route, method and status of all that it asked."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.asked: Counter[tuple[str, str, str]] = Counter()
        self.told: dict[str, dict[Labels, float]] = {}

    def ask(self, method: str, route: str, address: str = "", **request: Any) -> Any:
        answer = self.client.request(method, address or route, **request)
        self.asked[method, route, str(answer.status_code)] += 1
        return answer


def families(client: TestClient | httpx.Client) -> dict[str, Any]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def samples(client: TestClient | httpx.Client) -> dict[str, dict[Labels, float]]:
    """The value of each sample, by its name and labels."""
    found: dict[str, dict[Labels, float]] = {}
    for family in families(client).values():
        sample: Sample
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def labels(**values: str) -> Labels:
    return frozenset(values.items())


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counted]:
    """A service after some traffic of every kind."""
    folder = tmp_path_factory.mktemp("metrics") / "index"
    settings = Settings(data_dir=folder, max_upload_mb=1, **SMALL)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        counted = Counted(client)
        for seed in range(3):
            image = {"image": photo(seed)}
            answer = counted.ask("PUT", "/images/{image_id}", f"/images/set/{seed}", files=image)
            assert answer.status_code == 201
        for seed in (0, 0, 1, 7):
            counted.ask("POST", "/search", files={"image": photo(seed)})
        by_id = {"query": {"id": "set/2"}, "query_expansion": "average"}
        assert counted.ask("POST", "/search", json=by_id).status_code == 200
        pair = {"image_a": photo(8), "image_b": photo(9)}
        assert counted.ask("POST", "/compare", files=pair).status_code == 200
        counted.ask("GET", "/images/{image_id}", "/images/nobody")
        counted.ask("GET", "/images/{image_id}/thumbnail", "/images/set/1/thumbnail")
        counted.ask("POST", "/search", files={"image": b"no image"})
        counted.ask("POST", "/search", files={"image": bytes(9 << 20)})
        counted.ask("DELETE", "/search")
        counted.ask("GET", "(none)", "/nowhere/4711")
        counted.ask("GET", "/web", "/web/app.js")
        counted.ask("GET", "/")
        files = [("a.jpg", photo(20)), ("b.jpg", photo(21)), ("again.jpg", photo(20)), ("c", b"?")]
        job = add(client, *files)
        assert job["progress"] | {"added": 2, "skipped": 1, "failed": 1} == job["progress"]
        assert finished(client, client.post("/admin/index/build"))["state"] == "succeeded"
        counted.told = samples(client)
        yield counted


def test_every_request_is_counted_once_under_its_route(counted: Counted) -> None:
    told = counted.told["cooc_request_duration_seconds_count"]
    for (method, route, status), count in counted.asked.items():
        assert told[labels(method=method, route=route, status=status)] == count, (method, route)
    assert sum(counted.asked.values()) == 17


def test_the_buckets_of_a_histogram_add_up(counted: Counted) -> None:
    found = counted.told
    everything = {"method": "POST", "route": "/search", "status": "200"}
    buckets = sorted(
        (float(dict(key)["le"]), value)
        for key, value in found["cooc_request_duration_seconds_bucket"].items()
        if everything.items() <= dict(key).items()
    )
    counts = [count for _, count in buckets]
    assert counts == sorted(counts)
    assert buckets[-1] == (float("inf"), 5)
    total = found["cooc_request_duration_seconds_sum"][labels(**everything)]
    assert 0 < total < 60


def test_the_buckets_reach_to_the_deadline(counted: Counted) -> None:
    for name in ("cooc_request_duration_seconds", "cooc_stage_duration_seconds"):
        bounds = {float(dict(key)["le"]) for key in counted.told[f"{name}_bucket"]}
        assert max(bounds - {float("inf")}) >= Settings.model_fields["deadline_s"].default, name


def test_stages_are_counted_where_they_were_needed(counted: Counted) -> None:
    told = counted.told["cooc_stage_duration_seconds_count"]
    # One was asked by id, three have the bytes of stored images; a sixth is no image at all.
    expected = {"upload": 6, "decode": 2, "queue": 1, "describe": 1, "search": 5, "total": 6}
    found = {
        dict(key)["stage"]: value for key, value in told.items() if dict(key)["route"] == "/search"
    }
    assert found == expected
    assert told[labels(stage="store", route="/images/{image_id}")] == 3
    assert told[labels(stage="describe", route="/compare")] == 1


def test_problems_are_counted_by_their_code(counted: Counted) -> None:
    told = counted.told["cooc_problems_total"]
    expected = {
        "unknown_image": 1,
        "unsupported_image": 1,
        "payload_too_large": 1,
        "method_not_allowed": 1,
        "not_found": 1,
        "key_refused": 0,
        "overloaded": 0,
    }
    assert {code: told[labels(code=code)] for code in expected} == expected


def test_searches_are_counted_by_their_best_hit_and_expansion(counted: Counted) -> None:
    told = counted.told["cooc_searches_total"]

    def count(match_type: str, expansion: str, expanded: str) -> float:
        key = {"match_type": match_type, "query_expansion": expansion, "expanded": expanded}
        return told[labels(**key)]

    assert count("exact", "none", "no") == 3
    assert count("exact", "average", "no") + count("exact", "average", "yes") == 1
    assert sum(told.values()) == 5


def test_jobs_and_their_images_are_counted(counted: Counted) -> None:
    found = counted.told
    ended = found["cooc_jobs_ended_total"]
    assert ended[labels(type="add", state="partial")] == 1
    assert ended[labels(type="build", state="succeeded")] == 1
    assert sum(ended.values()) == 2
    images = {dict(key)["outcome"]: n for key, n in found["cooc_job_images_total"].items()}
    assert images == {"added": 2, "replaced": 0, "skipped": 1, "failed": 1}
    assert sum(found["cooc_jobs"].values()) == 0
    assert labels(type="add", state="running") in found["cooc_jobs"]


def test_the_index_is_told_as_the_service_tells_it_elsewhere(counted: Counted) -> None:
    found = counted.told
    index = counted.client.get("/admin/index").json()
    for name, value in {
        "images": index["count"],
        "generation": index["generation"],
        "fitted_images": index["fitted"],
        "unfitted_images": index["unfitted"],
        "bytes": index["bytes"],
        "recall": index["recall"],
        "build_seconds": index["build_seconds"],
    }.items():
        assert found[f"cooc_index_{name}"][labels()] == value, name
    assert (index["count"], index["generation"]) == (5, 1)
    assert found["cooc_ready"][labels()] == 1
    ((info, one),) = found["cooc_info"].items()
    assert one == 1
    assert dict(info)["fingerprint"] == index["fingerprint"]


def test_every_image_went_through_the_model_in_some_pass(counted: Counted) -> None:
    found = counted.told
    described = found["cooc_described_total"]
    # Three stored singly, a search, two compared, two of the job.
    assert described[labels(outcome="done")] == 8
    assert found["cooc_batch_images_sum"][labels()] == 8
    passes = found["cooc_batch_images_count"][labels()]
    assert 1 <= passes <= 8
    assert found["cooc_batch_images_bucket"][labels(le="+Inf")] == passes
    assert found["cooc_queue_accepted_total"][labels()] == 8
    assert found["cooc_queue_images"] == {
        labels(priority="search"): 0,
        labels(priority="bulk"): 0,
    }


def test_jobs_whose_file_cannot_be_read_keep_nothing_else_from_being_told() -> None:
    class Locked:
        def unfinished(self) -> None:
            raise OperationalError("SELECT", {}, sqlite3.OperationalError("database is locked"))

    assert list(job_metrics(Locked())) == []  # type: ignore[arg-type]


def test_the_process_is_told(counted: Counted) -> None:
    found = counted.told
    assert 10e6 < found["process_resident_memory_bytes"][labels()] < 100e9
    assert found["process_open_fds"][labels()] > 3
    assert found["cooc_device_info"] == {labels(device="cpu", type="cpu"): 1} or (
        dict(next(iter(found["cooc_device_info"])))["type"] == "cuda"
    )
    assert found["cooc_data_free_bytes"][labels()] > 0


def test_the_format_of_openmetrics_is_spoken_too(counted: Counted) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = counted.client.get("/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(answer.text)}  # type: ignore[no-untyped-call]
    assert {"cooc_searches", "cooc_batch_images", "process_open_fds"} <= names


def test_what_clients_make_up_adds_no_series(counted: Counted) -> None:
    client = counted.client
    client.get("/images/warm/up")
    client.request("BREW", "/coffee", headers={"Accept": "text/plain"})
    client.get("/nowhere")
    before = {name: set(values) for name, values in samples(client).items()}
    for n in range(20):
        client.get(f"/images/made/up/{n}")
        client.request(
            f"BREW{n}", f"/coffee/{n}", params={"n": n}, headers={"X-Request-ID": f"{n}"}
        )
        client.get(f"/nowhere/{n}")
    assert {name: set(values) for name, values in samples(client).items()} == before


def described() -> dict[str, set[str]]:
    """Names in docs/metrics.md, with the labels that they are said to have."""
    rows = re.findall(
        r"^\| `([a-z_]+)` \| (\w*) \| (.*?) \|",
        (ROOT / "docs/metrics.md").read_text(),
        re.MULTILINE,
    )
    return {name: set(re.findall(r"`(\w+)`", said)) for name, _, said in rows}


def test_every_family_is_described_with_its_labels_and_nothing_else_is(counted: Counted) -> None:
    told = described()
    found = {}
    for family in families(counted.client).values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        own = {label for sample in family.samples for label in sample.labels} - {"le"}
        if not name.startswith("process_"):
            found[name] = own
        assert family.documentation, name
    # Without a GPU there is nothing to tell of its memory.
    found["cooc_device_memory_bytes"] |= {"device", "kind"}
    found["python_info"] = set()
    assert told == found


def test_the_dashboard_shows_only_what_there_is(counted: Counted) -> None:
    board = json.loads((ROOT / "docker/grafana/dashboard.json").read_text())
    there: dict[str, set[str]] = {}
    for family in families(counted.client).values():
        own = {label for sample in family.samples for label in sample.labels}
        for suffix in SUFFIXES.get(family.type, ("",)):
            there[family.name + suffix] = own | {"instance"}
    there["cooc_device_memory_bytes"] |= {"device", "kind"}
    queries = [
        target["expr"] for panel in board["panels"] for target in panel.get("targets", ())
    ] + [variable["definition"] for variable in board["templating"]["list"][1:]]
    assert len(queries) > 40
    used = set()
    for query in queries:
        names = set(re.findall(r"\b(?:cooc|process)_\w+", query))
        assert names, query
        assert names <= there.keys(), query
        known = set().union(*(there[name] for name in names))
        asked = re.findall(r"(\w+)\s*(?:=~|!=|=|!~)\s*\"", query)
        asked += [
            one for group in re.findall(r"by \(([\w, ]+)\)", query) for one in group.split(", ")
        ]
        assert set(asked) <= known, query
        used |= names
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    shown_nowhere = {"cooc_info", "cooc_draining", "cooc_device_info", "cooc_queue_accepted_total"}
    assert {name for name in described() if name.startswith("cooc_")} - ours == shown_nowhere


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    board = json.loads((ROOT / "docker/grafana/dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
