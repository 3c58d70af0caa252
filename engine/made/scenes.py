"""Scenes of many objects, none of which is looked for."""

from __future__ import annotations

import math

from engine.errors import InvalidOption
from engine.made.backgrounds import Size, background
from engine.made.cameras import placed, pose
from engine.made.chance import Chance
from engine.made.clutter import INSTANCES, SECTION, clutter_object
from engine.made.compose import paste_object
from engine.made.light import photographed
from engine.made.views import check_options, side_for
from engine.types import Pixels

SCENES = 1_000
"""Scenes for each instance number: scene n lies in the section of instance n // SCENES."""


def drawn_scene(
    seed: int, number: int, *, size: Size = (240, 320), difficulty: float = 0.5
) -> Pixels:
    """(H, W, 3) of a scene, the same for the same arguments whatever else was drawn.

    Its objects are those that lie about in views of the instances from
    `number // SCENES // SECTION * SECTION` on.

    Raises: InvalidOption naming the value that is out of range.
    """
    check_options(seed=seed, size=size, difficulty=difficulty)
    if not 0 <= number < INSTANCES * SCENES:
        raise InvalidOption(
            f"scene is {number}; it must be at least 0 and below {INSTANCES * SCENES:,}"
        )
    chance = Chance("scene", seed, number)
    scene = background(chance.child(), size)
    side = side_for(size)
    count = chance.whole(1, 9)
    for _ in range(count):
        thing = clutter_object(chance, seed, number // SCENES // SECTION, side)
        shape = pose(chance, thing.colours.size, tilt=1.25 * difficulty, roll=math.pi * difficulty)
        # One alone is as large as an instance would be.
        area = chance.between(0.25, 0.6) / count**0.7
        quad = placed(chance, shape, size, area=area, beyond=0.3)
        lean = chance.sign(), chance.between(-0.4, 0.4)
        paste_object(scene, thing, quad, lean=lean, shadow=chance.between(0, 0.8))
    return photographed(chance.child(), scene, difficulty=difficulty)
