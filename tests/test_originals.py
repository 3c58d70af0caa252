from __future__ import annotations

import hashlib
import os
import random
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.errors import CorruptIndex, StorageFull
from engine.originals import Originals
from tests.disks import fill, small_disk
from tests.drawing import encode, scene
from tests.indexes import flip
from tests.live import live


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


DATA = b"the bytes of a photo"
DIGEST = digest_of(DATA)


class Rows:
    """Stands for a catalog: which id has which digest, changed in one step."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.digests: dict[str, str] = {}

    def used(self, digests: Sequence[str]) -> set[str]:
        with self.lock:
            return set(digests) & set(self.digests.values())


@pytest.fixture
def originals(tmp_path: Path) -> Originals:
    return Originals(tmp_path / "originals")


def names(originals: Originals) -> list[str]:
    return [path.name for path in originals.files()]


def put(originals: Originals, rows: Rows, image_id: str, data: bytes) -> None:
    with originals.holding([(digest_of(data), data)], rows.used), rows.lock:
        before = rows.digests.get(image_id)
        rows.digests[image_id] = digest_of(data)
    if before:
        originals.forget([before], rows.used)


def delete(originals: Originals, rows: Rows, image_id: str) -> None:
    with rows.lock:
        before = rows.digests.pop(image_id, None)
    if before:
        originals.forget([before], rows.used)


def test_what_was_kept_comes_back(originals: Originals) -> None:
    assert originals.read(DIGEST) is None
    originals.keep(DIGEST, DATA)
    assert originals.read(DIGEST) == DATA
    assert (originals.folder / DIGEST[:2] / DIGEST).read_bytes() == DATA
    assert names(originals) == [DIGEST]
    assert Originals(originals.folder).read(DIGEST) == DATA


def test_a_file_is_opened_whole_or_not_at_all(originals: Originals) -> None:
    assert originals.open(DIGEST) is None
    originals.keep(DIGEST, DATA)
    opened = originals.open(DIGEST)
    assert opened is not None
    with opened as file:
        originals.path(DIGEST).unlink()  # as a delete does meanwhile
        assert file.read() == DATA
    originals.keep(DIGEST, DATA)
    flip(originals.path(DIGEST))
    with pytest.raises(CorruptIndex, match="add the image again"):
        originals.open(DIGEST)


def test_it_is_on_disk_before_the_image_is_stored(originals: Originals) -> None:
    rows = Rows()
    with originals.holding([(DIGEST, DATA), ("0" * 64, None)], rows.used):
        assert (originals.folder / DIGEST[:2] / DIGEST).read_bytes() == DATA
        rows.digests["a"] = DIGEST
    assert names(originals) == [DIGEST]


def test_what_was_kept_for_nothing_goes(originals: Originals) -> None:
    rows = Rows()
    put(originals, rows, "a", DATA)
    other = digest_of(b"other")
    with pytest.raises(KeyError), originals.holding([(DIGEST, DATA), (other, b"other")], rows.used):
        raise KeyError
    assert names(originals) == [DIGEST]


def test_one_that_another_id_needs_stays(originals: Originals) -> None:
    rows = Rows()
    put(originals, rows, "a", DATA)
    put(originals, rows, "b", DATA)
    delete(originals, rows, "a")
    assert originals.read(DIGEST) == DATA
    put(originals, rows, "b", b"replaced")
    assert names(originals) == [digest_of(b"replaced")]


def test_a_delete_takes_nothing_that_a_put_is_about_to_need(originals: Originals) -> None:
    rows = Rows()
    put(originals, rows, "a", DATA)
    with originals.holding([(DIGEST, DATA)], rows.used):
        delete(originals, rows, "a")
        assert originals.read(DIGEST) == DATA
        rows.digests["b"] = DIGEST
    assert originals.read(DIGEST) == DATA
    delete(originals, rows, "b")
    assert names(originals) == []


def test_what_is_deleted_again_while_it_is_held_goes_afterwards(originals: Originals) -> None:
    rows = Rows()
    with originals.holding([(DIGEST, DATA)], rows.used):
        rows.digests["a"] = DIGEST
        delete(originals, rows, "a")
        assert names(originals) == [DIGEST]
    assert names(originals) == []


def test_many_threads_leave_exactly_what_is_stored(originals: Originals) -> None:
    rows = Rows()
    contents = [b"content %d" % number for number in range(3)]
    failures: list[str] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            image_id = f"{seed}-{chance.randrange(2)}"
            if chance.random() < 0.5:
                data = chance.choice(contents)
                put(originals, rows, image_id, data)
                # Only this thread changes this id: what was acknowledged has to be there.
                if originals.read(digest_of(data)) != data:
                    failures.append(image_id)
            else:
                delete(originals, rows, image_id)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert names(originals) == sorted(set(rows.digests.values()))


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_kb=4096) as disk:
        originals = Originals(disk / "originals")
        originals.keep(DIGEST, DATA)
        fill(disk, leave_kb=64)
        large = os.urandom(1 << 20)
        with pytest.raises(StorageFull, match="free space"):
            originals.keep(digest_of(large), large)
        assert names(originals) == [DIGEST]


def test_a_damaged_one_is_refused_and_written_anew(originals: Originals) -> None:
    originals.keep(DIGEST, DATA)
    flip(originals.path(DIGEST))
    with pytest.raises(CorruptIndex, match=DIGEST):
        originals.read(DIGEST)
    originals.keep(DIGEST, DATA)
    assert originals.read(DIGEST) == DATA


def test_a_sweep_removes_what_a_crash_has_left(originals: Originals) -> None:
    rows = Rows()
    contents = [b"content %d" % number for number in range(40)]
    for number, data in enumerate(contents):
        put(originals, rows, str(number), data)
    for number in range(0, 40, 3):
        del rows.digests[str(number)]  # its process was killed before it removed the file
    fresh = originals.path(DIGEST).with_name(f"{DIGEST}.1.part")
    stale = originals.path(DIGEST).with_name(f"{DIGEST}.2.part")
    for path in (fresh, stale):
        path.write_bytes(b"half")
    os.utime(stale, (0, 0))
    stored = sorted(rows.digests.values())
    assert originals.sweep(iter(stored), rows.used) == 14 + 1
    fresh.unlink()
    assert names(originals) == stored
    assert originals.sweep(iter(stored), rows.used) == 0


def test_a_sweep_looks_again_before_it_removes(originals: Originals) -> None:
    rows = Rows()
    put(originals, rows, "a", DATA)
    assert originals.sweep(iter([]), rows.used) == 0  # stored after the list was made
    assert names(originals) == [DIGEST]


def test_nothing_is_removed_while_a_snapshot_is_taken(originals: Originals) -> None:
    rows = Rows()
    put(originals, rows, "a", DATA)
    put(originals, rows, "b", b"other")
    with Originals(originals.folder).frozen():
        # It does not wait for the snapshot, or it would never come back.
        delete(originals, rows, "a")
        assert originals.read(DIGEST) == DATA
    delete(originals, rows, "b")
    assert names(originals) == []


def test_who_reads_a_file_slowly_costs_no_memory(tmp_path: Path) -> None:
    big = encode(scene(1, (2600, 2600)), "bmp")  # 20 MB
    with live(tmp_path / "index", keep_originals=True) as service:
        service.http.put("/images/big", files={"image": big}).raise_for_status()
        answer = service.http.get("/images/big/original")
        assert (answer.content, answer.headers["Content-Length"]) == (big, str(len(big)))
        assert answer.headers["Content-Type"] == "image/bmp"
        tracemalloc.start()
        try:
            readers = [
                service.send(b"GET /images/big/original HTTP/1.1\r\nHost: localhost\r\n\r\n")
                for _ in range(4)
            ]
            for reader in readers:
                assert reader.recv(12) == b"HTTP/1.1 200"
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        for reader in readers:
            reader.close()
    assert held < len(big) / 2
