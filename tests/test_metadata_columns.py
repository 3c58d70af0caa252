from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.catalog import Catalog
from engine.catalog.metadata_columns import _CATCH_UP, MetadataColumns
from engine.filters import And, OneOf, parse_filter
from engine.types import Json, Rows
from tests.filter_cases import Document, Where, documents, filters, passes
from tests.patience import PATIENCE_S
from tests.stored import an_image


class Stored:
    """A catalog in memory. `between` is called before each chunk of metadata is read."""

    def __init__(self, chunk: int = 3) -> None:
        self.images: dict[int, Json] = {}
        self.newest = 0
        self.chunk = chunk
        self.loads = 0
        self.between: Callable[[], None] = lambda: None

    def add(self, *metadata: Json) -> list[int]:
        rows = list(range(self.newest + 1, self.newest + 1 + len(metadata)))
        self.newest += len(metadata)
        self.images |= dict(zip(rows, metadata, strict=True))
        return rows

    def live_rows(self) -> Rows:
        return np.array(sorted(self.images), np.int64)

    def metadata(self) -> Iterator[tuple[Rows, list[Json]]]:
        self.loads += 1
        after = 0
        while True:
            self.between()
            images = self.images.copy()  # as of one moment, whatever other threads write
            rows = [row for row in sorted(images) if row > after][: self.chunk]
            if not rows:
                return
            yield np.array(rows, np.int64), [images[row] for row in rows]
            after = rows[-1]

    def expected(self, where: Where, rows: Rows) -> list[bool]:
        return [row in self.images and passes(where, self.images[row]) for row in rows.tolist()]


class Collection:
    """A catalog in memory and its columns, written to as a searcher would."""

    def __init__(self, *metadata: Json, **options: Any) -> None:
        self.stored = Stored()
        self.columns = MetadataColumns(self.stored, **options)
        self._writing = threading.Lock()
        if metadata:
            self.put(*metadata)

    def put(self, *metadata: Json, replaced: tuple[int, ...] = ()) -> list[int]:
        with self._writing:
            for row in replaced:
                del self.stored.images[row]
            rows = self.stored.add(*metadata)
            self.columns.put(rows, metadata, replaced)
        return rows

    def patch(self, row: int, metadata: Json) -> None:
        with self._writing:
            if row in self.stored.images:
                self.stored.images[row] = metadata
                self.columns.patch(row, metadata)

    def remove(self, *rows: int) -> None:
        with self._writing:
            for row in rows:
                self.stored.images.pop(row, None)
            self.columns.remove(rows)

    def found(self, where: Where) -> list[int]:
        """The rows that pass, of all that ever were."""
        rows = np.arange(self.stored.newest + 3, dtype=np.int64)
        return [int(row) for row in rows[self.columns.mask(parse_filter(where), rows)]]


def assert_right(collection: Collection, where: Where, *, every: int = 1) -> None:
    rows = np.arange(0, collection.stored.newest + 3, every, dtype=np.int64)
    mask = collection.columns.mask(parse_filter(where), rows)
    assert mask.dtype == np.bool_
    assert mask.tolist() == collection.stored.expected(where, rows), where


# --- against the slow evaluator -----------------------------------------------------------

places = st.integers(0, 7)
writes = st.one_of(
    st.tuples(st.just("put"), st.lists(documents, min_size=1, max_size=3)),
    st.tuples(st.just("upsert"), places, documents),
    st.tuples(st.just("delete"), places),
    st.tuples(st.just("patch"), places, documents),
    st.tuples(st.just("forget")),
)


def write(collection: Collection, step: tuple[Any, ...]) -> None:
    """One of `writes`; a place is one of the stored images."""
    kind, *rest = step
    live = sorted(collection.stored.images)
    if kind == "put":
        collection.put(*rest[0])
    elif kind == "forget":
        collection.columns.forget()
    elif live:
        row = live[rest[0] % len(live)]
        if kind == "upsert":
            collection.put(rest[1], replaced=(row,))
        elif kind == "patch":
            collection.patch(row, rest[1])
        else:
            collection.remove(row)


@pytest.mark.slow
@settings(
    max_examples=2000,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(documents, max_size=8),
    st.lists(filters, min_size=1, max_size=3),
    st.lists(writes, max_size=5),
    st.integers(1, 3),
)
def test_any_filter_finds_what_a_slow_evaluator_finds_whatever_was_written(
    first: list[Document], wheres: list[Where], steps: list[tuple[Any, ...]], every: int
) -> None:
    collection = Collection(*first)
    for number, step in enumerate([None, *steps]):
        if step is not None:
            write(collection, step)
        # Not all of them at first: fields are to be loaded after writes as well as before.
        for where in wheres[: number + 1]:
            assert_right(collection, where, every=every)
    for where in wheres:
        assert_right(collection, where)


# --- single questions ---------------------------------------------------------------------


def test_every_test_finds_its_rows() -> None:
    collection = Collection(
        {"n": 1, "s": "a", "t": ["x", 1, None]},
        {"n": 2.0, "s": "b", "t": []},
        {"n": None, "s": "é", "t": [["x"], {"x": 1}]},
        {"s": "a", "t": "x", "o": {"p": {"q": 1}}},
        {"n": True, "o": {"p": [1]}},
    )
    cases: list[tuple[Where, list[int]]] = [
        ({"n": 1}, [1]),
        ({"n": 2}, [2]),
        ({"n": True}, [5]),
        ({"n": None}, [3]),
        ({"field": "n", "ne": 1}, [2, 3, 4, 5]),
        ({"field": "n", "in": [1, 2, None]}, [1, 2, 3]),
        ({"field": "n", "in": list(range(9))}, [1, 2]),
        ({"field": "n", "in": []}, []),
        ({"field": "n", "gt": 1}, [2]),
        ({"field": "n", "lte": 1}, [1]),
        ({"field": "n", "exists": True}, [1, 2, 3, 5]),
        ({"field": "n", "exists": False}, [4]),
        ({"field": "s", "gt": "a"}, [2, 3]),
        ({"field": "s", "in": ["a", "é", "c", "d", "e", "f"]}, [1, 3, 4]),
        ({"field": "s", "in": list("abcdefg")}, [1, 2, 4]),
        ({"t": "x"}, [1, 4]),
        ({"t": 1}, [1]),
        ({"t": None}, [1]),
        ({"field": "t", "lte": 1}, [1]),
        ({"field": "o.p.q", "eq": 1}, [4]),
        ({"o.p": 1}, [5]),
        ({"field": "o.p", "exists": True}, [4, 5]),
        ({"and": [{"s": "a"}, {"not": {"n": 1}}]}, [4]),
        ({"or": [{"n": 1}, {"s": "b"}]}, [1, 2]),
        ({"s": "never seen"}, []),
        ({"nowhere": 1}, []),
        ({"field": "nowhere", "ne": 1}, [1, 2, 3, 4, 5]),
    ]
    for where, expected in cases:
        assert collection.found(where) == expected, where


def test_constants_and_numbers_are_told_apart() -> None:
    values = [True, False, None, 1, 0, "", "true", [True], [False], [None], [0]]
    collection = Collection(*({"v": value} for value in values))
    for wanted in values[:7]:
        assert_right(collection, {"v": wanted})
        assert_right(collection, {"field": "v", "in": [wanted, *"abcdef"]})
    assert collection.found({"v": False}) == [2, 9]


def test_nothing_is_left_of_a_list_that_was_replaced() -> None:
    collection = Collection({"v": ["x", 1]}, {"v": ["x"]}, {"v": "x"})
    assert collection.found({"v": "x"}) == [1, 2, 3]
    collection.patch(1, {"v": ["y", 2]})
    collection.patch(2, {})
    collection.patch(3, {"v": ["x", "y"]})
    assert collection.found({"v": "x"}) == [3]
    assert collection.found({"v": "y"}) == [1, 3]
    assert collection.found({"field": "v", "gte": 1}) == [1]


def test_strings_that_begin_alike_are_told_apart() -> None:
    names = [f"https://photos.example/{n:03d}" for n in range(50)]
    collection = Collection(*({"url": name} for name in reversed(names)))
    found = collection.found({"field": "url", "gt": names[10], "lte": names[12]})
    assert sorted(collection.stored.images[row]["url"] for row in found) == names[11:13]


def test_unknown_rows_get_the_answer_that_is_asked_for() -> None:
    collection = Collection({"a": 1}, {"a": 2}, {"a": 1})
    collection.remove(3)
    where = parse_filter({"a": 1})
    rows = np.array([1, 2, 3, 9], np.int64)
    assert collection.columns.mask(where, rows).tolist() == [True, False, False, False]
    answers = collection.columns.mask(where, rows, unknown=True).tolist()
    assert answers == [True, False, True, True]


def test_empty_collections_and_empty_questions_are_fine() -> None:
    where = parse_filter({"not": {"a": 1}})
    empty = Collection()
    assert empty.columns.mask(where, np.array([1, 2], np.int64)).tolist() == [False, False]
    assert empty.columns.mask(where, np.empty(0, np.int64)).tolist() == []
    assert empty.put({"a": 2}) == [1]
    assert empty.found({"not": {"a": 1}}) == [1]
    assert empty.columns.mask(And(()), np.array([1, 2], np.int64)).tolist() == [True, False]


def test_only_the_fields_that_were_asked_for_are_loaded_and_only_once() -> None:
    collection = Collection({"a": 1, "b": 2, "c": {"d": 3}})
    assert collection.columns.loaded() == frozenset()
    both = {"and": [{"a": 1}, {"c.d": 3}]}
    collection.found(both)
    assert collection.stored.loads == 1
    collection.found(both)
    collection.found({"field": "a", "gt": 0})
    assert collection.stored.loads == 1
    assert collection.columns.loaded() == {("a",), ("c", "d")}
    assert collection.columns.bytes > 0
    collection.columns.forget()
    assert collection.columns.loaded() == frozenset() and collection.columns.bytes == 0
    assert collection.found(both) == [1]


def test_the_field_that_was_used_the_longest_ago_goes_first() -> None:
    collection = Collection({"a": 1, "b": 2, "c": 3}, max_columns=2)
    for key, value in (("a", 1), ("b", 2), ("a", 1), ("c", 3)):
        assert collection.found({key: value}) == [1]
    assert collection.columns.loaded() == {("a",), ("c",)}
    collection.patch(1, {"b": 9})
    assert collection.found({"b": 2}) == [] and collection.found({"b": 9}) == [1]
    three = And(tuple(OneOf((key,), (1,)) for key in "abc"))
    with pytest.raises(ValueError, match="3 fields in one filter; at most 2"):
        collection.columns.allowed(three)


def test_an_array_that_is_asked_for_again_sees_what_was_written() -> None:
    count = 12_000
    collection = Collection(*({"n": row % 7} for row in range(1, count + 1)))
    collection.stored.chunk = 5000
    whole = np.arange(1, count + 1, dtype=np.int64)
    gaps = np.delete(whole, [0, 17, 6000])
    arrays = [whole, gaps, np.concatenate([gaps, np.array([count + 1], np.int64)])]
    allowed = collection.columns.allowed(parse_filter({"n": 3}))

    def check() -> None:
        for rows in arrays:
            assert allowed(rows).tolist() == collection.stored.expected({"n": 3}, rows)

    check()
    collection.remove(3, 10, 6001)
    collection.patch(4, {"n": 3})
    check()
    assert collection.put({"n": 3}) == [count + 1]
    check()
    assert len(collection.columns._alignments) == 3
    arrays.clear()
    del whole, gaps
    gc.collect()
    assert len(collection.columns._alignments) == 0


def test_changes_beyond_the_size_of_the_collection_load_it_anew() -> None:
    collection = Collection({"name": "0"})
    assert collection.found({"name": "0"}) == [1]
    sizes = []
    for number in range(1, 25_000):
        collection.patch(1, {"name": str(number)})
        if number % 5000 == 0:
            sizes.append(collection.columns.bytes)
            assert collection.found({"name": str(number)}) == [1]
    # Strings of the past would else pile up.
    assert collection.stored.loads > 1
    assert max(sizes) < 3_000_000


def test_rows_that_come_late_are_not_lost() -> None:
    collection = Collection({"a": 1})
    assert collection.found({"a": 1}) == [1]
    two, three = collection.stored.add({"a": 1}, {"a": 1})
    collection.columns.put([three], [{"a": 1}])
    collection.columns.put([two], [{"a": 1}])
    assert collection.found({"a": 1}) == [1, 2, 3]


def test_rows_and_metadata_must_be_equally_many() -> None:
    with pytest.raises(ValueError, match="2 rows have 1 objects"):
        Collection().columns.put([1, 2], [{}])


# --- writes and searches while a field loads ----------------------------------------------


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("writes", [1, 3 * _CATCH_UP])
def test_what_is_written_while_a_field_loads_is_in_it(first: bool, writes: int) -> None:
    collection = Collection(*({"a": n % 3, "b": n % 2} for n in range(20)))
    if not first:
        assert collection.found({"b": 1})
    chunks = iter(range(100))

    def meanwhile() -> None:
        # Within the load, before the metadata of each three rows are read.
        if next(chunks) != 3:
            return
        for number in range(writes):
            collection.patch(2, {"a": 7, "b": number})  # read already
            collection.patch(19, {"a": 7})  # not read yet
            (new,) = collection.put({"a": 7}, replaced=())
            collection.put({"a": 7, "b": number}, replaced=(new,))
        collection.remove(1, 20)
        if not first:
            # What is loaded answers meanwhile.
            assert_right(collection, {"b": writes - 1})

    collection.stored.between = meanwhile
    assert_right(collection, {"a": 7})
    collection.stored.between = lambda: None
    for where in ({"a": 7}, {"a": 1}, {"b": writes - 1}, {"field": "a", "exists": False}):
        assert_right(collection, where)


def test_a_load_holds_up_nobody_who_does_not_need_it() -> None:
    collection = Collection(*({"a": 1, "b": 1} for _ in range(9)))
    assert len(collection.found({"a": 1})) == 9
    entered, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert go_on.wait(PATIENCE_S)

    collection.stored.between = wait
    answers: list[list[int]] = []
    loading = threading.Thread(target=lambda: answers.append(collection.found({"b": 1})))
    loading.start()
    try:
        assert entered.wait(PATIENCE_S)
        collection.put({"a": 1, "b": 1})
        collection.remove(1)
        assert collection.found({"a": 1}) == list(range(2, 11))
        assert loading.is_alive() and not answers
    finally:
        go_on.set()
        loading.join()
    assert answers == [list(range(2, 11))]


def test_a_load_that_fails_can_be_tried_again() -> None:
    collection = Collection({"a": 1})

    def fail() -> None:
        raise OSError("the disk is gone")

    collection.stored.between = fail
    with pytest.raises(OSError, match="gone"):
        collection.found({"a": 1})
    collection.stored.between = lambda: None
    collection.patch(1, {"a": 2})
    assert collection.found({"a": 2}) == [1]


def test_forgetting_while_a_field_loads_leaves_it_right() -> None:
    collection = Collection(*({"a": n} for n in range(9)))
    calls = iter(range(100))

    def meanwhile() -> None:
        if next(calls) == 1:
            collection.columns.forget()
            collection.put({"a": 3})

    collection.stored.between = meanwhile
    assert collection.found({"a": 3}) == [4, 10]


def test_threads_may_write_load_and_search_at_once() -> None:
    keys = [f"k{n}" for n in range(6)]

    def document(number: int) -> Json:
        # All fields of one image say the same at any time.
        return dict.fromkeys(keys, number % 5)

    collection = Collection(*(document(n) for n in range(300)), max_columns=4)
    collection.stored.chunk = 37
    stop = threading.Event()
    failures: list[BaseException] = []

    def guarded(work: Callable[[np.random.Generator], None], seed: int) -> None:
        random = np.random.default_rng(seed)
        try:
            while not stop.is_set():
                work(random)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    def writer(random: np.random.Generator) -> None:
        number = int(random.integers(1000))
        row = int(random.integers(1, collection.stored.newest + 1))
        if number % 3 == 0:
            collection.put(document(number))
        elif number % 3 == 1:
            collection.patch(row, document(number))
        else:
            collection.remove(row)

    def reader(random: np.random.Generator) -> None:
        one, other = random.choice(keys, 2, replace=False)
        value = int(random.integers(5))
        # Never true, of whatever moment the answer is.
        torn: Where = {"and": [{one: value}, {"field": other, "ne": value}]}
        rows = np.arange(1, collection.stored.newest + 1, dtype=np.int64)
        assert not collection.columns.mask(parse_filter(torn), rows).any()

    threads = [
        threading.Thread(target=guarded, args=(work, seed))
        for seed, work in enumerate([writer, writer, reader, reader])
    ]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    for key in keys:
        for value in range(5):
            assert_right(collection, {key: value})


# --- with the catalog ---------------------------------------------------------------------


def test_columns_of_a_catalog_say_what_its_records_say(tmp_path: Path) -> None:
    def metadata(n: int) -> Json:
        return {"year": 1990 + n % 30, "tags": ["ü", n], "name": f"n{n}", "big": "x" * (n % 500)}

    where = {"or": [{"field": "year", "lt": 1995}, {"field": "tags", "gte": 1400}, {"name": "n7"}]}
    with closing(Catalog(tmp_path / "catalog.sqlite")) as catalog:
        images = [an_image(str(n), seed=n, dim=4, metadata=metadata(n)) for n in range(1500)]
        catalog.put(images)
        columns = MetadataColumns(catalog)
        allowed = columns.allowed(parse_filter(where))
        for n in range(0, 1500, 100):
            columns.remove([catalog.delete(str(n))])
        record = catalog.patch("8", {"year": 1990, "tags": None})
        columns.patch(record.row, record.metadata)
        rows, replaced = catalog.put([an_image("9", dim=4, metadata={"name": "n7"})])
        columns.put(rows, [{"name": "n7"}], replaced)
        live = catalog.live_rows()
        records = catalog.by_rows(live.tolist())
        expected = [passes(where, records[row].metadata) for row in live.tolist()]
        assert allowed(live).tolist() == expected
        assert 0 < sum(expected) < len(expected)


def test_metadata_of_many_sizes_is_read_whole(tmp_path: Path) -> None:
    with closing(Catalog(tmp_path / "catalog.sqlite")) as catalog:
        assert list(catalog.metadata()) == []
        sizes = [0, 60_000, 1, 50_000, 0, 60_000] * 20
        documents = [{"n": n, "text": "é\n" * (size // 12)} for n, size in enumerate(sizes)]
        catalog.put([an_image(str(n), seed=n, dim=4, metadata=m) for n, m in enumerate(documents)])
        read = [
            (row, json.dumps(document))
            for rows, some in catalog.metadata()
            for row, document in zip(rows.tolist(), some, strict=True)
        ]
        assert read == [(n + 1, json.dumps(document)) for n, document in enumerate(documents)]
