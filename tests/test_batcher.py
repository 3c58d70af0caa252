from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import pytest

from engine.batcher import BULK_WAITING, Batcher, Priority
from engine.errors import DeadlineExceeded, Overloaded
from tests.patience import PATIENCE_S, until

WAIT_S = PATIENCE_S
GATE = -1


class Gated:
    """Answers 10 times each item; an item GATE blocks its call until `release` is set."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.inside, self.release = threading.Event(), threading.Event()

    def __call__(self, items: list[int]) -> Sequence[int]:
        self.calls.append(list(items))
        if GATE in items:
            self.inside.set()
            assert self.release.wait(WAIT_S)
        return [10 * item for item in items]


@pytest.fixture
def gated() -> Iterator[Gated]:
    handle = Gated()
    yield handle
    handle.release.set()


Make = Callable[..., Batcher[int, int]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes batchers that are closed after the test."""
    made: list[Batcher[int, int]] = []

    def batcher(
        *handles: Callable[[list[int]], Sequence[int]], max_batch: int = 8, **options: Any
    ) -> Batcher[int, int]:
        options = {"max_wait_ms": 0.0, **options}
        made.append(Batcher(handles, max_batch=lambda _: max_batch, **options))
        return made[-1]

    yield batcher
    for one in made:
        one.close()


@pytest.fixture
def busy(gated: Gated, make: Make) -> Batcher[int, int]:
    """A batcher whose worker is inside its first call."""
    batcher = make(gated, max_batch=8)
    batcher.submit(GATE)
    assert gated.inside.wait(WAIT_S)
    return batcher


def results(futures: Sequence[Future[int]]) -> list[int]:
    return [future.result(WAIT_S) for future in futures]


def test_items_that_arrive_during_a_call_share_the_next(
    gated: Gated, busy: Batcher[int, int]
) -> None:
    futures = [busy.submit(item) for item in range(5)]
    assert len(busy) == 5
    gated.release.set()
    assert results(futures) == [0, 10, 20, 30, 40]
    assert gated.calls == [[GATE], [0, 1, 2, 3, 4]]
    assert len(busy) == 0


def test_a_call_has_at_most_max_batch_items(gated: Gated, busy: Batcher[int, int]) -> None:
    futures = [busy.submit(item) for item in range(19)]
    gated.release.set()
    assert results(futures) == [10 * item for item in range(19)]
    assert [len(call) for call in gated.calls] == [1, 8, 8, 3]
    assert list(itertools.chain(*gated.calls[1:])) == list(range(19))


def test_an_item_waits_for_one_that_is_being_prepared(gated: Gated, make: Make) -> None:
    batcher = make(gated, max_batch=3, max_wait_ms=WAIT_S * 1000)
    with batcher.expecting():
        first = batcher.submit(1)
        time.sleep(0.05)
        assert not first.done()
        second = batcher.submit(2)
        time.sleep(0.05)
        assert not first.done(), "there is room for the one that is still expected"
    assert results([first, second]) == [10, 20]
    assert gated.calls == [[1, 2]]


def test_a_full_batch_waits_for_nobody(gated: Gated, make: Make) -> None:
    batcher = make(gated, max_batch=2, max_wait_ms=WAIT_S * 1000)
    with batcher.expecting():
        assert results([batcher.submit(1), batcher.submit(2)]) == [10, 20]


def test_a_lone_item_does_not_wait_at_all(gated: Gated, make: Make) -> None:
    batcher = make(gated, max_wait_ms=2 * WAIT_S * 1000)
    assert batcher.submit(3).result(WAIT_S) == 30
    assert gated.calls == [[3]]


def test_what_is_expected_is_not_waited_for_for_ever(gated: Gated, make: Make) -> None:
    batcher = make(gated, max_wait_ms=20.0)
    with batcher.expecting():
        assert batcher.submit(3).result(WAIT_S) == 30


def test_many_threads_get_their_own_results(make: Make) -> None:
    sizes: list[int] = []

    def handle(items: list[int]) -> Sequence[int]:
        sizes.append(len(items))
        time.sleep(0.002)
        return [item * item for item in items]

    batcher = make(handle, max_batch=8, max_wait_ms=2.0)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda item: batcher.submit(item).result(WAIT_S), range(300)))
    assert answers == [item * item for item in range(300)]
    assert sum(sizes) == 300
    assert max(sizes) > 1


def test_a_poisoned_item_fails_alone(make: Make) -> None:
    calls: list[list[int]] = []
    inside, release = threading.Event(), threading.Event()

    def handle(items: list[int]) -> Sequence[int]:
        calls.append(list(items))
        inside.set()
        assert release.wait(WAIT_S)
        if 3 in items:
            raise ValueError(f"cannot do {items}")
        return [10 * item for item in items]

    batcher = make(handle)
    batcher.submit(0)
    assert inside.wait(WAIT_S)
    futures = [batcher.submit(item) for item in range(1, 6)]
    release.set()
    with pytest.raises(ValueError, match=r"cannot do \[3\]"):
        futures[2].result(WAIT_S)
    assert results(futures[:2] + futures[3:]) == [10, 20, 40, 50]
    assert calls == [[0], [1, 2, 3, 4, 5], [1], [2], [3], [4], [5]]
    assert batcher.submit(7).result(WAIT_S) == 70, "the worker lives on"


def test_each_caller_gets_its_own_exception(gated: Gated, make: Make) -> None:
    def handle(items: list[int]) -> Sequence[int]:
        gated(items)
        if items != [GATE]:
            raise ValueError(f"items {items}")
        return items

    batcher = make(handle)
    batcher.submit(GATE)
    assert gated.inside.wait(WAIT_S)
    futures = [batcher.submit(item) for item in range(3)]
    gated.release.set()
    errors = [future.exception(WAIT_S) for future in futures]
    assert [str(error) for error in errors] == ["items [0]", "items [1]", "items [2]"]
    assert len({id(error) for error in errors}) == 3


def test_cancelled_items_are_not_handled(gated: Gated, busy: Batcher[int, int]) -> None:
    futures = [busy.submit(item) for item in range(4)]
    assert futures[0].cancel() and futures[2].cancel()
    gated.release.set()
    assert [futures[1].result(WAIT_S), futures[3].result(WAIT_S)] == [10, 30]
    assert gated.calls == [[GATE], [1, 3]]
    with pytest.raises(CancelledError):
        futures[0].result(WAIT_S)


def test_a_batch_of_cancelled_items_stops_nothing(gated: Gated, busy: Batcher[int, int]) -> None:
    for future in [busy.submit(item) for item in range(8)]:
        assert future.cancel()
    last = busy.submit(9)
    gated.release.set()
    assert last.result(WAIT_S) == 90
    assert gated.calls == [[GATE], [9]]


def test_an_item_that_is_being_handled_cannot_be_cancelled(gated: Gated, make: Make) -> None:
    future = make(gated).submit(GATE)
    assert gated.inside.wait(WAIT_S)
    assert not future.cancel()
    gated.release.set()
    assert future.result(WAIT_S) == 10 * GATE


def test_searches_go_before_bulk_work_and_both_keep_their_order(
    gated: Gated, busy: Batcher[int, int]
) -> None:
    futures = [busy.submit(item) if item % 3 == 0 else busy.submit_bulk(item) for item in range(12)]
    gated.release.set()
    results(futures)
    assert gated.calls == [[GATE], [0, 3, 6, 9], [1, 2, 4, 5, 7, 8, 10, 11]]


def test_a_flood_of_searches_does_not_stop_bulk_work(gated: Gated, make: Make) -> None:
    batcher = make(gated, max_batch=1)
    batcher.submit(GATE)
    assert gated.inside.wait(WAIT_S)
    bulk = [batcher.submit_bulk(item) for item in (100, 200)]
    searches = [batcher.submit(item) for item in range(20)]
    gated.release.set()
    results(searches + bulk)
    order = [item for (item,) in gated.calls[1:]]
    assert order == [*range(8), 100, *range(8, 16), 200, *range(16, 20)]


def test_bulk_work_waits_for_room_and_takes_none_from_searches(gated: Gated, make: Make) -> None:
    batcher = make(gated, max_queue=2)
    batcher.submit(GATE)
    assert gated.inside.wait(WAIT_S)
    bulk: list[Future[int]] = []
    adding = threading.Thread(
        target=lambda: bulk.extend(batcher.submit_bulk(item) for item in range(BULK_WAITING + 5))
    )
    adding.start()
    until(lambda: len(batcher) >= BULK_WAITING)
    searches = [batcher.submit(item) for item in (7, 8)]
    assert batcher.load.waiting_bulk == BULK_WAITING
    gated.release.set()
    assert results(searches) == [70, 80]
    adding.join(WAIT_S)
    assert results(bulk) == [10 * item for item in range(BULK_WAITING + 5)]
    assert gated.calls[1] == [7, 8]


def test_only_items_of_one_kind_share_a_call_and_the_oldest_chooses(
    gated: Gated, make: Make
) -> None:
    batcher = make(gated, max_batch=3, kind=lambda item: item % 2)
    batcher.submit(GATE)
    assert gated.inside.wait(WAIT_S)
    futures = [batcher.submit(item) for item in (1, 2, 4, 3, 6, 5, 7, 8)]
    gated.release.set()
    assert results(futures) == [10, 20, 40, 30, 60, 50, 70, 80]
    assert gated.calls == [[GATE], [1, 3, 5], [2, 4, 6], [7], [8]]


def test_what_is_too_late_is_never_worked_on(gated: Gated, busy: Batcher[int, int]) -> None:
    late, punctual = (busy.submit(n, deadline=time.monotonic() + WAIT_S) for n in (1, 2))
    (entry, _) = busy._line._lines[Priority.SEARCH]
    entry.deadline = time.monotonic()  # while it waits
    gated.release.set()
    assert punctual.result(WAIT_S) == 20
    with pytest.raises(DeadlineExceeded):
        late.result(WAIT_S)
    assert gated.calls == [[GATE], [2]]
    assert (busy.load.expired, busy.load.cancelled) == (1, 0)


def test_what_is_too_late_by_itself_is_not_refused_as_one_too_many(
    gated: Gated, busy: Batcher[int, int]
) -> None:
    late = busy.submit(1, deadline=time.monotonic() - 1)
    gated.release.set()
    with pytest.raises(DeadlineExceeded):
        late.result(WAIT_S)
    assert gated.calls == [[GATE]]
    assert busy.load.refused == 0


def test_what_would_be_too_late_is_refused_at_once(make: Make) -> None:
    inside, release = threading.Event(), threading.Event()

    def handle(items: list[int]) -> Sequence[int]:
        if GATE in items:
            inside.set()
            assert release.wait(WAIT_S)
        else:
            time.sleep(0.05)
        return items

    batcher = make(handle, max_batch=1)
    batcher.submit(1).result(WAIT_S)
    gate = batcher.submit(GATE)
    assert inside.wait(WAIT_S)
    futures = [batcher.submit(item, deadline=time.monotonic() + WAIT_S) for item in range(20)]
    with pytest.raises(Overloaded, match="beyond the deadline") as caught:
        batcher.submit(99, deadline=time.monotonic() + 0.5)
    each = batcher.load.seconds_each
    assert each is not None and each >= 0.05
    assert caught.value.retry_after_s == math.ceil(22 * each / 2), "of half of them"
    release.set()
    results([gate, *futures])


def test_the_bytes_that_wait_are_bounded(gated: Gated, make: Make) -> None:
    batcher = make(gated, max_bytes=100, size=lambda item: 10 * item)
    batcher.submit(GATE)
    assert gated.inside.wait(WAIT_S)
    futures = [batcher.submit(6), batcher.submit(4)]
    assert batcher.load.waiting_bytes == 100
    with pytest.raises(Overloaded):
        batcher.submit(1)
    assert futures[1].cancel()
    futures[1] = batcher.submit(3)
    gated.release.set()
    assert results(futures) == [60, 30]
    assert batcher.load.waiting_bytes == 0
    assert batcher.submit(11).result(WAIT_S) == 110, "more than the bound, but alone"


def test_two_workers_work_at_the_same_time(make: Make) -> None:
    meeting = threading.Barrier(2, timeout=WAIT_S)

    def handle(items: list[int]) -> Sequence[int]:
        meeting.wait()
        return [10 * item for item in items]

    batcher = make(handle, handle, max_batch=1)
    assert results([batcher.submit(item) for item in range(6)]) == [0, 10, 20, 30, 40, 50]


def test_the_load_tells_what_happened(gated: Gated, busy: Batcher[int, int]) -> None:
    kept = [busy.submit(item) for item in range(3)]
    assert busy.submit(3).cancel()
    load = busy.load
    assert (load.waiting_searches, load.waiting_bulk, load.in_hand) == (4, 0, 1)
    gated.release.set()
    results(kept)
    busy.close()
    load = busy.load
    assert (load.accepted, load.done, load.cancelled, load.failed, load.refused) == (5, 4, 1, 0, 0)
    assert load.batch_sizes == {1: 1, 3: 1}
    assert (load.waiting_searches, load.in_hand) == (0, 0)
    assert load.seconds_each is not None and load.seconds_each > 0


def test_a_full_queue_refuses_more_until_there_is_room(gated: Gated, make: Make) -> None:
    batcher = make(gated, max_queue=3)
    batcher.submit(GATE)
    assert gated.inside.wait(WAIT_S)
    futures = [batcher.submit(item) for item in range(3)]
    with pytest.raises(Overloaded, match="3 images are waiting") as caught:
        batcher.submit(3)
    assert caught.value.retry_after_s >= 1
    gated.release.set()
    assert results(futures) == [0, 10, 20]
    assert batcher.submit(4).result(WAIT_S) == 40
    assert 3 not in itertools.chain(*gated.calls)


def test_closing_finishes_what_was_accepted_and_then_refuses(
    gated: Gated, busy: Batcher[int, int]
) -> None:
    futures = [busy.submit(item) for item in range(20)]
    closing = threading.Thread(target=busy.close)
    closing.start()
    until(lambda: busy._closed)
    with pytest.raises(RuntimeError, match="closed"):
        busy.submit(99)
    assert closing.is_alive()
    gated.release.set()
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert all(future.done() for future in futures)
    assert results(futures) == [10 * item for item in range(20)]
    busy.close()


def test_closing_does_not_wait_for_company(gated: Gated, make: Make) -> None:
    batcher = make(gated, max_wait_ms=2 * WAIT_S * 1000)
    with batcher.expecting():
        future = batcher.submit(1)
        closing = threading.Thread(target=batcher.close)
        closing.start()
        closing.join(WAIT_S)
        assert not closing.is_alive()
        assert future.result(0) == 10


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_wrong_number_of_results_is_an_error_and_no_hang(
    wrong: int, gated: Gated, make: Make
) -> None:
    def handle(items: list[int]) -> Sequence[int]:
        gated(items)
        return [0] * (len(items) + wrong)

    batcher = make(handle)
    first = batcher.submit(GATE)
    assert gated.inside.wait(WAIT_S)
    futures = [first, *(batcher.submit(item) for item in range(4))]
    gated.release.set()
    for future in futures:
        with pytest.raises(RuntimeError, match=rf"{1 + wrong} results for 1 items"):
            future.result(WAIT_S)


@pytest.mark.parametrize("answer", [None, 7])
def test_results_that_are_no_sequence_are_an_error_and_no_hang(answer: object, make: Make) -> None:
    batcher = make(lambda items: answer)
    with pytest.raises(TypeError):
        batcher.submit(1).result(WAIT_S)


def test_callers_that_gave_up_make_room_for_others(gated: Gated, make: Make) -> None:
    batcher = make(gated, max_batch=8, max_queue=3)
    batcher.submit(GATE)
    assert gated.inside.wait(WAIT_S)
    given_up = [batcher.submit(item) for item in range(3)]
    with pytest.raises(Overloaded):
        batcher.submit(3)
    for future in given_up[:2]:
        assert future.cancel()
    later = [batcher.submit(item) for item in (4, 5)]
    with pytest.raises(Overloaded):
        batcher.submit(6)
    gated.release.set()
    assert results([given_up[2], *later]) == [20, 40, 50]
