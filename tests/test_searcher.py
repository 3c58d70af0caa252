from __future__ import annotations

import hashlib
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.backbones.weights import load_weights
from engine.catalog import stored_descriptor
from engine.describer import Describer, DescriberOptions
from engine.errors import (
    BadImage,
    CorruptIndex,
    DeadlineExceeded,
    EmptyIndex,
    IndexMismatch,
    NoGeneration,
    Overloaded,
    StorageFull,
    UnknownImage,
    UnsupportedImage,
)
from engine.filters import parse_filter
from engine.generations import project
from engine.searcher import Searcher, new_image
from engine.types import (
    Expansion,
    Hit,
    ImageRecord,
    MatchType,
    NewImage,
    Pixels,
    Rows,
    SearchAnswer,
    SearchOptions,
    Vectors,
)
from tests.augmentation_loops import augmented_rows, expanded
from tests.drawing import encode, photo, scene, view
from tests.patience import PATIENCE_S, until
from tests.stored import an_image, unit_vectors

COUNT = 64
"""A power of two: exactly these decide the background until there are twice as many."""
FAR = 10_000
"""Seeds from here on are scenes that no test has stored."""

Open = Callable[[], Searcher]


@pytest.fixture(scope="module")
def scenes(describer: Describer) -> list[NewImage]:
    """The first scenes, described once; scene n has the id `n`."""
    files = [photo(seed) for seed in range(COUNT)]
    decoded = [describer.decode(data) for data in files]
    vectors = describer.describe([image.pixels for image in decoded])
    return [
        new_image(str(seed), image, vector, {"seed": seed})
        for seed, (image, vector) in enumerate(zip(decoded, vectors, strict=True))
    ]


@pytest.fixture
def filled(searcher: Searcher, scenes: list[NewImage]) -> Searcher:
    searcher.store(scenes)
    return searcher


@pytest.fixture
def reopened(tmp_path: Path, describer: Describer) -> Iterator[Open]:
    """Opens the index of the test once more, after closing it."""
    opened: list[Searcher] = []

    def reopen() -> Searcher:
        if opened:
            opened.pop().close()
        opened.append(Searcher(tmp_path / "index", describer))
        return opened[-1]

    yield reopen
    for searcher in opened:
        searcher.close()


def other_describer(**changes: object) -> Describer:
    options = DescriberOptions(
        backbone="squeezenet1_1", max_side=128, precision="float32", projection_dim=64
    )
    return Describer(
        replace(options, **changes),  # type: ignore[arg-type]
        load_weights("squeezenet1_1", "untrained"),
    )


def ids(answer: SearchAnswer) -> list[str]:
    return [hit.id for hit in answer.hits]


def assert_finds_itself(searcher: Searcher, seeds: Sequence[int]) -> None:
    for seed in seeds:
        best = searcher.search(photo(seed), SearchOptions(limit=3)).hits[0]
        assert (best.id, best.rank, best.score) == (str(seed), 1, 1.0)
        assert best.match_type is MatchType.EXACT


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def tamper(path: Path, query: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        assert connection.execute(query, values).rowcount > 0
        connection.commit()


# --- finding ----------------------------------------------------------------------------------


def test_a_stored_image_finds_itself_first_in_every_state(
    tmp_path: Path, filled: Searcher, reopened: Open
) -> None:
    some = range(0, COUNT, 7)
    assert_finds_itself(filled, some)
    filled.build()
    assert_finds_itself(filled, some)
    filled.reload()
    assert_finds_itself(filled, some)
    filled.close()
    assert_finds_itself(reopened(), some)


def test_the_order_is_that_of_the_cosines(filled: Searcher, scenes: list[NewImage]) -> None:
    raw = np.stack([image.descriptor for image in scenes]).astype(np.float64)
    query = photo(FAR)
    vector = filled.describer.describe([filled.describer.decode(query).pixels])[0]
    cosines = raw @ vector.astype(np.float64)
    answer = filled.search(query, SearchOptions(limit=COUNT))
    assert ids(answer) == [str(n) for n in np.argsort(-cosines)]
    np.testing.assert_allclose([hit.score for hit in answer.hits], -np.sort(-cosines), atol=1e-3)
    assert [hit.rank for hit in answer.hits] == list(range(1, COUNT + 1))
    assert (answer.count, answer.generation, answer.expanded_with) == (COUNT, 0, 0)
    assert answer.fingerprint == filled.recipe.fingerprint
    assert set(answer.timing_ms) == {"decode", "queue", "describe", "search"}


def test_after_a_build_the_order_is_that_of_the_principal_components(
    filled: Searcher, scenes: list[NewImage]
) -> None:
    manifest = filled.build()
    raw = np.stack([image.descriptor for image in scenes]).astype(np.float64)
    mean = raw.mean(axis=0)
    _, singular, directions = np.linalg.svd(raw - mean, full_matrices=False)
    kept = directions[: manifest.dim].T * (singular[: manifest.dim] ** 2 / COUNT) ** -0.25

    def projected(vectors: np.ndarray) -> np.ndarray:
        values = (vectors - mean) @ kept
        return values / np.linalg.norm(values, axis=-1, keepdims=True)  # type: ignore[no-any-return]

    query = photo(FAR)
    vector = filled.describer.describe([filled.describer.decode(query).pixels])[0]
    cosines = projected(raw) @ projected(vector.astype(np.float64))
    answer = filled.search(query, SearchOptions(limit=COUNT))
    scores = {hit.id: hit.score for hit in answer.hits}
    np.testing.assert_allclose([scores[str(n)] for n in range(COUNT)], cosines, atol=5e-3)
    assert answer.generation == manifest.number == 1


def test_a_hit_tells_what_is_stored_of_the_image(filled: Searcher) -> None:
    hit = filled.search(photo(5), SearchOptions(limit=1)).hits[0]
    assert (hit.metadata, hit.width, hit.height) == ({"seed": 5}, 160, 120)


def test_ids_with_the_same_bytes_are_all_exact(filled: Searcher) -> None:
    filled.put("copy", photo(3), {})
    for state in ("raw", "built"):
        answer = filled.search(photo(3), SearchOptions(limit=4))
        assert ids(answer)[:2] == ["3", "copy"], state
        assert [hit.score for hit in answer.hits[:2]] == [1.0, 1.0]
        kinds = [hit.match_type is MatchType.EXACT for hit in answer.hits]
        assert kinds == [True, True, False, False]
        filled.build()


def test_an_empty_index_finds_nothing(searcher: Searcher) -> None:
    for expansion in Expansion:
        answer = searcher.search(photo(0), SearchOptions(expansion=expansion))
        assert (answer.hits, answer.count, answer.generation) == ((), 0, 0)


def test_bytes_that_are_no_image_are_refused(filled: Searcher) -> None:
    with pytest.raises(BadImage, match="empty"):
        filled.search(b"", SearchOptions())
    with pytest.raises(UnsupportedImage):
        filled.search(b"GIF? no", SearchOptions())
    with pytest.raises(BadImage):
        filled.put("x", photo(0)[:200], {})
    assert filled.stats().count == COUNT


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    """Larger scenes at a size at which the untrained trunk can tell them apart; built."""
    folder = tmp_path_factory.mktemp("gallery")
    with closing(Searcher(folder, other_describer(max_side=224))) as searcher:
        for seed in range(COUNT):
            searcher.put(str(seed), photo(seed, (320, 240)), {})
        searcher.build()
        yield searcher


@pytest.mark.parametrize(("keep", "least"), [(0.7, 40), (0.9, 52)])
def test_cropped_shrunk_and_recompressed_views_find_their_scene_first(
    gallery: Searcher, keep: float, least: int
) -> None:
    # Even random filters do this for most scenes; by chance it would be a single one.
    first = 0
    for seed in range(COUNT):
        query = view(scene(seed, (320, 240)), keep=keep)
        first += ids(gallery.search(query, SearchOptions(limit=1))) == [str(seed)]
    assert first >= least


def test_trained_filters_find_the_scene_of_every_view_first(
    tmp_path: Path, shared_data: Path
) -> None:
    weights = shared_data / "squeezenet1_1" / "squeezenet1_1-imagenet-features.safetensors"
    options = DescriberOptions(backbone="squeezenet1_1", max_side=224, precision="float32")
    trained = Describer(options, load_weights("squeezenet1_1", str(weights)))
    with closing(Searcher(tmp_path, trained)) as searcher:
        for seed in range(COUNT):
            searcher.put(str(seed), photo(seed, (320, 240)), {})
        searcher.build()
        missed = [
            seed
            for seed in range(COUNT)
            if ids(searcher.search(view(scene(seed, (320, 240))), SearchOptions(limit=1)))
            != [str(seed)]
        ]
    assert missed == []


def test_recompressed_copies_are_near_and_other_scenes_similar(gallery: Searcher) -> None:
    wrong = 0
    for seed in range(COUNT):
        copy = encode(scene(seed, (320, 240)), "jpg", quality=60)
        first, *others = gallery.search(copy, SearchOptions(limit=COUNT)).hits
        assert (first.id, first.match_type) == (str(seed), MatchType.NEAR)
        wrong += sum(hit.match_type is not MatchType.SIMILAR for hit in others)
    # Random filters take a few pairs of scenes for alike: 4 of all pairs, in both directions.
    assert wrong <= 8


def test_an_unknown_scene_is_near_to_nothing(gallery: Searcher) -> None:
    kinds: list[MatchType] = []
    for seed in range(FAR, FAR + 10):
        answer = gallery.search(photo(seed, (320, 240)), SearchOptions(limit=COUNT))
        assert all(-1 <= hit.score < 1 for hit in answer.hits)
        kinds += [hit.match_type for hit in answer.hits]
    assert MatchType.EXACT not in kinds
    assert kinds.count(MatchType.NEAR) <= 0.005 * len(kinds)


# --- options ----------------------------------------------------------------------------------


def test_searching_by_id_is_searching_by_its_bytes(filled: Searcher) -> None:
    for options in (SearchOptions(limit=COUNT), SearchOptions(limit=7, exclude_self=True)):
        by_id, by_bytes = filled.search_id("8", options), filled.search(photo(8), options)
        assert by_id.hits == by_bytes.hits
    with pytest.raises(UnknownImage, match="'nobody'"):
        filled.search_id("nobody", SearchOptions())


def test_excluding_itself_leaves_copies_under_other_ids_of_a_stored_query(
    filled: Searcher,
) -> None:
    filled.put("copy", photo(8), {})
    others = SearchOptions(limit=COUNT, exclude_self=True)
    answer = filled.search_id("8", others)
    assert ids(answer)[0] == "copy" and "8" not in ids(answer)
    assert [hit.rank for hit in answer.hits] == list(range(1, len(answer.hits) + 1))
    # An upload has no id of its own: whatever has its bytes is itself.
    uploaded = ids(filled.search(photo(8), others))
    assert len(uploaded) == COUNT - 1 and not {"8", "copy"} & set(uploaded)
    assert len(filled.search(photo(8), replace(others, limit=5)).hits) == 5


def add_lossless_copies(searcher: Searcher, count: int) -> None:
    """Files with the same pixels and so the same descriptor, but other bytes."""
    pixels = scene(FAR + 1)
    for n in range(count):
        data = encode(pixels, "png") + b"\0" * n
        searcher.put(f"copy {n}", data, {})


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("size", [1, 4, 25])
def test_pages_join_without_gaps_or_repeats(
    filled: Searcher, size: int, exclude_self: bool
) -> None:
    add_lossless_copies(filled, 12)
    filled.put("twice", photo(8), {})
    for query in (photo(8), photo(FAR), encode(scene(FAR + 1), "webp")):
        options = SearchOptions(limit=1000, exclude_self=exclude_self)
        whole = filled.search(query, options).hits
        pages: list[Hit] = []
        for offset in range(0, len(whole) + size, size):
            pages += filled.search(query, replace(options, limit=size, offset=offset)).hits
        assert tuple(pages) == whole
        expected = COUNT + 13 - 2 * (exclude_self and query == photo(8))
        assert len({hit.id for hit in whole}) == len(whole) == expected


def test_an_offset_past_the_end_is_an_empty_page(filled: Searcher) -> None:
    assert filled.search(photo(8), SearchOptions(offset=COUNT)).hits == ()
    assert filled.search(photo(8), SearchOptions(offset=10**6)).hits == ()


def test_only_hits_from_the_threshold_on_are_answered(filled: Searcher) -> None:
    whole = filled.search(photo(8), SearchOptions(limit=COUNT)).hits
    bound = whole[9].score
    some = filled.search(photo(8), SearchOptions(limit=COUNT, score_threshold=bound)).hits
    assert some == whole[:10]
    assert len(filled.search(photo(8), SearchOptions(score_threshold=1.0)).hits) == 1
    assert filled.search(photo(FAR), SearchOptions(score_threshold=0.9999)).hits == ()


# --- query expansion --------------------------------------------------------------------------


@pytest.fixture
def family(filled: Searcher) -> Searcher:
    """Beside the scenes, five recompressed copies of scene FAR; built."""
    for quality in (95, 90, 85, 80, 75):
        filled.put(f"family {quality}", encode(scene(FAR), "jpg", quality=quality), {})
    filled.build()
    return filled


@pytest.mark.parametrize("expansion", [Expansion.AVERAGE, Expansion.ALPHA, Expansion.AUTO])
def test_expansion_joins_the_certain_neighbours(family: Searcher, expansion: Expansion) -> None:
    query = encode(scene(FAR), "jpg", quality=70)
    answer = family.search(query, SearchOptions(limit=100, expansion=expansion))
    assert answer.expanded_with == 5
    assert all(name.startswith("family") for name in ids(answer)[:5])
    plain = family.search(query, SearchOptions(limit=100))
    assert plain.expanded_with == 0
    assert sum(hit.score for hit in answer.hits[:5]) > sum(hit.score for hit in plain.hits[:5])
    # How sure a hit is does not change by expanding.
    kinds = {hit.id: hit.match_type for hit in plain.hits}
    assert {hit.id: hit.match_type for hit in answer.hits} == kinds


def test_auto_leaves_a_query_with_few_true_matches_alone(family: Searcher) -> None:
    for query in (photo(8), photo(FAR + 2)):
        plain = family.search(query, SearchOptions())
        auto = family.search(query, SearchOptions(expansion=Expansion.AUTO))
        assert (auto.hits, auto.expanded_with) == (plain.hits, 0)


@pytest.mark.parametrize("expansion", list(Expansion))
def test_a_stored_image_stays_first_when_expanded(family: Searcher, expansion: Expansion) -> None:
    stored = encode(scene(FAR), "jpg", quality=85)
    best = family.search(stored, SearchOptions(expansion=expansion)).hits[0]
    assert (best.id, best.score, best.match_type) == ("family 85", 1.0, MatchType.EXACT)


@pytest.mark.parametrize("expansion", [Expansion.AVERAGE, Expansion.ALPHA, Expansion.AUTO])
def test_the_number_of_neighbours_and_the_exponent_are_options(
    family: Searcher, expansion: Expansion
) -> None:
    query = encode(scene(FAR), "jpg", quality=70)
    options = SearchOptions(limit=100, expansion=expansion, expansion_neighbours=4)
    assert family.search(query, options).expanded_with == 4
    two = family.search(query, replace(options, expansion_neighbours=2))
    assert two.expanded_with == (0 if expansion is Expansion.AUTO else 2)
    # With an exponent of 0 every neighbour counts alike.
    flat = family.search(query, replace(options, expansion_alpha=0.0))
    average = family.search(query, replace(options, expansion=Expansion.AVERAGE))
    assert ids(flat) == ids(average)
    np.testing.assert_allclose(
        [hit.score for hit in flat.hits], [hit.score for hit in average.hits], atol=1e-6
    )
    if expansion is not Expansion.AVERAGE:
        steep = family.search(query, replace(options, expansion_alpha=10.0))
        assert abs(steep.hits[0].score - flat.hits[0].score) > 1e-4


# --- database-side augmentation ---------------------------------------------------------------


def vector_of(searcher: Searcher, data: bytes) -> Vectors:
    """The (D,) vector with which an image file is searched."""
    pixels = searcher.describer.decode(data).pixels
    raw = stored_descriptor(searcher.describer.describe([pixels])[0])
    projected: Vectors = project(searcher._view.projection, raw[None])[0]
    return projected


def offline(searcher: Searcher, k: int) -> tuple[list[str], Vectors, Vectors]:
    """Ids, stored and augmented unit vectors of the whole index."""
    rows = np.sort(searcher._view.index.rows())
    stored = searcher._view.index.vectors(rows)
    changed = np.array(augmented_rows(stored, k), np.float32)
    changed /= np.linalg.norm(changed, axis=1, keepdims=True)
    records = searcher.catalog.by_rows(rows.tolist())
    return [records[row].id for row in rows.tolist()], stored, changed


@pytest.mark.parametrize("state", ["raw", "built"])
def test_with_all_images_as_candidates_it_is_the_ranking_of_an_augmented_database(
    filled: Searcher, state: str
) -> None:
    if state == "built":
        filled.build()
    for k in (1, 10, 50):
        names, _, changed = offline(filled, k)
        for query in (photo(FAR), view(scene(5))):
            cosines = changed @ vector_of(filled, query)
            order = np.argsort(-cosines, kind="stable")
            answer = filled.search(query, SearchOptions(limit=100, augmentation=k))
            assert ids(answer) == [names[n] for n in order]
            np.testing.assert_allclose([h.score for h in answer.hits], cosines[order], atol=1e-5)


def test_augmentation_brings_the_copies_of_a_picture_together(family: Searcher) -> None:
    query = encode(scene(FAR), "jpg", quality=30)
    plain = family.search(query, SearchOptions(limit=100))
    helped = family.search(query, SearchOptions(limit=100, augmentation=4))
    spreads = []
    for answer in (plain, helped):
        assert all(name.startswith("family") for name in ids(answer)[:5])
        assert all(-1 <= hit.score <= 1 for hit in answer.hits)
        spreads.append(answer.hits[0].score - answer.hits[4].score)
    assert spreads[1] < spreads[0] / 2
    # How sure a hit is does not change by it.
    kinds = {hit.id: hit.match_type for hit in plain.hits}
    assert {hit.id: hit.match_type for hit in helped.hits} == kinds


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("expansion", [Expansion.AVERAGE, Expansion.ALPHA, Expansion.AUTO])
def test_the_query_is_expanded_with_augmented_vectors_of_certain_neighbours(
    family: Searcher, expansion: Expansion, k: int
) -> None:
    data = encode(scene(FAR), "jpg", quality=70)
    query = vector_of(family, data)
    names, stored, changed = offline(family, k)
    background = family._view.measured_background()
    assert background is not None
    first = np.argsort(-(changed @ query), kind="stable")[:10]
    certain = [n for n in first if stored[n] @ query >= background.related]
    if expansion is Expansion.AUTO:
        certain = [n for n in certain if stored[n] @ stored[certain[0]] >= background.related]
    alpha = None if expansion is Expansion.AVERAGE else 3.0
    joined = np.array(expanded(query, changed[certain], 10, alpha, set()))
    answer = family.search(data, SearchOptions(limit=100, expansion=expansion, augmentation=k))
    assert answer.expanded_with == len(certain) >= 3
    cosines = changed @ joined
    order = np.argsort(-cosines, kind="stable")
    np.testing.assert_allclose([hit.score for hit in answer.hits], cosines[order], atol=1e-5)
    # Copies of one picture with the same neighbours differ by rounding only.
    scores = dict(zip(names, cosines.tolist(), strict=True))
    np.testing.assert_allclose([scores[n] for n in ids(answer)], cosines[order], atol=1e-5)


@pytest.mark.parametrize("expansion", list(Expansion))
def test_a_stored_image_stays_first_when_augmented(family: Searcher, expansion: Expansion) -> None:
    options = SearchOptions(expansion=expansion, augmentation=10)
    stored = encode(scene(FAR), "jpg", quality=85)
    for answer in (family.search(stored, options), family.search_id("family 85", options)):
        best = answer.hits[0]
        assert (best.id, best.score, best.match_type) == ("family 85", 1.0, MatchType.EXACT)
        assert MatchType.EXACT not in [hit.match_type for hit in answer.hits[1:]]


@pytest.fixture
def crowd(searcher: Searcher) -> Searcher:
    """150 made-up images: more than are ranked anew for a first page; built."""
    searcher.store([an_image(str(n), seed=n, dim=searcher.recipe.raw_dim) for n in range(150)])
    searcher.build()
    return searcher


def test_the_best_hundred_are_ranked_anew(crowd: Searcher) -> None:
    everything = SearchOptions(limit=150, exclude_self=True)
    plain = ids(crowd.search_id("3", everything))
    assert len(plain) == 149
    names, _, changed = offline(crowd, 5)
    query = crowd._view.index.vectors(np.array([crowd.catalog.get("3").row], np.int64))[0]
    cosines = dict(zip(names, (changed @ query).tolist(), strict=True))
    for limit, candidates in ((10, 100), (100, 100), (120, 120), (149, 149)):
        answer = crowd.search_id("3", replace(everything, limit=limit, augmentation=5))
        expected = sorted(plain[:candidates], key=lambda name: -cosines[name])[:limit]
        assert ids(answer) == expected


def test_pages_of_the_best_hundred_join_without_gaps_or_repeats(crowd: Searcher) -> None:
    options = SearchOptions(limit=100, expansion=Expansion.ALPHA, augmentation=7)
    whole = crowd.search_id("3", options).hits
    for size in (1, 20, 50):
        pages: list[Hit] = []
        for offset in range(0, 100, size):
            pages += crowd.search_id("3", replace(options, limit=size, offset=offset)).hits
        assert tuple(pages) == whole


def test_augmentation_of_a_small_index_takes_what_is_there(searcher: Searcher) -> None:
    options = SearchOptions(augmentation=50, expansion=Expansion.AUTO)
    assert searcher.search(photo(0), options).hits == ()
    searcher.put("a", photo(0), {})
    assert ids(searcher.search(photo(1), options)) == ["a"]
    plain = searcher.search(photo(1), SearchOptions())
    assert searcher.search(photo(1), options).hits[0].score == pytest.approx(plain.hits[0].score)
    searcher.put("b", photo(1), {})
    assert ids(searcher.search(photo(1), options)) == ["b", "a"]


def test_augmentation_leaves_the_index_as_it_is(filled: Searcher) -> None:
    before = filled._view.index.vectors(np.sort(filled._view.index.rows()))
    fingerprint = filled.recipe.fingerprint
    filled.search(photo(FAR), SearchOptions(augmentation=10, expansion=Expansion.ALPHA))
    after = filled._view.index.vectors(np.sort(filled._view.index.rows()))
    np.testing.assert_array_equal(before, after)
    assert filled.recipe.fingerprint == fingerprint
    assert filled.verify() == []


# --- changing ---------------------------------------------------------------------------------


def test_adds_replacements_and_deletes_are_visible_at_once(filled: Searcher) -> None:
    for _ in ("raw", "built"):
        record, created = filled.put("new", photo(FAR), {"n": 1})
        assert created and record.id == "new"
        assert filled.search(photo(FAR), SearchOptions()).hits[0].id == "new"
        record, created = filled.put("new", photo(FAR + 1), {"n": 2})
        assert not created and record.metadata == {"n": 2}
        assert filled.search(photo(FAR + 1), SearchOptions()).hits[0].id == "new"
        hits = filled.search(photo(FAR), SearchOptions(limit=100)).hits
        assert MatchType.EXACT not in {hit.match_type for hit in hits}
        assert sum(hit.id == "new" for hit in hits) == 1
        filled.delete("new")
        answer = filled.search(photo(FAR + 1), SearchOptions(limit=100))
        assert "new" not in ids(answer)
        assert answer.count == len(answer.hits) == COUNT
        with pytest.raises(UnknownImage):
            filled.delete("new")
        filled.build()


def test_a_deleted_exact_copy_leaves_the_other(filled: Searcher) -> None:
    filled.put("copy", photo(3), {})
    filled.delete("3")
    answer = filled.search(photo(3), SearchOptions(limit=2))
    assert [hit.match_type is MatchType.EXACT for hit in answer.hits] == [True, False]
    assert answer.hits[0].id == "copy"


def test_everything_deleted_is_an_empty_index_again(filled: Searcher) -> None:
    filled.build()
    for n in range(COUNT):
        filled.delete(str(n))
    assert filled.search(photo(0), SearchOptions()).hits == ()
    with pytest.raises(EmptyIndex):
        filled.build()
    filled.put("0", photo(0), {})
    assert_finds_itself(filled, [0])
    assert filled.verify() == []


def test_stats_tell_what_is_there(filled: Searcher) -> None:
    before = filled.stats()
    assert (before.count, before.generation, before.fitted) == (COUNT, 0, 0)
    assert (before.dim, before.projected, before.built_at) == (8192, False, None)
    filled.build()
    filled.delete("0")
    stats = filled.stats()
    assert (stats.count, stats.generation, stats.fitted) == (COUNT - 1, 1, COUNT)
    assert (stats.dim, stats.projected, stats.built_at is None) == (int(0.6 * COUNT), True, False)
    assert stats.bytes == (COUNT - 1) * (stats.dim * 4 + 8)
    assert 0 < stats.explained <= 1


# --- building and opening ---------------------------------------------------------------------


def test_an_empty_index_cannot_be_built_or_reloaded(searcher: Searcher) -> None:
    with pytest.raises(EmptyIndex, match="add images"):
        searcher.build()
    with pytest.raises(NoGeneration, match="build the index"):
        searcher.reload()


def test_what_changes_during_a_build_is_in_the_new_generation(filled: Searcher) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        if not seen:
            filled.put("late", photo(FAR), {})
            filled.put("4", photo(FAR + 1), {})
            filled.delete("5")
        seen.append((done, total))

    manifest = filled.build(progress)
    assert (COUNT, COUNT) in seen
    assert manifest.number == filled.stats().generation == 1
    assert filled.search(photo(FAR), SearchOptions()).hits[0].id == "late"
    assert filled.search(photo(FAR + 1), SearchOptions()).hits[0].id == "4"
    assert "5" not in ids(filled.search(photo(5), SearchOptions(limit=100)))
    assert filled.verify() == []
    assert filled.reload() == 1
    assert filled.verify() == []
    assert filled.search(photo(FAR), SearchOptions()).hits[0].id == "late"


def test_builds_go_on_beside_adds_deletes_and_searches(
    filled: Searcher, scenes: list[NewImage]
) -> None:
    end = time.monotonic() + 6.0
    failures: list[BaseException] = []
    done = {"build": 0, "change": 0, "search": 0}
    extra = unit_vectors(8, 8192, seed=5)

    def guarded(task: Callable[[int], None]) -> None:
        round_number = 0
        try:
            while time.monotonic() < end:
                task(round_number)
                round_number += 1
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    def change(n: int) -> None:
        image = replace(
            scenes[0], id=f"guest {n}", digest=f"{n:064d}", descriptor=extra[n % 8].copy()
        )
        filled.store([image, replace(scenes[1], digest=scenes[1].digest)])
        assert filled.search_id(f"guest {n}", SearchOptions(limit=1)).hits[0].id == f"guest {n}"
        filled.delete(f"guest {n}")
        done["change"] += 1

    def search(n: int) -> None:
        seed = n % COUNT
        answer = filled.search(photo(seed), SearchOptions(limit=100, expansion=Expansion.AUTO))
        assert answer.hits[0].id == str(seed) and answer.hits[0].score == 1.0
        assert {str(seed) for seed in range(COUNT)} <= set(ids(answer))
        # Counted at another moment than they were found; while an image is replaced, two rows.
        assert {answer.count, len(answer.hits)} <= {COUNT, COUNT + 1, COUNT + 2}
        assert len(set(ids(answer))) == len(answer.hits)
        done["search"] += 1

    def build(_: int) -> None:
        filled.build()
        done["build"] += 1

    threads = [threading.Thread(target=guarded, args=(task,)) for task in (build, change, search)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    assert done["build"] >= 1 and min(done["change"], done["search"]) >= 3, done
    assert filled.stats().generation == done["build"]
    assert filled.verify() == []


def test_opening_replays_what_came_after_the_build(
    tmp_path: Path, filled: Searcher, reopened: Open
) -> None:
    filled.build()
    filled.put("late", photo(FAR), {})
    filled.put("4", photo(FAR + 1), {})
    filled.delete("5")
    before = contents(tmp_path / "index" / "generations")
    expected = filled.search(photo(FAR + 2), SearchOptions(limit=100)).hits
    filled.close()
    again = reopened()
    assert again.stats().generation == 1
    assert again.stats().count == COUNT
    assert contents(tmp_path / "index" / "generations") == before
    found = again.search(photo(FAR + 2), SearchOptions(limit=100)).hits
    assert [hit.id for hit in found] == [hit.id for hit in expected]
    scores = [hit.score for hit in expected]
    np.testing.assert_allclose([hit.score for hit in found], scores, atol=1e-6)
    assert again.search(photo(FAR), SearchOptions()).hits[0].id == "late"
    assert again.search(photo(FAR + 1), SearchOptions()).hits[0].id == "4"
    assert "5" not in ids(again.search(photo(5), SearchOptions(limit=100)))
    assert again.verify() == []


def damage_vectors(index: Path) -> None:
    path = index / "generations" / "1" / "vectors.faiss"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_manifest(index: Path) -> None:
    (index / "generations" / "1" / "manifest.json").write_bytes(b"\xff{")


def damage_projection(index: Path) -> None:
    (index / "generations" / "1" / "projection.safetensors").unlink()


def damage_current(index: Path) -> None:
    (index / "CURRENT").write_bytes(b"\xff\xfe\x00")


def damage_all(index: Path) -> None:
    shutil.rmtree(index / "generations")


@pytest.mark.parametrize("damage", [damage_vectors, damage_manifest, damage_projection, damage_all])
def test_a_damaged_generation_is_built_anew_when_opening(
    tmp_path: Path,
    filled: Searcher,
    reopened: Open,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
) -> None:
    filled.build()
    filled.put("late", photo(FAR), {})
    filled.close()
    damage(tmp_path / "index")
    with caplog.at_level(logging.WARNING):
        again = reopened()
    assert "building one" in caplog.text
    assert again.stats().fitted == COUNT + 1
    assert again.verify() == []
    assert_finds_itself(again, [0, 30])
    number = again.stats().generation
    assert (tmp_path / "index" / "CURRENT").read_text() == f"{number}\n"
    assert reopened().stats().generation == number


def remove_current(index: Path) -> None:
    (index / "CURRENT").unlink()


def empty_current(index: Path) -> None:
    (index / "CURRENT").write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_current, remove_current, empty_current])
def test_without_a_usable_current_the_newest_generation_is_live(
    tmp_path: Path, filled: Searcher, reopened: Open, damage: Callable[[Path], None]
) -> None:
    filled.build()
    filled.build()
    filled.put("late", photo(FAR), {})
    filled.close()
    damage(tmp_path / "index")
    again = reopened()
    assert (again.stats().generation, again.stats().fitted, again.stats().fresh) == (2, COUNT, 1)
    assert (tmp_path / "index" / "CURRENT").read_text() == "2\n"
    assert again.verify() == []
    assert_finds_itself(again, [0, 30])
    assert again.search(photo(FAR), SearchOptions()).hits[0].id == "late"


def test_a_damaged_generation_gives_way_to_the_one_before(
    tmp_path: Path, filled: Searcher, reopened: Open
) -> None:
    filled.build()
    filled.put("late", photo(FAR), {})
    filled.build()
    filled.delete("5")
    filled.close()
    (tmp_path / "index" / "generations" / "2" / "vectors.faiss").write_bytes(b"short")
    again = reopened()
    assert (again.stats().generation, again.stats().count) == (1, COUNT)
    assert again.verify() == []
    assert_finds_itself(again, [0, 30])
    assert again.search(photo(FAR), SearchOptions()).hits[0].id == "late"
    # The damaged one is never built upon, nor is its number given again.
    assert again.build().number == 3
    assert again.stats().generations == (1, 3)


def test_a_rollback_keeps_what_was_written_since(filled: Searcher, reopened: Open) -> None:
    with pytest.raises(NoGeneration, match="no earlier generation"):
        filled.rollback()
    filled.build()
    filled.put("late", photo(FAR), {})
    filled.build()
    filled.delete("5")
    assert filled.rollback() == 1
    assert (filled.stats().generation, filled.stats().count) == (1, COUNT)
    assert_finds_itself(filled, [0, 30])
    assert filled.search(photo(FAR), SearchOptions()).hits[0].id == "late"
    assert filled.verify() == []
    with pytest.raises(NoGeneration, match="no earlier generation"):
        filled.rollback()
    with pytest.raises(NoGeneration, match="generation 7"):
        filled.rollback(7)
    assert filled.rollback(2) == 2
    assert_finds_itself(filled, [0, 30])
    assert filled.search(photo(FAR), SearchOptions()).hits[0].id == "late"
    filled.close()
    assert reopened().stats().generation == 2


def test_a_build_that_is_stopped_leaves_nothing(tmp_path: Path, filled: Searcher) -> None:
    def stop(done: int, total: int) -> None:
        raise InterruptedError("enough")

    for _ in range(2):
        with pytest.raises(InterruptedError):
            filled.build(stop)
    assert (filled.stats().generation, filled.generations.numbers()) == (0, [])
    assert list((tmp_path / "index" / "generations").iterdir()) == []
    assert filled.build().number == 1


def test_a_damaged_generation_of_an_empty_index_is_forgotten(
    tmp_path: Path, filled: Searcher, reopened: Open
) -> None:
    filled.build()
    for n in range(COUNT):
        filled.delete(str(n))
    filled.close()
    damage_vectors(tmp_path / "index")
    again = reopened()
    assert again.stats().count == 0
    again.put("0", photo(0), {})
    assert_finds_itself(again, [0])
    assert_finds_itself(reopened(), [0])


def test_a_reload_of_a_damaged_generation_keeps_the_live_one(
    tmp_path: Path, filled: Searcher
) -> None:
    filled.build()
    damage_vectors(tmp_path / "index")
    with pytest.raises(CorruptIndex, match=r"vectors\.faiss"):
        filled.reload()
    assert_finds_itself(filled, [0, 30])
    (tmp_path / "index" / "CURRENT").write_text("77\n")
    with pytest.raises(NoGeneration, match="77"):
        filled.reload()
    assert filled.stats().generation == 1


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """The folder of an index that was built with another recipe."""
    with closing(Searcher(tmp_path / "foreign", other_describer(max_side=96))) as searcher:
        for seed in range(3):
            searcher.put(str(seed), photo(seed), {})
        searcher.build()
    return tmp_path / "foreign"


def test_a_foreign_generation_is_refused_and_the_live_one_serves_on(
    tmp_path: Path, filled: Searcher, describer: Describer, foreign: Path
) -> None:
    filled.build()
    shutil.copytree(foreign / "generations" / "1", tmp_path / "index" / "generations" / "9")
    (tmp_path / "index" / "CURRENT").write_text("9\n")
    with pytest.raises(IndexMismatch, match="max_side: 96, not 128"):
        filled.reload()
    assert filled.stats().generation == 1
    assert_finds_itself(filled, [0, 30])
    filled.close()
    with pytest.raises(IndexMismatch, match="generation 9"):
        Searcher(tmp_path / "index", describer)


def test_an_index_with_images_refuses_another_recipe(foreign: Path, describer: Describer) -> None:
    with pytest.raises(IndexMismatch, match=r"max_side: 96, not 128.*another data folder"):
        Searcher(foreign, describer)
    with closing(Searcher(foreign, other_describer(max_side=96))) as own:
        assert_finds_itself(own, range(3))


def test_an_emptied_index_takes_another_recipe(foreign: Path, describer: Describer) -> None:
    with closing(Searcher(foreign, other_describer(max_side=96))) as own:
        for seed in range(3):
            own.delete(str(seed))
    for state in ("emptied", "filled anew"):
        with closing(Searcher(foreign, describer)) as searcher:
            assert searcher.catalog.recipe() == describer.recipe, state
            assert searcher.stats().generation == 0
            searcher.put("0", photo(0), {})
            assert_finds_itself(searcher, [0])
    with pytest.raises(IndexMismatch):
        Searcher(foreign, other_describer(max_side=96))


def test_a_new_index_takes_any_recipe_until_it_has_images(tmp_path: Path) -> None:
    for side in (64, 96):
        Searcher(tmp_path / "index", other_describer(max_side=side)).close()


# --- verification -----------------------------------------------------------------------------


def test_a_healthy_index_has_no_problems(searcher: Searcher, scenes: list[NewImage]) -> None:
    assert searcher.verify() == []
    searcher.store(scenes)
    assert searcher.verify() == []
    seen: list[tuple[int, int]] = []
    searcher.build()
    searcher.delete("7")
    searcher.put("late", photo(FAR), {})
    assert searcher.verify(lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (COUNT, COUNT)


def test_more_copies_than_one_page_are_no_problem(
    searcher: Searcher, scenes: list[NewImage]
) -> None:
    searcher.store([replace(scenes[0], id=f"copy {n}") for n in range(120)])
    assert searcher.verify() == []
    searcher.build()
    assert searcher.verify() == []


@pytest.mark.parametrize("damage", [damage_vectors, damage_manifest, damage_projection])
def test_damaged_generation_files_are_found(
    tmp_path: Path, filled: Searcher, damage: Callable[[Path], None]
) -> None:
    filled.build()
    damage(tmp_path / "index")
    (problem,) = filled.verify()
    assert str(tmp_path / "index" / "generations" / "1") in problem


def test_a_damaged_current_is_found(tmp_path: Path, filled: Searcher) -> None:
    filled.build()
    damage_current(tmp_path / "index")
    (problem,) = filled.verify()
    assert "CURRENT" in problem
    (tmp_path / "index" / "CURRENT").write_text("7\n")
    (problem,) = filled.verify()
    assert "generations/7" in problem


def test_a_tampered_descriptor_is_found(tmp_path: Path, filled: Searcher) -> None:
    row = filled.catalog.get("7").row
    wrong = unit_vectors(1, 8192)[0].astype(np.float16).tobytes()
    tamper(
        tmp_path / "index" / "catalog.sqlite",
        "UPDATE descriptors SET vector = ? WHERE row = ?",
        wrong,
        row,
    )
    assert filled.verify() == [f"the vector of row {row} is not that of its image"]
    filled.build()
    assert filled.verify() == [], "the catalog is the source of truth"


def test_a_cut_off_descriptor_is_found(tmp_path: Path, filled: Searcher) -> None:
    tamper(
        tmp_path / "index" / "catalog.sqlite",
        "UPDATE descriptors SET vector = x'0102' WHERE row = ?",
        filled.catalog.get("7").row,
    )
    problems = filled.verify()
    assert problems and "descriptor" in problems[0]


def test_a_missing_descriptor_is_found_and_answered_with_an_error(
    tmp_path: Path, filled: Searcher, reopened: Open
) -> None:
    tamper(
        tmp_path / "index" / "catalog.sqlite",
        "DELETE FROM descriptors WHERE row = ?",
        filled.catalog.get("7").row,
    )
    assert "catalog.sqlite: 1 images have no descriptor" in filled.verify()
    with pytest.raises(CorruptIndex, match="'7'"):
        filled.search_id("7", SearchOptions())
    filled.close()
    again = reopened()
    assert "catalog.sqlite: 1 images have no descriptor" in again.verify()
    assert_finds_itself(again, [8])


def test_rows_that_only_one_side_has_are_found(tmp_path: Path, filled: Searcher) -> None:
    path = tmp_path / "index" / "catalog.sqlite"
    rows = {n: filled.catalog.get(n).row for n in ("7", "8")}
    tamper(path, "DELETE FROM images WHERE row = ?", rows["7"])
    expected = f"1 images are indexed but not stored, the first in row {rows['7']}"
    assert expected in filled.verify()
    filled._view.index.remove(np.array([rows["8"]], np.int64))
    expected = f"1 images are stored but not indexed, the first in row {rows['8']}"
    assert expected in filled.verify()


# --- waiting ----------------------------------------------------------------------------------


class Slow:
    """A describer whose forward passes wait for `release`."""

    def __init__(self, inner: Describer) -> None:
        self._inner = inner
        self.inside, self.release = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def describe(self, images: Sequence[np.ndarray]) -> Vectors:
        self.inside.set()
        assert self.release.wait(PATIENCE_S)
        return self._inner.describe(images)


@pytest.fixture
def slow(describer: Describer) -> Iterator[Slow]:
    made = Slow(describer)
    yield made
    made.release.set()


def test_a_late_answer_is_a_deadline_exceeded(tmp_path: Path, slow: Slow) -> None:
    searcher = Searcher(tmp_path, slow, deadline_s=0.05)  # type: ignore[arg-type]
    # The model is at work all the time: whoever it took up late would be told otherwise.
    pixels = searcher.describer.decode(photo(1))
    bulk = threading.Thread(target=searcher.describe_many, args=([pixels],))
    bulk.start()
    try:
        assert slow.inside.wait(PATIENCE_S)
        with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
            searcher.search(photo(0), SearchOptions())
        with pytest.raises(DeadlineExceeded):
            searcher.put("a", photo(0), {})
        assert searcher.stats().count == 0
        slow.release.set()
        searcher.deadline_s = PATIENCE_S
        searcher.put("a", photo(0), {})
        assert ids(searcher.search(photo(0), SearchOptions())) == ["a"]
    finally:
        slow.release.set()
        searcher.close()


def test_known_bytes_are_answered_without_the_model(tmp_path: Path, slow: Slow) -> None:
    slow.release.set()
    with closing(Searcher(tmp_path, slow)) as searcher:  # type: ignore[arg-type]
        searcher.put("a", photo(0), {})
        slow.release.clear()
        assert searcher.search(photo(0), SearchOptions()).hits[0].id == "a"
        assert searcher.search_id("a", SearchOptions()).hits[0].id == "a"
        slow.release.set()


def test_a_full_queue_is_overloaded_and_bulk_work_waits(tmp_path: Path, slow: Slow) -> None:
    searcher = Searcher(tmp_path, slow, max_queue=1, batch_wait_ms=0.0)  # type: ignore[arg-type]
    try:
        pixels = searcher.describer.decode(photo(0))
        answers: list[Vectors | Exception] = []
        bulk = threading.Thread(target=lambda: answers.extend(searcher.describe_many([pixels] * 6)))
        bulk.start()
        assert slow.inside.wait(PATIENCE_S)
        first = threading.Thread(target=lambda: searcher.search(photo(2), SearchOptions()))
        first.start()
        until(lambda: searcher.load.waiting_searches)
        with pytest.raises(Overloaded, match="waiting"):
            searcher.search(photo(1), SearchOptions())
        slow.release.set()
        first.join(PATIENCE_S)
        bulk.join(PATIENCE_S)
        vectors = [answer for answer in answers if isinstance(answer, np.ndarray)]
        assert len(vectors) == 6
        for vector in vectors:
            # Up to rounding: who shares a pass with whom is chance.
            np.testing.assert_allclose(vector, vectors[0], atol=1e-6)
    finally:
        slow.release.set()
        searcher.close()


# --- identity ---------------------------------------------------------------------------------


def test_the_digest_of_a_stored_image_is_that_of_its_bytes(filled: Searcher) -> None:
    record = filled.put("new", photo(FAR), {})[0]
    assert record.digest == hashlib.sha256(photo(FAR)).hexdigest()
    assert record.digest == filled.catalog.get("new").digest


def test_a_generation_without_its_catalog_never_answers_for_new_images(
    filled: Searcher, tmp_path: Path, reopened: Open
) -> None:
    """Row numbers start again in a new catalog: old vectors would stand for new images."""
    filled.build()
    filled.close()
    for file in (tmp_path / "index").glob("catalog.sqlite*"):
        file.unlink()
    searcher = reopened()
    assert searcher.stats().count == 0
    for seed in range(FAR, FAR + 20):
        searcher.put(str(seed), photo(seed), {})
    searcher = reopened()
    assert searcher.verify() == []
    assert_finds_itself(searcher, range(FAR, FAR + 20))


def test_an_older_catalog_beside_a_newer_generation_is_indexed_again(
    filled: Searcher, tmp_path: Path, reopened: Open
) -> None:
    catalog = tmp_path / "index" / "catalog.sqlite"
    with closing(sqlite3.connect(catalog)) as database:
        database.execute("VACUUM INTO ?", (str(tmp_path / "backup.sqlite"),))
    for seed in range(FAR, FAR + 5):
        filled.put(str(seed), photo(seed), {})
    filled.build()
    filled.close()
    for file in (tmp_path / "index").glob("catalog.sqlite*"):
        file.unlink()
    shutil.copy(tmp_path / "backup.sqlite", catalog)
    searcher = reopened()
    assert searcher.stats().count == COUNT
    assert searcher.verify() == []
    searcher.check()


def test_an_image_whose_removal_failed_passes_filters_for_ever(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.live.journal.REMEMBERED", 3)
    searcher.store([an_image(f"i{n}", seed=n, dim=8192) for n in range(8)])
    every = SearchOptions(limit=20, filter=parse_filter({"field": "seed", "lt": 100}))
    assert len(searcher.search_id("i0", every).hits) == 8
    delete = searcher.catalog.delete

    def failing(image_id: str, before_commit: Callable[[ImageRecord], None]) -> int:
        def then_fail(record: ImageRecord) -> None:
            before_commit(record)
            raise StorageFull("no room for the commit")

        return delete(image_id, before_commit=then_fail)

    with monkeypatch.context() as full:
        full.setattr(searcher.catalog, "delete", failing)
        with pytest.raises(StorageFull):
            searcher.delete("i0")
    for n in range(2, 8):
        searcher.delete(f"i{n}")
    assert sorted(ids(searcher.search_id("i0", every))) == ["i0", "i1"]
    searcher.delete("i0")
    assert ids(searcher.search_id("i1", every)) == ["i1"]


def test_a_descriptor_that_is_no_number_is_refused_and_others_with_it_are_not(
    tmp_path: Path,
) -> None:
    class Overflowing(Describer):
        def describe(self, images: Sequence[Pixels]) -> Vectors:
            vectors = super().describe(images)
            for vector, image in zip(vectors, images, strict=True):
                if image.mean() > 250:
                    vector[7] = np.nan
            return vectors

    describer = other_describer()
    broken = Overflowing(describer.options, load_weights("squeezenet1_1", "untrained"))
    white = np.full((64, 64, 3), 255, np.uint8)
    with closing(Searcher(tmp_path / "index", broken)) as searcher:
        images = [broken.decode(photo(0)), replace(broken.decode(photo(1)), pixels=white)]
        good, bad = searcher.describe_many(images)
        assert isinstance(good, np.ndarray)
        assert isinstance(bad, BadImage) and "no finite numbers" in str(bad)


def test_the_background_is_measured_while_images_are_deleted(filled: Searcher) -> None:
    view = filled._view
    sample, deleted = view.index.sample, list[int]()

    def late(size: int) -> Rows:
        rows = sample(size)
        if not deleted:
            deleted.append(int(rows[3]))
            view.index.remove(rows[3:4])
        return rows

    view.index.sample = late  # type: ignore[method-assign]
    assert view.measured_background() is not None
    assert deleted


def test_check_notices_that_vectors_are_missing(filled: Searcher) -> None:
    filled.check()
    filled._view.index.remove(np.array([1], np.int64))
    with pytest.raises(CorruptIndex, match=f"{COUNT} images are stored, but {COUNT - 1} indexed"):
        filled.check()
