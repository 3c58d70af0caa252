from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from engine.catalog import Catalog
from engine.catalog.listing import list_images
from engine.catalog.metadata_columns import MetadataColumns
from engine.filters import parse_filter
from engine.types import Json
from tests.filter_cases import Where, passes
from tests.stored import an_image


class Library:
    """Images in a catalog, with columns of their metadata."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.columns = MetadataColumns(catalog)

    def put(self, *images: tuple[str, Json]) -> None:
        rows, replaced = self.catalog.put(
            [an_image(image_id, dim=4, metadata=metadata) for image_id, metadata in images]
        )
        self.columns.put(rows, [metadata for _, metadata in images], replaced)

    def delete(self, image_id: str) -> None:
        self.columns.remove([self.catalog.delete(image_id)])

    def patch(self, image_id: str, change: Json) -> None:
        record = self.catalog.patch(image_id, change)
        self.columns.patch(record.row, record.metadata)

    def page(self, after: str, limit: int, where: Where | None) -> tuple[list[str], str | None]:
        records, place = list_images(
            self.catalog,
            self.columns,
            after=after,
            limit=limit,
            where=None if where is None else parse_filter(where),
        )
        return [record.id for record in records], place

    def pages(self, limit: int, where: Where | None = None) -> list[list[str]]:
        found: list[list[str]] = []
        place: str | None = ""
        while place is not None:
            ids, place = self.page(place, limit, where)
            found.append(ids)
        return found


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with closing(Catalog(tmp_path / "catalog.sqlite")) as catalog:
        yield Library(catalog)


def test_pages_hold_all_images_in_the_order_of_their_ids(library: Library) -> None:
    ids = ["b", "a/2", "Z", "写真", "é", "a/10", "\U00010000", "\uffff", "e\u0301"]
    library.put(*((image_id, {}) for image_id in ids))
    ordered = sorted(ids, key=lambda image_id: [ord(character) for character in image_id])
    assert library.pages(100) == [ordered]
    assert library.pages(9) == [ordered]
    assert library.pages(4) == [ordered[:4], ordered[4:8], ordered[8:]]
    assert library.pages(1) == [[image_id] for image_id in ordered]


def test_an_empty_collection_is_one_empty_page(library: Library) -> None:
    assert library.pages(10) == [[]]
    assert library.pages(10, {"a": 1}) == [[]]


@pytest.mark.parametrize("where", [None, {"field": "n", "lt": 6}, {"not": {"rare": True}}])
def test_what_is_there_all_the_time_is_listed_once_whatever_happens_meanwhile(
    library: Library, where: Where | None
) -> None:
    random = np.random.default_rng(5)

    def metadata() -> Json:
        return {"n": int(random.integers(10)), "rare": bool(random.integers(20) == 0)}

    stored = {f"{n:04d}": metadata() for n in range(300)}
    library.put(*stored.items())
    constant = {i for i, m in stored.items() if where is None or passes(where, m)}
    ever = set(stored)
    listed: list[str] = []
    place: str | None = ""
    while place is not None:
        ids, place = library.page(place, 7, where)
        listed += ids
        for _ in range(3):
            image_id = f"{random.integers(400):04d}"
            kind = random.integers(4)
            if kind == 0 and image_id in stored:
                library.delete(image_id)
                del stored[image_id]
            elif kind == 1 and image_id in stored:
                stored[image_id] = metadata()
                library.patch(image_id, stored[image_id])
            else:
                # New, or another image under a known id.
                stored[image_id] = metadata()
                library.put((image_id, stored[image_id]))
            ever.add(image_id)
            if image_id not in stored or (where and not passes(where, stored[image_id])):
                constant.discard(image_id)
    assert len(listed) == len(set(listed))
    assert listed == sorted(listed)
    assert constant <= set(listed) <= ever
    assert len(constant) > 50


def test_a_rare_match_is_found_far_behind(library: Library) -> None:
    library.put(*((f"{n:05d}", {"n": n}) for n in range(6000)))
    assert library.pages(10, {"n": 5990}) == [["05990"]]
    assert library.pages(1, {"field": "n", "in": [3, 4500, 5999]}) == [
        ["00003"],
        ["04500"],
        ["05999"],
    ]


def test_a_write_that_has_not_reached_the_columns_yet_is_not_left_out(library: Library) -> None:
    library.put(("a", {"n": 1}), ("b", {"n": 1}), ("c", {"n": 2}))
    assert library.pages(10, {"n": 1}) == [["a", "b"]]
    # Committed, but the columns have not been told.
    library.catalog.put([an_image("a", dim=4, seed=9, metadata={"n": 1})])
    library.catalog.put([an_image("c", dim=4, seed=9, metadata={"n": 3})])
    assert library.pages(10, {"n": 1}) == [["a", "b"]]
    assert library.pages(10, {"field": "n", "gt": 1}) == [["c"]]
