"""Views of an object: among other things, before some background, under some light."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops

from engine.errors import InvalidOption
from engine.made.backgrounds import Size, background
from engine.made.cameras import over_edge, placed, pose
from engine.made.chance import Chance
from engine.made.clutter import INSTANCES, clutter_object, section_of
from engine.made.compose import paste_object
from engine.made.design import Picture
from engine.made.light import photographed
from engine.made.objects import drawn_object
from engine.types import Pixels

MIN_SIDE, MAX_SIDE = 32, 2048
"""Pixels of a side of a view."""

MAX_SEED = (1 << 32) - 1


@dataclass(frozen=True)
class InstanceView:
    """A picture of an instance.

    Attributes:
        pixels: (H, W, 3) uint8.
        box: left, top, right, bottom in pixels: bounds of the object as far as it is in the
            picture, with what lies before it.
        area: of the object in the picture, as a fraction of the picture, before it is covered.
        covered: fraction of that area that other things hide.
    """

    pixels: Pixels
    box: tuple[int, int, int, int]
    area: float
    covered: float


def instance_view(
    seed: int, instance: int, view: int, *, size: Size = (240, 320), difficulty: float = 0.5
) -> InstanceView:
    """View number `view` of an instance, the same for the same arguments whatever else was drawn.

    (With one version of Pillow: another may round differently.)

    Args:
        size: height and width in pixels.
        difficulty: 0 (seen from the front, whole, in plain light) to 1.

    Raises: InvalidOption naming the value that is out of range.
    """
    check_options(seed=seed, size=size, difficulty=difficulty)
    for name, value, end in (("instance", instance, INSTANCES), ("view", view, 1 << 32)):
        if not 0 <= value < end:
            raise InvalidOption(f"{name} is {value}; it must be at least 0 and below {end:,}")
    chance = Chance("view", seed, instance, view)
    picture = drawn_object(seed, instance, side_for(size))
    return picture_view(
        picture, chance, seed=seed, section=section_of(instance), size=size, difficulty=difficulty
    )


def check_options(*, seed: int, size: Size, difficulty: float) -> None:
    """Raises: InvalidOption."""
    if not 0 <= seed <= MAX_SEED:
        raise InvalidOption(f"seed is {seed}; it must be from 0 to {MAX_SEED:,}")
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise InvalidOption(
            f"size is {size[1]}x{size[0]}; each side must have {MIN_SIDE} to {MAX_SIDE} pixels"
        )
    if not 0 <= difficulty <= 1:  # no NaN either
        raise InvalidOption(f"difficulty is {difficulty}; it must be from 0 to 1")


def side_for(size: Size) -> int:
    """Pixels at which objects are drawn for pictures of that size: a power of two.

    At most 1,024: on the way to it they are drawn at twice that, and each doubling takes four
    times as long.
    """
    side = 64
    while side < min(0.8 * max(size), 1024):
        side *= 2
    return side


def picture_view(
    picture: Picture, chance: Chance, *, seed: int, section: int, size: Size, difficulty: float
) -> InstanceView:
    """A view of any picture among the clutter of a section. Options must be valid."""
    d = difficulty
    height, width = size
    scene = background(chance.child(), size)
    behind, before = chance.child(), chance.child()
    small = side_for(size) // 2
    for _ in range(round(behind.between(2, 14) * d)):
        thing = clutter_object(behind, seed, section, small)
        shape = pose(behind, thing.colours.size, tilt=d, roll=math.pi * d)
        spot = placed(behind, shape, size, area=behind.between(0.02, 0.14), beyond=0.5)
        paste_object(scene, thing, spot)
    # Most are held nearly upright, some lie as they fell.
    roll = math.pi * d * chance.pick((0.1, 0.1, 0.1, 0.8))
    quad = pose(chance, picture.colours.size, tilt=1.2 * d, roll=roll)
    area = chance.between(0.55 - 0.32 * d, 0.75 - 0.2 * d)
    quad = placed(chance, quad, size, area=area, beyond=0.22 * d)
    lean = chance.sign(), chance.between(-0.4, 0.4)
    mask = paste_object(scene, picture, quad, lean=lean, shadow=chance.between(0, 0.8))
    hidden = Image.new("L", scene.size)
    for _ in range(round(before.between(0, 2.6) * d)):
        thing = clutter_object(before, seed, section, small)
        shape = pose(before, thing.colours.size, tilt=d, roll=math.pi * d)
        spot = over_edge(before, shape, quad, share=before.between(0.1, 0.4) * d)
        hidden = ImageChops.lighter(hidden, paste_object(scene, thing, spot))
    box = mask.point([255 * (i > 127) for i in range(256)]).getbbox() or (0, 0, width, height)
    shown = np.asarray(mask, np.float32)
    total = max(1.0, float(shown.sum()))
    lost = float((shown * (np.asarray(hidden) > 127)).sum())
    pixels = photographed(chance.child(), scene, difficulty=d)
    return InstanceView(pixels, box, total / 255 / (height * width), lost / total)
