"""Small indexes of made-up images on disk, and what another program reads of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from engine.generations.build import BuildPlan
from engine.searcher import Searcher
from engine.stored_describer import StoredDescriber
from engine.types import NewImage, Recipe, SearchOptions
from tests.drawing import photo
from tests.stored import RECIPE, an_image


@cache
def thumbnail(seed: int) -> bytes:
    return photo(seed % 5, (48, 36))


def made(seed: int, **changes: Any) -> NewImage:
    """The image `i<seed>`, with a thumbnail that is one."""
    return an_image(f"i{seed}", seed=seed, **{"thumbnail": thumbnail(seed), **changes})


@contextmanager
def opened(folder: Path, recipe: Recipe = RECIPE) -> Iterator[Searcher]:
    with closing(Searcher(folder, StoredDescriber(folder, recipe))) as searcher:
        yield searcher


def make_index(folder: Path, seeds: Iterable[int], *, build: bool = True) -> Path:
    with opened(folder) as searcher:
        searcher.store([made(seed) for seed in seeds])
        if build:
            build_and_publish(searcher)
    return folder


def build_and_publish(searcher: Searcher) -> None:
    """`Searcher.build`, but for measuring what scores mean, which needs a model."""
    rows, read = searcher.catalog.live_rows(), searcher.catalog.descriptors
    plan = BuildPlan(searcher.recipe, searcher.describer.precision)
    searcher.generations.publish(searcher.generations.build(rows, read, plan).number)
    searcher.reload()


def content(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Each image with all that is stored of it, by id."""
    query = (
        "SELECT id, images.row, digest, width, height, format, metadata, created_at, vector, jpeg "
        "FROM images JOIN descriptors USING (row) JOIN thumbnails USING (row)"
    )
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as connection:
        return {found[0]: found[1:] for found in connection.execute(query)}


def answers(folder: Path, ids: Iterable[str]) -> dict[str, list[tuple[str, float]]]:
    with opened(folder) as searcher:
        return {
            image_id: [
                (hit.id, round(hit.score, 4))
                for hit in searcher.search_id(image_id, SearchOptions(limit=5)).hits
            ]
            for image_id in ids
        }


def flip(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
