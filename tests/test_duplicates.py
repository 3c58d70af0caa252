"""Near-duplicates against all pairs, compared one by one."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from engine.catalog import Catalog
from engine.duplicates import (
    MAX_MEMBERS,
    DuplicateOptions,
    DuplicateReport,
    Links,
    check_options,
    find_duplicates,
)
from engine.errors import InvalidOption
from engine.types import NewImage, Rows, Vectors
from engine.vector_index import VectorIndex


@dataclass(frozen=True)
class Line:
    """A calibration: the probability is the score itself, from 0 on."""

    near: float = 0.8

    def probability(self, scores: Vectors) -> Vectors:
        return np.clip(scores, 0.0, 1.0)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    instance = Catalog(tmp_path / "catalog.sqlite")
    yield instance
    instance.close()


def unit(vectors: Vectors) -> Vectors:
    scaled: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def made(count: int, dim: int, seed: int) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32))


def near_to(vector: Vectors, distance: float, seed: int) -> Vectors:
    """A unit vector whose cosine with `vector` is 1 / sqrt(1 + distance ** 2)."""
    other = np.random.default_rng(seed).standard_normal(len(vector))
    other -= (other @ vector) * vector
    moved: Vectors = unit((vector + distance * other / np.linalg.norm(other))[None])[0]
    return moved


def stored(
    catalog: Catalog,
    vectors: Vectors,
    *,
    digests: dict[int, int] | None = None,
    sizes: dict[int, tuple[int, int]] | None = None,
) -> VectorIndex:
    """An index of `vectors`; number n has the bytes of number `digests[n]`."""
    index = VectorIndex(vectors.shape[1])
    for start in range(0, len(vectors), 500):
        numbers = range(start, min(start + 500, len(vectors)))
        rows, _ = catalog.put(
            [
                NewImage(
                    id=f"{number}.jpg",
                    digest=f"{(digests or {}).get(number, number) * 7919 + 1:016x}{'5' * 48}",
                    width=(sizes or {}).get(number, (60, 40))[0],
                    height=(sizes or {}).get(number, (60, 40))[1],
                    format="JPEG",
                    metadata={},
                    thumbnail=b"",
                    descriptor=vectors[number],
                )
                for number in numbers
            ]
        )
        index.add(np.array(rows, np.int64), vectors[numbers.start : numbers.stop])
    return index


def by_hand(vectors: Vectors, bound: float, digests: dict[int, int]) -> set[frozenset[str]]:
    """Groups from all pairs: a search from image to image, straight from the definition."""
    cosines = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    # Pairs on the bound itself could fall on either side of it.
    assert (np.abs(cosines - bound) > 1e-6).all()
    kind = [digests.get(number, number) for number in range(len(vectors))]
    groups, seen = set(), set[int]()
    for first in range(len(vectors)):
        group, open_ = set[int](), [first]
        while open_:
            one = open_.pop()
            if one not in group and one not in seen:
                group.add(one)
                open_ += [
                    other
                    for other in range(len(vectors))
                    if cosines[one, other] >= bound or kind[one] == kind[other]
                ]
        seen |= group
        if len(group) > 1:
            groups.add(frozenset(f"{number}.jpg" for number in group))
    return groups


def groups_of(report: DuplicateReport) -> set[frozenset[str]]:
    return {frozenset(member.id for member in group.members) for group in report.groups}


@pytest.mark.parametrize("seed", range(8))
def test_groups_are_those_of_all_pairs(catalog: Catalog, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = made(150, 7, seed)  # few dimensions: chance brings chains of neighbours
    for copy in range(40):
        original = int(random.integers(0, 100))
        vectors[110 + copy] = near_to(vectors[original], float(random.uniform(0.01, 0.5)), copy)
    digests = {int(a): int(b) for a, b in random.integers(0, 150, (10, 2))}
    for number, original in list(digests.items()):
        digests[number] = digests.get(original, original)
        vectors[number] = vectors[digests[number]]
    index = stored(catalog, vectors, digests=digests)
    bound = float(random.uniform(0.85, 0.99))
    report = find_duplicates(catalog, index, DuplicateOptions(min_score=bound))
    assert groups_of(report) == by_hand(vectors, bound, digests)
    assert report.images == 150
    assert report.group_count == len(report.groups) > 0
    sizes = [group.size for group in report.groups]
    assert sizes == sorted(sizes, reverse=True)
    assert report.to_json()["redundant"] == sum(sizes) - len(sizes)
    for group in report.groups:
        keep = vectors[int(group.keep[:-4])]
        for member in group.members:
            cosine = float(keep @ vectors[int(member.id[:-4])])
            assert member.score == pytest.approx(cosine, abs=1e-5)
            assert member.direct == (member.kind == "exact" or cosine >= bound)


def test_a_group_larger_than_any_list_of_neighbours_is_found_whole(catalog: Catalog) -> None:
    vectors = made(400, 24, 1)
    for copy in range(300):
        vectors[50 + copy] = near_to(vectors[3], 0.02 + 0.0001 * copy, copy)
    index = stored(catalog, vectors)
    report = find_duplicates(catalog, index, DuplicateOptions(min_score=0.99))
    assert [group.size for group in report.groups] == [301]
    assert groups_of(report) == by_hand(vectors, 0.99, {})


def test_the_same_vector_three_hundred_times_is_one_group(catalog: Catalog) -> None:
    vectors = made(330, 12, 1)
    vectors[10:310] = vectors[0]
    index = stored(catalog, vectors)
    report = find_duplicates(catalog, index, DuplicateOptions(min_score=0.999))
    assert [(group.size, len(group.members)) for group in report.groups] == [(301, 301)]


def test_two_dense_groups_that_share_their_nearest_stay_apart(catalog: Catalog) -> None:
    first, second = made(2, 16, 5)
    vectors = np.stack([near_to(first, 0.03, n) for n in range(40)])
    vectors = np.concatenate([vectors, [near_to(second, 0.03, n) for n in range(40)]])
    report = find_duplicates(catalog, stored(catalog, vectors), DuplicateOptions(min_score=0.99))
    assert sorted(group.size for group in report.groups) == [40, 40]


def test_a_chain_is_one_group_and_says_so(catalog: Catalog) -> None:
    angles = np.array([0.0, 0.1, 0.2, 0.3])  # cosines: .995 to the next, .955 from end to end
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    index = stored(catalog, vectors, sizes={0: (90, 90)})
    (group,) = find_duplicates(catalog, index, DuplicateOptions(min_score=0.99)).groups
    assert group.keep == "0.jpg"
    assert [(member.id, member.direct) for member in group.members] == [
        ("0.jpg", True),
        ("1.jpg", True),
        ("2.jpg", False),
        ("3.jpg", False),
    ]
    assert group.members[3].score == pytest.approx(np.cos(0.3), abs=1e-5)


def test_the_image_with_the_most_pixels_is_kept_then_the_oldest(catalog: Catalog) -> None:
    vectors = np.repeat(made(2, 9, 3), 3, axis=0)
    index = stored(catalog, vectors, digests={1: 0}, sizes={2: (50, 60), 4: (41, 60), 5: (60, 41)})
    report = find_duplicates(catalog, index, DuplicateOptions(min_score=0.99))
    assert [group.keep for group in report.groups] == ["2.jpg", "4.jpg"]
    kinds = {member.id: member.kind for group in report.groups for member in group.members}
    # Of the same bytes as the kept one, not as just any other.
    assert kinds == {
        **dict.fromkeys(["2.jpg", "4.jpg"], "exact"),
        **dict.fromkeys(["0.jpg", "1.jpg", "3.jpg", "5.jpg"], "near"),
    }


def test_the_same_bytes_are_a_group_however_high_the_bound(catalog: Catalog) -> None:
    vectors = made(6, 9, 3)
    vectors[4] = vectors[1]
    index = stored(catalog, vectors, digests={4: 1})
    (group,) = find_duplicates(catalog, index, DuplicateOptions(min_score=1.0)).groups
    assert [(m.id, m.kind, m.score) for m in group.members] == [
        ("1.jpg", "exact", 1.0),
        ("4.jpg", "exact", 1.0),
    ]


def test_without_a_bound_a_calibration_gives_one_or_else_the_collection(catalog: Catalog) -> None:
    vectors = made(200, 32, 4)
    vectors[150] = near_to(vectors[2], 0.3, 1)  # cosine .958
    index = stored(catalog, vectors)
    plain = find_duplicates(catalog, index, DuplicateOptions())
    assert plain.bound.source == "collection"
    cosines = vectors @ vectors.T
    assert np.sort(cosines[np.triu_indices(200, 1)])[-2] < plain.bound.min_score < 0.958
    assert groups_of(plain) == {frozenset({"2.jpg", "150.jpg"})}
    (group,) = plain.groups
    assert group.members[1].p_same_origin is None
    calibrated = find_duplicates(catalog, index, DuplicateOptions(), calibration=Line(0.97))
    assert (calibrated.bound.source, calibrated.bound.min_score) == ("calibration", 0.97)
    assert calibrated.groups == ()


def test_a_bound_on_the_probability_is_the_score_that_has_it(catalog: Catalog) -> None:
    vectors = made(60, 32, 4)
    vectors[50] = near_to(vectors[2], 0.3, 1)
    index = stored(catalog, vectors)
    options = DuplicateOptions(min_probability=0.9)
    report = find_duplicates(catalog, index, options, calibration=Line())
    assert report.bound.min_score == pytest.approx(0.9, abs=1e-6)
    (group,) = report.groups
    assert group.members[1].p_same_origin == pytest.approx(1 / np.sqrt(1.09), abs=1e-5)
    above = DuplicateOptions(min_probability=0.97)
    assert find_duplicates(catalog, index, above, calibration=Line()).groups == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (DuplicateOptions(min_score=0.9, min_probability=0.9), "not both"),
        (DuplicateOptions(min_score=1.5), "min_score is 1.5"),
        (DuplicateOptions(min_probability=0.0), "min_probability is 0.0"),
        (DuplicateOptions(min_probability=0.9), "calibrated"),
        (DuplicateOptions(limit=0), "limit is 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: DuplicateOptions, words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        check_options(options, None)


def test_a_report_is_cut_and_says_so(catalog: Catalog) -> None:
    vectors = np.repeat(made(20, 30, 8), 2, axis=0)
    index = stored(catalog, vectors)
    whole = find_duplicates(catalog, index, DuplicateOptions(min_score=0.99))
    assert (whole.truncated, len(whole.groups)) == (False, 20)
    cut = find_duplicates(catalog, index, DuplicateOptions(min_score=0.99, limit=3))
    assert (cut.truncated, len(cut.groups), cut.group_count, cut.grouped) == (True, 3, 20, 40)
    assert cut.groups == whole.groups[:3]


def test_of_a_huge_group_some_members_are_listed(catalog: Catalog) -> None:
    vectors = np.repeat(made(1, 8, 1), MAX_MEMBERS + 30, axis=0)
    index = stored(catalog, vectors, digests=dict.fromkeys(range(MAX_MEMBERS + 30), 0))
    report = find_duplicates(catalog, index, DuplicateOptions())
    assert report.truncated
    assert [(g.size, len(g.members)) for g in report.groups] == [(MAX_MEMBERS + 30, MAX_MEMBERS)]


def test_one_image_and_none_have_no_duplicates(catalog: Catalog) -> None:
    index = stored(catalog, made(1, 5, 1))
    assert find_duplicates(catalog, index, DuplicateOptions()).groups == ()
    index.remove(index.rows())
    report = find_duplicates(catalog, index, DuplicateOptions())
    assert (report.images, report.groups) == (0, ())


def test_images_deleted_meanwhile_drop_out(catalog: Catalog) -> None:
    vectors = np.repeat(made(300, 30, 8), 2, axis=0)
    index = stored(catalog, vectors)
    gone = np.array([row for row in range(1, 601) if row % 2 or row > 512], np.int64)

    def change(done: int, total: int) -> None:
        if done and len(index) == 600:
            index.remove(gone)
            # Too late to be compared: with a row that nobody knew of at the start.
            index.add(np.array([5000], np.int64), vectors[:1])

    report = find_duplicates(catalog, index, DuplicateOptions(min_score=0.99), progress=change)
    assert len(index) == 257
    assert report.images == 600
    assert report.groups == ()


def test_progress_may_end_it(catalog: Catalog) -> None:
    index = stored(catalog, made(30, 5, 1))

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        find_duplicates(catalog, index, DuplicateOptions(), progress=stop)


def test_links_join_whatever_the_order() -> None:
    random = np.random.default_rng(3)
    for _ in range(50):
        count = int(random.integers(1, 40))
        pairs = random.integers(0, count, (int(random.integers(0, 40)), 2))
        links = Links(count)
        for part in np.array_split(pairs, 3):
            links.join(part[:, 0], part[:, 1])
        label = list(range(count))
        for left, right in pairs.tolist():
            old, new = label[left], label[right]
            label = [new if value == old else value for value in label]
        expected = {
            tuple(place for place in range(count) if label[place] == value) for value in set(label)
        }
        found = [tuple(part.tolist()) for part in links.groups()]
        assert set(found) == {group for group in expected if len(group) > 1}


class Partial:
    """Vectors of which each search sees some: as much to keep as in a whole one."""

    def __init__(self, count: int) -> None:
        self._vectors = made(count, 64, 9)
        self._vectors[1::10] = self._vectors[0::10]

    def rows(self) -> Rows:
        return np.arange(1, len(self._vectors) + 1)

    def vectors(self, rows: Rows) -> Vectors:
        found: Vectors = self._vectors[rows - 1]
        return found

    def search_many(self, queries: Vectors, k: int) -> tuple[Rows, Vectors]:
        scores = queries @ self._vectors[: 4 * k].T
        order = np.argsort(-scores, axis=1)[:, :k]
        return order + 1, np.take_along_axis(scores, order, axis=1)


@pytest.mark.parametrize(("count", "bound"), [(50_000, 0.99), (2500, 0.0)])
def test_memory_grows_with_images_not_with_pairs(
    catalog: Catalog, count: int, bound: float
) -> None:
    """All pairs of 50,000 would be 10 GB; from 0 on half of all are near."""
    index = Partial(count)
    tracemalloc.start()
    try:
        report = find_duplicates(catalog, index, DuplicateOptions(min_score=bound))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.group_count > 0
    assert peak < 60 << 20
