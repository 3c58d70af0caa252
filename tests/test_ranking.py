"""From rows and similarities to hits, and two images against each other."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from engine.background import Background
from engine.calibration import Calibration, fit
from engine.errors import InvalidOption, TooFewImages
from engine.queries.comparing import Comparison, Described, compare
from engine.queries.ranking import judge, least_similarity, rank, select_hits
from engine.types import Hit, ImageRecord, MatchType, Rows, SearchOptions, Vectors

UNRELATED = Background(mean=0.0, related=0.4, high=0.5)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    random = np.random.default_rng(0)
    matches = random.normal(0.7, 0.1, 2000).astype(np.float32)
    return fit(matches, [(random.normal(0, 0.1, 50_000).astype(np.float32), 1.0)], images=300)


def records(**ids: int) -> dict[int, ImageRecord]:
    """A record for each id and row; the metadata tells the row."""
    return {
        row: ImageRecord(row, name.strip("_"), "0", 4, 3, "JPEG", {"row": row}, "2026-01-01")
        for name, row in ids.items()
    }


def found(*pairs: tuple[int, float]) -> tuple[Rows, Vectors]:
    rows, scores = zip(*pairs, strict=True)
    return np.array(rows, np.int64), np.array(scores, np.float32)


def hits(
    results: tuple[Rows, Vectors],
    stored: dict[int, ImageRecord],
    calibration: Calibration | None = None,
    *,
    exact: frozenset[int] = frozenset(),
    plain: Vectors | None = None,
    own_id: str | None = None,
    **options: object,
) -> tuple[Hit, ...]:
    chosen = SearchOptions(**options)  # type: ignore[arg-type]
    rows, scores = results
    judged = judge(rows, scores if plain is None else plain, exact, UNRELATED, calibration)
    least = least_similarity(calibration, chosen)
    return select_hits(rank(rows, scores, exact), stored, judged, exact, own_id, chosen, least)


def test_an_id_under_two_rows_is_one_hit_the_better_one() -> None:
    results = found((1, 0.9), (2, 0.8), (3, 0.7), (4, 0.6))
    stored = records(a=1, b=2, _a=3, c=4)
    answer = hits(results, stored)
    assert [(hit.id, hit.rank, hit.metadata["row"]) for hit in answer] == [
        ("a", 1, 1),
        ("b", 2, 2),
        ("c", 3, 4),
    ]
    # Pages are cut from what is shown.
    assert [hit.id for hit in hits(results, stored, limit=2)] == ["a", "b"]
    assert [(hit.id, hit.rank) for hit in hits(results, stored, limit=2, offset=2)] == [("c", 3)]
    # The row that is left out by an option does not hide the other one.
    assert [hit.id for hit in hits(results, stored, own_id="a", exclude_self=True)] == ["b", "c"]


def test_hits_tell_their_probability(calibration: Calibration) -> None:
    results = found((5, 1.0), (1, 0.7), (2, 0.3), (3, 0.0))
    stored = records(e=5, a=1, b=2, c=3)
    answer = hits(results, stored, calibration, exact=frozenset({5}))
    expected = calibration.probability(np.array([0.7, 0.3, 0.0], np.float32)).tolist()
    assert [hit.p_same_origin for hit in answer] == pytest.approx([1.0, *expected])
    assert expected[0] > 0.95
    assert expected[2] < 0.05
    assert [hit.match_type.value for hit in answer] == ["exact", "near", "similar", "similar"]
    without = hits(results, stored, exact=frozenset({5}))
    assert [hit.p_same_origin for hit in without] == [None] * 4


def test_near_begins_where_the_calibration_says(calibration: Calibration) -> None:
    near = float(np.nextafter(np.float32(calibration.near), np.float32(1)))
    below = calibration.near - 1e-4
    results, stored = found((1, near), (2, below)), records(a=1, b=2)
    kinds = [hit.match_type for hit in hits(results, stored, calibration)]
    assert kinds == [MatchType.NEAR, MatchType.SIMILAR]
    # The background would not have called it near.
    assert hits(results, stored)[0].match_type is MatchType.SIMILAR


def test_max_fpr_is_for_the_similarity_to_the_query_itself(calibration: Calibration) -> None:
    bound = calibration.threshold(0.01)
    results, stored = found((1, 0.95), (2, 0.9), (3, 0.1)), records(a=1, b=2, c=3)
    # After an expansion, scores are those to another vector.
    plain = np.array([bound - 0.01, bound + 0.01, bound + 0.02], np.float32)
    answer = hits(results, stored, calibration, plain=plain, max_fpr=0.01)
    assert [(hit.id, hit.rank) for hit in answer] == [("b", 1), ("c", 2)]
    assert answer[0].score == pytest.approx(0.9)
    chance = calibration.probability(plain[1:2])[0]
    assert answer[0].p_same_origin == pytest.approx(chance)


def test_an_exact_match_passes_every_rate(calibration: Calibration) -> None:
    results, stored = found((1, 0.2), (2, 0.1)), records(a=1, b=2)
    answer = hits(results, stored, calibration, exact=frozenset({1}), max_fpr=1e-3)
    assert [(hit.id, hit.p_same_origin) for hit in answer] == [("a", 1.0)]


def test_a_rate_that_cannot_be_told_is_refused(calibration: Calibration) -> None:
    assert least_similarity(None, SearchOptions()) is None
    assert least_similarity(calibration, SearchOptions()) is None
    with pytest.raises(TooFewImages, match=r"max_fpr is 0.01.*build the index"):
        least_similarity(None, SearchOptions(max_fpr=0.01))
    with pytest.raises(TooFewImages, match=r"max_fpr is 1e-05.*300 images"):
        least_similarity(calibration, SearchOptions(max_fpr=1e-5))
    with pytest.raises(InvalidOption, match=r"max_fpr is 0.7"):
        least_similarity(calibration, SearchOptions(max_fpr=0.7))


def comparison(a: Described, b: Described, calibration: Calibration | None) -> Comparison:
    return compare(
        a,
        b,
        background=UNRELATED,
        calibration=calibration,
        fingerprint="f",
        generation=3,
        count=9,
    )


def test_two_images_compare_alike_in_both_orders(calibration: Calibration) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal((20, 513)).astype(np.float32)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    images = [Described(vector, str(number)) for number, vector in enumerate(unit)]
    for a, b in pairwise(images):
        there, back = comparison(a, b, calibration), comparison(b, a, calibration)
        assert there == back
        expected = float(a.vector.astype(np.float64) @ b.vector.astype(np.float64))
        assert there.score == pytest.approx(expected, abs=1e-6)
        chance = calibration.probability(np.array([expected], np.float32))[0]
        assert there.p_same_origin == pytest.approx(chance, abs=1e-4)
        assert (there.fingerprint, there.generation, there.count) == ("f", 3, 9)


def test_the_same_bytes_are_exact_and_the_same_pixels_are_near(calibration: Calibration) -> None:
    # Not quite of length 1, and rounded: no more than 1 all the same.
    vector = np.full(7, 1.0001 / np.sqrt(7), np.float32)
    same = comparison(Described(vector, "x"), Described(vector, "x"), calibration)
    assert (same.score, same.p_same_origin, same.match_type) == (1.0, 1.0, MatchType.EXACT)
    other = comparison(Described(vector, "x"), Described(vector, "y"), calibration)
    assert (other.score, other.match_type) == (1.0, MatchType.NEAR)
    unknown = comparison(Described(vector, "x"), Described(-vector, "y"), None)
    assert (unknown.score, unknown.p_same_origin) == (-1.0, None)
    assert unknown.match_type is MatchType.SIMILAR
