"""Colours that go together, and light enough beside dark enough to be read."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

from engine.made.chance import Chance

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Palette:
    """Three strong colours, a light one for paper and a dark one for print."""

    accents: tuple[Colour, Colour, Colour]
    paper: Colour
    ink: Colour

    def all(self) -> tuple[Colour, ...]:
        return (*self.accents, self.paper, self.ink)


def palette(chance: Chance) -> Palette:
    """Hues side by side, opposite each other or in a triangle."""
    hue = chance.between(0, 1)
    second, third = chance.pick(((0.08, 0.5), (0.5, 0.58), (0.33, 0.66), (0.12, 0.92), (0.0, 0.45)))
    muted = chance.between(0.45, 1.0)
    accents = (
        _colour(hue, muted * chance.between(0.7, 1), chance.between(0.45, 0.95)),
        _colour(hue + second, muted * chance.between(0.5, 1), chance.between(0.5, 1)),
        _colour(hue + third, muted * chance.between(0.6, 1), chance.between(0.3, 0.9)),
    )
    paper = _colour(hue + chance.pick((0.0, third)), chance.between(0.02, 0.2), 0.95)
    ink = _colour(hue + second, chance.between(0.3, 0.9), chance.between(0.08, 0.28))
    return Palette(accents, paper, ink)


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` of `second`."""
    r, g, b = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return r, g, b


def shaded(colour: Colour, factor: float) -> Colour:
    """Darker below 1, lighter above."""
    r, g, b = (min(255, round(value * factor)) for value in colour)
    return r, g, b


def readable_on(colour: Colour, palette: Palette) -> Colour:
    """Paper or ink, whichever stands out."""
    return palette.ink if _light(colour) > 120 else palette.paper


def _light(colour: Colour) -> float:
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def _colour(hue: float, saturation: float, value: float) -> Colour:
    r, g, b = colorsys.hsv_to_rgb(hue % 1, min(1.0, saturation), min(1.0, value))
    return round(255 * r), round(255 * g), round(255 * b)
