from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import EmptyIndex
from engine.folder_verification import verify_folder
from engine.originals import Originals
from engine.snapshots import create_snapshot
from tests.drawing import photo
from tests.indexes import build_and_publish, flip, made, make_index, opened
from tests.stored import unit_vectors


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = make_index(tmp_path / "index", range(80))
    with opened(folder) as searcher:
        searcher.store([made(seed) for seed in range(80, 87)])
        searcher.delete("i3")
    return folder


def change(folder: Path, query: str, *values: object, enforce: bool = True) -> None:
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as connection:
        connection.execute(f"PRAGMA foreign_keys={'ON' if enforce else 'OFF'}")
        assert connection.execute(query, values).rowcount > 0
        connection.commit()


def change_unnoticed(folder: Path, query: str, *values: object) -> None:
    """As `change`, to images from before there were checksums."""
    change(folder, query, *values)
    change(folder, "DELETE FROM checksums")


def contents(folder: Path) -> dict[str, bytes]:
    passing = ("-wal", "-shm")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(passing)
    }


def the_problem(folder: Path) -> str:
    (problem,) = verify_folder(folder).problems
    return problem


def test_a_healthy_index_has_no_problems_and_is_not_changed(index: Path) -> None:
    before = contents(index)
    seen: list[tuple[int, int]] = []
    found = verify_folder(index, progress=lambda done, total: seen.append((done, total)))
    assert (found.problems, found.notes) == ([], [])
    assert found.checked == {"images": 86, "thumbnails": 86}
    assert seen[-1] == (86, 86)
    assert contents(index) == before


def test_without_an_index_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(EmptyIndex, match="there is no index in"):
        verify_folder(tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_an_index_that_was_never_built_is_verified(tmp_path: Path, count: int) -> None:
    folder = make_index(tmp_path / "index", range(count), build=False)
    assert verify_folder(folder).problems == []
    if count:
        row = 1 + count // 2
        wrong = (3 * unit_vectors(1, seed=99)[0]).astype(np.float16).tobytes()
        change(folder, "UPDATE descriptors SET vector = ? WHERE row = ?", wrong, row)
        assert the_problem(folder) == (
            f"the descriptor or thumbnail of 'i{row - 1}' is not as it was written; "
            "add the image again, or restore a snapshot"
        )
        change(folder, "DELETE FROM checksums")
        found = verify_folder(folder)
        assert found.problems == [], "there is nothing to hold it against"
        assert f"{count} images were added before there were checksums" in found.notes[0]


def test_a_descriptor_that_was_changed_is_found(index: Path) -> None:
    wrong = unit_vectors(1, seed=99)[0].astype(np.float16).tobytes()
    change_unnoticed(index, "UPDATE descriptors SET vector = ? WHERE row = 11", wrong)
    assert the_problem(index) == "the vector of row 11 is not that of its image; build the index"


def test_many_of_a_kind_are_counted(index: Path) -> None:
    wrong = unit_vectors(1, seed=99)[0].astype(np.float16).tobytes()
    change_unnoticed(index, "UPDATE descriptors SET vector = ? WHERE row <= 60", wrong)
    problems = verify_folder(index).problems
    assert len(problems) == 21
    assert problems[-1] == "and 39 more of the last kind; build the index"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("DELETE FROM descriptors WHERE row = 11", "1 images have no descriptor; restore"),
        ("DELETE FROM thumbnails WHERE row = 11", "1 images have no thumbnail; restore"),
        ("UPDATE descriptors SET vector = x'0102' WHERE row = 11", "was cut off; restore"),
        ("UPDATE thumbnails SET jpeg = x'0102' WHERE row = 11", "thumbnail of 'i10' cannot be"),
    ],
)
def test_an_image_that_lacks_a_part_is_found(index: Path, query: str, expected: str) -> None:
    change(index, query)
    assert any(expected in problem for problem in verify_folder(index).problems)


def test_parts_that_belong_to_no_image_are_found(index: Path) -> None:
    change(index, "DELETE FROM images WHERE row = 11", enforce=False)
    assert any("3 entries belong to no image" in each for each in verify_folder(index).problems)


def test_a_damaged_catalog_is_found(index: Path) -> None:
    path = index / "catalog.sqlite"
    data = bytearray(path.read_bytes())
    for start in range(4096, len(data) - 4096, 8192):
        data[start : start + 64] = bytes(64)
    path.write_bytes(data)
    problems = verify_folder(index).problems
    assert problems and all("restore a snapshot" in problem for problem in problems)
    path.write_bytes(b"something else entirely" * 500)
    problem = the_problem(index)
    assert "is damaged (file is not a database)" in problem and "\n" not in problem
    assert problem.count("restore a snapshot") == 1


@pytest.mark.parametrize("name", ["vectors.faiss", "projection.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", [flip, Path.unlink], ids=["flipped", "missing"])
def test_a_damaged_generation_is_found(
    index: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(index / "generations" / "1" / name)
    problem = the_problem(index)
    assert f"generations/1/{name}" in problem
    assert problem.endswith("build the index")


@pytest.mark.parametrize("text", ["7\n", "one\n"])
def test_a_wrong_current_is_found(index: Path, text: str) -> None:
    (index / "CURRENT").write_text(text)
    assert the_problem(index).endswith("build the index")


def test_an_image_that_a_generation_should_have_is_missed(index: Path) -> None:
    """Row 4 was deleted before the build; an image of a later row is given its number."""
    with opened(index) as searcher:
        build_and_publish(searcher)
        searcher.store([made(99)])
    row = 88
    for table in ("images", "descriptors", "thumbnails", "checksums"):
        change(index, f"UPDATE {table} SET row = 4 WHERE row = ?", row, enforce=False)
    expected = "1 images are not in generation 2, the first in row 4; build the index"
    assert the_problem(index) == expected
    with opened(index) as searcher:
        build_and_publish(searcher)
    assert verify_folder(index).problems == []


def test_an_older_catalog_under_a_newer_generation_is_found(index: Path, tmp_path: Path) -> None:
    older = make_index(tmp_path / "older", range(5), build=False)
    (index / "catalog.sqlite").write_bytes((older / "catalog.sqlite").read_bytes())
    assert "has rows that the catalog never gave out" in the_problem(index)


def test_originals_are_read_and_strays_told(index: Path) -> None:
    originals = Originals(index / "originals")
    data = {seed: photo(seed) for seed in (4, 5, 6)}
    digests = {seed: hashlib.sha256(content).hexdigest() for seed, content in data.items()}
    for seed, content in data.items():
        originals.keep(digests[seed], content)
        if seed < 6:
            change(index, "UPDATE images SET digest = ? WHERE id = ?", digests[seed], f"i{seed}")
    change(index, "DELETE FROM checksums")
    found = verify_folder(index)
    assert found.problems == []
    assert found.checked["originals"] == found.checked["originals read"] == 3
    assert found.notes[1:] == [
        "84 images have no original: they were added without, or the file is gone"
    ]
    os.utime(originals.path(digests[6]), (0, 0))
    assert (
        "1 originals belong to no image; the next start removes them" in verify_folder(index).notes
    )
    flip(originals.path(digests[5]))
    assert digests[5] in the_problem(index)


def test_leftovers_are_noted_and_no_problem(index: Path) -> None:
    (index / "generations" / "9.part").mkdir()
    (index / "restoring.part").mkdir()
    (index / "rebuild" / "0123").mkdir(parents=True)
    (index / "replaced" / "then-restore").mkdir(parents=True)
    snapshot, folder = create_snapshot(index)
    flip(folder / "snapshot.json")
    found = verify_folder(index)
    assert found.problems == []
    for expected in ("9.part", "restoring.part", "rebuild/0123", "then-restore", snapshot.name):
        assert sum(expected in note for note in found.notes) == 1, expected


def test_verifying_beside_a_writer_finds_nothing_that_is_not_there(index: Path) -> None:
    def write() -> None:
        number = 1000
        while not stop.is_set():
            number += 1
            searcher.store([made(number), replace(made(number), id=f"other {number}")])
            searcher.delete(f"i{number}")
            if number % 20 == 0:
                build_and_publish(searcher)

    stop = threading.Event()
    with opened(index) as searcher:
        thread = threading.Thread(target=write)
        thread.start()
        try:
            found = [verify_folder(index)]
            deadline = time.monotonic() + 60
            # However the writer gets on: it has to have written in between.
            while len(found) < 8 or (
                found[-1].checked["images"] == found[0].checked["images"]
                and time.monotonic() < deadline
            ):
                found.append(verify_folder(index))
        finally:
            stop.set()
            thread.join()
    assert all(each.problems == [] for each in found)
    assert found[-1].checked["images"] > found[0].checked["images"]
