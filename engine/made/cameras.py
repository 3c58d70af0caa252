"""Where an object comes to lie in a picture: turned in space, seen through a pinhole."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from engine.made.chance import Chance

Quad = NDArray[np.float64]
"""(4, 2): x and y of the upper left, upper right, lower right and lower left corner."""


def pose(chance: Chance, shape: tuple[int, int], *, tilt: float, roll: float) -> Quad:
    """Corners of a turned rectangle of `shape` (width, height), about the origin.

    `tilt` is the most it is turned away from the viewer, `roll` within the picture, radians.
    """
    width, height = shape
    longest = max(shape)
    x, y = width / longest, height / longest
    corners = np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]]) / 2
    yaw, pitch = chance.between(-tilt, tilt), 0.7 * chance.between(-tilt, tilt)
    turned = corners @ (_about_y(yaw) @ _about_x(pitch) @ _about_z(chance.between(-roll, roll)))
    distance = chance.between(1.2, 2.4)
    quad: Quad = turned[:, :2] * distance / (distance + turned[:, 2:])
    return quad


def placed(
    chance: Chance, quad: Quad, size: tuple[int, int], *, area: float, beyond: float
) -> Quad:
    """The quad scaled to `area` (of the picture) where it fits, and moved to a random place.

    Up to `beyond` of its width and height may lie outside the picture of `size` (H, W).
    """
    height, width = size
    scale = math.sqrt(area * height * width / quad_area(quad))
    extent = quad.max(axis=0) - quad.min(axis=0)
    room = np.array([width, height], np.float64)
    scale = min(scale, float((0.98 * room / extent).min()) * (1 + beyond))
    scaled = quad * scale
    low, high = scaled.min(axis=0), scaled.max(axis=0)
    margin = beyond * (high - low)
    first, last = -margin - low, room + margin - high
    # What is wider than the picture is put into the middle of what is allowed.
    first, last = np.minimum(first, last), np.maximum(first, last)
    moved: Quad = scaled + [chance.between(f, e) for f, e in zip(first, last, strict=True)]
    return moved


def over_edge(chance: Chance, quad: Quad, target: Quad, *, share: float) -> Quad:
    """The quad scaled to `share` of the target's area, with its middle near the target's edge."""
    scaled = quad * math.sqrt(share * quad_area(target) / quad_area(quad))
    corner = chance.whole(0, 3)
    along, out = chance.between(0, 1), chance.between(0.5, 1.0)
    edge = target[corner] * along + target[(corner + 1) % 4] * (1 - along)
    middle = target.mean(axis=0)
    moved: Quad = scaled - scaled.mean(axis=0) + middle + out * (edge - middle)
    return moved


def quad_area(quad: Quad) -> float:
    """By the shoelace formula, in square pixels."""
    x, y = quad[:, 0], quad[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def perspective(quad: Quad, shape: tuple[int, int]) -> list[float]:
    """The eight numbers with which Pillow maps picture to object: corners of `shape` to `quad`.

    Raises: numpy.linalg.LinAlgError where three corners are on a line.
    """
    width, height = shape
    target = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    rows, values = [], []
    for (x, y), (u, v) in zip(quad.tolist(), target, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
        values += [u, v]
    solution: list[float] = np.linalg.solve(np.array(rows), np.array(values)).tolist()
    return solution


def _about_x(angle: float) -> NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def _about_y(angle: float) -> NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])


def _about_z(angle: float) -> NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
