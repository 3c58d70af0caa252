from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from engine.errors import CorruptIndex
from engine.files.locks import ReadWriteLock
from engine.types import Rows, Vectors
from engine.vector_index import VectorIndex
from tests.patience import PATIENCE_S, until
from tests.stored import unit_vectors

DIM = 24
NO_ROWS = np.empty(0, np.int64)


def filled(rows: Rows, vectors: Vectors) -> VectorIndex:
    index = VectorIndex(vectors.shape[1])
    index.add(rows, vectors)
    return index


def brute_force(rows: Rows, vectors: Vectors, query: Vectors, k: int) -> list[int]:
    """All scores, sorted; equal ones by row."""
    scores = (vectors * query).sum(axis=1, dtype=np.float64)
    return [int(row) for row in rows[np.lexsort((rows, -scores))][:k]]


# --- search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 7, 99, 100, 101, 300, 1000])
def test_search_is_brute_force(k: int) -> None:
    vectors = unit_vectors(300, DIM)
    rows = np.random.default_rng(1).permutation(10_000)[:300]
    index = filled(rows, vectors)
    assert len(index) == 300
    assert sorted(index.rows().tolist()) == sorted(rows.tolist())
    for query in unit_vectors(20, DIM, seed=2):
        found, scores = index.search(query, k)
        assert found.tolist() == brute_force(rows, vectors, query, k)
        position = {row: n for n, row in enumerate(rows.tolist())}
        expected = [vectors[position[row]] @ query for row in found.tolist()]
        np.testing.assert_allclose(scores, expected, atol=1e-6)
        assert (np.diff(scores) <= 0).all()


def test_equal_scores_are_ordered_by_row() -> None:
    base = unit_vectors(3, DIM)
    rows = np.array([40, 7, 33, 12, 5, 90, 2, 61, 20], np.int64)
    index = filled(rows, np.repeat(base, 3, axis=0))
    found, scores = index.search(base[1], 9)
    assert found[:3].tolist() == [5, 12, 90]
    assert (scores[:3] == scores[0]).all()


@pytest.mark.parametrize("copies", [9, 60, 250])
def test_a_longer_answer_begins_with_the_shorter_one(copies: int) -> None:
    same = np.repeat(unit_vectors(1, DIM), copies, axis=0)
    vectors = np.concatenate([unit_vectors(40, DIM, seed=1), same, unit_vectors(40, DIM, seed=2)])
    rows = np.random.default_rng(3).permutation(5000)[: len(vectors)]
    index = filled(rows, vectors)
    for query in (same[0], unit_vectors(1, DIM, seed=5)[0], np.zeros(DIM, np.float32)):
        longest, _ = index.search(query, len(rows))
        assert longest.tolist() == brute_force(rows, vectors, query, len(rows))
        for k in (1, 2, 5, 20, 50, 99, 100, 101, 150, 200):
            found, scores = index.search(query, k)
            assert found.tolist() == longest[:k].tolist()
            assert len(scores) == len(found) == min(k, len(rows))


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("k", [1, 7, 300, 1000])
def test_many_searches_at_once_are_as_one_after_the_other(count: int, k: int) -> None:
    vectors = unit_vectors(300, DIM)
    rows = np.random.default_rng(1).permutation(10_000)[:300]
    index = filled(rows, vectors)
    queries = unit_vectors(count, DIM, seed=2)
    found, scores = index.search_many(queries, k)
    assert found.shape == scores.shape == (count, min(k, 300))
    for number, query in enumerate(queries):
        one_found, one_scores = index.search(query, k)
        assert found[number].tolist() == one_found.tolist()
        np.testing.assert_allclose(scores[number], one_scores, atol=1e-6)


@pytest.mark.parametrize("count", [2, 30])
def test_many_searches_order_equal_scores_by_row_too(count: int) -> None:
    same = np.repeat(np.eye(DIM, dtype=np.float32)[:2], 60, axis=0)
    rows = np.random.default_rng(3).permutation(5000)[:120]
    index = filled(rows, same)
    queries = same[np.arange(count) * 60 % 119]
    for k in (1, 5, 59, 60, 61, 119, 120):
        found, _ = index.search_many(queries, k)
        for number, query in enumerate(queries):
            assert found[number].tolist() == brute_force(rows, same, query, k)


def test_no_queries_or_no_results_are_empty() -> None:
    index = filled(np.arange(5), unit_vectors(5, DIM))
    assert index.search_many(np.empty((0, DIM), np.float32), 3)[0].shape == (0, 3)
    assert index.search_many(unit_vectors(2, DIM), 0)[0].shape == (2, 0)
    found, scores = VectorIndex(DIM).search_many(unit_vectors(2, DIM), 3)
    assert found.shape == scores.shape == (2, 0)
    assert found.dtype == np.dtype(np.int64) and scores.dtype == np.dtype(np.float32)


def test_an_empty_index_finds_nothing() -> None:
    found, scores = VectorIndex(DIM).search(unit_vectors(1, DIM)[0], 5)
    assert (found.tolist(), scores.tolist()) == ([], [])
    assert found.dtype == np.dtype(np.int64) and scores.dtype == np.dtype(np.float32)
    index = filled(np.array([1]), unit_vectors(1, DIM))
    assert index.search(unit_vectors(1, DIM)[0], 0)[0].tolist() == []


def test_arrays_of_any_layout_are_accepted() -> None:
    vectors = np.asfortranarray(unit_vectors(30, DIM))
    index = filled(np.arange(60)[::2], vectors)
    query = np.repeat(vectors[4], 2)[::2]
    assert index.search(query, 1)[0].tolist() == [8]


def test_wrong_lengths_are_named() -> None:
    index = VectorIndex(DIM)
    with pytest.raises(ValueError, match=r"\(2, 23\); expected \(2, 24\)"):
        index.add(np.array([1, 2]), unit_vectors(2, 23))
    with pytest.raises(ValueError, match=r"\(2, 24\); expected \(3, 24\)"):
        index.add(np.array([1, 2, 3]), unit_vectors(2, DIM))
    with pytest.raises(ValueError, match=r"\(1, 24\); expected \(24,\)"):
        index.search(unit_vectors(1, DIM), 1)
    with pytest.raises(ValueError, match=r"\(24,\); expected \(Q, 24\)"):
        index.search_many(unit_vectors(1, DIM)[0], 1)
    with pytest.raises(ValueError, match=r"\(2, 23\); expected \(Q, 24\)"):
        index.search_many(unit_vectors(2, 23), 1)
    assert len(index) == 0


# --- change -----------------------------------------------------------------------------------


def test_removed_rows_are_not_found_and_absent_ones_do_no_harm() -> None:
    vectors, rows = unit_vectors(50, DIM), np.arange(100, 150)
    index = filled(rows, vectors)
    index.remove(np.array([100, 117, 149, 9999], np.int64))
    kept = np.array([row not in (100, 117, 149) for row in rows])
    assert sorted(index.rows().tolist()) == rows[kept].tolist()
    for query in vectors:
        expected = brute_force(rows[kept], vectors[kept], query, 10)
        assert index.search(query, 10)[0].tolist() == expected
    index.remove(rows)
    assert len(index) == 0


def test_a_change_inserts_and_removes_together() -> None:
    vectors = unit_vectors(4, DIM)
    index = filled(np.array([1, 2]), vectors[:2])
    index.change(np.array([3, 4]), vectors[2:], np.array([1]))
    assert sorted(index.rows().tolist()) == [2, 3, 4]
    np.testing.assert_array_equal(index.vectors(np.array([4, 2])), vectors[[3, 1]])


def test_vectors_come_back_in_the_order_asked_for() -> None:
    vectors, rows = unit_vectors(20, DIM), np.arange(20) * 3
    index = filled(rows, vectors)
    np.testing.assert_array_equal(index.vectors(rows[::-1]), vectors[::-1])
    assert index.vectors(NO_ROWS).shape == (0, DIM)
    with pytest.raises(KeyError, match="1"):
        index.vectors(np.array([0, 1]))


def test_the_size_is_that_of_vectors_and_row_numbers() -> None:
    assert filled(np.arange(10), unit_vectors(10, DIM)).bytes == 10 * (DIM * 4 + 8)


# --- files ------------------------------------------------------------------------------------


def test_a_saved_index_comes_back_bit_for_bit(tmp_path: Path) -> None:
    vectors = unit_vectors(80, DIM)
    index = filled(np.arange(80) * 7, vectors)
    index.remove(np.array([14, 21]))
    index.save(tmp_path / "a.faiss")
    loaded = VectorIndex.load(tmp_path / "a.faiss", DIM)
    loaded.save(tmp_path / "b.faiss")
    assert (tmp_path / "a.faiss").read_bytes() == (tmp_path / "b.faiss").read_bytes()
    np.testing.assert_array_equal(loaded.rows(), index.rows())
    np.testing.assert_array_equal(loaded.vectors(index.rows()), index.vectors(index.rows()))
    for query in unit_vectors(5, DIM, seed=3):
        ours, theirs = index.search(query, 20), loaded.search(query, 20)
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
    loaded.change(np.array([14]), vectors[:1], np.array([0]))
    assert loaded.search(vectors[0], 1)[0].tolist() == [14]


def test_faiss_itself_reads_a_saved_index(tmp_path: Path) -> None:
    path = tmp_path / "Straße 写真.faiss"
    filled(np.array([5, 9]), unit_vectors(2, DIM)).save(path)
    read = faiss.deserialize_index(np.frombuffer(path.read_bytes(), np.uint8))
    assert (read.ntotal, read.d, read.metric_type) == (2, DIM, faiss.METRIC_INNER_PRODUCT)


def test_a_file_that_is_no_such_index_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "vectors.faiss"
    filled(np.arange(50), unit_vectors(50, DIM)).save(path)
    whole = path.read_bytes()
    for content in (b"", b"garbage" * 100, whole[:3], whole[:40], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(CorruptIndex, match=r"vectors\.faiss"):
            VectorIndex.load(path, DIM)
    with pytest.raises(CorruptIndex, match="missing"):
        VectorIndex.load(tmp_path / "missing", DIM)


def test_an_index_of_another_kind_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "vectors.faiss"
    filled(np.arange(5), unit_vectors(5, DIM)).save(path)
    with pytest.raises(CorruptIndex, match="25 dimensions"):
        VectorIndex.load(path, DIM + 1)
    faiss.write_index(faiss.IndexFlatIP(DIM), str(path))
    with pytest.raises(CorruptIndex, match="row numbers"):
        VectorIndex.load(path, DIM)
    faiss.write_index(faiss.IndexIDMap2(faiss.IndexFlatL2(DIM)), str(path))
    with pytest.raises(CorruptIndex, match="inner products"):
        VectorIndex.load(path, DIM)


# --- threads ----------------------------------------------------------------------------------


def in_threads(*tasks: Callable[[], None]) -> None:
    """Run all at once; the first failure is raised here."""
    failures: list[BaseException] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_searches_stay_right_while_others_add_and_remove() -> None:
    stay, guests = unit_vectors(200, DIM), unit_vectors(400, DIM, seed=1)
    index = filled(np.arange(200), stay)
    end = time.monotonic() + 3.0
    answers: list[int] = []

    def search(seed: int) -> None:
        random = np.random.default_rng(seed)
        while time.monotonic() < end:
            row = int(random.integers(200))
            rows, scores = index.search(stay[row], 10)
            assert rows[0] == row and abs(scores[0] - 1) < 1e-5
            assert len(rows) == len(set(rows.tolist())) == 10
            for found, score in zip(rows.tolist(), scores.tolist(), strict=True):
                vector = stay[found] if found < 200 else guests[(found - 200) % 400]
                assert abs(score - vector @ stay[row]) < 1e-5
            # A change replaces one guest by another: they come in pairs or not at all.
            assert len(index.rows()) in (200, 220)
            answers.append(row)

    def change(seed: int) -> None:
        random = np.random.default_rng(seed)
        base = 200
        while time.monotonic() < end:
            chosen = random.permutation(400)[:20]
            rows = base + chosen
            index.add(rows, guests[chosen])
            following = rows + 400
            index.change(following, guests[chosen], rows)
            index.remove(following)
            base += 800

    in_threads(*(lambda n=n: search(n) for n in range(3)), lambda: change(9))
    assert len(answers) > 50
    assert sorted(index.rows().tolist()) == list(range(200))


def test_readers_are_inside_together() -> None:
    lock, inside = ReadWriteLock(), threading.Barrier(3, timeout=PATIENCE_S)

    def read() -> None:
        with lock.reading():
            inside.wait()

    in_threads(read, read, read)


def test_a_writer_is_alone() -> None:
    lock, counter, most = ReadWriteLock(), [0, 0], [0]

    def write() -> None:
        for _ in range(100):
            with lock.writing():
                assert counter == [0, 0]
                counter[0] += 1
                time.sleep(0)
                counter[0] -= 1

    def read() -> None:
        for _ in range(100):
            with lock.reading():
                assert counter[0] == 0
                time.sleep(0)
                most[0] += 1

    in_threads(write, read, write, read)
    assert most == [200]


def test_a_waiting_writer_goes_before_new_readers() -> None:
    lock, order = ReadWriteLock(), []
    held, release = threading.Event(), threading.Event()

    def first_reader() -> None:
        with lock.reading():
            held.set()
            release.wait(PATIENCE_S)
            order.append("first reader")

    def writer() -> None:
        with lock.writing():
            order.append("writer")

    def later_reader() -> None:
        with lock.reading():
            order.append("later reader")

    threads = [threading.Thread(target=first_reader)]
    threads[0].start()
    assert held.wait(PATIENCE_S)
    threads.append(threading.Thread(target=writer))
    threads[1].start()
    until(lambda: lock._writers_waiting)
    threads.append(threading.Thread(target=later_reader))
    threads[2].start()
    time.sleep(0.05)
    assert order == []
    release.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["first reader", "writer", "later reader"]


def test_a_writer_gets_in_between_readers_that_never_pause() -> None:
    lock, done = ReadWriteLock(), threading.Event()

    def read() -> None:
        end = time.monotonic() + PATIENCE_S
        while not done.is_set():
            assert time.monotonic() < end, "the writer starved"
            with lock.reading():
                time.sleep(0.002)

    def write() -> None:
        for _ in range(5):
            with lock.writing():
                pass
        done.set()

    in_threads(read, read, read, write)


@pytest.mark.parametrize("side", ["reading", "writing"])
def test_an_exception_inside_releases_the_lock(side: str) -> None:
    lock = ReadWriteLock()
    with pytest.raises(RuntimeError, match="inside"), getattr(lock, side)():
        raise RuntimeError("inside")

    def both() -> None:
        with lock.writing():
            pass
        with lock.reading():
            pass

    thread = threading.Thread(target=both, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
