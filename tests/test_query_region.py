from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from engine.errors import BadRegion
from engine.images import decode
from engine.queries.region import Region
from tests.drawing import encode, scene


@pytest.mark.parametrize(
    ("region", "box"),
    [
        (Region(10, 20, 100, 50), (10, 20, 110, 70)),
        (Region(0.25, 0.5, 0.5, 0.25, "norm"), (100, 150, 300, 225)),
        (Region(0, 0, 400, 300), (0, 0, 400, 300)),
        (Region(0, 0, 400.7, 300.4), (0, 0, 400, 300)),
        (Region(0, 0, 1, 1, "norm"), (0, 0, 400, 300)),
    ],
)
def test_a_region_is_a_box_in_pixels(
    region: Region, box: tuple[float, float, float, float]
) -> None:
    assert region.box(400, 300) == pytest.approx(box)
    assert region.is_whole(400, 300) == (box == (0, 0, 400, 300))


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (Region(0, 0, 0, 50), "empty: 0 x 50"),
        (Region(390, 0, 20, 20), r"\(390, 0 to 410, 20 px\) is not within the image, which is 400"),
        (Region(500, 500, 50, 50), "not within"),
        (Region(0.5, 0.5, 0.6, 0.1, "norm"), "not within"),
        (Region(float("nan"), 0, 50, 50), "not within"),
        (Region(0, 0, float("inf"), 50), "not within"),
        (Region(0, 0, 15, 100), "15 x 100 pixels of an image of 400 x 300; each side .* 16"),
        (Region(0.1, 0.1, 0.01, 0.5, "norm"), "4 x 150 pixels"),
    ],
)
def test_a_region_that_is_no_part_of_the_image_says_why(region: Region, words: str) -> None:
    with pytest.raises(BadRegion, match=words):
        region.box(400, 300)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_region_is_cut_from_the_upright_image(orientation: int) -> None:
    """Against Pillow's own way: the same corner of the picture as a viewer shows it."""
    upright = scene(7, (160, 96))
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if inverse is None else upright.transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    stored.save(out, "PNG", exif=exif)
    region = Region(0.5, 0.0, 0.5, 0.25, "norm")
    found = decode(out.getvalue(), max_side=512, box=region.box)
    assert (found.width, found.height) == (160, 96)
    assert (found.pixels == np.asarray(upright.crop((80, 0, 160, 24)))).all()


def test_a_part_has_the_scale_of_the_whole_image() -> None:
    found = decode(
        encode(scene(1, (800, 400)), "png"), max_side=200, box=Region(0, 0, 400, 400).box
    )
    assert found.pixels.shape == (100, 100, 3)
