from __future__ import annotations

import dataclasses
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.catalog import MAX_METADATA, READ_CHUNK, Catalog, stored_descriptor
from engine.catalog.reader import CatalogReader
from engine.errors import CorruptIndex, InvalidOption, UnknownImage
from engine.types import ImageRecord
from tests.patience import until
from tests.stored import RECIPE, an_image, other_recipe, unit_vectors

IDS = [
    "plain.jpg",
    "Straße/Ünïcode.jpg",
    "写真/東京タワー.png",
    "фото.jpg",
    "صورة.jpg",
    "ภาพ.webp",
    "🦉/👩‍👧.gif",
    "it's; DROP TABLE images --",
    "a b%2Fc?d#e",
    "e\u0301 is not \u00e9",
    "\u00e9 is not e\u0301",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def catalog(path: Path) -> Any:
    with closing(Catalog(path)) as opened:
        yield opened


def look(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What another program reads from the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("image_id", IDS)
def test_ids_of_any_script_come_back(catalog: Catalog, image_id: str) -> None:
    catalog.put([an_image("another", seed=1), an_image(image_id, seed=2)])
    assert catalog.has(image_id)
    assert catalog.get(image_id).id == image_id
    assert catalog.thumbnail(image_id) == b"thumbnail 2"
    catalog.delete(image_id)
    assert not catalog.has(image_id)
    assert catalog.has("another")


def test_a_record_says_what_was_put(catalog: Catalog) -> None:
    before = datetime.now(UTC).isoformat(timespec="milliseconds")
    metadata = {"price": 3.5, "tags": ["a", "ü"], "nested": {"none": None}}
    image = an_image("a", width=640, height=480, format="PNG", metadata=metadata)
    (row,), replaced = catalog.put([image])
    record = catalog.get("a")
    assert replaced == []
    assert (record.row, record.id, record.digest) == (row, "a", image.digest)
    assert (record.width, record.height, record.format) == (640, 480, "PNG")
    assert record.metadata == metadata
    assert before <= record.created_at <= datetime.now(UTC).isoformat(timespec="milliseconds")


def test_another_program_reads_what_was_put(catalog: Catalog, path: Path) -> None:
    image = an_image("a", seed=5)
    (row,), _ = catalog.put([image])
    assert look(path, "SELECT row, id, digest FROM images") == [(row, "a", image.digest)]
    assert look(path, "SELECT row, jpeg FROM thumbnails") == [(row, b"thumbnail 5")]
    ((found, blob),) = look(path, "SELECT row, vector FROM descriptors")
    assert found == row
    np.testing.assert_array_equal(
        np.frombuffer(blob, np.float16), image.descriptor.astype(np.float16)
    )


def test_putting_a_known_id_replaces_it_under_a_new_row(catalog: Catalog, path: Path) -> None:
    (old, kept), _ = catalog.put([an_image("a", seed=1), an_image("b", seed=2)])
    (new,), replaced = catalog.put([an_image("a", seed=3)])
    assert replaced == [old]
    assert new > kept > old
    assert catalog.get("a").digest == an_image("a", seed=3).digest
    assert catalog.thumbnail("a") == b"thumbnail 3"
    assert catalog.count() == 2
    for table in ("images", "descriptors", "thumbnails"):
        assert look(path, f"SELECT row FROM {table} ORDER BY row") == [(kept,), (new,)]


def test_deleting_leaves_no_blob_behind(catalog: Catalog, path: Path) -> None:
    (first, second), _ = catalog.put([an_image("a", seed=1), an_image("b", seed=2)])
    assert catalog.delete("a") == first
    for table in ("images", "descriptors", "thumbnails"):
        assert look(path, f"SELECT row FROM {table}") == [(second,)]


def test_a_row_number_is_never_used_twice(path: Path) -> None:
    used: list[int] = []
    for attempt in range(4):
        with closing(Catalog(path)) as catalog:
            rows, _ = catalog.put([an_image(f"{attempt}", seed=attempt), an_image("newest")])
            used += rows
            catalog.delete("newest")
            # Without this the newest row would be a lower one after the reopening.
            if attempt % 2:
                catalog.delete(f"{attempt}")
    assert used == sorted(set(used))


def test_rows_are_not_reused_after_everything_was_deleted(path: Path) -> None:
    with closing(Catalog(path)) as catalog:
        rows, _ = catalog.put([an_image(str(n), seed=n) for n in range(5)])
        for n in range(5):
            catalog.delete(str(n))
        assert catalog.count() == 0
    with closing(Catalog(path)) as catalog:
        (row,), _ = catalog.put([an_image("again")])
    assert row > max(rows)


def test_a_put_that_fails_half_way_changes_nothing(catalog: Catalog, path: Path) -> None:
    catalog.put([an_image("a", seed=1)])
    before = look(path, "SELECT * FROM images")
    # Its metadata cannot be written as JSON, which shows after the first image was inserted.
    bad = an_image("c", seed=4, metadata={"not json": object()})
    with pytest.raises(TypeError):
        catalog.put([an_image("a", seed=2), an_image("b", seed=3), bad])
    assert look(path, "SELECT * FROM images") == before
    assert catalog.thumbnail("a") == b"thumbnail 1"
    assert not catalog.has("b")
    rows, replaced = catalog.put([an_image("b", seed=3)])
    assert len(rows) == 1 and replaced == []


def test_no_reader_sees_a_replaced_image_missing(catalog: Catalog, path: Path) -> None:
    catalog.put([an_image("a")])
    stop = threading.Event()
    seen: list[int] = []

    def watch() -> None:
        with closing(sqlite3.connect(path)) as connection:
            while not stop.is_set():
                (count,) = connection.execute("SELECT count(*) FROM images").fetchone()
                seen.append(count)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        until(lambda: seen)
        for seed in range(40):
            catalog.put([an_image("a", seed=seed)])
    finally:
        stop.set()
        thread.join()
    assert seen and set(seen) == {1}


def test_an_id_given_twice_is_refused(catalog: Catalog) -> None:
    with pytest.raises(ValueError, match=r"twice.*'a'"):
        catalog.put([an_image("a", seed=1), an_image("a", seed=2)])
    assert catalog.count() == 0


def test_unknown_ids_are_named(catalog: Catalog) -> None:
    for ask in (catalog.get, catalog.thumbnail, catalog.delete):
        with pytest.raises(UnknownImage, match="'nobody'"):
            ask("nobody")
    assert not catalog.has("nobody")
    assert catalog.by_digest("nothing") == []
    assert catalog.by_rows([1, 2]) == {}
    assert list(catalog.descriptors([1, 2])) == []


def test_half_precision_keeps_the_direction_of_a_descriptor(catalog: Catalog) -> None:
    # As long as ours are, and as sparse: the smallest entries are where float16 is coarse.
    vectors = unit_vectors(8, 8192) ** 3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    images = [an_image(str(n), seed=n, descriptor=vector) for n, vector in enumerate(vectors)]
    rows, _ = catalog.put(images)
    ((found, stored),) = catalog.descriptors(rows)
    assert found.tolist() == rows
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, stored_descriptor(vectors))
    exact, kept = vectors.astype(np.float64), stored.astype(np.float64)
    cosines = (exact * kept).sum(axis=1) / np.linalg.norm(kept, axis=1)
    assert cosines.min() > 0.999999


def test_more_descriptors_than_one_chunk_come_in_order(catalog: Catalog) -> None:
    count = 2 * READ_CHUNK + 7
    vectors = unit_vectors(count, 4)
    rows, _ = catalog.put(
        [an_image(str(n), seed=n, descriptor=vector) for n, vector in enumerate(vectors)]
    )
    catalog.delete("5")
    chunks = list(catalog.descriptors(rows))
    assert [len(found) for found, _ in chunks] == [READ_CHUNK - 1, READ_CHUNK, 7]
    kept = [n for n in range(count) if n != 5]
    assert np.concatenate([found for found, _ in chunks]).tolist() == [rows[n] for n in kept]
    np.testing.assert_array_equal(
        np.concatenate([found for _, found in chunks]), stored_descriptor(vectors[kept])
    )
    assert catalog.live_rows().tolist() == [rows[n] for n in kept]
    assert set(catalog.by_rows(rows)) == {rows[n] for n in kept}


def test_same_bytes_under_several_ids_are_listed_oldest_first(catalog: Catalog) -> None:
    catalog.put([an_image("z", seed=1), an_image("other", seed=2)])
    catalog.put([an_image("a", seed=1)])
    digest = an_image("a", seed=1).digest
    assert [record.id for record in catalog.by_digest(digest)] == ["z", "a"]
    catalog.put([an_image("z", seed=1)])
    assert [record.id for record in catalog.by_digest(digest)] == ["a", "z"]


def test_the_recipe_is_remembered(path: Path) -> None:
    with closing(Catalog(path)) as catalog:
        assert catalog.recipe() is None
        catalog.set_recipe(other_recipe(max_side=64))
        catalog.set_recipe(RECIPE)
    with closing(Catalog(path)) as catalog:
        assert catalog.recipe() == RECIPE


def test_every_connection_writes_through_to_the_disk(catalog: Catalog) -> None:
    with catalog._engine.connect() as one, catalog._engine.connect() as two:
        for connection in (one, two):
            answers = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            }
            assert answers == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


PUT_AND_WAIT = """
import sys, time
from pathlib import Path
from engine.catalog import Catalog
from tests.stored import an_image
catalog = Catalog(Path(sys.argv[1]))
catalog.put([an_image("before")])
rows, replaced = catalog.put([an_image("a", seed=1), an_image("b", seed=2)])
sys.stdout.write(f"{rows}\\n")
sys.stdout.flush()
time.sleep(60)
"""


def test_what_was_put_is_there_after_the_process_was_killed(path: Path) -> None:
    command = [sys.executable, "-c", PUT_AND_WAIT, str(path)]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        answer = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    with closing(Catalog(path)) as catalog:
        assert answer == f"{[catalog.get('a').row, catalog.get('b').row]}\n"
        ((_, vectors),) = catalog.descriptors([catalog.get("b").row])
        np.testing.assert_array_equal(vectors[0], stored_descriptor(unit_vectors(1, seed=2)[0]))
        assert catalog.check() == []


HALF_A_PUT = """
import os, sys
from pathlib import Path
from engine.catalog import Catalog
from tests.stored import an_image
catalog = Catalog(Path(sys.argv[1]))
insert, calls = catalog._insert, []
def dying(connection, image):
    calls.append(insert(connection, image))
    if len(calls) == 2:
        os.kill(os.getpid(), 9)
    return calls[-1]
catalog._insert = dying
catalog.put([an_image(name, seed=9) for name in ("a", "b", "c")])
"""


def test_a_put_cut_off_by_a_kill_leaves_the_old_images(path: Path) -> None:
    with closing(Catalog(path)) as catalog:
        rows, _ = catalog.put([an_image("a", seed=1), an_image("b", seed=2)])
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", HALF_A_PUT, str(path)], cwd=root)
    assert done.returncode == -signal.SIGKILL
    with closing(Catalog(path)) as catalog:
        assert [catalog.get("a").row, catalog.get("b").row] == rows
        assert catalog.thumbnail("a") == b"thumbnail 1"
        assert not catalog.has("c")


def test_threads_may_write_and_read_at_once(catalog: Catalog) -> None:
    failures: list[Exception] = []

    def work(worker: int) -> None:
        try:
            for n in range(10):
                catalog.put([an_image(f"{worker}/{n}", seed=n), an_image("shared", seed=worker)])
                catalog.by_digest(an_image("", seed=n).digest)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert catalog.count() == 41


def test_a_file_that_is_no_database_is_corrupt(path: Path) -> None:
    path.write_bytes(b"this is no database, " * 1000)
    with pytest.raises(CorruptIndex, match=r"catalog.sqlite is damaged.*backup"):
        Catalog(path)


def test_a_damaged_page_is_corrupt(path: Path) -> None:
    with closing(Catalog(path)) as catalog:
        catalog.put([an_image(str(n), seed=n) for n in range(300)])
        assert catalog.check() == []
    content = bytearray(path.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page : page + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(CorruptIndex, match="damaged"), closing(Catalog(path)) as catalog:
        for n in range(300):
            catalog.get(str(n))


def test_the_check_notices_missing_descriptors(catalog: Catalog, path: Path) -> None:
    (row, _), _ = catalog.put([an_image("a", seed=1), an_image("b", seed=2)])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM descriptors WHERE row = ?", [row])
        connection.commit()
    assert catalog.check() == ["catalog.sqlite: 1 images have no descriptor"]


def test_a_cut_off_descriptor_is_corrupt(catalog: Catalog, path: Path) -> None:
    rows, _ = catalog.put([an_image("a", seed=1), an_image("b", seed=2)])
    for length in (2, 3):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(
                "UPDATE descriptors SET vector = ? WHERE row = ?", [bytes(length), rows[0]]
            )
            connection.commit()
        with pytest.raises(CorruptIndex, match="descriptor"):
            list(catalog.descriptors(rows))


def test_another_schema_version_is_refused_and_left_alone(path: Path) -> None:
    Catalog(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
        connection.execute("DROP TABLE thumbnails")
        connection.commit()
    with pytest.raises(CorruptIndex, match=r"schema version 99; this program reads 1"):
        Catalog(path)
    tables = {name for (name,) in look(path, "SELECT name FROM sqlite_master WHERE type='table'")}
    assert "thumbnails" not in tables


# --- within the transaction ---------------------------------------------------------------


def test_what_a_put_replaces_is_shown_before_it_is_committed(catalog: Catalog, path: Path) -> None:
    catalog.put([an_image("a", seed=1), an_image("b", seed=2)])
    before = catalog.get("a")
    seen: list[tuple[list[int], list[ImageRecord], list[tuple[Any, ...]]]] = []

    def look_on(rows: list[int], replaced: list[ImageRecord]) -> None:
        seen.append((rows, replaced, look(path, "SELECT id FROM images ORDER BY row")))

    rows, replaced = catalog.put(
        [an_image("c", seed=3), an_image("a", seed=4)], before_commit=look_on
    )
    assert seen == [(rows, [before], [("a",), ("b",)])]
    assert replaced == [before.row]


def test_a_put_or_delete_whose_hook_fails_changes_nothing(catalog: Catalog, path: Path) -> None:
    catalog.put([an_image("a", seed=1)])
    before = look(path, "SELECT * FROM images")

    def fail(*_: object) -> None:
        raise InterruptedError("not now")

    with pytest.raises(InterruptedError):
        catalog.put([an_image("a", seed=2), an_image("b", seed=3)], before_commit=fail)
    with pytest.raises(InterruptedError):
        catalog.delete("a", before_commit=fail)
    assert look(path, "SELECT * FROM images") == before
    assert catalog.thumbnail("a") == b"thumbnail 1"


def test_what_is_deleted_is_shown_before_it_is_committed(catalog: Catalog) -> None:
    catalog.put([an_image("a", seed=1)])
    record = catalog.get("a")
    seen: list[ImageRecord] = []
    assert catalog.delete("a", before_commit=seen.append) == record.row
    assert seen == [record]
    with pytest.raises(UnknownImage, match="'a'"):
        catalog.delete("a", before_commit=seen.append)
    assert len(seen) == 1


# --- changing metadata --------------------------------------------------------------------


def test_a_patch_changes_the_metadata_and_nothing_else(catalog: Catalog, path: Path) -> None:
    catalog.put([an_image("a", seed=1, metadata={"x": 1, "y": {"z": [1]}, "w": None})])
    before = catalog.get("a")
    record = catalog.patch("a", {"x": None, "y": {"q": "ü"}, "new": [None]})
    metadata = {"y": {"z": [1], "q": "ü"}, "w": None, "new": [None]}
    assert record == dataclasses.replace(before, metadata=metadata)
    assert catalog.get("a") == record
    assert catalog.thumbnail("a") == b"thumbnail 1"
    ((stored,),) = look(path, "SELECT metadata FROM images")
    assert json.loads(stored) == metadata
    with pytest.raises(UnknownImage, match="'b'"):
        catalog.patch("b", {})


def test_patches_cannot_grow_the_metadata_beyond_its_bound(catalog: Catalog) -> None:
    catalog.put([an_image("a", metadata={})])
    half = "é" * (MAX_METADATA // 2)
    catalog.patch("a", {"one": half})
    with pytest.raises(InvalidOption, match=r"'a' would have 65,\d\d\d characters; at most 65,536"):
        catalog.patch("a", {"two": half})
    assert catalog.get("a").metadata == {"one": half}


def test_patches_of_several_threads_are_all_kept(catalog: Catalog) -> None:
    catalog.put([an_image("a", metadata={})])

    def work(worker: int) -> None:
        for n in range(15):
            catalog.patch("a", {f"{worker}/{n}": n})

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(catalog.get("a").metadata) == 60


# --- many rows ----------------------------------------------------------------------------


def test_more_rows_than_one_query_names_are_found(catalog: Catalog) -> None:
    rows, _ = catalog.put([an_image(str(n), seed=n, dim=4) for n in range(1300)])
    catalog.delete("700")
    kept = [row for n, row in enumerate(rows) if n != 700]
    found = catalog.by_rows([*rows, 99_999])
    assert {row: record.row for row, record in found.items()} == {row: row for row in kept}
    assert catalog.live_rows().tolist() == kept
    assert catalog.live_rows().dtype == np.int64
    assert catalog.count() == 1299


def test_an_empty_catalog_has_no_rows(catalog: Catalog) -> None:
    assert catalog.live_rows().tolist() == []
    assert catalog.count() == catalog.highest_row() == 0
    assert catalog.page("", 10) == []


def test_files_from_before_there_was_an_index_of_rows_get_one(path: Path) -> None:
    with closing(Catalog(path)) as catalog:
        rows, _ = catalog.put([an_image(str(n), seed=n) for n in range(3)])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP INDEX images_rows")
        connection.commit()
    with closing(Catalog(path)) as catalog:
        assert catalog.live_rows().tolist() == rows
        assert catalog.recipe() is None
    assert look(path, "SELECT name FROM sqlite_master WHERE name = 'images_rows'")
    assert look(path, "SELECT value FROM meta WHERE key = 'schema_version'") == [("1",)]
    # What makes counting and listing rows fast: the wide table is not read.
    for query in ("SELECT count(*) FROM images", "SELECT group_concat(row) FROM images"):
        (plan,) = look(path, f"EXPLAIN QUERY PLAN {query}")
        assert "COVERING INDEX images_rows" in plan[-1]


def test_opening_a_catalog_waits_for_no_writer(path: Path) -> None:
    Catalog(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        started = time.perf_counter()
        with closing(Catalog(path)) as catalog:
            assert catalog.count() == 0
        assert time.perf_counter() - started < 25, "a writer is waited for for 30 s"
        writer.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("UPDATE images SET id = 'c' WHERE id = 'b'", ("c", "entry")),
        ("UPDATE images SET digest = 'x' WHERE id = 'b'", ("b", "entry")),
        ("UPDATE images SET width = width + 1 WHERE id = 'b'", ("b", "entry")),
        ("UPDATE images SET format = 'PNH' WHERE id = 'b'", ("b", "entry")),
        ("UPDATE images SET metadata = '{\"year\": 2025}' WHERE id = 'b'", ("b", "entry")),
        ("UPDATE images SET created_at = '' WHERE id = 'b'", ("b", "entry")),
        ("UPDATE descriptors SET vector = zeroblob(length(vector)) WHERE row = 2", None),
        ("UPDATE thumbnails SET jpeg = x'00' WHERE row = 2", None),
    ],
)
def test_what_was_changed_behind_its_back_is_told(
    path: Path, change: str, what: tuple[str, str] | None
) -> None:
    with closing(Catalog(path)) as catalog:
        catalog.put([an_image("a", seed=1), an_image("b", seed=2, metadata={"year": 2024})])
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(change).rowcount == 1
    with closing(CatalogReader(path)) as reader:
        assert list(reader.differing()) == [what or ("b", "descriptor or thumbnail")]


def test_what_the_catalog_itself_changes_is_as_it_was_written(path: Path) -> None:
    with closing(Catalog(path)) as catalog:
        catalog.put([an_image(f"{n}", seed=n, metadata={"ü": [n, None]}) for n in range(4)])
        catalog.patch("1", {"ü": None, "a": {"b": 1.5}})
        catalog.put([an_image("2", seed=9)])
        catalog.delete("3")
    assert look(path, "SELECT count(*) FROM checksums") == [(3,)]
    with closing(CatalogReader(path)) as reader:
        assert list(reader.differing()) == []
        assert reader.without_checksum() == 0


def test_a_file_from_before_there_were_checksums_is_read_and_gets_them(path: Path) -> None:
    with closing(Catalog(path)) as catalog:
        catalog.put([an_image("a", seed=1), an_image("b", seed=2)])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE checksums")
    with closing(CatalogReader(path)) as reader:
        assert (list(reader.differing()), reader.without_checksum()) == ([], 2)
    with closing(Catalog(path)) as catalog:
        catalog.patch("b", {"year": 2024})
        catalog.put([an_image("c", seed=3)])
    with closing(CatalogReader(path)) as reader:
        assert (list(reader.differing()), reader.without_checksum()) == ([], 2)
