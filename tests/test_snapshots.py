from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from engine.catalog import Catalog
from engine.catalog.reader import CatalogReader
from engine.errors import (
    CorruptIndex,
    DataFolderInUse,
    EmptyIndex,
    IndexMismatch,
    StorageFull,
    UnknownSnapshot,
)
from engine.files.data_folder import DataFolder
from engine.folder_verification import verify_folder
from engine.originals import Originals
from engine.snapshots import (
    Snapshot,
    create_snapshot,
    find_snapshot,
    list_snapshots,
    restore_snapshot,
    same_hits,
)
from tests.disks import fill, small_disk
from tests.indexes import answers, build_and_publish, content, flip, made, make_index, opened
from tests.patience import until
from tests.stored import RECIPE, an_image, other_recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """80 images in a generation, 7 after it, 2 of the former deleted."""
    folder = make_index(tmp_path / "index", range(80))
    with opened(folder) as searcher:
        searcher.store([made(seed, metadata={"ü": seed}) for seed in range(80, 87)])
        searcher.delete("i3")
        searcher.delete("i79")
    return folder


def files(folder: Path) -> list[str]:
    """All but the lock, and what SQLite keeps beside a catalog while it is read."""
    passing = ("owner.lock", "-wal", "-shm")
    paths = (path for path in folder.rglob("*") if not path.name.endswith(passing))
    return sorted(str(path.relative_to(folder)) for path in paths if path.is_file())


# --- taken and restored -----------------------------------------------------------------------


def test_a_restored_index_has_every_image_as_it_was(index: Path, tmp_path: Path) -> None:
    before, searched = content(index), answers(index, ["i0", "i42", "i86"])
    snapshot, folder = create_snapshot(index, note="before the move", program_version="7")
    assert folder == index / "snapshots" / snapshot.name
    assert (snapshot.count, snapshot.last_row, snapshot.generation) == (85, 87, 1)
    assert (snapshot.note, snapshot.program_version) == ("before the move", "7")
    assert snapshot.fingerprint == RECIPE.fingerprint
    assert len(snapshot.queries) == 32
    restored = restore_snapshot(folder, tmp_path / "new")
    assert restored.aside is None
    assert content(tmp_path / "new") == before
    assert answers(tmp_path / "new", ["i0", "i42", "i86"]) == searched
    assert verify_folder(tmp_path / "new").problems == []
    with opened(tmp_path / "new") as searcher:
        assert searcher.stats().generation == 1
        assert searcher.catalog.highest_row() == 87, "row numbers are not used again"


def test_the_checksums_are_those_of_the_files(index: Path) -> None:
    snapshot, folder = create_snapshot(index)
    listed = [f"{entry.sha256}  {name}" for name, entry in snapshot.files.items()]
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict"],
        input="\n".join(listed) + "\n",
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    assert files(folder) == sorted([*snapshot.files, "snapshot.json"])


def test_an_index_that_was_never_built_is_kept_too(tmp_path: Path) -> None:
    folder = make_index(tmp_path / "index", range(5), build=False)
    snapshot, place = create_snapshot(folder, place=tmp_path / "elsewhere" / "backups")
    assert place.parent == tmp_path / "elsewhere" / "backups"
    assert (snapshot.generation, len(snapshot.queries)) == (0, 5)
    restore_snapshot(place, tmp_path / "new")
    assert content(tmp_path / "new") == content(folder)


def test_an_empty_index_is_kept_and_restored(tmp_path: Path) -> None:
    folder = make_index(tmp_path / "index", [], build=False)
    snapshot, place = create_snapshot(folder)
    assert (snapshot.count, snapshot.queries) == (0, {})
    restore_snapshot(place, tmp_path / "new")
    assert content(tmp_path / "new") == {}


def test_without_an_index_there_is_nothing_to_keep(tmp_path: Path) -> None:
    with pytest.raises(EmptyIndex, match="there is no index in"):
        create_snapshot(tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_what_was_there_is_put_aside_whole(index: Path) -> None:
    _, snapshot = create_snapshot(index)
    kept = content(index)
    (index / "spool" / "job").mkdir(parents=True)
    with opened(index) as searcher:
        searcher.store([made(seed) for seed in range(200, 210)])
        searcher.delete("i0")
        build_and_publish(searcher)
    later = content(index)
    restored = restore_snapshot(snapshot, index)
    assert content(index) == kept
    assert restored.aside is not None
    assert content(restored.aside) == later
    for folder in (index, restored.aside):
        assert verify_folder(folder).problems == []
    assert (index / "spool" / "job").is_dir(), "uploads that wait are no part of it"
    assert [listed.name for listed in list_snapshots(index / "snapshots")] == [snapshot.name]
    # And back again, from what was put aside.
    _, back = create_snapshot(restored.aside)
    restore_snapshot(back, index)
    assert content(index) == later


def test_an_index_in_use_is_not_replaced(index: Path) -> None:
    _, snapshot = create_snapshot(index)
    owner = DataFolder(index, url="http://127.0.0.1:8000")
    before = files(index)
    with pytest.raises(DataFolderInUse, match="stop it or choose another folder"):
        restore_snapshot(snapshot, index)
    assert files(index) == before
    create_snapshot(index)  # which needs no owner
    owner.release()


def test_a_restored_index_is_refused_under_another_recipe(index: Path, tmp_path: Path) -> None:
    _, snapshot = create_snapshot(index)
    restore_snapshot(snapshot, tmp_path / "new")
    with (
        pytest.raises(IndexMismatch, match="max_side: 128, not 512"),
        opened(tmp_path / "new", other_recipe(max_side=512)),
    ):
        pass


def test_it_is_found_by_name_and_by_path(index: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownSnapshot, match="which has none"):
        find_snapshot("x", index)
    _, snapshot = create_snapshot(index)
    assert find_snapshot(snapshot.name, index) == snapshot
    assert find_snapshot(str(snapshot), tmp_path) == snapshot
    with pytest.raises(UnknownSnapshot, match=snapshot.name):
        find_snapshot("x", index)


# --- damage -----------------------------------------------------------------------------------


def test_a_flipped_byte_in_any_file_is_found_and_named(index: Path, tmp_path: Path) -> None:
    originals(index).keep(made(5).digest, b"5")
    snapshot, folder = create_snapshot(index)
    mine = make_index(tmp_path / "mine", range(3))
    before = files(mine), content(mine)
    names = sorted(snapshot.files)
    assert {"catalog.sqlite", "CURRENT", "generations/1/manifest.json"} <= set(names)
    for name in [*names, "snapshot.json"]:
        copy = tmp_path / "damaged"
        shutil.copytree(folder, copy)
        flip(copy / name)
        with pytest.raises(CorruptIndex, match=f"{copy}/{name} .*take another snapshot"):
            restore_snapshot(copy, mine)
        (copy / name).unlink()
        with pytest.raises((CorruptIndex, UnknownSnapshot), match=f"{copy}"):
            restore_snapshot(copy, mine)
        shutil.rmtree(copy)
        assert (files(mine), content(mine)) == before


def test_a_snapshot_that_answers_otherwise_is_refused(index: Path, tmp_path: Path) -> None:
    snapshot, folder = create_snapshot(index)
    query, hits = next(iter(snapshot.queries.items()))
    wrong = [hits[0], (hits[1][0], hits[1][1] - 0.01), *hits[2:]]
    replace(snapshot, queries={**snapshot.queries, query: wrong}).write(folder)
    with pytest.raises(CorruptIndex, match=f"answers a search for '{query}' otherwise"):
        restore_snapshot(folder, tmp_path / "new")
    assert files(tmp_path / "new") == []
    replace(snapshot, count=snapshot.count + 1).write(folder)
    with pytest.raises(CorruptIndex, match=r"\(85, 1, 87\), not \(86, 1, 87\)"):
        restore_snapshot(folder, tmp_path / "new")


def test_a_path_that_leads_out_of_a_snapshot_is_refused(index: Path, tmp_path: Path) -> None:
    snapshot, folder = create_snapshot(index)
    outside = {"../../stolen": next(iter(snapshot.files.values()))}
    replace(snapshot, files=outside).write(folder)
    with pytest.raises(CorruptIndex, match="names a file outside"):
        restore_snapshot(folder, tmp_path / "new")


def test_a_damaged_generation_is_not_kept(index: Path) -> None:
    flip(index / "generations" / "1" / "vectors.faiss")
    with pytest.raises(CorruptIndex, match=r"generations/1/vectors\.faiss .*build the index"):
        create_snapshot(index)
    assert files(index / "snapshots") == []


def test_a_damaged_one_is_listed_with_its_problem(index: Path) -> None:
    first, folder = create_snapshot(index)
    second, _ = create_snapshot(index)
    flip(folder / "snapshot.json")
    (index / "snapshots" / "notes").mkdir()
    damaged, good = list_snapshots(index / "snapshots")
    assert (damaged.name, damaged.snapshot) == (first.name, None)
    assert "snapshot.json" in (damaged.problem or "")
    assert (good.name, good.snapshot, good.problem) == (second.name, second, None)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_kb=12_288) as disk:
        folder = make_index(disk / "index", range(80))
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1024
        before, names = content(folder), files(folder)
        for room in (0, size // 4, size // 2, size - 40):
            ballast = fill(disk, leave_kb=room)
            with pytest.raises(StorageFull, match="free space"):
                create_snapshot(folder)
            ballast.unlink()
            assert files(folder) == names
        _, snapshot = create_snapshot(folder)
        names = files(folder)
        for room in (0, size // 2):
            ballast = fill(disk, leave_kb=room)
            with pytest.raises(StorageFull):
                restore_snapshot(snapshot, folder)
            ballast.unlink()
            assert files(folder) == names
        assert content(folder) == before
        restore_snapshot(snapshot, folder)
        assert content(folder) == before


# --- while it is used -------------------------------------------------------------------------


def in_background(
    work: Callable[[threading.Event], None],
) -> tuple[threading.Event, threading.Thread]:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    return stop, thread


def test_a_snapshot_beside_a_writer_is_of_one_moment(index: Path, tmp_path: Path) -> None:
    """Pairs are added in one transaction; of every third the first image is deleted again."""
    written = [0]

    def write(stop: threading.Event) -> None:
        number = 1000
        while not stop.is_set():
            number += 1
            pair = [made(10 * number + part) for part in range(2)]
            searcher.store([replace(image, id=f"{number}-{image.id}") for image in pair])
            written[0] = number
            if number % 3 == 0:
                searcher.delete(f"{number}-{pair[0].id}")

    with opened(index) as searcher:
        stop, thread = in_background(write)
        try:
            taken = [create_snapshot(index) for _ in range(3)]
            before = written[0]
            until(lambda: written[0] > before)
            taken.append(create_snapshot(index))
        finally:
            stop.set()
            thread.join()
    counts = []
    for number, (snapshot, folder) in enumerate(taken):
        target = tmp_path / str(number)
        restore_snapshot(folder, target)
        found = content(target)
        assert len(found) == snapshot.count, "every image has its descriptor and thumbnail"
        assert verify_folder(target).problems == []
        pairs = Counter(name.split("-")[0] for name in found if "-" in name)
        single = {int(number) for number, count in pairs.items() if count == 1}
        assert all(number % 3 == 0 for number in single)
        assert not pairs or len(single) < len(pairs)
        counts.append(snapshot.last_row)
    assert counts == sorted(counts) and counts[0] < counts[-1], "writes went on meanwhile"


def test_the_copy_of_a_catalog_does_not_begin_anew_at_every_write(tmp_path: Path) -> None:
    """SQLite's backup does so unless one transaction holds all of it; and it sees only that."""
    with closing(Catalog(tmp_path / "catalog.sqlite")) as catalog:
        for start in range(0, 3000, 500):
            catalog.put([an_image(str(n), seed=n, dim=2048) for n in range(start, start + 500)])
        reports: list[tuple[int, int]] = []

        def write(done: int, total: int) -> None:
            reports.append((done, total))
            # This would fail if it had to wait for the copy, which waits for this.
            catalog.put([an_image(f"late {len(reports)}", seed=len(reports), dim=2048)])

        with closing(CatalogReader(catalog.path)) as reader:
            catalog.put([an_image("after", seed=1, dim=2048)])
            reader.backup(tmp_path / "copy.sqlite", write)
    dones = [done for done, _ in reports]
    assert dones == sorted(set(dones)) and len({total for _, total in reports}) == 1
    assert len(reports) >= 2
    with closing(sqlite3.connect(tmp_path / "copy.sqlite")) as copy:
        assert copy.execute("SELECT count(*) FROM images").fetchone() == (3000,)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_generations_that_come_and_go_meanwhile_are_no_trouble(index: Path, tmp_path: Path) -> None:
    def build(stop: threading.Event) -> None:
        while not stop.is_set():
            build_and_publish(searcher)

    with opened(index) as searcher:
        stop, thread = in_background(build)
        try:
            taken = [create_snapshot(index) for _ in range(5)]
            before = taken[0][0].generation
            until(lambda: searcher.stats().generation > before)
            taken.append(create_snapshot(index))
        finally:
            stop.set()
            thread.join()
    assert len({snapshot.generation for snapshot, _ in taken}) > 1
    for number, (_, folder) in enumerate(taken):
        restore_snapshot(folder, tmp_path / str(number))
        assert verify_folder(tmp_path / str(number)).problems == []


def test_progress_reaches_its_end_and_can_stop_it(index: Path) -> None:
    seen: list[tuple[int, int]] = []
    create_snapshot(index, report=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = files(index)
    with pytest.raises(KeyboardInterrupt):
        create_snapshot(index, report=stop)
    assert files(index) == before


# --- originals --------------------------------------------------------------------------------


def originals(folder: Path) -> Originals:
    return Originals(folder / "originals")


def test_originals_are_linked_and_outlive_the_image(index: Path, tmp_path: Path) -> None:
    digests = {seed: made(seed).digest for seed in (4, 5)}
    # Their digest is that of the seed's text; see `an_image`.
    for seed, digest in digests.items():
        originals(index).keep(digest, b"%d" % seed)
    originals(index).keep("ab" * 32, b"of no image")
    snapshot, folder = create_snapshot(index)
    assert (snapshot.originals, snapshot.originals_bytes) == (2, 2)
    for digest in digests.values():
        ours, kept = originals(index).path(digest), originals(folder).path(digest)
        assert ours.stat().st_ino == kept.stat().st_ino
    originals(index).forget(digests.values(), lambda _: set())
    assert originals(index).read(digests[4]) is None
    restore_snapshot(folder, tmp_path / "new")
    assert originals(tmp_path / "new").read(digests[4]) == b"4"
    assert [path.name for path in originals(tmp_path / "new").files()] == sorted(digests.values())


def test_where_they_cannot_be_linked_they_are_copied(index: Path, tmp_path: Path) -> None:
    digest = made(4).digest
    originals(index).keep(digest, b"4")
    with small_disk(tmp_path / "disk", size_kb=16_384) as disk:
        _, folder = create_snapshot(index, place=disk / "snapshots")
        assert originals(folder).read(digest) == b"4"
        restore_snapshot(folder, tmp_path / "new")
        assert originals(tmp_path / "new").read(digest) == b"4"
        kept = originals(folder).path(digest)
        flip(kept)
        with pytest.raises(CorruptIndex, match=str(kept)):
            restore_snapshot(folder, tmp_path / "new")
        kept.unlink()
        with pytest.raises(CorruptIndex, match=f"{kept} is missing"):
            restore_snapshot(folder, tmp_path / "new")
    assert originals(tmp_path / "new").read(digest) == b"4"


# --- answers ----------------------------------------------------------------------------------


def test_answers_agree_up_to_rounding_and_ties() -> None:
    hits = [("a", 1.0), ("b", 0.9), ("c", 0.5)]
    assert same_hits([], [])
    assert same_hits(hits, [("a", 1.0), ("b", 0.9004), ("c", 0.4996)])
    assert same_hits(hits, [("a", 1.0), ("b", 0.9), ("d", 0.5004)]), "c and d are equally good"
    assert not same_hits(hits, [("a", 1.0), ("b", 0.902), ("c", 0.5)])
    assert not same_hits(hits, [("a", 1.0), ("d", 0.9), ("c", 0.5)])
    assert not same_hits(hits, hits[:2])
    assert not same_hits(hits, [("a", 1.0), ("b", 0.9), ("d", 0.51)])


# --- kill -9 ----------------------------------------------------------------------------------

WORK = """
import sys
from pathlib import Path
from engine.snapshots import create_snapshot, restore_snapshot

what, index, *snapshots = sys.argv[1:]
print("ready", flush=True)
while True:
    if what == "create":
        create_snapshot(Path(index))
    for snapshot in snapshots:
        restore_snapshot(Path(snapshot), Path(index))
"""


def run_and_kill(*arguments: object, after_s: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_a_snapshot_that_is_killed_is_never_taken_for_one(index: Path, tmp_path: Path) -> None:
    before = content(index)
    chance = random.Random(0)
    left = 0
    for _ in range(5):
        run_and_kill("create", index, after_s=0.1 + chance.random() / 4)
        left += len(list((index / "snapshots").glob("*.part")))
        for listed in list_snapshots(index / "snapshots"):
            assert listed.problem is None
        assert content(index) == before
    assert left, "at least one was cut off"
    create_snapshot(index)
    assert list((index / "snapshots").glob("*.part")) == []
    for number, listed in enumerate(list_snapshots(index / "snapshots")[-3:]):
        restore_snapshot(listed.folder, tmp_path / str(number))
        assert content(tmp_path / str(number)) == before


@pytest.mark.slow
def test_a_restore_that_is_killed_leaves_the_old_or_the_new(index: Path, tmp_path: Path) -> None:
    _, first = create_snapshot(index, place=tmp_path / "kept")
    other = make_index(tmp_path / "other", range(500, 580))
    _, second = create_snapshot(other, place=tmp_path / "kept")
    states = [content(index), content(other)]
    chance = random.Random(1)
    for _ in range(6):
        run_and_kill("restore", index, second, first, after_s=0.05 + chance.random() / 4)
        DataFolder(index).release()  # as every start does
        assert content(index) in states
        found = verify_folder(index)
        assert found.problems == []
        assert found.checked["images"] in (85, 80)


def test_the_description_is_plain_json(index: Path) -> None:
    snapshot, folder = create_snapshot(index, note="ü")
    written = json.loads((folder / "snapshot.json").read_text())
    assert (written["note"], written["count"], written["format"]) == ("ü", 85, 1)
    assert Snapshot.read(folder) == snapshot
