"""Somebody who waits: deadlines, leaving, and what that does to the work."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import pytest

from engine.batcher import Priority
from engine.describer import Describer
from engine.errors import DeadlineExceeded
from engine.passes.calls import Call, current_call
from engine.passes.waiting_line import Waiting
from engine.queries.querying import Example
from engine.searcher import Searcher
from engine.types import SearchOptions, Vectors
from tests.drawing import photo
from tests.patience import PATIENCE_S, until

Result = TypeVar("Result")


class Gone(Exception):
    pass


def test_a_result_that_comes_in_time_is_the_result() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert Call(PATIENCE_S).wait(pool.submit(lambda: 7)) == 7


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("of a disk")])
def test_an_error_of_the_work_is_its_own(error: Exception) -> None:
    future: Future[int] = Future()
    future.set_exception(error)
    with pytest.raises(type(error), match=str(error)):
        Call(PATIENCE_S).wait(future)


def test_a_late_result_is_cancelled() -> None:
    future: Future[int] = Future()
    with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"):
        Call(0.01).wait(future)
    assert future.cancelled()


def test_time_counts_from_the_beginning_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("engine.passes.calls.time", SimpleNamespace(monotonic=lambda: now))
    call = Call(0.05)
    assert 0 < call.remaining <= 0.05
    call.check()
    now += 0.06
    assert call.remaining == 0
    with pytest.raises(DeadlineExceeded):
        call.check()
    with pytest.raises(DeadlineExceeded):
        call.wait(Future())


def test_leaving_ends_what_is_waited_for_and_what_would_be() -> None:
    call, future = Call(60), Future[int]()
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            call.wait(future)
        except Gone as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: call._waiting)
    call.end(Gone)
    waiting.join(PATIENCE_S)
    assert len(caught) == 1 and future.cancelled()
    for attempt in (lambda: call.wait(Future()), call.check):
        with pytest.raises(Gone):
            attempt()


def test_the_first_reason_counts() -> None:
    call = Call(60)
    call.end(Gone)
    call.end(KeyError)
    with pytest.raises(Gone):
        call.check()


def test_a_call_is_found_in_threads_that_copy_the_context_and_only_there() -> None:
    call = Call(60)
    with ThreadPoolExecutor(1) as pool, call.current():
        assert current_call(1) is call
        assert pool.submit(copy_context().run, current_call, 1).result() is call
        assert pool.submit(current_call, 1).result() is not call
    assert current_call(1) is not call


class Gated:
    """A describer that tells what it computes, and waits for `release`."""

    def __init__(self, inner: Describer) -> None:
        self._inner = inner
        self.described: list[np.ndarray] = []
        self.inside, self.release = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def describe(self, images: Sequence[np.ndarray]) -> Vectors:
        self.described += images
        self.inside.set()
        assert self.release.wait(PATIENCE_S)
        return self._inner.describe(images)


class Hurried(Call):
    """Its time is over soon after it has begun to wait in line, however long it took until then."""

    def wait_in_line(self, waiting: Waiting[Result]) -> Result:
        self.deadline = time.monotonic() + 0.05
        return super().wait_in_line(waiting)


@pytest.mark.parametrize("ended", ["left", "late"])
def test_the_model_does_not_see_the_image_of_a_call_that_ended(
    tmp_path: Path, describer: Describer, ended: str
) -> None:
    gated = Gated(describer)
    with closing(Searcher(tmp_path, gated)) as searcher, ThreadPoolExecutor(2) as pool:  # type: ignore[arg-type]
        first = pool.submit(searcher.search, photo(0), SearchOptions())
        assert gated.inside.wait(PATIENCE_S)
        call = Call(600) if ended == "left" else Hurried(600)

        def ask() -> object:
            with call.current():
                return searcher.search(photo(1), SearchOptions())

        second = pool.submit(ask)
        if ended == "left":
            until(lambda: searcher.load.waiting_searches)
            call.end(Gone)
        with pytest.raises(Gone if ended == "left" else DeadlineExceeded):
            second.result(PATIENCE_S)
        gated.release.set()
        assert first.result(PATIENCE_S)
        searcher.search(photo(2), SearchOptions())
        seen = [image.tobytes() for image in gated.described]
        pixels = [describer.decode(photo(seed)).pixels.tobytes() for seed in (0, 2)]
        assert seen == pixels
        assert searcher.load.cancelled == 1


def test_bulk_work_that_has_not_begun_is_given_up_when_it_shall_stop(
    tmp_path: Path, describer: Describer
) -> None:
    gated, stopping = Gated(describer), threading.Event()
    with closing(Searcher(tmp_path, gated)) as searcher, ThreadPoolExecutor(1) as pool:  # type: ignore[arg-type]
        size = describer.images_per_pass((96, 128, 3))
        images = [describer.decode(photo(seed)) for seed in range(2 * size)]
        answers = pool.submit(searcher.describe_many, images, stopping=stopping)
        assert gated.inside.wait(PATIENCE_S)
        stopping.set()

        def given_up() -> int:
            waiting = searcher._batcher._line._lines[Priority.BULK]
            return sum(entry.future.cancelled() for entry in list(waiting))

        until(lambda: given_up() + searcher.load.in_hand == len(images))
        gated.release.set()
        found = answers.result(PATIENCE_S)
        assert 0 < len(gated.described) < len(images)
        assert sum(isinstance(answer, np.ndarray) for answer in found) == len(gated.described)


def test_an_explanation_that_nobody_waits_for_is_not_begun(searcher: Searcher) -> None:
    searcher.put("a", photo(1), {})
    call = Call(600)

    def ask() -> object:
        with call.current():
            return searcher.explainer.explain(Example(photo(2)), ["a"])

    # While that of another search is made.
    with searcher.explainer._turn, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        call.end(Gone)
        with pytest.raises(Gone):
            asked.result(PATIENCE_S)
    with pytest.raises(Gone):
        ask()
    assert searcher.explainer.explain(Example(photo(2)), ["a"]).keys() == {"a"}
