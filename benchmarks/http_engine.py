"""The engine without HTTP, which `cooc bench http` compares the service with."""

from __future__ import annotations

import itertools
import multiprocessing
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.extract import Memory, textured
from engine.describer import Describer
from engine.images import encode_jpeg
from engine.passes.cores import cores
from engine.searcher import Searcher
from engine.types import NewImage, SearchOptions

STORED = 1000


def fill(folder: Path, describer: Describer) -> None:
    """A collection of made images as it is served: described, and its index built. None of those
    that are searched for is in it, as they would need no model."""
    pictures = [textured(48, 64, seed) for seed in range(STORED)]
    vectors = describer.describe(pictures)
    with closing(Searcher(folder, describer)) as searcher:
        searcher.store(
            [
                NewImage(
                    id=f"{row:05}.jpg",
                    digest=f"{row:064x}",
                    width=64,
                    height=48,
                    format="JPEG",
                    metadata={},
                    thumbnail=encode_jpeg(picture),
                    descriptor=vector,
                )
                for row, (picture, vector) in enumerate(zip(pictures, vectors, strict=True))
            ]
        )
        searcher.build()


class Engine:
    """The engine in a process of its own, without HTTP."""

    def __init__(
        self,
        make: Callable[[], Describer],
        prepare: Callable[[], object],
        filled: Path,
        images: Sequence[bytes],
    ) -> None:
        """`filled`: an index, of which it uses a copy."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_run_engine, args=(theirs, make, prepare, filled, images), daemon=True
        )
        self._process.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def described_per_s(self, seconds: float) -> float:
        """Images that are decoded and described in a second, one while the next is decoded."""
        return float(self._ask("described_per_s", seconds))

    def per_s(self, seconds: float, clients: int) -> float:
        """Whole searches by image in a second, of as many threads as there are clients."""
        return float(self._ask("per_s", seconds, clients))

    def each_ms(self, seconds: float) -> list[float]:
        """Of whole searches by image, one after the other."""
        found: list[float] = self._ask("each_ms", seconds)
        return found

    def _ask(self, *question: Any) -> Any:
        self._connection.send(question)
        return self._connection.recv()


def _run_engine(
    connection: Connection,
    make: Callable[[], Describer],
    prepare: Callable[[], object],
    filled: Path,
    images: Sequence[bytes],
) -> None:
    prepare()
    cores().keep_main_free()  # as in the service
    describer = make()
    parts: dict[str, Callable[..., Any]] = {
        "described_per_s": _described_per_s,
        "per_s": _per_s,
        "each_ms": _each_ms,
    }
    with TemporaryDirectory() as folder:
        own = Path(folder) / "index"
        shutil.copytree(filled, own)
        with closing(Searcher(own, describer)) as searcher:
            while True:
                what, *options = connection.recv()
                # Not in the main thread, which stays free as in the service.
                with ThreadPoolExecutor(1) as alone:
                    answer = alone.submit(parts[what], searcher, images, *options)
                connection.send(answer.result())


def _described_per_s(searcher: Searcher, images: Sequence[bytes], seconds: float) -> float:
    began = time.perf_counter()
    done = 0
    files = itertools.takewhile(
        lambda _: time.perf_counter() - began < seconds, itertools.cycle(images)
    )
    for _ in searcher.describer.stream((None, Memory(image)) for image in files):
        done += 1
    return done / (time.perf_counter() - began)


def _per_s(searcher: Searcher, images: Sequence[bytes], seconds: float, clients: int) -> float:
    began = time.perf_counter()

    def client(first: int) -> list[float]:
        ends: list[float] = []
        for image in itertools.islice(itertools.cycle(images), first, None):
            if time.perf_counter() - began >= seconds:
                return ends
            searcher.search(image, SearchOptions())
            ends.append(time.perf_counter() - began)
        raise AssertionError("images never end")

    with ThreadPoolExecutor(clients) as pool:
        ends = [end for some in pool.map(client, range(clients)) for end in some]
    return len(ends) / max(ends)


def _each_ms(searcher: Searcher, images: Sequence[bytes], seconds: float) -> list[float]:
    began = time.perf_counter()
    found: list[float] = []
    for image in itertools.cycle(images):
        started = time.perf_counter()
        if started - began >= seconds:
            return found
        searcher.search(image, SearchOptions())
        found.append(1000 * (time.perf_counter() - started))
    raise AssertionError("images never end")
