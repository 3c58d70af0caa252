"""Which pixels of a sheet belong to the object."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from engine.made.sheet import Point, Sheet


def full(sheet: Sheet) -> Image.Image:
    """All of them."""
    return Image.new("L", sheet.image.size, 255)


def outlined(sheet: Sheet, points: Sequence[Point]) -> Image.Image:
    """Those within a polygon, in fractions of width and height."""
    return within(sheet, sheet.points(points))


def within(sheet: Sheet, pixels: Sequence[Point]) -> Image.Image:
    """Those within a polygon of pixels."""
    mask = Image.new("L", sheet.image.size)
    ImageDraw.Draw(mask).polygon(list(pixels), 255)
    return mask
