"""What lies behind objects: walls, floors, shelves, cloudy ground."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from engine.made.chance import Chance
from engine.made.palettes import mixed, palette, shaded
from engine.made.sheet import Sheet
from engine.made.textures import blended, noise, pattern, ramp

Size = tuple[int, int]
"""Height and width in pixels."""


def background(chance: Chance, size: Size) -> Image.Image:
    """One of several kinds, in colours of its own, with uneven tone."""
    height, width = size
    # At half the size: nobody looks at a background, and most of the time would go there.
    small = max(8, width // 2), max(8, height // 2)
    painted = chance.pick(_PAINTERS)(chance, small)
    cloud = noise(chance, (max(4, width // 8), max(4, height // 8)), cells=3, octaves=2)
    shadow = Image.fromarray(np.clip(150 + 210 * cloud, 0, 255).astype(np.uint8))
    sheet = Sheet(width, height, (0, 0, 0))
    sheet.paste(painted, (0, 0, 1, 1))
    sheet.shade(shadow)
    return sheet.image


def _cloudy(chance: Chance, size: Size) -> Image.Image:
    look = palette(chance)
    field = noise(chance, size, cells=chance.whole(4, 40), octaves=5)
    first, second = chance.shuffled(look.all())[:2]
    return blended((field - 0.25) * 2, first, mixed(first, second, chance.between(0.3, 1)))


def _ramp(chance: Chance, size: Size) -> Image.Image:
    look = palette(chance)
    first, second = chance.shuffled(look.all())[:2]
    grain = noise(chance, size, cells=max(size) // 2, octaves=1)
    return blended(ramp(size, chance.between(0, 6.3)) + 0.2 * (grain - 0.25), first, second)


def _tiles(chance: Chance, size: Size) -> Image.Image:
    look = palette(chance)
    ground = mixed(chance.pick(look.all()), (140, 140, 140), 0.4)
    colours = (ground, shaded(ground, chance.between(0.5, 0.95)), mixed(ground, look.paper, 0.4))
    return pattern(chance, size, colours, fine=chance.between(0.5, 1.5))


def _wood(chance: Chance, size: Size) -> Image.Image:
    wood = chance.pick(((150, 105, 65), (200, 160, 110), (90, 62, 45), (170, 160, 150)))
    width, height = size
    # Stretched along the grain.
    grain = noise(chance, (max(4, width // 12), height), cells=height // 4, octaves=2)
    sheet = Sheet(width, height, wood)
    sheet.paste(blended(grain * 1.3, shaded(wood, 0.65), shaded(wood, 1.2)), (0, 0, 1, 1))
    boards = chance.whole(2, 6)
    for board in range(1, boards):
        sheet.line([(0, board / boards), (1, board / boards)], shaded(wood, 0.4), 0.01)
        x = chance.between(0.1, 0.9)
        sheet.line([(x, board / boards), (x, (board + 1) / boards)], shaded(wood, 0.4), 0.008)
    return sheet.image if chance.yes() else sheet.image.transpose(_TURN).resize(size)


def _shelf(chance: Chance, size: Size) -> Image.Image:
    """Boards with rows of plain things on them."""
    look = palette(chance)
    back = mixed(chance.pick(look.all()), (90, 90, 90), 0.5)
    sheet = Sheet(*size, back)
    sheet.paste(blended(noise(chance, (32, 32), cells=6), shaded(back, 0.6), back), (0, 0, 1, 1))
    rows = chance.whole(2, 4)
    board = chance.pick((look.ink, look.paper, (140, 100, 60), (70, 70, 74)))
    for row in range(rows):
        floor, high = (row + 1) / rows, 0.8 / rows
        x = chance.between(-0.05, 0.02)
        while x < 1:
            wide = chance.between(0.04, 0.12)
            colour = mixed(chance.pick(look.all()), back, chance.between(0, 0.6))
            tall = high * chance.between(0.5, 1)
            sheet.rectangle((x, floor - tall, x + wide * 0.92, floor), colour)
            stripe = floor - tall * chance.between(0.3, 0.8)
            label = shaded(colour, chance.pick((0.6, 1.5)))
            sheet.rectangle((x, stripe, x + wide * 0.92, stripe + tall * 0.2), label)
            x += wide
        sheet.rectangle((0, floor - 0.03, 1, floor), board)
    return sheet.image


def _heap(chance: Chance, size: Size) -> Image.Image:
    """Leaves, pebbles or scraps all over."""
    look = palette(chance)
    sheet = Sheet(*size, look.ink)
    for _ in range(70):
        colour = mixed(chance.pick(look.all()), chance.pick(look.all()), chance.between(0, 0.7))
        radius, corners = chance.between(0.05, 0.14), chance.whole(3, 8)
        centre = chance.between(0, 1), chance.between(0, 1)
        radii = [radius * chance.between(0.6, 1) for _ in range(corners)]
        ring = sheet.around(centre, radii, chance.between(0, 2 * math.pi))
        sheet.draw.polygon(ring, colour)
    return sheet.image


_TURN = Image.Transpose.ROTATE_90

_PAINTERS: tuple[Callable[[Chance, Size], Image.Image], ...] = (
    _cloudy,
    _ramp,
    _tiles,
    _wood,
    _shelf,
    _heap,
)
