"""Scores to probabilities and thresholds, against second implementations and known answers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.calibration import Calibration, fit, left_out
from engine.calibration.fitting import measurable_rates
from engine.calibration.isotonic import rising_curve
from engine.calibration.measuring import BINS, expected_error, reliability
from engine.calibration.tails import populations, share_above, upper_threshold
from engine.errors import CorruptIndex, InvalidOption, TooFewImages
from engine.types import Vectors

SCORES = st.lists(st.integers(-20, 20).map(lambda n: n / 20), min_size=1, max_size=40)


def f32(values: Any) -> Vectors:
    return np.asarray(values, np.float32)


def gaussians(count: int, seed: int = 0) -> tuple[Vectors, Vectors]:
    """Matches around .5 and non-matches around 0, both of spread .15."""
    random = np.random.default_rng(seed)
    return f32(random.normal(0.5, 0.15, count)), f32(random.normal(0.0, 0.15, 10 * count))


def isotonic_by_loop(scores: NDArray[np.float64], y: Any, w: Any) -> NDArray[np.float64]:
    """Of distinct ascending scores: largest of the least means around each (min-max)."""
    count = len(scores)
    return np.array(
        [
            max(
                min(np.average(y[a : b + 1], weights=w[a : b + 1]) for b in range(i, count))
                for a in range(i + 1)
            )
            for i in range(count)
        ]
    )


@settings(deadline=None, max_examples=150)
@given(SCORES, st.lists(SCORES, min_size=1, max_size=3))
def test_the_curve_is_that_of_the_min_max_formula(
    matches: list[float], others: list[list[float]]
) -> None:
    weights = [1.0, 3.0, 2.0][: len(others)]
    kinds = populations([(f32(scores), w) for scores, w in zip(others, weights, strict=True)])
    curve, shares = rising_curve(f32(matches), kinds, top=0.0, bottom=0.0)
    mass: dict[float, list[float]] = {}
    for score in f32(matches).tolist():
        mass.setdefault(score, [0.0, 0.0])[0] += 1 / len(matches)
    for kind in kinds:
        for score in kind.scores.tolist():
            mass.setdefault(score, [0.0, 0.0])[1] += kind.weight / len(kind.scores)
    places = np.array(sorted(mass))
    matching, rest = np.array([mass[place] for place in places]).T
    expected = isotonic_by_loop(places, matching / (matching + rest), matching + rest)
    np.testing.assert_allclose(np.interp(places, curve, shares), expected, atol=1e-9)


def test_the_curve_is_that_of_scikit_learn() -> None:
    isotonic = pytest.importorskip("sklearn.isotonic")
    matches, others = gaussians(300)
    others = np.round(others, 2)  # ties
    curve, shares = rising_curve(matches, populations([(others, 1.0)]), top=0.0, bottom=0.0)
    x = np.concatenate([matches, others]).astype(np.float64)
    y = np.repeat([1.0, 0.0], [len(matches), len(others)])
    w = np.repeat([1 / len(matches), 1 / len(others)], [len(matches), len(others)])
    expected = isotonic.IsotonicRegression(out_of_bounds="clip").fit(x, y, sample_weight=w)
    asked = np.linspace(-1, 1.5, 500)
    np.testing.assert_allclose(np.interp(asked, curve, shares), expected.predict(asked), atol=1e-6)


def test_of_two_normal_distributions_the_posterior_is_found() -> None:
    matches, others = gaussians(20_000)
    calibration = fit(matches, [(others, 1.0)], images=100)
    asked = np.linspace(-0.2, 0.7, 40, dtype=np.float32)
    # log p / (1 - p) = ((s - 0)^2 - (s - .5)^2) / (2 x .15^2)
    odds = (asked.astype(float) ** 2 - (asked.astype(float) - 0.5) ** 2) / (2 * 0.15**2)
    np.testing.assert_allclose(calibration.probability(asked), 1 / (1 + np.exp(-odds)), atol=0.04)


def test_no_score_is_certain() -> None:
    matches, others = gaussians(100)
    calibration = fit(matches, [(others, 1.0)], images=100)
    low, high = calibration.probability(f32([-1.0, 1.0])).tolist()
    # Of 100 matches none lies that low, of 1000 non-matches none that high.
    assert 0 < low < 0.06
    assert 0.95 < high < 1


@settings(deadline=None)
@given(SCORES, SCORES, SCORES)
def test_probabilities_rise_with_the_score(
    matches: list[float], some: list[float], others: list[float]
) -> None:
    calibration = fit(f32(matches), [(f32(some), 1.0), (f32(others), 2.0)], images=50)
    chances = calibration.probability(np.linspace(-1.2, 1.2, 200, dtype=np.float32))
    assert (np.diff(chances) >= 0).all()
    assert 0 <= chances[0]
    assert chances[-1] <= 1
    thresholds = [calibration.threshold(rate) for rate in calibration.rates]
    assert thresholds == sorted(thresholds)


@settings(deadline=None)
@given(st.lists(SCORES, min_size=1, max_size=3), st.floats(0.001, 0.9))
def test_a_threshold_is_the_lowest_that_keeps_the_rate(
    others: list[list[float]], rate: float
) -> None:
    kinds = populations([(f32(scores), 1.0) for scores in others])

    def passing(threshold: float) -> float:
        return float(np.mean([np.mean(kind.scores >= np.float32(threshold)) for kind in kinds]))

    found = upper_threshold(kinds, rate)
    assert passing(found) <= rate + 1e-12
    assert share_above(kinds, found) == pytest.approx(passing(found))
    below = [s for kind in kinds for s in kind.scores.tolist() if s < found]
    if below:
        assert passing(max(below)) > rate - 1e-12


def test_thresholds_are_order_statistics() -> None:
    random = np.random.default_rng(0)
    others = f32(random.permutation(np.arange(100_000)) / 200_000)
    calibration = fit(f32([0.9, 0.95]), [(others, 1.0)], images=100)
    for rate in (0.5, 0.1, 0.01, 1e-3):
        assert (others >= np.float32(calibration.threshold(rate))).sum() == round(rate * 100_000)
    between = calibration.threshold(0.003)
    assert (others >= np.float32(between)).mean() == pytest.approx(0.003, rel=0.1)


def test_kinds_count_by_their_weight_and_not_by_their_size() -> None:
    kinds = populations([(f32([0.0] * 1000), 1.0), (f32([1.0] * 10), 3.0)])
    assert share_above(kinds, 0.5) == 0.75


def test_rates_that_the_pairs_cannot_show_are_refused() -> None:
    matches, others = gaussians(400)
    calibration = fit(matches, [(others, 1.0)], images=93)
    assert calibration.rates[-1] == 20 / 4000
    assert calibration.threshold(20 / 4000) <= others.max()
    with pytest.raises(TooFewImages, match=r"max_fpr is 0.001, but the 93 images .* from 0.005 on"):
        calibration.threshold(1e-3)
    # What the message names can be asked for: rounded to the nearest it would be .028.
    uneven = replace(calibration, rates=(0.1, 0.02844), thresholds=(0.1, 0.2))
    with pytest.raises(TooFewImages, match=r"from 0\.029 on"):
        uneven.threshold(0.02)
    for wrong in (0.0, -0.1, 0.51, math.nan):
        with pytest.raises(InvalidOption, match="max_fpr"):
            calibration.threshold(wrong)


def test_of_a_few_pairs_no_rate_is_known() -> None:
    calibration = fit(f32([0.9]), [(f32([0.1] * 39), 1.0)], images=50)
    assert calibration.rates == ()
    with pytest.raises(TooFewImages, match="no rate"):
        calibration.threshold(0.5)
    assert measurable_rates(40) == [0.5]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 400), st.integers(0, 10))
def test_copies_among_the_non_matches_never_let_more_than_half_again_pass(
    copies: int, seed: int
) -> None:
    matches, others = gaussians(1000, seed)
    others[:copies] = np.linspace(0.9, 0.99, copies)
    calibration = fit(matches, [(others, 1.0)], images=200)
    for rate in (0.5, 0.1, 0.01, 0.004):
        passed = (others >= np.float32(calibration.threshold(rate))).mean()
        assert passed <= 1.5 * rate + 1e-9


def test_a_few_copies_move_thresholds_hardly() -> None:
    matches, others = gaussians(1000)
    clean = fit(matches, [(others, 1.0)], images=200)
    bursts = others.copy()
    bursts[:10] = 0.95  # one pair in a thousand
    having = fit(matches, [(bursts, 1.0)], images=200)
    assert having.threshold(0.004) == pytest.approx(clean.threshold(0.004), abs=0.01)
    assert having.near == pytest.approx(clean.near, abs=0.03)
    assert having.probability(f32([0.9]))[0] > 0.99


def test_near_wants_certainty_and_a_low_rate() -> None:
    matches, others = gaussians(1000)
    calibration = fit(matches, [(others, 1.0)], images=200)
    assert calibration.probability(f32([calibration.near]))[0] >= 0.95
    assert (others >= calibration.near).mean() <= 0.0015
    hopeless = fit(others[:1000], [(others, 1.0)], images=200)
    assert hopeless.near == 1.0


def test_without_pairs_there_is_nothing_to_fit() -> None:
    for matches, others in (([], [0.1]), ([0.1], [])):
        with pytest.raises(ValueError, match="no matches or no non-matches"):
            fit(f32(matches), [(f32(others), 1.0)], images=1)


def test_what_is_written_is_read_back() -> None:
    matches, others = gaussians(300)
    calibration = fit(matches, [(others, 1.0)], images=77)
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration
    few = fit(f32([0.5]), [(f32([0.1]), 1.0)], images=50)
    assert Calibration.from_json(few.to_json()) == few


def damaged(**changes: Any) -> dict[str, Any]:
    matches, others = gaussians(50)
    return {**fit(matches, [(others, 1.0)], images=50).to_json(), **changes}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "text",
        {},
        {"version": 1},
        damaged(version=2),
        damaged(more=1),
        damaged(scores=[]),
        damaged(scores=[0.5, 0.1], probabilities=[0.1, 0.5]),
        damaged(scores=[0.1, 0.5], probabilities=[0.5, 0.1]),
        damaged(scores=[0.1], probabilities=[0.5, 0.6]),
        damaged(scores=[0.1], probabilities=[1.5]),
        damaged(scores=["0.1"], probabilities=[0.5]),
        damaged(scores="0.1"),
        damaged(rates=[0.1], thresholds=[0.5, 0.6]),
        damaged(rates=[0.1, 0.2], thresholds=[0.5, 0.6]),
        damaged(rates=[0.0], thresholds=[0.5]),
        damaged(near=None),
        damaged(near=True),
        damaged(near=math.nan),
        damaged(images=0),
        damaged(images=1.5),
    ],
)
def test_damaged_content_is_refused(value: object) -> None:
    with pytest.raises(CorruptIndex, match="build the index again"):
        Calibration.from_json(value)


def test_a_perfect_forecast_has_no_calibration_error() -> None:
    # 100 pairs of each probability, half of the mass on each side.
    matches, others = f32([0.9] * 90 + [0.1] * 10), f32([0.9] * 10 + [0.1] * 90)
    bins = reliability(matches, [others])
    assert expected_error(bins) == pytest.approx(0.0, abs=1e-6)
    assert [(entry.matches, entry.non_matches) for entry in bins] == [(10, 90), (90, 10)]


def test_the_calibration_error_is_that_of_the_definition() -> None:
    random = np.random.default_rng(0)
    matches, others, more = (f32(random.random(n)) for n in (70, 200, 30))
    weights = np.repeat([0.5 / 70, 0.25 / 200, 0.25 / 30], [70, 200, 30])
    chances = np.concatenate([matches, others, more])
    truth = np.repeat([1.0, 0.0, 0.0], [70, 200, 30])
    expected = 0.0
    for k in range(BINS):
        inside = (chances >= k / BINS) & (chances < (k + 1) / BINS)
        if inside.any():
            w = weights[inside]
            gap = np.average(truth[inside], weights=w) - np.average(chances[inside], weights=w)
            expected += w.sum() * abs(gap)
    bins = reliability(matches, [others, more])
    assert expected_error(bins) == pytest.approx(expected, abs=1e-6)
    assert sum(entry.weight for entry in bins) == pytest.approx(1.0)


def test_what_is_left_out_depends_on_nothing_but_the_row() -> None:
    rows = np.arange(10_000)
    chosen = left_out(rows)
    assert len(chosen) == pytest.approx(1250, rel=0.1)
    np.testing.assert_array_equal(left_out(rows[::3]), np.intersect1d(chosen, rows[::3]))
    # Of every series of photos some are taken, whatever its period.
    for period in range(2, 40):
        places, counts = np.unique(chosen % period, return_counts=True)
        assert len(places) == period
        assert counts.min() > 0.4 * len(chosen) / period
    assert len(left_out(rows[:0])) == 0
