from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from engine.catalog import Catalog, stored_descriptor
from engine.describer import Describer
from engine.errors import DataFolderInUse, InvalidOption, StorageFull, StorageReadOnly
from engine.files.data_folder import DataFolder
from engine.files.storage import storage_errors, write_atomically
from engine.generations import BuildPlan, Generations
from engine.ingest import Offered, add_chunk
from engine.searcher import Searcher
from engine.types import NewImage, Rows, SearchOptions, Vectors
from tests.disks import fill, make_read_only, small_disk
from tests.drawing import photo
from tests.stored import RECIPE, an_image, unit_vectors

ROOT = Path(__file__).resolve().parents[1]
COUNT = 60


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    with small_disk(tmp_path / "disk", size_kb=1024) as folder:
        yield folder


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def read_all(rows: Rows) -> Iterator[tuple[Rows, Vectors]]:
    yield rows, unit_vectors(COUNT)[rows - 1]


def put_until_full(catalog: Catalog) -> list[NewImage]:
    """Images that were acknowledged before the disk was full."""
    kept: list[NewImage] = []
    for seed in range(10_000):
        image = an_image(f"fill {seed}", seed=seed, thumbnail=bytes(3000))
        try:
            catalog.put([image])
        except StorageFull as error:
            assert str(catalog.path.parent) in error.message and "free space" in error.message
            return kept
        kept.append(image)
    raise AssertionError("the disk never filled up")


# --- writing a file ---------------------------------------------------------------------------


def test_a_file_is_replaced_whole_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "CURRENT"
    for content in (b"12345\n", b"6\n"):
        write_atomically(path, content)
        assert files_in(tmp_path) == {"CURRENT": content}


def test_who_has_the_old_file_open_still_reads_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "CURRENT"
    write_atomically(path, b"old")
    with path.open("rb") as held:
        write_atomically(path, b"newer")
        assert held.read() == b"old"
    assert path.read_bytes() == b"newer"


def test_a_full_disk_leaves_the_old_file_and_nothing_else(disk: Path) -> None:
    path = disk / "CURRENT"
    write_atomically(path, b"old")
    ballast = fill(disk, leave_kb=8)
    with pytest.raises(StorageFull, match=str(disk)), storage_errors(disk):
        write_atomically(path, bytes(100_000))
    ballast.unlink()
    assert files_in(disk) == {"CURRENT": b"old"}


def test_a_read_only_disk_leaves_the_old_file(disk: Path) -> None:
    write_atomically(disk / "CURRENT", b"old")
    make_read_only(disk)
    with pytest.raises(StorageReadOnly, match=str(disk)), storage_errors(disk):
        write_atomically(disk / "CURRENT", b"new")
    assert files_in(disk) == {"CURRENT": b"old"}


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    for error in (FileNotFoundError(errno.ENOENT, "gone"), RuntimeError("a bug"), KeyError("x")):
        with pytest.raises(type(error)) as caught, storage_errors(tmp_path):
            raise error
        assert caught.value is error


# --- full disk --------------------------------------------------------------------------------


def test_a_full_disk_stops_puts_loses_nothing_and_recovers(disk: Path) -> None:
    path = disk / "catalog.sqlite"
    with closing(Catalog(path)) as catalog:
        catalog.put([an_image("first", seed=1)])
        ballast = fill(disk, leave_kb=300)
        kept = [an_image("first", seed=1), *put_until_full(catalog)]
        assert len(kept) > 3
        with pytest.raises(StorageFull):
            catalog.put([an_image("first", seed=2), an_image("big", thumbnail=bytes(500_000))])
        assert catalog.count() == len(kept)
        for image in kept:
            record = catalog.get(image.id)
            assert record.digest == image.digest
            assert catalog.thumbnail(image.id) == image.thumbnail
            ((_, vectors),) = catalog.descriptors([record.row])
            np.testing.assert_array_equal(vectors[0], stored_descriptor(image.descriptor))
        ballast.unlink()
        catalog.put([an_image("after", seed=3)])
    with closing(Catalog(path)) as catalog:
        assert catalog.check() == []
        assert catalog.count() == len(kept) + 1
        assert catalog.has("after") and not catalog.has("big")


def test_an_existing_catalog_on_a_full_disk_says_so_and_opens_later(disk: Path) -> None:
    path = disk / "catalog.sqlite"
    with closing(Catalog(path)) as catalog:
        catalog.put([an_image("a", seed=1)])
    ballast = fill(disk)
    with pytest.raises(StorageFull, match=str(disk)):
        Catalog(path)
    ballast.unlink()
    with closing(Catalog(path)) as catalog:
        assert catalog.get("a").metadata == {"seed": 1}


def test_a_new_catalog_on_a_full_disk_says_so(disk: Path) -> None:
    ballast = fill(disk)
    with pytest.raises(StorageFull, match=str(disk)):
        Catalog(disk / "catalog.sqlite")
    ballast.unlink()
    with closing(Catalog(disk / "catalog.sqlite")) as catalog:
        catalog.put([an_image("a")])


# Vectors, projection and manifest need 8, 8 and 4 kB: each is the one without room in turn.
@pytest.mark.parametrize("leave_kb", [0, 4, 8, 12, 16])
def test_a_build_on_a_full_disk_leaves_the_old_generation_alone(disk: Path, leave_kb: int) -> None:
    generations = Generations(disk)
    rows = np.arange(1, COUNT + 1)
    generations.build(rows, read_all, BuildPlan(RECIPE, "float32"))
    generations.publish(1)
    before = files_in(disk)
    ballast = fill(disk, leave_kb=leave_kb)
    with pytest.raises(StorageFull, match=str(disk / "generations")):
        generations.build(rows, read_all, BuildPlan(RECIPE, "float32"))
    ballast.unlink()
    assert files_in(disk) == before
    assert [path.name for path in generations.folder.iterdir()] == ["1"]
    assert generations.current() == 1
    assert generations.load(1, RECIPE).manifest.count == COUNT
    generations.build(rows, read_all, BuildPlan(RECIPE, "float32"))
    generations.publish(2)
    assert generations.load(2, RECIPE).manifest.count == COUNT


def test_searches_go_on_while_the_disk_is_full(tmp_path: Path, describer: Describer) -> None:
    with small_disk(tmp_path / "disk", size_kb=2048) as disk:
        with closing(Searcher(disk / "index", describer)) as searcher:
            for seed in range(8):
                searcher.put(f"{seed}", photo(seed), {})
            searcher.build()
            ballast = fill(disk)
            with pytest.raises(StorageFull):
                # The free rest of an already allocated log may take a few more images.
                for seed in range(100, 150):
                    searcher.put(f"{seed}", photo(seed), {})
            with pytest.raises(StorageFull):
                searcher.build()
            count = searcher.stats().count
            with pytest.raises(StorageFull):
                add_chunk(
                    searcher, [Offered(f"{n}.jpg", partial(photo, n)) for n in range(200, 216)]
                )
            assert searcher.stats().count == count
            for seed in range(8):
                answer = searcher.search(photo(seed), SearchOptions(limit=3))
                assert (answer.hits[0].id, answer.count) == (f"{seed}", count)
            ballast.unlink()
            searcher.put("after", photo(900), {})
            assert searcher.verify() == []


# --- read-only --------------------------------------------------------------------------------


def test_an_existing_catalog_in_a_read_only_folder_is_refused_by_name(disk: Path) -> None:
    with closing(Catalog(disk / "catalog.sqlite")) as catalog:
        catalog.put([an_image("a")])
    make_read_only(disk)
    with pytest.raises(StorageReadOnly, match=rf"{disk} cannot be written; mount it writable"):
        Catalog(disk / "catalog.sqlite")


def test_an_index_in_a_folder_that_becomes_read_only_says_so(
    disk: Path, describer: Describer
) -> None:
    with closing(Searcher(disk / "index", describer)) as searcher:
        searcher.put("a", photo(0), {})
        searcher.build()
    make_read_only(disk)
    with pytest.raises(StorageReadOnly, match=str(disk / "index")):
        Searcher(disk / "index", describer)
    with pytest.raises(StorageReadOnly, match=str(disk / "other")):
        Searcher(disk / "other", describer)
    with pytest.raises(StorageReadOnly, match=str(disk / "index")):
        DataFolder(disk / "index")
    with pytest.raises(StorageReadOnly, match=str(disk / "other")):
        DataFolder(disk / "other")


def test_a_build_in_a_read_only_folder_says_so(disk: Path) -> None:
    generations = Generations(disk)
    rows = np.arange(1, COUNT + 1)
    generations.build(rows, read_all, BuildPlan(RECIPE, "float32"))
    make_read_only(disk)
    with pytest.raises(StorageReadOnly, match=str(disk / "generations")):
        generations.build(rows, read_all, BuildPlan(RECIPE, "float32"))
    with pytest.raises(StorageReadOnly, match=str(disk / "generations")):
        generations.publish(1)


# --- one owner --------------------------------------------------------------------------------

OWN = """
import sys, time
from functools import partial
from pathlib import Path
from engine.files.data_folder import DataFolder
folder = DataFolder(Path(sys.argv[1]), url="http://127.0.0.1:8123")
sys.stdout.write("owned\\n")
sys.stdout.flush()
time.sleep(60)
"""


def test_a_second_owner_is_told_who_the_first_is(tmp_path: Path) -> None:
    first = DataFolder(tmp_path / "data", url="http://127.0.0.1:8000")
    try:
        with pytest.raises(DataFolderInUse, match=r"service at http://127.0.0.1:8000") as caught:
            DataFolder(tmp_path / "data")
        assert caught.value.pid == os.getpid()
        assert caught.value.url == "http://127.0.0.1:8000"
        assert str(tmp_path / "data") in caught.value.message
        assert "--data-dir" in caught.value.message
    finally:
        first.release()


def test_a_file_in_the_place_of_the_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("no folder")
    for folder in (tmp_path / "index", tmp_path / "index" / "inner"):
        with pytest.raises(InvalidOption, match=f"{folder} is, or lies in, a file"):
            DataFolder(folder)
    assert (tmp_path / "index").read_text() == "no folder"


def test_a_released_folder_has_a_new_owner(tmp_path: Path) -> None:
    DataFolder(tmp_path, url="http://a.long.name.example:8000/with/a/path").release()
    folder = DataFolder(tmp_path)
    try:
        owner = json.loads((tmp_path / "owner.lock").read_text())
        assert owner == {"pid": os.getpid(), "url": None}
        with pytest.raises(DataFolderInUse) as caught:
            DataFolder(tmp_path)
        assert caught.value.url is None
        assert "service" not in caught.value.message
    finally:
        folder.release()


def test_two_folders_have_two_owners(tmp_path: Path) -> None:
    one, two = DataFolder(tmp_path / "one"), DataFolder(tmp_path / "two")
    one.release()
    two.release()


def test_a_killed_owner_releases_the_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "owned\n"
        with pytest.raises(DataFolderInUse) as caught:
            DataFolder(tmp_path)
        assert (caught.value.pid, caught.value.url) == (process.pid, "http://127.0.0.1:8123")
        process.send_signal(signal.SIGKILL)
        process.wait()
    DataFolder(tmp_path).release()


def test_an_owner_that_could_not_write_its_name_holds_nothing(disk: Path) -> None:
    ballast = fill(disk)
    with pytest.raises(StorageFull):
        DataFolder(disk)
    ballast.unlink()
    DataFolder(disk).release()


def test_an_unreadable_owner_file_still_says_in_use(tmp_path: Path) -> None:
    first = DataFolder(tmp_path)
    try:
        for content in (b"", b"{", b"\xff\xfe", b"[1]"):
            (tmp_path / "owner.lock").write_bytes(content)
            with pytest.raises(DataFolderInUse, match="in use by") as caught:
                DataFolder(tmp_path)
            assert caught.value.pid is None
            assert "None" not in caught.value.message
    finally:
        first.release()
