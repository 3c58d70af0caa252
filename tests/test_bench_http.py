"""The measurement of the service: its clients, its sums, and a short run of all of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from app.commands import bench
from benchmarks import http, http_engine, plain_service
from benchmarks.http_client import FAILED, Asked, closed_loop, open_loop, search_request
from tests.documented import words
from tests.drawing import photo
from tests.live import Live, live
from tests.patience import PATIENCE_S
from tests.proxy import free_port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("bench") / "index") as server:
        yield server


REQUESTS = [search_request(photo(seed), "127.0.0.1") for seed in range(3)]


def test_a_closed_loop_asks_again_when_it_is_answered(server: Live) -> None:
    server.search(0)  # the first one takes longer
    before, seconds, asked = server.searcher.load.done, 0.25, list[Asked]()
    while len(asked) <= 3 and seconds < PATIENCE_S:
        seconds *= 2
        began = time.perf_counter()
        asked = closed_loop(server.port, REQUESTS, clients=3, seconds=seconds)
        took_ms = 1000 * (time.perf_counter() - began)
    assert len(asked) > 3
    assert {one.status for one in asked} == {200}
    assert server.searcher.load.done - before >= len(asked)
    assert all(0 < one.ms < took_ms for one in asked)
    assert all(one.at_s < seconds for one in asked), "nothing is begun after the end"
    at_once = [sum(a.at_s < one.at_s < a.at_s + a.ms / 1000 for a in asked) for one in asked]
    assert max(at_once) <= 2, "beside itself, each has two others at most"


def test_an_open_loop_does_not_wait_for_answers(server: Live) -> None:
    server.gate.open.clear()
    try:
        asked = open_loop(server.port, REQUESTS, per_s=40, seconds=0.5, timeout_s=0.4)
    finally:
        server.gate.open.set()
    assert len(asked) == 20
    assert Counter(one.status for one in asked) == {FAILED: 20}
    assert all(400 <= one.ms < 1000 * PATIENCE_S for one in asked)
    asked = open_loop(server.port, REQUESTS, per_s=20, seconds=0.5, timeout_s=PATIENCE_S)
    assert Counter(one.status for one in asked) == {200: 10}
    assert sorted(round(one.at_s, 6) for one in asked) == [n / 20 for n in range(10)]


def test_a_service_that_is_not_there_is_a_failure() -> None:
    asked = open_loop(free_port(), REQUESTS, per_s=10, seconds=0.3, timeout_s=1)
    assert [one.status for one in asked] == [FAILED] * 3


def test_growth_of_memory_is_told_for_each_minute() -> None:
    times = range(0, 121)
    # 100 MB at once, then 2 MB a minute.
    samples = [(float(at), 500.0 + 100 * (at > 10) + at / 30) for at in times]
    found = http._memory(samples)
    assert found["rss_mb_per_minute"] == pytest.approx(2.0)
    assert found["rss_start_mb"] == 500.0
    assert found["rss_end_mb"] == pytest.approx(604.0)
    assert http._memory([(0.0, 5.0)])["rss_mb_per_minute"] is None


def test_answers_a_second_are_counted_to_the_last() -> None:
    asked = [Asked(at_s=n / 4, ms=500, status=200) for n in range(9)]
    assert http._per_second([*asked, Asked(0, 9000, 503)]) == pytest.approx(9 / 2.5)
    assert http._per_second([Asked(0, 1, 503)]) is None
    assert http._median([1.0, None, 2.0]) is None


def test_made_vectors_have_unit_length() -> None:
    vectors = plain_service.stored_vectors(5, 7)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        words(
            "cooc bench http --backbone vgg16 --weights untrained --seconds 8 --rounds 5"
            " --overload 600",
            *("--backbone", "squeezenet1_1"),
        ),
        words(
            "cooc bench http --backbone vgg_lite --weights bundled --seconds 6 --rounds 3"
            " --overload 5"
        ),
    ],
    ids=["vgg16", "bundled"],
)
def test_a_short_run_has_all_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr(http, "WARM_S", 0.3)
    # Not overloaded: how that ends depends on the machine.
    monkeypatch.setattr(http, "Plan", partial(http.Plan, times_capacity=0.3))
    monkeypatch.setenv("COOC_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(http_engine, "STORED", 60)
    short = "--max-side 64 --device cpu --clients 3 --seconds 1 --rounds 1 --overload 2 --json"
    asked = [*command, *short.split()]
    done = CliRunner().invoke(bench.app, asked, catch_exceptions=False)
    report = json.loads(done.stdout)
    for who in ("engine", "http", "plain"):
        assert report[f"{who}_per_s"] > 0 and report[f"{who}_p50_ms"] > 0
    assert report["times_plain"] > 0 and report["share_of_describing"] > 0
    samples = report["samples"]
    assert report["throughput_ratio"] == pytest.approx(
        samples["http_per_s"][0] / samples["engine_per_s"][0], abs=0.01
    )
    assert report["overhead_p50_ms"] == pytest.approx(
        samples["http_p50_ms"][0] - samples["engine_p50_ms"][0], abs=0.01
    )
    for part in (report["overload"], report["plain_overload"]):
        assert part["offered_per_s"] == pytest.approx(0.3 * report["http_per_s"])
        counted = part["answered"] + part["refused"] + part["failed"]
        assert (
            counted
            == sum(part["statuses"].values())
            == pytest.approx(2.0 * part["offered_per_s"], abs=1)
        )
        assert part["answered"] > 0 and part["rss_max_mb"] >= part["rss_start_mb"] > 0
        assert part["failed"] == 0
