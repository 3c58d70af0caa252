"""How computations of a model share the cores of the CPU.

OpenMP gives each thread that computes on several cores a team of threads. As long as a process has
one team, its threads wait for each other by spinning, for microseconds, at the end of each
operation. Once its teams together have more threads than there are cores they sleep there, and a
pass takes up to twice as long; a team stays until its thread ends. So one thread is kept to compute
on all cores while nobody else computes; where several do, each computes on one, which loses nothing
to waiting. Other work on all cores gets a thread that ends with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache, partial
from typing import TypeVar

import torch

T = TypeVar("T")
Item = TypeVar("Item")

MOST_APART = 8
"""Cores up to which each may have a computation of its own: each takes memory, and those who wait
for a single image wait for one core. Beyond, computations follow each other on all cores."""


class Cores:
    """The cores of the CPU. Methods may be called from several threads.

    The main thread of a program computes by itself when it is alone, on all cores, as what it does
    besides, such as training, has the same team; that of a service leaves it to others
    (`keep_main_free`).
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.apart = count if count <= MOST_APART else 1
        """How many computations may be made at once, each on its own core."""
        self._lock = threading.Lock()
        self._computing = 0
        self._within = threading.local()
        self._main_computes = True
        self._together = ThreadPoolExecutor(
            1, "all-cores", initializer=_compute_on, initargs=(count,)
        )
        self._each = ThreadPoolExecutor(count, "one-core")

    def run(self, compute: Callable[[], T]) -> T:
        """What `compute` returns or raises: on all cores if nobody else computes, else on one."""
        if self.count == 1 or getattr(self._within, "computing", False):
            return compute()
        with self._taken() as alone:
            if self.apart > 1 and not (alone and getattr(self._within, "quiet", True)):
                return self._on_one(compute)
            if self._by_itself():
                _compute_on(self.count)
                return self._marked(compute)
            waiting = self._together.submit(copy_context().run, self._marked, compute)
            # Also what threads begin with that torch has not seen yet.
            _compute_on(1)
            return waiting.result()

    @contextmanager
    def told(self, quiet: bool) -> Iterator[None]:
        """Within, this thread knows whether others are about to compute, too."""
        self._within.quiet = quiet
        try:
            yield
        finally:
            del self._within.quiet

    def map(self, compute: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
        """`compute` of each, in order: at once on a core each where that keeps all of them busy."""
        # A part of another computation does not wait for the threads that make it.
        if len(items) < self.apart or self.apart == 1 or getattr(self._within, "computing", False):
            for item in items:
                yield self.run(partial(compute, item))
            return
        with self._taken():
            contexts = [copy_context() for _ in items]
            yield from self._each.map(
                lambda context, item: context.run(self._on_one, partial(compute, item)),
                contexts,
                items,
            )

    def aside(self, compute: Callable[[], T]) -> T:
        """What `compute` returns or raises, in a thread of its own with all cores, which then ends:
        for work that takes long, beside passes of the model."""
        if self.count == 1 or self._by_itself():
            return compute()
        answer: Future[T] = Future()

        def work() -> None:
            _compute_on(self.count)
            try:
                answer.set_result(compute())
            except BaseException as error:  # noqa: BLE001
                answer.set_exception(error)

        # Not one that an interrupted program waits for.
        threading.Thread(target=copy_context().run, args=(work,), name="aside", daemon=True).start()
        return answer.result()

    def keep_main_free(self) -> None:
        """The main thread computes nothing on all cores from now on."""
        self._main_computes = False
        _compute_on(1)

    def _by_itself(self) -> bool:
        return self._main_computes and threading.current_thread() is threading.main_thread()

    @contextmanager
    def _taken(self) -> Iterator[bool]:
        """Within, somebody computes; whether nobody else did when it began."""
        with self._lock:
            alone = not self._computing
            self._computing += 1
        try:
            yield alone
        finally:
            with self._lock:
                self._computing -= 1

    def _on_one(self, compute: Callable[[], T]) -> T:
        _compute_on(1)
        return self._marked(compute)

    def _marked(self, compute: Callable[[], T]) -> T:
        """What `compute` itself asks for is part of it."""
        self._within.computing = True
        try:
            return compute()
        finally:
            self._within.computing = False


def _compute_on(count: int) -> None:
    """Let torch use so many cores for what this thread computes."""
    # A thread that never asked would take over, later, what another one has set by then.
    torch.get_num_threads()
    torch.set_num_threads(count)


@cache
def cores() -> Cores:
    """Those of this process: as many as torch computes on where it is first asked for, which
    `OMP_NUM_THREADS` and the CPU affinity decide."""
    return Cores(torch.get_num_threads())
