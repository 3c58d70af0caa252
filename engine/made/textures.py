"""Noise, ramps and patterns that fill an area."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.made.chance import Chance
from engine.made.palettes import Colour

Field = NDArray[np.float32]
"""(H, W) values, mostly in [0, 1]."""


def noise(chance: Chance, size: tuple[int, int], *, cells: int, octaves: int = 4) -> Field:
    """Cloudy noise with about 0.5 in the middle; `cells` bumps along the longer side at first.

    Size is (width, height).
    """
    total = np.zeros(size[::-1], np.float32)
    weight = 0.5
    for octave in range(octaves):
        # Not beyond the pixels: finer noise would be thrown away.
        count = min(cells << octave, max(size))
        scale = count / max(size)
        shape = max(2, round(size[1] * scale)), max(2, round(size[0] * scale))
        grid = Image.fromarray(chance.generator.random(shape, np.float32))
        total += weight * np.asarray(grid.resize(size, Image.Resampling.BICUBIC))
        weight /= 2
    return total


def blended(field: Field, first: Colour, second: Colour) -> Image.Image:
    """`first` where the field is 0, `second` where it is 1."""
    share = Image.fromarray(np.clip(field * 255, 0, 255).astype(np.uint8))
    size = share.size
    return Image.composite(Image.new("RGB", size, second), Image.new("RGB", size, first), share)


def ramp(size: tuple[int, int], angle: float) -> Field:
    """From 0 at one side to 1 at the other, in the direction of `angle` (radians)."""
    x, y = _grid(size)
    along = x * np.cos(angle) + y * np.sin(angle)
    low, high = along.min(), along.max()
    level: Field = ((along - low) / max(1e-6, high - low)).astype(np.float32)
    return level


def pattern(
    chance: Chance, size: tuple[int, int], colours: tuple[Colour, ...], *, fine: float = 1.0
) -> Image.Image:
    """One of many repeating patterns; larger `fine` makes it smaller."""
    u, v = _turned_grid(size, chance.pick((0.0, 0.0, 0.785, chance.between(0, 3.14))))
    rate = chance.between(5, 16) * fine
    u, v = u * rate, v * rate
    kind = chance.whole(0, 8)
    depth = chance.between(0.3, 1.2)
    if kind == 0:  # stripes of several widths
        level = u + 0.3 * np.sin(2 * u * chance.between(0.4, 1.6))
    elif kind == 1:  # waves
        level = u + depth * np.sin(v * 2)
    elif kind == 2:  # zigzag
        level = u + depth * np.abs(v % 2 - 1)
    elif kind == 3:  # checks
        level = np.floor(u) + np.floor(v)
    elif kind == 4:  # dots
        level = (np.hypot(u % 1 - 0.5, v % 1 - 0.5) < chance.between(0.2, 0.42)) * 1.0
    elif kind == 5:  # rings in tiles
        level = 6 * depth * np.hypot(u % 2 - 1, v % 2 - 1)
    elif kind == 6:  # diamonds
        level = 4 * depth * (np.abs(u % 2 - 1) + np.abs(v % 2 - 1))
    elif kind == 7:  # tartan
        level = np.floor(2 * np.abs(u % 2 - 1) + depth) + np.floor(2 * np.abs(v % 2 - 1) + depth)
    else:  # bricks
        shifted = u + 0.5 * (np.floor(v) % 2)
        joint = (shifted % 1 < 0.12) | (v % 1 < 0.18)
        level = np.where(joint, 0, 1 + np.floor(shifted * 1.0) * 7 % 3)
    table = np.asarray(colours, np.uint8)
    return Image.fromarray(table[np.floor(level).astype(np.int64) % len(table)])


def _grid(size: tuple[int, int]) -> tuple[Field, Field]:
    """Coordinates in units of the longer side, (1, W) and (H, 1)."""
    width, height = size
    longest = np.float32(max(size))
    x: Field = np.arange(width, dtype=np.float32)[None, :] / longest
    y: Field = np.arange(height, dtype=np.float32)[:, None] / longest
    return x, y


def _turned_grid(size: tuple[int, int], angle: float) -> tuple[Field, Field]:
    """(H, W) each."""
    x, y = _grid(size)
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    # Away from zero, where patterns have their symmetric point.
    u: Field = x * c + y * s + np.float32(3)
    v: Field = y * c - x * s + np.float32(3)
    return u, v
