"""A sheet to draw on, in fractions of its width and height, drawn large and made smooth."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw

from engine.made.chance import Chance
from engine.made.lettering import Typeface, lettering
from engine.made.palettes import Colour

Point = tuple[float, float]
Area = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class Sheet:
    """Pixels of one thing that is being drawn. Sizes are fractions of the shorter side."""

    def __init__(self, width: int, height: int, colour: Colour) -> None:
        self.width, self.height = width, height
        self.unit = min(width, height)
        self.image = Image.new("RGB", (width, height), colour)
        self.draw = ImageDraw.Draw(self.image)

    def box(self, area: Area) -> tuple[int, int, int, int]:
        """An area in pixels, at least one wide and high."""
        left, top = round(area[0] * self.width), round(area[1] * self.height)
        right, bottom = round(area[2] * self.width), round(area[3] * self.height)
        return left, top, max(left + 1, right), max(top + 1, bottom)

    def points(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.width, y * self.height) for x, y in points]

    def rectangle(self, area: Area, colour: Colour, *, rounded: float = 0.0) -> None:
        self.draw.rounded_rectangle(self.box(area), rounded * self.unit, colour)

    def frame(self, area: Area, colour: Colour, thickness: float) -> None:
        self.draw.rectangle(self.box(area), None, colour, max(1, round(thickness * self.unit)))

    def ellipse(self, area: Area, colour: Colour) -> None:
        self.draw.ellipse(self.box(area), colour)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        self.draw.polygon(self.around(centre, [radius] * 40), colour)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self.draw.polygon(self.points(points), colour)

    def line(self, points: Sequence[Point], colour: Colour, thickness: float) -> None:
        width = max(1, round(thickness * self.unit))
        self.draw.line(self.points(points), colour, width, joint="curve")

    def around(self, centre: Point, radii: Sequence[float], turn: float = 0.0) -> list[Point]:
        """Pixels at those radii round a centre: a star, a flower, a blob."""
        x, y = centre[0] * self.width, centre[1] * self.height
        step = 2 * math.pi / len(radii)
        return [
            (
                x + self.unit * radius * math.sin(turn + i * step),
                y - self.unit * radius * math.cos(turn + i * step),
            )
            for i, radius in enumerate(radii)
        ]

    def paste(self, image: Image.Image, area: Area, mask: Image.Image | None = None) -> None:
        """An image over an area, scaled to it."""
        left, top, right, bottom = self.box(area)
        size = (right - left, bottom - top)
        cut = None if mask is None else mask.resize(size)
        self.image.paste(image.resize(size), (left, top), cut)

    def text(
        self, text: str, area: Area, colour: Colour, face: Typeface, *, turn: float = 0.0
    ) -> None:
        """One line as large as the area allows, in its middle; `turn` in degrees."""
        ink = lettering(text, face)
        if turn:
            ink = ink.rotate(turn, Image.Resampling.BILINEAR, expand=True)
        left, top, right, bottom = self.box(area)
        scale = min((right - left) / ink.width, (bottom - top) / ink.height)
        size = max(1, round(ink.width * scale)), max(1, round(ink.height * scale))
        corner = (left + right - size[0]) // 2, (top + bottom - size[1]) // 2
        self.image.paste(
            colour, corner, ink.resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
        )

    def paragraph(
        self, words: Sequence[str], area: Area, colour: Colour, *, lines: int, ragged: Chance
    ) -> None:
        """Small print, `lines` of it, of uneven length."""
        left, top, right, bottom = area
        step = (bottom - top) / lines
        left_px, right_px = left * self.width, right * self.width
        height = max(3, round(0.72 * step * self.height))
        position = ragged.whole(0, len(words) - 1)
        for line in range(lines):
            x = left_px
            y = round((top + line * step) * self.height)
            end = left_px + (right_px - left_px) * ragged.between(0.6, 1)
            while True:
                ink = lettering(words[position % len(words)], Typeface())
                width = max(1, round(ink.width * height / ink.height))
                if x + width > end:
                    break
                self.image.paste(colour, (round(x), y), ink.resize((width, height)))
                x += width + 0.35 * height
                position += 1

    def barcode(self, area: Area, chance: Chance) -> None:
        """Black bars on white."""
        self.rectangle(area, (250, 250, 250))
        left, top, right, bottom = area
        inset = 0.06 * (right - left)
        x, step = left + inset, (right - left - 2 * inset) / 60
        while x < right - inset:
            bar = step * chance.pick((1, 1, 2, 3))
            self.rectangle((x, top + 0.05 * (bottom - top), x + bar, bottom), (15, 15, 15))
            x += bar + step * chance.pick((1, 1, 2))

    def shade(self, light: Image.Image) -> None:
        """Darken: 255 in `light` (L, of any size) leaves the colour as it is."""
        level = light.resize(self.image.size)
        self.image = ImageChops.multiply(self.image, Image.merge("RGB", (level,) * 3))
        self.draw = ImageDraw.Draw(self.image)
