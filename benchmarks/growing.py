"""A large collection that is built, searched and added to at once: what its users wait for.

Everything goes through the `Searcher`, catalog and durable writes included; only the model is left
out: descriptors are made. The build has a process of its own, so its memory is that process'.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import made_descriptors
from benchmarks.harness import machine
from engine.backbones.weights import load_weights
from engine.describer import Describer, DescriberOptions
from engine.searcher import Searcher
from engine.types import NewImage, SearchOptions, Vectors
from engine.vector_index import BuildOptions

DIM = 512
STORED_TOGETHER = 2000
QUESTIONS = 500
LONGEST = 5
"""Waits that are reported with their time, to see what was going on."""

Say = Callable[[str], object]


@dataclass
class Waits:
    """Milliseconds of each search, and the seconds after which it began."""

    ms: list[float] = field(default_factory=list)
    began: list[float] = field(default_factory=list)

    def add(self, since: float, started: float) -> None:
        self.began.append(started - since)
        self.ms.append(1000 * (time.perf_counter() - started))

    def summary(self) -> dict[str, Any]:
        ms = np.array(self.ms)
        longest = np.argsort(-ms)[:LONGEST]
        return {
            "searches": len(ms),
            "p50_ms": float(np.quantile(ms, 0.5)),
            "p99_ms": float(np.quantile(ms, 0.99)),
            "max_ms": float(ms.max()),
            "longest": [
                {"at_s": round(self.began[n], 1), "ms": round(self.ms[n], 1)} for n in longest
            ],
        }


def run(
    folder: Path, size: int, *, seconds: float = 30.0, adds_per_s: float = 200.0, say: Say
) -> dict[str, Any]:
    """Figures of a collection of `size` made images in `folder`, which is filled if it is not."""
    report: dict[str, Any] = {"size": size, "dim": DIM, **machine(torch.device("cpu"))}
    describer = _describer()
    with closing(Searcher(folder, describer, build_options=BuildOptions())) as searcher:
        if searcher.catalog.count() < size:
            say(f"storing {size:,} images")
            report["stored_per_s"] = _fill(searcher, size)
        if not searcher.stats().generation:
            say("building, for the first time")
            searcher.build()
    started = time.perf_counter()
    with closing(Searcher(folder, describer, build_options=BuildOptions())) as searcher:
        report["opened_s"] = time.perf_counter() - started
        questions = made_descriptors.queries(QUESTIONS, size).vectors
        say("searching")
        report["alone"] = _search_for(searcher, questions, seconds).summary()
        say("searching while adding")
        report["adding"] = _adding(searcher, questions, seconds, adds_per_s)
        stats = searcher.stats()
        report["bytes_per_image"] = stats.bytes / stats.count
        report["mapped_bytes_per_image"] = stats.mapped_bytes / stats.count
        say("verifying")
        report["problems"] = searcher.verify()[:3]
        say("searching while building")
        with _searching(searcher, questions) as waits, _memory_of_children() as peak:
            manifest = searcher.build()
        report["build"] = {
            "seconds": manifest.seconds,
            "peak_mb": peak[0],
            "index_type": manifest.index_type,
            "recall": manifest.recall,
            "nprobe": manifest.nprobe,
            "candidates": manifest.candidates,
            **waits.summary(),
        }
    return report


def _describer() -> Describer:
    options = DescriberOptions(
        backbone="vgg_lite", pooling="spoc", projection_dim=DIM, projection_power=0.0
    )
    return Describer(options, load_weights("vgg_lite", "bundled"))


def _fill(searcher: Searcher, size: int) -> float:
    started = time.perf_counter()
    done = searcher.catalog.count()
    before = done
    block = made_descriptors.BLOCK
    for number, vectors in enumerate(made_descriptors.blocks(size)):
        for start in range(0, len(vectors), STORED_TOGETHER):
            first = number * block + start
            if first >= done:
                searcher.store(_images(vectors[start : start + STORED_TOGETHER], first))
    return (size - before) / (time.perf_counter() - started)


def _images(vectors: Vectors, first: int, prefix: str = "") -> list[NewImage]:
    return [
        NewImage(
            id=f"{prefix}{number:08d}",
            digest=f"{prefix}{number:064d}"[-64:],
            width=640,
            height=480,
            format="JPEG",
            metadata={"album": f"album {number % 1000}", "year": 2000 + number % 25},
            thumbnail=b"no picture",
            descriptor=vector,
        )
        for number, vector in enumerate(vectors, first)
    ]


@contextmanager
def _searching(searcher: Searcher, questions: Vectors) -> Iterator[Waits]:
    """One search after the other in a thread of its own, within."""
    waits, ended = Waits(), threading.Event()
    thread = threading.Thread(target=_ask, args=(searcher, questions, waits, ended))
    thread.start()
    try:
        yield waits
    finally:
        ended.set()
        thread.join()


def _ask(searcher: Searcher, questions: Vectors, waits: Waits, ended: threading.Event) -> None:
    number, since = 0, time.perf_counter()
    while not ended.is_set():
        started = time.perf_counter()
        _search(searcher, questions[number % len(questions)])
        waits.add(since, started)
        number += 1


def _search(searcher: Searcher, raw: Vectors) -> None:
    # What `search` does after the model has run.
    searcher.search_described(raw, "", SearchOptions())


def _search_for(searcher: Searcher, questions: Vectors, seconds: float) -> Waits:
    with _searching(searcher, questions) as waits:
        time.sleep(seconds)
    return waits


def _adding(searcher: Searcher, questions: Vectors, seconds: float, per_s: float) -> dict[str, Any]:
    """Durable adds, one image each, at the rate that is asked for or as fast as it goes."""
    count = int(seconds * per_s)
    images = _images(made_descriptors.fresh(count), 0, f"new {time.time_ns()} ")
    took: list[float] = []
    with _searching(searcher, questions) as waits:
        started = time.perf_counter()
        for number, image in enumerate(images):
            time.sleep(max(0.0, started + number / per_s - time.perf_counter()))
            before = time.perf_counter()
            searcher.store([image])
            took.append(1000 * (time.perf_counter() - before))
        elapsed = time.perf_counter() - started
    return {
        "added_per_s": count / elapsed,
        "add_p50_ms": float(np.median(took)),
        "add_p99_ms": float(np.quantile(took, 0.99)),
        **waits.summary(),
    }


@contextmanager
def _memory_of_children() -> Iterator[list[float]]:
    """The largest resident size (MiB) that a child process had, within."""
    peak, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peak[0] = max([peak[0], *map(_peak_mb, _children())])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _children() -> list[Path]:
    own = Path("/proc/self/task")
    numbers = " ".join(file.read_text() for file in own.glob("*/children")).split()
    return [Path("/proc") / number for number in numbers]


def _peak_mb(process: Path) -> float:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return 0.0
    sizes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return sizes[0] / 1024 if sizes else 0.0
