"""Calibrating a collection of drawn scenes with a describer that needs no model."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.calibration import left_out
from engine.calibration.collect import (
    MIN_IMAGES,
    MIN_VIEWS,
    CalibrationReport,
    calibrate,
)
from engine.calibration.strangers import refitted
from engine.pictures.reliability import reliability_picture
from engine.postprocess import LinearProjection, PCAProjection
from engine.types import Pixels, Rows, Vectors
from tests.drawing import photo

COUNT = 160
ROWS = np.arange(COUNT, dtype=np.int64) * 3 + 5
GRID = 6


def by_layout(pictures: Sequence[Pixels]) -> Vectors:
    """Colours on a coarse grid, less their mean: alike for copies, unlike for other scenes."""
    grids = []
    for pixels in pictures:
        small = Image.fromarray(pixels).resize((GRID, GRID), Image.Resampling.BOX)
        grids.append(np.asarray(small, np.float32).ravel())
    centred = np.stack(grids) - np.mean(grids, axis=1, keepdims=True)
    unit: Vectors = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    return unit


@cache
def file_of(row: int) -> bytes:
    return photo(row)


@cache
def stored() -> Vectors:
    pictures = [Image.open(io.BytesIO(file_of(row))).convert("RGB") for row in ROWS.tolist()]
    return by_layout([np.asarray(picture) for picture in pictures])


def vectors(rows: Rows) -> Vectors:
    return stored()[np.searchsorted(ROWS, rows)]


def run(
    rows: Rows = ROWS,
    picture: Callable[[int], bytes | None] = file_of,
    describe: Callable[[Sequence[Pixels]], Vectors] = by_layout,
    **options: object,
) -> CalibrationReport | None:
    chosen = {"budget_s": 60.0, "max_images": 60, "views": 2, **options}
    return calibrate(rows, vectors, picture, describe, **chosen)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def report() -> CalibrationReport:
    found = run()
    assert found is not None
    return found


def test_copies_score_higher_than_other_scenes(report: CalibrationReport) -> None:
    calibration = report.calibration
    low, high = calibration.probability(np.array([0.0, 0.98], np.float32)).tolist()
    assert low < 0.3
    assert high > 0.9
    assert (calibration.images, calibration.matches) == (COUNT, 120)
    assert report.expected_error is not None
    assert report.expected_error < 0.15  # of 60 images, halved
    assert sum(report.match_counts) == 120


def test_every_pair_of_different_images_is_counted_once(report: CalibrationReport) -> None:
    new = len(left_out(ROWS))
    every = COUNT * (COUNT - 1) // 2
    assert report.calibration.pairs == every + new * (COUNT - 1) - new * (new - 1) // 2
    assert sum(report.non_match_counts) == report.calibration.pairs + 120 * (COUNT - 1)


def test_thresholds_are_those_of_the_pairs(report: CalibrationReport) -> None:
    similarities = stored() @ stored().T
    every = similarities[np.triu_indices(COUNT, 1)]
    asking = np.flatnonzero(np.isin(ROWS, left_out(ROWS)))
    pairs = {tuple(sorted((a, b))) for a in asking.tolist() for b in range(COUNT) if a != b}
    new = similarities[tuple(np.array(sorted(pairs)).T)]
    bound = np.float32(report.calibration.threshold(0.1))
    # Half of the queries are stored photos. Copies may add half of the rate.
    assert 0.09 <= ((every >= bound).mean() + (new >= bound).mean()) / 2 <= 0.15


def test_strangers_ask_in_the_place_of_stored_images(report: CalibrationReport) -> None:
    def read(rows: Rows) -> list[tuple[Rows, Vectors]]:
        return [(part, vectors(part)) for part in np.array_split(rows, 3)]

    fitted_on: list[int] = []

    def fit(sample: Tensor) -> LinearProjection:
        fitted_on.append(len(sample))
        return PCAProjection.fit(sample, 20)

    strangers = refitted(ROWS, read, fit)
    assert strangers is not None
    new, others = left_out(ROWS), np.setdiff1d(ROWS, left_out(ROWS))
    np.testing.assert_array_equal(strangers.rows, new)
    np.testing.assert_array_equal(strangers.compared, others)
    assert fitted_on == [len(others)]
    projection = PCAProjection.fit(torch.from_numpy(vectors(others)), 20)
    np.testing.assert_array_equal(
        strangers.vectors, projection(torch.from_numpy(vectors(new))).numpy()
    )
    found = run(strangers=strangers)
    assert found is not None
    pairs = COUNT * (COUNT - 1) // 2 + len(new) * len(others)
    assert found.calibration.pairs == pairs
    bound = np.float32(found.calibration.threshold(0.1))
    asked = (strangers.vectors @ strangers.compared_vectors.T >= bound).mean()
    every = (stored() @ stored().T)[np.triu_indices(COUNT, 1)] >= bound
    assert 0.09 <= (asked + every.mean()) / 2 <= 0.15


def test_without_images_to_fit_on_there_are_no_strangers() -> None:
    def read(rows: Rows) -> list[tuple[Rows, Vectors]]:
        return [(rows, vectors(rows))] if len(rows) else []

    def refuse(sample: Tensor) -> LinearProjection:
        raise ValueError

    assert refitted(ROWS, read, refuse) is None
    assert refitted(ROWS[:0], read, PCAProjection.fit) is None
    assert refitted(left_out(ROWS), read, PCAProjection.fit) is None
    assert refitted(ROWS, lambda rows: [], PCAProjection.fit) is None


def test_the_same_seed_gives_the_same_and_another_one_another(report: CalibrationReport) -> None:
    again, other = run(), run(seed=1)
    assert again == report
    assert other is not None
    assert other.calibration.scores != report.calibration.scores


def test_small_collections_are_not_calibrated() -> None:
    assert run(ROWS[: MIN_IMAGES - 1]) is None
    few = run(ROWS[:MIN_IMAGES])
    assert few is not None
    assert few.passed == {}
    assert few.calibration.images == MIN_IMAGES


def test_pictures_that_cannot_be_read_are_left_out() -> None:
    gone, broken = set(ROWS[::4].tolist()), set(ROWS[1::4].tolist())

    def picture(row: int) -> bytes | None:
        return None if row in gone else b"no picture" if row in broken else file_of(row)

    found = run(picture=picture, max_images=COUNT, views=1)
    assert found is not None
    assert found.calibration.matches == COUNT // 2
    assert run(picture=lambda row: None) is None
    assert run(picture=lambda row: b"\xff\xd8 cut off") is None


def test_work_can_be_cancelled_and_tells_how_far_it_is() -> None:
    seen: list[tuple[int, int]] = []
    run(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (120, 120)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    class Cancelled(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run(progress=stop)


def test_a_slow_model_makes_fewer_copies_but_enough() -> None:
    described: list[int] = []

    def slow(pictures: Sequence[Pixels]) -> Vectors:
        described.append(len(pictures))
        time.sleep(0.01)
        return by_layout(pictures)

    found = run(describe=slow, budget_s=0.0, max_images=COUNT)
    assert found is not None
    assert MIN_VIEWS <= sum(described) < MIN_VIEWS + 8
    # Each of another photo: none got a second copy before all had one.
    assert found.calibration.matches == sum(described)


def test_a_collection_of_one_picture_is_no_trouble() -> None:
    same = np.repeat(stored()[:1], COUNT, axis=0)
    found = calibrate(
        ROWS,
        lambda rows: same[: len(rows)],
        lambda row: file_of(5),
        by_layout,
        views=1,
        budget_s=60.0,
    )
    assert found is not None
    # Every pair is equal: nothing passes that is not equal too.
    assert found.calibration.threshold(0.1) >= 0.999
    assert found.calibration.near >= 0.99


def test_the_report_has_the_figures(report: CalibrationReport) -> None:
    content = report.to_json()
    assert content["expected_calibration_error"] == report.expected_error
    assert content["lowest_max_fpr"] == report.calibration.rates[-1]
    assert content["images"] == COUNT
    assert sum(entry["weight"] for entry in content["bins"]) == pytest.approx(1.0)


def test_the_picture_is_drawn_for_large_and_for_small_collections(
    report: CalibrationReport,
) -> None:
    few = run(ROWS[:MIN_IMAGES], views=1)
    assert few is not None
    for shown in (report, few):
        picture = Image.open(io.BytesIO(reliability_picture(shown, title="a$b %s é")))
        assert picture.size[0] > 1000
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        # The curve, and the bars of both kinds of pairs.
        for colour in ((0, 158, 115), (31, 119, 180), (213, 94, 0)):
            assert (np.abs(colours.astype(int) - colour).max(axis=1) < 8).sum() > 50
    assert reliability_picture(report) == reliability_picture(report)
