"""Made copies of photos."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import InvalidOption
from engine.made.transforms import KEPT_AREA, MIN_LONGEST, SCALES, STEPS, transformed
from engine.types import Pixels
from tests.drawing import scene


@pytest.fixture
def photo() -> Pixels:
    return np.asarray(scene(3, (320, 240)))


def test_a_copy_depends_on_its_seed_and_on_nothing_else(photo: Pixels) -> None:
    before = photo.copy()
    first = transformed(photo, 1, 2, 3)
    transformed(photo, 9)
    np.testing.assert_array_equal(first, transformed(photo, 1, 2, 3))
    np.testing.assert_array_equal(photo, before)
    others = [transformed(photo, 1, 2, 4), transformed(photo, 1, 3, 3), transformed(photo, 2, 2, 3)]
    assert all(o.shape != first.shape or (o != first).any() for o in others)


def test_without_steps_it_is_the_photo(photo: Pixels) -> None:
    np.testing.assert_array_equal(transformed(photo, 5, steps=()), photo)


@pytest.mark.parametrize("size", [(320, 240), (17, 333), (16, 16), (1, 1), (1, 50)])
@pytest.mark.parametrize("fill", ["scene", "black"])
def test_copies_are_pictures_of_no_larger_size(size: tuple[int, int], fill: str) -> None:
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    if fill == "scene":
        pixels = np.asarray(scene(0, (320, 240)).resize(size))
    for seed in range(20):
        copy = transformed(pixels, seed)
        assert copy.dtype == np.uint8
        assert copy.ndim == 3
        assert copy.shape[2] == 3
        assert 1 <= copy.shape[0] <= height
        assert 1 <= copy.shape[1] <= width


def test_every_copy_is_changed_some_hardly_and_some_much(photo: Pixels) -> None:
    copies = [transformed(photo, seed) for seed in range(60)]
    assert all(copy.shape != photo.shape or (copy != photo).any() for copy in copies)
    areas = [copy.shape[0] * copy.shape[1] / (320 * 240) for copy in copies]
    assert min(areas) < 0.2
    assert areas.count(1.0) >= 5


def test_a_crop_keeps_its_share_of_the_area_and_its_pixels() -> None:
    rows, columns = np.mgrid[:180, :250]
    places = np.stack([rows, columns, rows ^ columns], axis=-1).astype(np.uint8)
    shares = []
    for seed in range(80):
        part = transformed(places, seed, steps=("crop",))
        (top, left), (height, width) = part[0, 0, :2].tolist(), part.shape[:2]
        np.testing.assert_array_equal(part, places[top : top + height, left : left + width])
        shares.append(height * width / (180 * 250))
    assert min(shares) > KEPT_AREA[0] - 0.02
    assert min(shares) < 0.5
    assert max(shares) > 0.85


def test_scaling_stops_at_the_size_of_a_small_thumbnail(photo: Pixels) -> None:
    sides = [transformed(photo, seed, steps=("scale",)).shape[1] for seed in range(50)]
    assert min(sides) >= max(MIN_LONGEST, SCALES[0] * 320 - 1)
    small = photo[::2, ::2]  # 160 wide: .3 of it would be 48
    assert min(transformed(small, s, steps=("scale",)).shape[1] for s in range(50)) >= MIN_LONGEST


@pytest.mark.parametrize("step", ["perspective", "colour", "jpeg"])
def test_other_steps_keep_the_size_and_change_pixels(photo: Pixels, step: str) -> None:
    for seed in range(10):
        copy = transformed(photo, seed, steps=(step,))
        assert copy.shape == photo.shape
        assert (copy != photo).any()
        assert np.corrcoef(copy.ravel(), photo.ravel())[0, 1] > 0.25


def test_no_edge_of_the_photo_shows_in_a_tilted_one() -> None:
    white = np.full((90, 130, 3), 255, np.uint8)
    for seed in range(50):
        # Outside the photo it would be black.
        assert transformed(white, seed, steps=("perspective",)).min() == 255


def test_steps_are_made_in_their_order_whatever_the_order_asked_for(photo: Pixels) -> None:
    np.testing.assert_array_equal(
        transformed(photo, 4, steps=STEPS), transformed(photo, 4, steps=STEPS[::-1])
    )
    with pytest.raises(InvalidOption, match="'mirror'"):
        transformed(photo, 4, steps=("crop", "mirror"))
