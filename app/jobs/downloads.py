"""Fetching the images of a job that has URLs: some at a time, ahead of those that are added."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from app.errors import UrlFetchFailed, UrlNotAllowed
from app.fetching.fetcher import Fetcher, shown
from app.fetching.hosts import PATIENCE_S, Hosts
from app.fetching.parsing import BadUrl, parse_url
from app.jobs.running import Running
from app.spool import Item, Spool
from engine.errors import EngineError, StorageFull, StorageReadOnly

PARALLEL = 8
AHEAD = 48
"""Images that may be fetched before their turn: on a disk, not in memory."""
RETRY_S = 1.0
ASKED_TO_WAIT_S = (1.0, 5.0, 25.0)
"""Pauses before another try where a server says that it is busy (429, 503), at least."""
MAX_WAIT_S = 120.0
LEAVE_S = 10.0


class Downloads:
    """Files of the spool are the record: what is there is not fetched again after a crash."""

    def __init__(self, spool: Spool, fetcher: Fetcher, running: Running) -> None:
        self._spool = spool
        self._fetcher = fetcher
        self._running = running
        self._hosts = Hosts()
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="fetch")
        self._begun: dict[tuple[str, str], Future[None]] = {}
        self._left = threading.Event()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def of(self, job_id: str) -> Iterator[None]:
        """Nothing of a job is fetched any more after this. There is one such job at a time."""
        self._left = left = threading.Event()
        self._hosts.forgive()
        try:
            yield
        finally:
            left.set()
            for future in self._begun.values():
                future.cancel()
            wait(self._begun.values(), LEAVE_S)
            self._begun.clear()

    def bring(self, job_id: str, items: Sequence[Item], ahead: Sequence[Item]) -> None:
        """Have the images of `items` in the spool, or why not; those `ahead` are begun with.

        Raises: Stopping, StorageFull, StorageReadOnly.
        """
        needed = [self._begin(job_id, item) for item in items if item.url is not None]
        for item in ahead:
            if item.url is not None:
                self._begin(job_id, item)
        while not all(future.done() for future in needed):
            wait(needed, 0.2)
            self._running.check(job_id)
        for future in needed:
            future.result()

    def _begin(self, job_id: str, item: Item) -> Future[None]:
        key = job_id, item.file or ""
        future = self._begun.get(key)
        # One that failed, as the disk was full, is begun again.
        if future is None or (future.done() and future.exception() is not None):
            future = self._begun[key] = self._pool.submit(self._download, job_id, item, self._left)
        return future

    def _download(self, job_id: str, item: Item, left: threading.Event) -> None:
        """Raises StorageFull, StorageReadOnly, InterruptedError."""
        if self._spool.is_fetched(job_id, item):
            return
        fetched: bytes | str
        try:
            fetched = self._fetched(job_id, item.url or "", left)
        except (StorageFull, StorageReadOnly):
            raise
        except (UrlNotAllowed, UrlFetchFailed, EngineError) as error:
            fetched = str(error)
        self._spool.keep(job_id, item, fetched)

    def _fetched(self, job_id: str, url: str, left: threading.Event) -> bytes:
        """Tries again what may work later. Raises as `Fetcher.fetch` does."""

        def stopped() -> bool:
            return (
                left.is_set() or self._running.stopping.is_set() or self._running.cancelled(job_id)
            )

        host = _host(url)
        for tried in range(len(ASKED_TO_WAIT_S) + 1):
            try:
                with self._hosts.turn(host, stopped):
                    return self._asked(host, url, stopped)
            except UrlFetchFailed as error:
                pause = _pause(error, tried)
                if pause is None:
                    raise
                self._hosts.pause(host, pause)
        raise AssertionError("the last try has no pause after it")

    def _asked(self, host: str, url: str, stopped: Callable[[], bool]) -> bytes:
        if self._hosts.given_up(host):
            raise UrlFetchFailed(
                f"the URL {shown(url)} was not asked for: its host has not answered for "
                f"{PATIENCE_S:g} s; add it again once it does"
            )
        try:
            data = self._fetcher.fetch(url, stopped)
        except UrlFetchFailed as error:
            self._hosts.noted(host, answers=error.answered or not error.transient)
            raise
        self._hosts.noted(host, answers=True)
        return data


def _pause(error: UrlFetchFailed, tried: int) -> float | None:
    """Seconds to leave a host alone before the next try; None to give up."""
    if not error.transient:
        return None
    if error.busy:
        if tried == len(ASKED_TO_WAIT_S):
            return None
        return min(MAX_WAIT_S, max(ASKED_TO_WAIT_S[tried], error.wait_s or 0.0))
    return RETRY_S if tried == 0 else None


def _host(url: str) -> str:
    try:
        return parse_url(url).host
    except BadUrl:
        return ""  # `fetch` refuses it
