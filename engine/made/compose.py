"""Puts drawn objects into scenes. The scene is changed in place: it is the canvas."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from engine.made.cameras import Quad, perspective, quad_area
from engine.made.design import Picture
from engine.made.palettes import Colour, shaded

_MARGIN = 2
"""Pixels of nothing round an object, so that its edge is smooth."""


def paste_object(
    scene: Image.Image,
    picture: Picture,
    quad: Quad,
    *,
    lean: tuple[float, float] = (1.0, 0.2),
    shadow: float = 0.0,
) -> Image.Image:
    """Lay a picture over the quad; returns where it is (L, of the size of the scene).

    Args:
        lean: direction in which the thickness of the object shows.
        shadow: 0 for none, 1 for a black one.
    """
    where = Image.new("L", scene.size)
    low = np.maximum(np.floor(quad.min(axis=0)) - 1, 0).astype(int)
    high = np.minimum(np.ceil(quad.max(axis=0)) + 1, scene.size).astype(int)
    span = (int(high[0] - low[0]), int(high[1] - low[1]))
    if min(span) < 1:
        return where
    corner = (int(low[0]), int(low[1]))
    small = _shrunk(picture, quad)
    numbers = _shifted(perspective(quad - low, (small[0].width, small[0].height)), _MARGIN)
    colours = _framed(small[0], "RGB").transform(span, _WARP, numbers, Image.Resampling.BICUBIC)
    mask = _framed(small[1], "L").transform(span, _WARP, numbers, Image.Resampling.BILINEAR)
    where.paste(255, corner, mask)
    if shadow:
        _paste_shadow(scene, where, shadow)
    if picture.depth:
        _paste_sides(scene, where, picture, quad, lean)
    scene.paste(colours, corner, mask)
    return where


def _paste_shadow(scene: Image.Image, where: Image.Image, strength: float) -> None:
    """Darken what is just below and right of where an object will lie."""
    offset = max(1, round(0.008 * max(scene.size)))
    # At half the size: it is blurred anyway.
    small = where.resize((scene.width // 2, scene.height // 2), Image.Resampling.BILINEAR)
    moved = Image.new("L", small.size)
    moved.paste(small.point([round(strength * i) for i in range(256)]), (offset, offset))
    scene.paste((0, 0, 0), (0, 0), moved.filter(ImageFilter.BoxBlur(offset)).resize(scene.size))


_WARP = Image.Transform.PERSPECTIVE


def _shrunk(picture: Picture, quad: Quad) -> tuple[Image.Image, Image.Image]:
    """Colours and mask near the size at which they are seen.

    Warping looks at the nearest pixels only, and would turn small print into specks.
    """
    colours, mask = picture.colours, picture.mask
    scale = 1.15 * math.sqrt(quad_area(quad) / (colours.width * colours.height))
    if scale >= 1:
        return colours, mask
    size = max(4, round(colours.width * scale)), max(4, round(colours.height * scale))
    smooth = Image.Resampling.BILINEAR
    return colours.resize(size, smooth, reducing_gap=2.0), mask.resize(size, smooth)


def _framed(image: Image.Image, mode: str) -> Image.Image:
    """With `_MARGIN` pixels around: the same colours again, but nothing in a mask."""
    size = image.width + 2 * _MARGIN, image.height + 2 * _MARGIN
    framed = image.resize(size, Image.Resampling.NEAREST) if mode == "RGB" else Image.new("L", size)
    framed.paste(image, (_MARGIN, _MARGIN))
    return framed


def _shifted(numbers: list[float], by: int) -> list[float]:
    """The same map to pixels that begin at (`by`, `by`)."""
    a, b, c, d, e, f, g, h = numbers
    return [a + by * g, b + by * h, c + by, d + by * g, e + by * h, f + by, g, h]


def _paste_sides(
    scene: Image.Image, where: Image.Image, picture: Picture, quad: Quad, lean: tuple[float, float]
) -> None:
    """The sides of a box, dark, behind its front."""
    mean = picture.colours.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert isinstance(mean, tuple)
    tone: Colour = (int(mean[0]), int(mean[1]), int(mean[2]))
    width = float(np.linalg.norm(quad[1] - quad[0]))
    back = quad + picture.depth * width * np.array(lean) * 0.6
    pen, mask = ImageDraw.Draw(scene), ImageDraw.Draw(where)
    for i, factor in enumerate((0.75, 0.45, 0.35, 0.55)):
        j = (i + 1) % 4
        corners = [(float(x), float(y)) for x, y in (quad[i], quad[j], back[j], back[i])]
        pen.polygon(corners, shaded(tone, factor))
        mask.polygon(corners, 255)
