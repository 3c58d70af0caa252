"""The service over HTTP against its own engine, and against a plain one: what the way costs, what
happens at ten times the capacity, and whether memory grows."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import plain_service
from benchmarks.extract import textured
from benchmarks.harness import machine
from benchmarks.http_client import FAILED, Asked, closed_loop, open_loop, search_request
from benchmarks.http_engine import STORED, Engine, fill
from benchmarks.ports import free_port
from engine.describer import Describer
from engine.images import encode_jpeg

SIZES = ((512, 384), (384, 512))
IMAGES = 24
START_S = 120.0
WARM_S = 2.0
PLAIN_OVERLOAD_S = 60.0
"""The plain service holds whatever is sent: in ten minutes more than there is memory."""

Say = Callable[[str], object]


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Plan:
    """What is measured, for how long (seconds of each part, in each round)."""

    clients: int = 16
    seconds: float = 5.0
    rounds: int = 3
    overload_s: float = 30.0
    deadline_s: float = 10.0
    times_capacity: float = 10.0


def run(
    plan: Plan,
    make: Callable[[], Describer],
    environment: Mapping[str, str],
    *,
    prepare: Callable[[], object] = _nothing,
    say: Say = _nothing,
) -> dict[str, Any]:
    """Medians over rounds in which engine, service and plain service take turns.

    Args:
        make: the describer that all of them use; can be sent to another process, as `prepare`,
            which each process calls first.
        environment: that of `cooc serve`, so that it uses the same.
    """
    describer = make()
    images = list(_images())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        say(f"describing {STORED} small images and building their index")
        fill(folder / "index", describer)
        say("starting engine, service and plain service")
        engine = stack.enter_context(Engine(make, prepare, folder / "index", images))
        settings = {**environment, "COOC_DEADLINE_S": str(plan.deadline_s)}
        ours = stack.enter_context(_service(folder, settings))
        plain = stack.enter_context(_plain(make, prepare))
        # All three load their models meanwhile.
        for service in (ours, plain):
            service.wait_until_up()
        asks = [search_request(image, "127.0.0.1") for image in images]
        report: dict[str, Any] = {
            "bench": "http",
            "backbone": describer.options.backbone,
            "pooling": describer.options.pooling,
            "precision": describer.precision,
            "max_side": describer.options.max_side,
            "images": [list(size) for size in SIZES],
            "stored": STORED,
            "clients": plan.clients,
            "rounds": plan.rounds,
            **_speed(plan, engine, {"http": ours, "plain": plain}, asks, say),
        }
        per_s = plan.times_capacity * report["http_per_s"]
        short = min(plan.overload_s, PLAIN_OVERLOAD_S)
        for name, service, seconds in (
            ("overload", ours, plan.overload_s),
            ("plain_overload", plain, short),
        ):
            say(f"{name}: {per_s:.0f} requests a second for {seconds:g} s")
            report[name] = _overload(replace(plan, overload_s=seconds), service, asks, per_s)
        return {**report, **machine(describer.device)}


def _speed(
    plan: Plan, engine: Engine, services: Mapping[str, _Service], asks: Sequence[bytes], say: Say
) -> dict[str, Any]:
    """Throughput with several clients and the median time with one, in turns."""
    for name, service in services.items():
        answers = closed_loop(service.port, asks, clients=2, seconds=WARM_S)
        if not _with(answers, 200):
            raise RuntimeError(f"{name} answers {sorted({one.status for one in answers})}")
    engine.per_s(WARM_S, plan.clients)
    samples: dict[str, list[float | None]] = {}

    def note(name: str, value: float | None) -> None:
        samples.setdefault(name, []).append(value)

    for turn in range(plan.rounds):
        say(f"round {turn + 1} of {plan.rounds}")
        note("describe_per_s", engine.described_per_s(plan.seconds))
        note("engine_per_s", engine.per_s(plan.seconds, plan.clients))
        for name, service in services.items():
            asked = closed_loop(service.port, asks, clients=plan.clients, seconds=plan.seconds)
            note(f"{name}_per_s", _per_second(asked))
            note(f"{name}_p99_ms", _quantile(_with(asked, 200), 0.99))
        note("engine_p50_ms", statistics.median(engine.each_ms(plan.seconds)))
        for name, service in services.items():
            asked = closed_loop(service.port, asks, clients=1, seconds=plan.seconds)
            note(f"{name}_p50_ms", _quantile(_with(asked, 200), 0.5))
    return {
        **{name: _median(values) for name, values in samples.items()},
        # Of each round on its own: the machine may be slower in one than in another.
        "throughput_ratio": _median_of(samples, "http_per_s", "engine_per_s", lambda a, b: a / b),
        "share_of_describing": _median_of(
            samples, "http_per_s", "describe_per_s", lambda a, b: a / b
        ),
        "overhead_p50_ms": _median_of(samples, "http_p50_ms", "engine_p50_ms", lambda a, b: a - b),
        "times_plain": _median_of(samples, "http_per_s", "plain_per_s", lambda a, b: a / b),
        "samples": samples,
    }


def _median_of(
    samples: Mapping[str, Sequence[float | None]],
    first: str,
    second: str,
    combine: Callable[[float, float], float],
) -> float | None:
    pairs = zip(samples[first], samples[second], strict=True)
    return _median([combine(a, b) if a and b else None for a, b in pairs])


def _median(values: Sequence[float | None]) -> float | None:
    """None if any of them could not be measured."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None


def _per_second(asked: Sequence[Asked]) -> float | None:
    """Answers a second, from the beginning to the last one; None without any."""
    # Not from the first one: where all are worked on at once, the first come late and together.
    ends = [one.at_s + one.ms / 1000 for one in asked if one.status == 200]
    return len(ends) / max(ends) if ends else None


def _overload(plan: Plan, service: _Service, asks: Sequence[bytes], per_s: float) -> dict[str, Any]:
    """What becomes of far more requests than can be answered, and of the memory meanwhile."""
    with service.watched() as memory:
        # The plain service knows no deadline: its clients have one.
        asked = open_loop(
            service.port,
            asks,
            per_s=per_s,
            seconds=plan.overload_s,
            timeout_s=plan.deadline_s + 5.0,
        )
    statuses = Counter(one.status for one in asked)
    answered, refused = _with(asked, 200), _with(asked, 429, 503)
    last = max(one.at_s + one.ms / 1000 for one in asked)
    return {
        "offered_per_s": per_s,
        "seconds": plan.overload_s,
        "deadline_s": plan.deadline_s,
        "answered": len(answered),
        "answered_per_s": len(answered) / last,
        "refused": len(refused),
        "failed": len(asked) - len(answered) - len(refused),
        "statuses": {str(status or "none"): count for status, count in statuses.items()},
        "timed_out_or_reset": statuses[FAILED],
        "answered_p50_ms": _quantile(answered, 0.5),
        "answered_p99_ms": _quantile(answered, 0.99),
        "refused_p99_ms": _quantile(refused, 0.99),
        **_memory(memory),
    }


def _with(asked: Sequence[Asked], *statuses: int) -> list[float]:
    return [one.ms for one in asked if one.status in statuses]


def _quantile(ms: Sequence[float], share: float) -> float | None:
    return float(np.quantile(ms, share)) if ms else None


def _memory(samples: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """Resident MB, and how fast it grows (least squares) after the first third of the run."""
    times, sizes = np.array(samples).T
    late = times >= times[-1] / 3
    slope = np.polyfit(times[late], sizes[late], 1)[0] if late.sum() > 2 else None
    return {
        "rss_start_mb": float(sizes[0]),
        "rss_end_mb": float(sizes[-1]),
        "rss_max_mb": float(sizes.max()),
        "rss_mb_per_minute": None if slope is None else 60 * float(slope),
    }


def _images() -> Iterator[bytes]:
    for number, (width, height) in zip(range(IMAGES), itertools.cycle(SIZES), strict=False):
        yield encode_jpeg(textured(height, width, number))


@dataclass(frozen=True)
class _Service:
    """A service in a process; what it says is in the file `log`, if it says anything."""

    port: int
    pid: int
    alive: Callable[[], bool]
    log: Path | None = None

    def wait_until_up(self) -> None:
        """Raises RuntimeError if it ends, or takes too long."""
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.alive():
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        said = self.log.read_text() if self.log is not None else ""
        raise RuntimeError(f"the service did not start within {START_S:g} s\n{said}")

    def resident_mb(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    @contextmanager
    def watched(self) -> Iterator[list[tuple[float, float]]]:
        """(seconds, resident MB), every second while within."""
        began, done = time.monotonic(), threading.Event()
        samples = [(0.0, self.resident_mb())]

        def watch() -> None:
            while not done.wait(1.0):
                samples.append((time.monotonic() - began, self.resident_mb()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield samples
        finally:
            done.set()
            watcher.join()


@contextmanager
def _service(folder: Path, environment: Mapping[str, str]) -> Iterator[_Service]:
    port = free_port()
    own = {"COOC_DATA_DIR": str(folder / "index"), "COOC_PORT": str(port)}
    file = folder / "service.log"
    with file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            env={**environment, **own},
            stdout=log,
            stderr=log,
        )
        try:
            yield _Service(port, process.pid, lambda: process.poll() is None, file)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


@contextmanager
def _plain(make: Callable[[], Describer], prepare: Callable[[], object]) -> Iterator[_Service]:
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(
        target=plain_service.serve, args=(make, prepare, port), daemon=True
    )
    process.start()
    assert process.pid is not None, "a started process has an id"
    try:
        yield _Service(port, process.pid, process.is_alive)
    finally:
        process.kill()
        process.join()
