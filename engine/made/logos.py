"""Emblems: no two alike, as their outlines have many free numbers."""

from __future__ import annotations

import math

from engine.made.chance import Chance
from engine.made.lettering import Typeface
from engine.made.palettes import Colour
from engine.made.sheet import Point, Sheet


def logo(
    sheet: Sheet,
    centre: Point,
    radius: float,
    chance: Chance,
    colours: tuple[Colour, ...],
    word: str,
) -> None:
    """An emblem of two or three layers, with or without the initial of `word`."""
    order = chance.shuffled(colours)
    outline(sheet, centre, radius, chance, order[0])
    outline(sheet, centre, radius * chance.between(0.62, 0.82), chance, order[1])
    inner = chance.whole(0, 3)
    if inner == 0:
        size = 0.5 * radius * sheet.unit
        x, y = size / sheet.width, size / sheet.height
        area = (centre[0] - x, centre[1] - y, centre[0] + x, centre[1] + y)
        sheet.text(word[0].upper(), area, order[2], Typeface(stroke=chance.whole(1, 4)))
    elif inner == 1:
        outline(sheet, centre, radius * chance.between(0.3, 0.5), chance, order[2])
    elif inner == 2:
        _satellites(sheet, centre, radius, chance, order[2])
    else:
        _rays(sheet, centre, radius, chance, order[2])


def outline(sheet: Sheet, centre: Point, radius: float, chance: Chance, colour: Colour) -> None:
    """A star, polygon, flower, shield, drop or blob."""
    kind = chance.whole(0, 5)
    turn = chance.between(0, 2 * math.pi)
    if kind == 0:
        points, depth = chance.whole(4, 12), chance.between(0.35, 0.8)
        radii = [radius * (1 if i % 2 == 0 else depth) for i in range(2 * points)]
    elif kind == 1:
        radii = [radius] * chance.whole(3, 8)
    elif kind == 2:
        petals, depth = chance.whole(3, 9), chance.between(0.12, 0.4)
        radii = [
            radius * (1 - depth + depth * math.cos(petals * 2 * math.pi * i / 72))
            for i in range(72)
        ]
    elif kind == 3:
        radii = [radius] * 40
    elif kind == 4:
        flat, pull = chance.between(0.5, 0.9), chance.between(1.2, 3)
        radii = [
            radius * (flat + (1 - flat) * abs(math.cos(math.pi * i / 60)) ** pull)
            for i in range(60)
        ]
    else:
        radii = blob(chance, radius, rough=0.25)
    sheet.draw.polygon(sheet.around(centre, radii, turn), colour)


def blob(chance: Chance, radius: float, *, rough: float) -> list[float]:
    """72 radii of a smooth closed outline; none is larger than `radius`."""
    waves = [
        (k, chance.between(0, rough / math.sqrt(k)), chance.between(0, 2 * math.pi))
        for k in range(1, 7)
    ]
    radii = [
        1 + sum(a * math.cos(k * 2 * math.pi * i / 72 + phase) for k, a, phase in waves)
        for i in range(72)
    ]
    low, high = min(radii), max(radii)
    # Never so deep that it is cut in two.
    scale = radius / (high + max(0.0, 0.3 * high - low))
    return [scale * (r + max(0.0, 0.3 * high - low)) for r in radii]


def _satellites(sheet: Sheet, centre: Point, radius: float, chance: Chance, colour: Colour) -> None:
    count, size = chance.whole(3, 8), radius * chance.between(0.1, 0.2)
    for x, y in sheet.around(centre, [radius * chance.between(0.4, 0.55)] * count):
        sheet.disc((x / sheet.width, y / sheet.height), size, colour)


def _rays(sheet: Sheet, centre: Point, radius: float, chance: Chance, colour: Colour) -> None:
    count, thickness = chance.whole(2, 7), radius * chance.between(0.06, 0.16)
    ends = sheet.around(centre, [radius * 0.6] * count, chance.between(0, 6))
    for x, y in ends:
        sheet.line([centre, (x / sheet.width, y / sheet.height)], colour, thickness)
