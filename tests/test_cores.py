"""Who computes on how many cores; held to what torch itself says, in threads of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path

import pytest
import torch

from engine.batcher import Batcher
from engine.passes.cores import MOST_APART, Cores
from tests.patience import PATIENCE_S

WAIT_S = PATIENCE_S
ORIGIN: ContextVar[str] = ContextVar("origin", default="nobody")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two() -> Cores:
    cores = Cores(2)
    cores.keep_main_free()
    return cores


def threads_used() -> int:
    return torch.get_num_threads()


class Meeting:
    """Computes only while so many others do."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties, timeout=WAIT_S)

    def __call__(self, *_: object) -> int:
        self._barrier.wait()
        used = threads_used()
        self._barrier.wait()
        return used


def test_who_is_alone_computes_on_all_cores_and_in_company_on_one(two: Cores) -> None:
    assert two.run(threads_used) == 2
    meeting = Meeting(2)
    with ThreadPoolExecutor(2) as pool:
        # Whoever comes first is alone then, and stays so to its end.
        assert sorted(pool.map(two.run, [meeting, meeting])) == [1, 2]
    assert two.run(threads_used) == 2
    with two.told(quiet=False):
        assert two.run(threads_used) == 1, "others are about to"
    assert two.run(threads_used) == 2


def test_all_cores_are_always_those_of_one_thread(two: Cores) -> None:
    def ask(_: int) -> int:
        return two.run(threading.get_ident)

    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        found = {first.submit(ask, 0).result(), second.submit(ask, 0).result(), ask(0)}
    assert len(found) == 1
    assert found.isdisjoint({threading.get_ident()})


def test_the_main_thread_of_a_program_computes_itself() -> None:
    cores = Cores(2)
    assert cores.run(threading.get_ident) == threading.get_ident()
    assert cores.run(threads_used) == 2
    assert cores.aside(threading.get_ident) == threading.get_ident()
    cores.keep_main_free()
    assert threads_used() == 1
    assert cores.run(threading.get_ident) != threading.get_ident()
    assert cores.aside(threading.get_ident) != threading.get_ident()


def test_many_at_once_get_a_core_each_and_keep_their_order(two: Cores) -> None:
    assert list(two.map(Meeting(2), range(6))) == [1] * 6
    assert list(two.map(lambda item: 10 * item, range(50))) == [10 * item for item in range(50)]
    assert list(two.map(lambda _: threads_used(), [0])) == [2], "one alone gets all"
    assert list(two.map(str, [])) == []


def test_on_many_cores_computations_follow_each_other() -> None:
    many = Cores(MOST_APART + 1)
    many.keep_main_free()
    assert many.apart == 1
    inside = threading.Semaphore(1)

    def alone() -> int:
        assert inside.acquire(blocking=False), "two at once"
        used = threads_used()
        inside.release()
        return used

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(many.run, [alone] * 20)) == {MOST_APART + 1}


@pytest.mark.parametrize("how", [Cores.run, Cores.aside])
def test_errors_and_the_context_pass_through(
    two: Cores, how: Callable[[Cores, Callable[[], object]], object]
) -> None:
    def fail() -> None:
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        how(two, fail)
    token = ORIGIN.set("somebody")
    try:
        assert how(two, ORIGIN.get) == "somebody"
    finally:
        ORIGIN.reset(token)
    assert two.run(threads_used) == 2, "what failed is over"
    with pytest.raises(ValueError, match="no such thing"):
        list(two.map(lambda _: fail(), range(4)))
    assert two.run(threads_used) == 2


def test_what_a_computation_asks_for_is_part_of_it(two: Cores) -> None:
    assert two.run(lambda: two.run(threads_used)) == 2
    assert two.run(lambda: list(two.map(lambda _: threads_used(), range(4)))) == [2] * 4
    nested = two.map(lambda _: list(two.map(lambda _: threads_used(), range(4))), range(4))
    assert list(nested) == [[1] * 4] * 4
    assert list(two.map(lambda _: two.run(threads_used), range(4))) == [1] * 4


def test_a_thread_for_work_aside_ends_with_it(two: Cores) -> None:
    before = threading.active_count()
    assert two.aside(threads_used) == 2
    for thread in threading.enumerate():
        if thread.name == "aside":
            thread.join(WAIT_S)
    assert threading.active_count() <= before


def test_one_core_is_one_core() -> None:
    one = Cores(1)
    assert one.apart == 1
    assert one.run(threading.get_ident) == threading.get_ident()
    assert list(one.map(str, range(3))) == ["0", "1", "2"]


def test_workers_that_share_a_processor_begin_where_there_is_work_for_all() -> None:
    entered, leave = threading.Semaphore(0), threading.Semaphore(0)
    told: list[bool] = []

    class Told:
        def __init__(self, quiet: bool) -> None:
            told.append(quiet)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    def work(items: list[int]) -> list[int]:
        entered.release()
        assert leave.acquire(timeout=WAIT_S)
        return items

    batcher: Batcher[int, int] = Batcher(
        [work] * 3, together=3, told=Told, max_batch=lambda _: 1, max_wait_ms=0.0
    )
    try:
        futures = [batcher.submit(0)]
        assert entered.acquire(timeout=WAIT_S)
        futures.append(batcher.submit(1))
        assert not entered.acquire(timeout=0.2), "two are not enough"
        futures.append(batcher.submit(2))
        for _ in range(2):
            assert entered.acquire(timeout=WAIT_S)
        for _ in range(3):
            leave.release()
        assert [future.result(WAIT_S) for future in futures] == [0, 1, 2]
        assert told[0] is True
        assert told[1:] == [False, False]
    finally:
        for _ in range(9):
            leave.release()
        batcher.close()


STARTED = """
import os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import faiss, torch
from app.main import create_app, start
from app.settings import Settings
from engine.types import SearchOptions
from engine.duplicates import DuplicateOptions
from tests.drawing import photo


def others():
    # A thread that ends is gone from one list before it is from the other.
    def now():
        time.sleep(0.02)
        return len(os.listdir("/proc/self/task")) - threading.active_count()

    return min(now() for _ in range(20))


def one_team():
    torch.set_num_threads(2)
    torch.rand(1 << 22).mul_(2).exp_()


if sys.argv[1] == "reference":
    torch.set_num_threads(1)  # else another pool of torch has a thread, too
    with ThreadPoolExecutor(1) as alone:
        alone.submit(one_team).result()
        print(others())
else:
    app = create_app(Settings(data_dir=Path(sys.argv[1]), backbone="vgg_lite", weights="bundled"))
    start(app.state.cooc)
    searcher = app.state.cooc.service.searcher
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: searcher.put(str(n), photo(n), {}), range(60)))
        pool.submit(searcher.build).result()
        pool.submit(searcher.duplicates, DuplicateOptions()).result()
        assert pool.submit(searcher.verify).result() == []
        for n in range(3):
            list(pool.map(lambda _: searcher.search(photo(n), SearchOptions()), range(6)))
            pool.submit(searcher.search, photo(n), SearchOptions()).result()
        print(others())
    os._exit(0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads as Linux does")
def test_a_service_has_one_team_whatever_it_did(tmp_path: Path) -> None:
    def others(argument: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", STARTED, argument],
            env={**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1])

    assert others(str(tmp_path / "index")) == others("reference")
