"""Drawn objects by number: products, prints, houses, textiles."""

from __future__ import annotations

from functools import lru_cache

from PIL import Image

from engine.made.design import Picture, design, family
from engine.made.kinds import KINDS

SIDE = 256
"""Pixels of the longer side of a drawn object, unless another is asked for."""


def kind_of(number: int) -> str:
    """Which kind of object has this number; kinds take turns, family by family."""
    return list(KINDS)[family(number) % len(KINDS)]


# Few: at 1,024 pixels an object takes 4 MB. Views of an instance come one after another.
@lru_cache(maxsize=32)
def drawn_object(seed: int, number: int, side: int = SIDE) -> Picture:
    """The object with that number. Its pictures are shared: do not draw on them.

    It depends on `seed` and `number` alone, in every `side` the same but for its pixels.
    """
    kind = kind_of(number)
    sheet, mask, depth = KINDS[kind](design(seed, number), 2 * side)
    # Drawn at twice the size: Pillow draws without smoothing edges.
    size = sheet.width // 2, sheet.height // 2
    colours = sheet.image.resize(size, Image.Resampling.BOX)
    return Picture(colours, mask.resize(size, Image.Resampling.BOX), depth, kind)
