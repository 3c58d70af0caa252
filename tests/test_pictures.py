from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from engine.errors import InvalidOption
from engine.pictures import (
    FRAMES,
    MapPanel,
    PhotoParts,
    Relevance,
    SheetHit,
    contact_sheet,
    correlation_of,
    correlation_picture,
    enlarged,
    image_panels,
    level_of,
    pair_overlay,
    shortened,
)
from engine.pictures.canvas import plain
from engine.types import Pixels

ROOT = Path(__file__).resolve().parents[1]
WHITE = (255, 255, 255)
ODD = "a$b$\\frac{1}{ %s {0} <b>[red]\n\t中文 \udcff é ✓ 🙂 " + 40 * "x" + ".jpg"


def plate(height: int, width: int, colour: tuple[int, int, int] = (0, 160, 200)) -> Pixels:
    return np.full((height, width, 3), colour, np.uint8)


def opened(picture: bytes) -> NDArray[np.int64]:
    """(H, W, 3) of a PNG."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(np.int64)


def near(picture: NDArray[np.int64], colour: tuple[int, int, int], by: int = 3) -> NDArray[np.bool]:
    return np.asarray((np.abs(picture - colour) <= by).all(axis=-1))


def box(mask: NDArray[np.bool]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is true."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def rgb(text: str) -> tuple[int, int, int]:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


# Maps at the size of a photo


@pytest.mark.parametrize("grid", [(3, 5), (1, 4), (1, 1), (7, 2)])
def test_enlarging_is_bilinear_between_the_centres_of_cells(grid: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=grid)
    expected = F.interpolate(
        torch.from_numpy(values)[None, None], (29, 17), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(enlarged(values, (29, 17), (29, 17)), expected[0, 0], atol=1e-12)


def test_what_lies_beyond_a_padded_photo_is_cut_off() -> None:
    values = np.random.default_rng(0).normal(size=(2, 6))
    whole = enlarged(values, (32, 50), (32, 50))
    np.testing.assert_array_equal(enlarged(values, (18, 50), (32, 50)), whole[:18])


@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_the_fewest_positions_from_the_level_on_make_the_part(part: float) -> None:
    values = np.random.default_rng(1).gamma(0.3, size=(5, 7))
    level = level_of(values, part)
    assert level is not None
    assert values[values >= level].sum() >= part * values.sum()
    assert values[values > level].sum() < part * values.sum()


def test_nothing_has_no_level() -> None:
    assert level_of(np.zeros((2, 3)), 0.5) is None
    assert level_of(np.array([[-1.0, 0.5]]), 0.5) is None


# Panels


def magma(value: float) -> tuple[int, int, int]:
    red, green, blue, _ = colormaps["magma"](value)
    return int(255 * red), int(255 * green), int(255 * blue)


def panels(picture: bytes, count: int, *, height: float, width: float) -> list[NDArray[np.int64]]:
    """The photo and the maps, cut out of a page: `height` x `width` of each in inches."""
    page = opened(picture)
    top = round(110 * 0.46)
    lefts = [round(110 * (0.2 + number * (max(width, 2.2) + 0.25))) for number in range(count)]
    rows, columns = slice(top + 2, top + int(110 * height) - 2), int(110 * width)
    return [page[rows, left + 2 : left + columns - 2] for left in lefts]


def test_panels_show_the_photo_and_where_a_map_is_high() -> None:
    hot = np.zeros((3, 4))
    hot[2, 3] = 5.0
    even = np.full((3, 4), 2.0)
    photo = plate(90, 120)
    picture = image_panels(photo, [MapPanel("hot", hot), MapPanel("even", even)])
    shown, high, flat = panels(picture, 3, height=2.9 * 3 / 4, width=2.9)
    assert near(shown, (0, 160, 200)).all()
    dark, bright = (magma(end) for end in (0.0, 1.0))
    assert near(high[:, : high.shape[1] // 2], dark, 4).all()
    middle = (round(high.shape[0] * 5 / 6), round(high.shape[1] * 7 / 8))
    assert near(high[middle], bright, 12)
    assert near(flat, bright, 4).all()  # each has its own scale


def test_negative_values_get_another_colour_than_positive_ones() -> None:
    values = np.array([[-1.0, 1.0]])
    (_, shown) = panels(
        image_panels(plate(60, 120), [MapPanel("signed", values)]), 2, height=1.45, width=2.9
    )
    red, blue = shown[70, -5], shown[70, 5]
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50


@pytest.mark.parametrize("size", [(300, 20), (20, 300), (32, 32)])
def test_panels_of_any_shape_and_of_nothing_are_drawn(size: tuple[int, int]) -> None:
    photo = plate(*size)
    page = opened(
        image_panels(
            photo, [MapPanel(ODD, np.zeros((1, 1)))], title=ODD, caption=20 * ODD, covered=(32, 300)
        )
    )
    left, top, right, bottom = box(near(page, (0, 160, 200)))
    assert (right - left) / (bottom - top) == pytest.approx(size[1] / size[0], rel=0.1)
    edge = np.concatenate([page[:, :8].reshape(-1, 3), page[:, -8:].reshape(-1, 3)])
    assert (edge == 255).all()  # nothing runs over the page


# Pairs


def test_parts_are_red_where_they_add_and_blue_where_they_take_away() -> None:
    grey = plate(60, 120, (128, 128, 128))
    adds, takes = np.array([[0.0, 0.6]]), np.array([[0.7, -0.1]])
    page = opened(
        pair_overlay(PhotoParts("a", grey, adds), PhotoParts("b", grey, takes), title="score 0.6")
    )
    # From the left: photo of four inches, gap, photo, colour bar; all from the same top.
    top = round(110 * (0.25 + 0.36 + 0.23))
    first = page[top : top + 218, 28 : 28 + 438]
    second = page[top : top + 218, 28 + 473 : 28 + 473 + 438]
    neutral, red = first[100, 20], first[100, 400]
    assert abs(neutral[0] - neutral[2]) < 10
    assert red[0] > red[2] + 40
    red, blue = second[100, 30], second[100, 425]
    assert red[0] > 2 * red[2]
    assert blue[2] > blue[0] + 5


def test_each_photo_has_its_own_scale() -> None:
    """Few positions with much of the score must not make those of the other photo grey."""
    grey = plate(120, 120, (128, 128, 128))
    first = PhotoParts("a", grey, np.full((2, 2), 0.2))
    second = PhotoParts("b", grey, np.array([[0.2, 0.2], [0.2, 0.2]]))
    steep = PhotoParts("b", grey, np.array([[0.7, 0.1], [0.0, 0.0]]))
    many = PhotoParts("b", grey, np.full((20, 20), 0.002))
    row, left, right = 400, 28 + 100, 28 + 473 + 100
    alike = opened(pair_overlay(first, second, title="t"))
    assert near(alike[row, left], tuple(alike[row, right]))
    other = opened(pair_overlay(first, steep, title="t"))
    assert near(other[row, left], tuple(alike[row, left]))
    assert not near(other[row, left], tuple(other[row, right]))
    fine = opened(pair_overlay(first, many, title="t"))
    assert near(fine[row, left], tuple(fine[row, right]))
    assert fine[row, right, 0] > fine[row, right, 2] + 40  # red, not grey


def test_the_outline_goes_around_the_strongest_part() -> None:
    photo = plate(100, 100, (128, 128, 128))
    parts = np.full((10, 10), 0.001)
    parts[2, 7] = 1.0
    page = opened(
        pair_overlay(
            PhotoParts("a", photo, parts), PhotoParts("b", photo, np.zeros((3, 3))), title="t"
        )
    )
    ink = near(page, (28, 28, 28), 40)
    top = round(110 * (0.25 + 0.36 + 0.23))
    ink[:top] = False  # words
    ink[top + 440 :] = False
    left, above, right, below = box(ink[:, : 28 + 440])
    assert 28 + 44 * 6.5 < left < right < 28 + 44 * 8.5
    assert top + 44 * 1.5 < above < below < top + 44 * 3.5
    assert not ink[:, 28 + 473 : 28 + 473 + 440].any()  # nothing to outline in the other


@pytest.mark.parametrize("score", [0.0, -0.4])
def test_a_pair_without_a_positive_score_is_drawn(score: float) -> None:
    parts = np.full((2, 3), score / 6)
    page = opened(
        pair_overlay(
            PhotoParts(ODD, plate(300, 20), parts, (300, 32)),
            PhotoParts(ODD, plate(40, 20), parts),
            title=f"score {score}",
            caption=20 * ODD,
        )
    )
    assert (page[:, -8:] == 255).all()


# Correlation


def test_correlation_is_that_of_pearson() -> None:
    vectors = np.random.default_rng(0).gamma(1.0, size=(6, 9)).astype(np.float32)
    np.testing.assert_allclose(correlation_of(vectors), np.corrcoef(vectors), atol=1e-6)


def test_a_constant_vector_correlates_with_nothing() -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 7))
    vectors[1], vectors[2] = 0.0, 0.1  # the mean of 0.1 is not exactly 0.1
    result = correlation_of(vectors)
    assert not result[1:3].any()
    assert not result[:, 1:3].any()
    np.testing.assert_allclose(result[::3, ::3], np.corrcoef(vectors[::3]))


def test_images_are_sorted_by_group_and_groups_are_divided() -> None:
    labels = ["b", "a", "b", "a", "b", "b"]
    same = np.array([[float(x == y) for x in labels] for y in labels])
    page = opened(correlation_picture(same, labels, "groups"))
    left, top, side = round(110 * 1.65), round(110 * 0.62), 572
    cell = side / 6
    bright = page[round(top + cell / 2), round(left + cell / 2)]
    dark = page[round(top + cell / 2), round(left + 5.5 * cell)]
    for row in range(6):
        for column in range(6):
            colour = page[round(top + (row + 0.5) * cell), round(left + (column + 0.5) * cell)]
            expected = bright if (row < 4) == (column < 4) else dark
            assert near(colour, tuple(expected))
    assert bright.sum() > dark.sum() + 300
    across = page[round(top + cell / 2), left + round(4 * cell) - 3 : left + round(4 * cell) + 3]
    assert across.sum(axis=1).max() > bright.sum()  # the line between the groups


@pytest.mark.parametrize("groups", [1, 30, 120])
def test_names_of_any_kind_and_number_stay_on_the_page(groups: int) -> None:
    labels = [f"{number} {ODD}" for number in range(groups) for _ in range(2)]
    vectors = np.random.default_rng(0).normal(size=(len(labels), 8))
    page = opened(correlation_picture(correlation_of(vectors), labels, "many", caption=ODD))
    assert (page[:, :8] == 255).all()
    assert (page[-8:] == 255).all()


def test_a_matrix_without_its_labels_is_refused() -> None:
    with pytest.raises(InvalidOption, match="2 labels"):
        correlation_picture(np.eye(3), ["a", "b"], "wrong")
    with pytest.raises(InvalidOption, match="0 labels"):
        correlation_picture(np.zeros((0, 0)), [], "empty")


# Contact sheets


def hits(*kinds: Relevance, size: tuple[int, int] = (60, 90)) -> list[SheetHit]:
    return [
        SheetHit(plate(*size), f"{rank}.jpg", rank, 1 - rank / 10, kind)
        for rank, kind in enumerate(kinds, start=1)
    ]


def test_frames_have_the_colours_of_their_hits_in_their_places() -> None:
    found = hits(Relevance.POSITIVE, Relevance.UNRELATED, Relevance.JUNK, Relevance.POSITIVE)
    page = opened(contact_sheet(plate(60, 90), found, name="query.jpg", columns=3))
    # Cells of 1.62 inches, 0.16 between them, 0.2 around; the query has the first.
    for number, hit in enumerate(found, start=1):
        left = round(110 * (0.2 + number % 3 * 1.78))
        top = round(110 * (0.2 + number // 3 * 2.18))
        cell = page[top : top + 178, left : left + 178]
        frame = near(cell, rgb(FRAMES[hit.relevance]))
        x0, y0, x1, y1 = box(frame)
        assert (x1 - x0) == pytest.approx(178, abs=2)
        assert (x1 - x0 - 13) / (y1 - y0 - 13) == pytest.approx(1.5, rel=0.03)
        assert frame[(y0 + y1) // 2, x0 + 3]  # left bar
        assert frame[y0 + 3, 89]  # upper bar
        assert near(cell[(y0 + y1) // 2, 89], (0, 160, 200))  # the picture within
        others = {FRAMES[kind] for kind in Relevance} - {FRAMES[hit.relevance]}
        assert not any(near(cell, rgb(colour)).any() for colour in others)
    assert not near(page[22:195, 22:195], rgb(FRAMES[Relevance.POSITIVE])).any()
    assert near(page[110, 110], (0, 160, 200))  # the query


@pytest.mark.parametrize("size", [(160, 20), (20, 160), (16, 16), (700, 500)])
def test_pictures_keep_their_shape(size: tuple[int, int]) -> None:
    page = opened(contact_sheet(plate(9, 9, (0, 0, 0)), hits(Relevance.JUNK, size=size), name="q"))
    left, top, right, bottom = box(near(page, (0, 160, 200)))
    assert max(right - left, bottom - top) == pytest.approx(165, abs=2)
    assert (right - left) / (bottom - top) == pytest.approx(size[1] / size[0], rel=0.1)


def test_the_part_that_was_searched_for_is_outlined_on_the_query_only() -> None:
    found = hits(Relevance.POSITIVE)
    bare, outlined = (
        opened(contact_sheet(plate(90, 90), found, name="q", part=part))
        for part in (None, (0.1, 0.2, 0.4, 0.8))
    )
    left, upper, right, lower = box((bare != outlined).any(axis=-1))
    # A square picture of 1.5 inches, 0.06 within its frame, 0.2 from the edges of the page.
    for edge, share in ((left, 0.1), (upper, 0.2), (right, 0.4), (lower, 0.8)):
        assert edge == pytest.approx(110 * (0.26 + 1.5 * share), abs=4)
    assert near(outlined[(upper + lower) // 2, (left + right) // 2], (0, 160, 200))


def test_a_sheet_grows_by_rows_and_may_be_empty() -> None:
    widths, heights = zip(
        *(
            opened(contact_sheet(plate(9, 9), hits(*[Relevance.JUNK] * count), name=ODD)).shape[
                1::-1
            ]
            for count in (0, 5, 6, 11, 12)
        ),
        strict=True,
    )
    assert widths[1] == widths[2] == widths[4] > widths[0]
    assert heights[0] == heights[1] < heights[2] == heights[3] < heights[4]


# Words and files


def test_long_names_lose_their_middle() -> None:
    assert shortened("short.jpg", 20) == "short.jpg"
    assert shortened("a_very_long_name_000123.jpg", 15) == "a_very_…123.jpg"
    assert all(len(shortened("x" * 50, limit)) == limit for limit in (3, 10, 49, 50))


def test_what_the_font_cannot_draw_becomes_a_question_mark() -> None:
    assert plain("Straße α ✓ …") == "Straße α ✓ …"
    assert plain("中\n\udcff🙂x") == "????x"


@pytest.mark.parametrize(
    ("kind", "begins"),
    [("png", b"\x89PNG"), ("jpg", b"\xff\xd8"), ("svg", b"<?xml"), ("pdf", b"%PDF")],
)
def test_every_kind_of_file_is_written_and_equal_each_time(kind: str, begins: bytes) -> None:
    sheets = [contact_sheet(plate(9, 9), [], name=ODD, title=ODD, kind=kind) for _ in range(2)]
    assert sheets[0].startswith(begins)
    if kind != "svg":  # its ids are drawn at random
        assert sheets[0] == sheets[1]


def test_other_kinds_are_refused() -> None:
    with pytest.raises(InvalidOption, match="'gif'; choose from png, jpg"):
        contact_sheet(plate(9, 9), [], name="q", kind="gif")


LOADED = """
import sys
import app.cli, app.commands.explain, engine.explaining
assert "matplotlib" not in sys.modules, "matplotlib before it is needed"
import engine.pictures
assert "matplotlib.pyplot" not in sys.modules, "pyplot"
"""


def test_matplotlib_is_loaded_for_pictures_only_and_without_pyplot() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", LOADED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
