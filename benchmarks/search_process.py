"""Processes of `cooc bench search`: each builds or serves one index, and tells what that took."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search_cells import MB, Unmeasurable
from benchmarks.search_data import Filter
from benchmarks.search_engines import Engine, Knob, Ladder, Stored, load
from engine.errors import EngineError
from engine.types import Rows, Vectors

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "LANCE_CPU_THREADS",
    "LANCE_IO_THREADS",
    "TOKIO_WORKER_THREADS",
)
CALL_LIMIT_S = 3600.0
LEAST = 50
"""Questions of a measurement, however slow they are."""


@dataclass(frozen=True)
class Memory:
    """Resident megabytes (MiB) of a process: its own, and of mapped files; None if not told."""

    own_mb: float | None
    file_mb: float | None


@dataclass(frozen=True)
class Asked:
    """Answers to the first questions, as many as there was time for, and the ms of each."""

    rows: list[Rows]
    ms: Vectors


@dataclass(frozen=True)
class Grown:
    """Milliseconds of the searches while rows were added, answers to all questions afterwards,
    and the share of some added rows that then found themselves."""

    meanwhile_ms: Vectors
    after: Asked
    added: int
    added_per_s: float
    found_themselves: float


class Process:
    """An engine in a process of its own, on the first `threads` CPUs; calls come one by one."""

    def __init__(self, engine: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, engine, threads), daemon=True)
        # Libraries read these when they are loaded, before any of our code runs there.
        with _environment({name: str(threads) for name in THREAD_VARIABLES}):
            self._process.start()
        theirs.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        self.kill()
        self._connection.close()

    def build(self, folder: Path, stored: Stored) -> dict[str, Any]:
        figures: dict[str, Any] = self._call("build", folder, stored)
        return figures

    def open(self, folder: Path, empty: Path, stored: Stored) -> float:
        """Seconds it took, after the one in `empty`, of a single row, was opened and asked."""
        return float(self._call("open", folder, empty, stored))

    def ladders(self, percent: Filter) -> list[Ladder]:
        return list(self._call("ladders", percent))

    def ask(
        self, asked: Vectors, k: int, knob: Knob, percent: Filter, seconds: float = 1e9
    ) -> Asked:
        found: Asked = self._call("ask", asked, k, knob, percent, seconds)
        return found

    def per_second(
        self, asked: Vectors, k: int, knob: Knob, percent: Filter, seconds: float, clients: int
    ) -> float:
        return float(self._call("per_second", asked, k, knob, percent, seconds, clients))

    def grow(
        self, asked: Vectors, k: int, knob: Knob, seconds: float, rate: float, fresh: Vectors
    ) -> Grown:
        grown: Grown = self._call("grow", asked, k, knob, seconds, rate, fresh)
        return grown

    def memory(self) -> Memory:
        """Of the index alone."""
        memory: Memory = self._call("memory")
        return memory

    def _call(self, name: str, *arguments: Any) -> Any:
        """Raises Unmeasurable."""
        try:
            self._connection.send((name, arguments))
            if not self._connection.poll(CALL_LIMIT_S):
                raise Unmeasurable(f"not done after {CALL_LIMIT_S:g} s")
            failed, value = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode or 0
            how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            raise Unmeasurable(f"{name}: {how}") from None
        if failed:
            raise Unmeasurable(f"{name}: {value}")
        return value


class Server:
    """The other side of `Process`."""

    def __init__(self, engine: str) -> None:
        self._kind = load(engine)
        self._engine: Engine | None = None
        self._empty = Memory(None, None)
        self._count, self._folder = 0, Path()

    def build(self, folder: Path, stored: Stored) -> dict[str, Any]:
        before, highest = resident(), [0.0]
        with _watched(highest):
            started = time.perf_counter()
            self._kind.build(folder, stored)
            seconds = time.perf_counter() - started
        peak = _status("VmHWM")
        return {
            "build_s": seconds,
            "build_peak_mb": peak,
            "build_peak_own_mb": _less(highest[0] or None, before.own_mb),
            "disk_mb": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            / MB,
        }

    def open(self, folder: Path, empty: Path, stored: Stored) -> float:
        one = Stored(stored.path, 1, stored.dim)
        kept = self._kind.open(empty, one)
        kept.search(one.take(np.array([0]))[0], 1, kept.ladders(None)[0][0], None)
        self._empty = resident()
        started = time.perf_counter()
        self._engine = self._kind.open(folder, stored)
        self._count, self._folder = stored.count, folder
        return time.perf_counter() - started

    def ladders(self, percent: Filter) -> list[Ladder]:
        return self._opened.ladders(percent)

    def ask(self, asked: Vectors, k: int, knob: Knob, percent: Filter, seconds: float) -> Asked:
        return _ask(self._opened, asked, k, knob, percent, seconds)

    def per_second(
        self, asked: Vectors, k: int, knob: Knob, percent: Filter, seconds: float, clients: int
    ) -> float:
        """Answers a second to `clients` threads, each with the next question as soon as it can."""
        engine, started = self._opened, time.perf_counter()

        def client(first: int) -> int:
            done = 0
            while time.perf_counter() - started < seconds or done < LEAST // clients:
                engine.search(asked[(first + done * clients) % len(asked)], k, knob, percent)
                done += 1
            return done

        with ThreadPoolExecutor(clients) as pool:
            done = sum(pool.map(client, range(clients)))
        return done / (time.perf_counter() - started)

    def grow(
        self, asked: Vectors, k: int, knob: Knob, seconds: float, rate: float, fresh: Vectors
    ) -> Grown:
        """Search for `seconds` while rows are added at `rate` a second, or as fast as it goes."""
        engine, stop = self._opened, threading.Event()
        added: list[tuple[int, float]] = []
        batch = engine.add_batch

        def add() -> None:
            started = time.perf_counter()
            for done in range(0, len(fresh) - batch + 1, batch):
                late = stop.wait(max(0.0, started + (done + batch) / rate - time.perf_counter()))
                if late and added:
                    return  # what was added first is looked for, however slow that was
                rows = np.arange(self._count + done, self._count + done + batch)
                engine.add(rows, fresh[done : done + batch])
                added.append((done + batch, time.perf_counter() - started))

        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(add)
            repeated = np.tile(asked, (1 + int(20_000 // len(asked)), 1))
            answers = _ask(engine, repeated, k, knob, None, seconds, least=1)
            stop.set()
            adding.result()
        done, took = added[-1] if added else (0, 1.0)
        some = range(0, done, max(1, done // 50))
        found = [self._count + i in engine.search(fresh[i], 1, knob, None) for i in some]
        share = float(np.mean(found)) if found else 0.0
        after = _ask(engine, asked, k, knob, None, seconds)
        return Grown(answers.ms, after, done, done / took, share)

    def memory(self) -> Memory:
        now = resident(self._folder)
        return Memory(_less(now.own_mb, self._empty.own_mb), now.file_mb)

    @property
    def _opened(self) -> Engine:
        assert self._engine is not None, "nothing was opened"
        return self._engine


def resident(folder: Path | None = None) -> Memory:
    """What this process takes now: by itself, and of the mapped files of a folder."""
    file = None if folder is None else _mapped(folder)
    return Memory(_status("RssAnon"), file)


def _ask(
    engine: Engine,
    asked: Vectors,
    k: int,
    knob: Knob,
    percent: Filter,
    seconds: float,
    least: int = LEAST,
) -> Asked:
    rows: list[Rows] = []
    ms: list[float] = []
    until = time.perf_counter() + seconds
    for query in asked:
        started = time.perf_counter()
        if started > until and len(rows) >= least:
            break
        rows.append(engine.search(query, k, knob, percent))
        ms.append(1000 * (time.perf_counter() - started))
    return Asked(rows, np.array(ms, np.float32))


def _serve(connection: Connection[Any, Any], engine: str, threads: int) -> None:
    """The process: does what it is told until the other side is gone."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ.setdefault("LANCE_LOG", "error")
    server: Server | None = None
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        try:
            server = server or Server(engine)
            connection.send((False, getattr(server, name)(*arguments)))
        except (EngineError, RuntimeError, ValueError, OSError, MemoryError) as error:
            connection.send((True, f"{type(error).__name__}: {error}".splitlines()[0][:300]))


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _watched(highest: list[float]) -> Iterator[None]:
    """Keep the largest memory of this process that is no file's; looked at 50 times a second."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            highest[0] = max(highest[0], resident().own_mb or 0.0)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        highest[0] = max(highest[0], resident().own_mb or 0.0)


def _status(name: str) -> float | None:
    """A figure of /proc/self/status in MiB; None where there is none."""
    file = Path("/proc/self/status")
    if file.is_file():
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return float(line.split()[1]) / 1024
    return None


def _mapped(folder: Path) -> float | None:
    """MiB in memory of the files of a folder that are mapped by this process."""
    file = Path("/proc/self/smaps")
    if not file.is_file():
        return None
    total, inside, prefix = 0.0, False, f"{folder.resolve()}{os.sep}"
    for line in file.read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:  # addresses, permissions, ..., path
            inside = prefix in line
        elif inside and line.startswith("Rss:"):
            total += float(line.split()[1]) / 1024
    return total


def _less(value: float | None, by: float | None) -> float | None:
    return None if value is None or by is None else value - by
