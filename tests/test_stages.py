"""Where the time of an answer goes: noted once, told alike everywhere."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest

from engine.batcher import Batcher
from engine.passes.origin import origin, working_for
from engine.passes.stages import Stages, note, stage, stages
from engine.searcher import Searcher
from engine.types import SearchOptions
from tests.drawing import photo
from tests.live import WAIT_S, Live, live
from tests.patience import until

REQUEST = (("request_id", "one"),)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("stages") / "index", batch_size=2) as server:
        yield server


def server_timing(header: str) -> dict[str, float]:
    """By the grammar of the W3C, as far as it is used."""
    entries = [re.fullmatch(r"([a-z]+);dur=(\d+(?:\.\d+)?)", part) for part in header.split(", ")]
    assert all(entries), header
    return {entry[1]: float(entry[2]) for entry in entries if entry}


def test_parts_are_counted_in_what_is_around_them() -> None:
    around = Stages()
    with around.current():
        note("decode", 1.0, 1.5)
        with stages("queue") as inner:
            note("decode", 2.0, 2.25)
            note("search", 3.0, 4.0)
    assert inner.seconds == {"queue": 0.0, "decode": 0.25, "search": 1.0}
    assert around.seconds == {"decode": 0.75, "queue": 0.0, "search": 1.0}
    assert inner.milliseconds()["decode"] == 250
    assert [part.name for part in around.intervals] == ["decode", "decode", "search"]


def test_a_stage_that_fails_is_noted_too() -> None:
    with stages() as timing, pytest.raises(ValueError, match="no"), stage("decode"):
        raise ValueError("no")
    assert timing.seconds.keys() == {"decode"}


def test_outside_of_an_answer_nothing_is_noted() -> None:
    note("decode", 0.0, 1.0)
    with stages() as timing:
        pass
    assert timing.seconds == {}


def test_work_that_is_shared_is_for_everybody_who_asked() -> None:
    other = (("request_id", "two"), ("job_id", "j"))
    with working_for([REQUEST, other, REQUEST]):
        assert origin() == (*REQUEST, *other)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(copy_context().run, origin).result() == origin()
    assert origin() == ()


def test_a_pass_is_for_those_whose_items_it_has() -> None:
    seen: list[object] = []
    begin, inside = threading.Event(), threading.Event()

    def work(items: list[int]) -> list[int]:
        inside.set()
        assert begin.wait(WAIT_S)
        seen.append((items, origin()))
        return items

    batcher: Batcher[int, int] = Batcher([work])
    with working_for([(("request_id", "first"),)]):
        first = batcher.submit(0)
    assert inside.wait(WAIT_S)
    futures = []
    for n in (1, 2):
        with working_for([(("request_id", f"{n}"),)]):
            futures.append(batcher.submit(n))
    assert (first.began is not None, futures[0].began) == (True, None)
    begin.set()
    batcher.close()
    assert seen == [
        ([0], (("request_id", "first"),)),
        ([1, 2], (("request_id", "1"), ("request_id", "2"))),
    ]
    assert futures[0].began is not None


def test_a_search_knows_its_stages(searcher: Searcher) -> None:
    searcher.put("a", photo(1), {})
    asked = searcher.search(photo(2), SearchOptions())
    assert set(asked.timing_ms) == {"decode", "queue", "describe", "search"}
    assert asked.timing_ms["describe"] > 0
    known = searcher.search(photo(1), SearchOptions())
    assert known.timing_ms["describe"] == known.timing_ms["decode"] == 0
    assert set(searcher.search_id("a", SearchOptions()).timing_ms) == {"search"}


def test_stages_take_no_more_than_there_was(searcher: Searcher) -> None:
    began = time.perf_counter()
    with stages() as timing:
        searcher.search(photo(3), SearchOptions())
        searcher.compare(photo(4), photo(5))
    assert 0 < sum(timing.seconds.values()) <= time.perf_counter() - began
    for interval in timing.intervals:
        assert began <= interval.began <= interval.ended


@pytest.mark.parametrize("seed", [1, 2])
def test_the_header_of_a_search_says_what_the_answer_says(server: Live, seed: int) -> None:
    server.http.put("/images/a", files={"image": photo(1)})
    answer = server.http.post("/search", files={"image": photo(seed)})
    told = server_timing(answer.headers["Server-Timing"])
    for name, milliseconds in answer.json()["timing_ms"].items():
        assert told.pop(name) == milliseconds, name
    assert told.keys() == {"upload", "total"}
    assert told["total"] >= answer.json()["timing_ms"]["describe"]


def test_put_compare_and_refusals_have_the_header_too(server: Live) -> None:
    answers = {
        "put": server.http.put("/images/b", files={"image": photo(7)}),
        "compare": server.http.post("/compare", files={"image_a": photo(8), "image_b": photo(9)}),
        "no image": server.http.post("/search", files={"image": b"no image"}),
        "unknown": server.http.get("/images/nobody"),
    }
    told = {
        name: set(server_timing(answer.headers["Server-Timing"]))
        for name, answer in answers.items()
    }
    assert told == {
        "put": {"upload", "decode", "queue", "describe", "store", "total"},
        "compare": {"upload", "decode", "queue", "describe", "total"},
        # What a search turned out not to need is there with 0.
        "no image": {"upload", "decode", "queue", "describe", "total"},
        "unknown": {"total"},
    }


def test_waiting_counts_as_queue_and_not_as_describing(server: Live) -> None:
    server.gate.open.clear()
    server.gate.inside.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.search, 20)
        assert server.gate.inside.wait(WAIT_S)
        second = pool.submit(server.search, 21)
        until(lambda: server.searcher.load.waiting_searches == 1)
        time.sleep(0.5)
        server.gate.open.set()
        held, waited = (answer.result().json()["timing_ms"] for answer in (first, second))
    assert held["describe"] > 500
    # Its thread may be late to look at the clock.
    assert waited["queue"] > 250
