from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from engine.errors import CorruptIndex, RecallTooLow
from engine.types import Rows, Vectors
from engine.vector_index import (
    AUTO,
    BuildOptions,
    Built,
    SearchKnobs,
    VectorIndex,
    build_base,
    write_vectors,
)
from engine.vector_index.coded import CODES, EXACT, FEW, ROWS, CodedVectors
from tests.stored import unit_vectors

DIM = 36
COUNT = FEW + 1000
"""So many are found by their codes; fewer would be compared one by one."""
CODED = ("ivf_sq8", "ivf_rabitq")
KINDS = (*CODED, "float16")
EXACTLY = SearchKnobs(exact=True)


def _nothing(*_: object) -> None:
    pass


def build(folder: Path, rows: Rows, vectors: Vectors, kind: str) -> Built:
    folder.mkdir(exist_ok=True)
    chunks = ((rows[n : n + 500], vectors[n : n + 500]) for n in range(0, len(rows), 500))
    written = write_vectors(folder, chunks, _nothing, len(rows))
    return build_base(folder, written, vectors.shape[1], BuildOptions(kind), _nothing)


def load(folder: Path, built: Built, dim: int = DIM) -> CodedVectors:
    return CodedVectors.load(folder, dim, built.effort, coded=built.index_type in CODED)


def clustered(count: int, seed: int = 0) -> Vectors:
    """Unit vectors around sixty centres, as float16 keeps them."""
    random = np.random.default_rng(seed)
    centres = unit_vectors(60, DIM, seed=1)
    values = centres[random.integers(60, size=count)] + 0.7 * unit_vectors(count, DIM, seed)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    stored: Vectors = unit.astype(np.float16).astype(np.float32)
    return stored


ROW_NUMBERS = np.sort(np.random.default_rng(3).permutation(3 * COUNT)[:COUNT]) + 1
VECTORS = clustered(COUNT)
QUERIES = clustered(15, seed=7)


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CodedVectors:
    folder = tmp_path_factory.mktemp(request.param)
    return load(folder, build(folder, ROW_NUMBERS, VECTORS, request.param))


@pytest.fixture
def index(made: CodedVectors) -> VectorIndex:
    return VectorIndex(DIM, base=made)


def brute_force(rows: Rows, vectors: Vectors, query: Vectors, k: int) -> list[int]:
    scores = (vectors * query).sum(axis=1, dtype=np.float64)
    return [int(row) for row in rows[np.lexsort((rows, -scores))][:k]]


def share_found(found: list[list[int]], expected: list[list[int]]) -> float:
    both = sum(len(set(a) & set(b)) for a, b in zip(found, expected, strict=True))
    return both / sum(map(len, expected))


# --- search -----------------------------------------------------------------------------------


def test_an_exact_search_is_brute_force(index: VectorIndex) -> None:
    for query in QUERIES:
        found, scores = index.search(query, 20, EXACTLY)
        assert set(found) == set(brute_force(ROW_NUMBERS, VECTORS, query, 20))
        places = np.searchsorted(ROW_NUMBERS, found)
        np.testing.assert_allclose(scores, VECTORS[places] @ query, atol=1e-5)
        assert (np.diff(scores) <= 0).all()


def test_nearly_all_of_the_nearest_are_found_by_code(index: VectorIndex) -> None:
    found = [index.search(query, 10)[0].tolist() for query in QUERIES]
    expected = [brute_force(ROW_NUMBERS, VECTORS, query, 10) for query in QUERIES]
    assert share_found(found, expected) >= 0.97


def test_deleted_rows_are_not_found_and_added_ones_are(index: VectorIndex) -> None:
    gone = ROW_NUMBERS[::3]
    fresh_rows = ROW_NUMBERS[-1] + np.arange(1, 201)
    fresh = clustered(200, seed=11)
    index.change(fresh_rows, fresh, gone)
    index.remove(np.array([0, 10**9], np.int64))
    kept = np.ones(COUNT, bool)
    kept[::3] = False
    rows = np.concatenate([ROW_NUMBERS[kept], fresh_rows])
    vectors = np.concatenate([VECTORS[kept], fresh])
    assert len(index) == len(rows)
    assert sorted(index.rows().tolist()) == rows.tolist()
    found = [index.search(query, 10)[0].tolist() for query in QUERIES]
    assert not {row for some in found for row in some} & set(gone.tolist())
    expected = [brute_force(rows, vectors, query, 10) for query in QUERIES]
    assert share_found(found, expected) >= 0.97
    for place in (0, 77, 199):
        assert index.search(fresh[place], 1)[0].tolist() == [fresh_rows[place]]
    np.testing.assert_array_equal(
        index.vectors(np.array([fresh_rows[5], ROW_NUMBERS[1]])), [fresh[5], VECTORS[1]]
    )
    with pytest.raises(KeyError):
        index.vectors(gone[:1])


@pytest.mark.parametrize("share", [2, 40])
def test_only_what_a_filter_allows_is_found(index: VectorIndex, share: int) -> None:
    def allowed(rows: Rows) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        assert (np.diff(rows) > 0).all()
        passed: np.ndarray[tuple[int], np.dtype[np.bool_]] = rows % share == 0
        return passed

    index.remove(ROW_NUMBERS[ROW_NUMBERS % share == 0][:50])
    index.add(np.array([40_000, 40_001]), VECTORS[:2])
    rows, vectors = index.rows(), index.vectors(index.rows())
    passing = rows % share == 0
    found = [index.search(query, 10, allowed=allowed)[0] for query in QUERIES]
    assert all((some % share == 0).all() for some in found)
    expected = [brute_force(rows[passing], vectors[passing], query, 10) for query in QUERIES]
    assert share_found([some.tolist() for some in found], expected) >= 0.97


@pytest.mark.parametrize("knobs", [SearchKnobs(), SearchKnobs(nprobe=1), EXACTLY])
def test_pages_join_without_gaps_or_repeats_beyond_what_codes_lead_to(
    index: VectorIndex, knobs: SearchKnobs
) -> None:
    index.change(40_000 + np.arange(300), clustered(300, seed=5), ROW_NUMBERS[:100])
    every = set(index.rows().tolist())
    for query in QUERIES[:4]:
        longest, scores = index.search(query, len(index) + 5, knobs)
        assert len(longest) == len(every) and set(longest.tolist()) == every
        np.testing.assert_allclose(scores, index.vectors(longest) @ query, atol=1e-5)
        for k in (1, 10, 49, 51, 90, 199, 201, 399, 420, 900, 1999, 2001, 2400, 4000):
            found, _ = index.search(query, k, knobs)
            assert found.tolist() == longest[:k].tolist()


def test_equal_vectors_are_ordered_by_row(tmp_path: Path) -> None:
    vectors = np.repeat(clustered(COUNT // 10), 10, axis=0)
    rows = np.arange(1, len(vectors) + 1)
    for kind in KINDS:
        folder = tmp_path / kind
        index = VectorIndex(DIM, base=load(folder, build(folder, rows, vectors, kind)))
        found, _ = index.search(vectors[25], 10)
        assert found.tolist() == list(range(21, 31))


def test_searches_see_all_of_a_change_or_nothing_of_it(index: VectorIndex) -> None:
    """One image is replaced all the time, and always found exactly once."""
    wanted, fixed = VECTORS[40], VECTORS[41]
    stop, failures = threading.Event(), list[str]()

    def search() -> None:
        while not stop.is_set():
            found, scores = index.search(wanted, 20)
            if len(set(found.tolist())) != 20 or int((scores > 0.999).sum()) != 1:
                failures.append(f"{found} {scores}")
            if index.search(fixed, 1)[0].tolist() != [ROW_NUMBERS[41]]:
                failures.append("the other is lost")

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    last = int(ROW_NUMBERS[40])
    for row in range(50_000, 50_150):
        index.change(np.array([row]), wanted[None], np.array([last, ROW_NUMBERS[row - 49_000]]))
        last = row
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]


# --- building ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "dim"), [(1, 7), (2, 7), (3, 1), (39, 13), (120, 17)])
def test_the_smallest_sets_can_be_coded(tmp_path: Path, kind: str, count: int, dim: int) -> None:
    rows, vectors = np.arange(1, count + 1), unit_vectors(count, dim)
    built = build(tmp_path, rows, vectors, kind)
    assert built.recall == 1.0
    index = VectorIndex(dim, base=load(tmp_path, built, dim))
    assert sorted(index.search(vectors[0], 500)[0].tolist()) == rows.tolist()
    index.remove(rows)
    assert len(index) == 0
    assert index.search(vectors[0], 5)[0].tolist() == []


@pytest.mark.parametrize("kind", CODED)
def test_copies_and_zeros_do_no_harm(tmp_path: Path, kind: str) -> None:
    for number, vectors in enumerate(
        (np.repeat(unit_vectors(3, DIM), 200, axis=0), np.zeros((300, DIM), np.float32))
    ):
        rows = np.arange(1, len(vectors) + 1)
        assert build(tmp_path / str(number), rows, vectors, kind).recall == 1.0


@pytest.mark.parametrize("kind", CODED)
def test_the_recall_is_measured_and_reached(tmp_path: Path, kind: str) -> None:
    built = build(tmp_path, ROW_NUMBERS, VECTORS, kind)
    assert 0.95 <= built.recall <= 1.0
    assert 1 <= built.effort.nprobe <= built.cells
    index = VectorIndex(DIM, base=load(tmp_path, built))
    found, expected = [], []
    for place in range(0, COUNT, 97):
        found.append(index.search(VECTORS[place], 11)[0].tolist())
        expected.append(brute_force(ROW_NUMBERS, VECTORS, VECTORS[place], 11))
    assert share_found(found, expected) == pytest.approx(built.recall, abs=0.03)


def bursts() -> Vectors:
    """Images in bursts that are longer than the candidates of a search, each nearer to the next
    than eight bits can tell, among very different ones."""
    near = np.repeat(unit_vectors(6, DIM), 700, axis=0) + 0.005 * unit_vectors(4200, DIM, seed=3)
    vectors = np.concatenate([near, unit_vectors(3000, DIM, seed=8)])
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit[np.random.default_rng(0).permutation(len(unit))]


def test_codes_that_find_too_little_are_refused(tmp_path: Path) -> None:
    vectors = bursts()
    rows = np.arange(1, len(vectors) + 1)
    with pytest.raises(RecallTooLow, match=r"the ivf_sq8 index finds \d.*flat and float16"):
        build(tmp_path, rows, vectors, "ivf_sq8")
    assert not (tmp_path / CODES).exists()


def test_where_codes_find_too_little_all_are_compared_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.vector_index.building.FLAT_BELOW", 1000)
    vectors = bursts()
    rows = np.arange(1, len(vectors) + 1)
    built = build(tmp_path, rows, vectors, AUTO)
    assert (built.index_type, built.recall) == ("float16", 1.0)
    index = VectorIndex(DIM, base=load(tmp_path, built))
    for place in range(0, len(rows), 500):
        assert index.search(vectors[place], 1)[1][0] == pytest.approx(1.0, abs=2e-3)


# --- files ------------------------------------------------------------------------------------


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_off, emptied, Path.unlink])
@pytest.mark.parametrize("name", [CODES, EXACT, ROWS])
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    built = build(tmp_path, np.arange(1, 301), clustered(300), "ivf_sq8")
    damage(tmp_path / name)
    with pytest.raises(CorruptIndex, match=str(tmp_path)):
        load(tmp_path, built)


def test_codes_of_another_kind_are_corrupt(tmp_path: Path) -> None:
    vectors = clustered(300)
    built = build(tmp_path, np.arange(1, 301), vectors, "ivf_sq8")
    other = faiss.IndexFlatIP(DIM)
    other.add(vectors)
    faiss.write_index(other, str(tmp_path / CODES))
    with pytest.raises(CorruptIndex, match="does not hold 300 vectors of 36 values in cells"):
        load(tmp_path, built)
    with pytest.raises(CorruptIndex):
        load(tmp_path, built, DIM + 1)
