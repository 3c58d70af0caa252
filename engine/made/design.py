"""What an object is drawn from: what it shares with its family, and what is its own."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from engine.made.chance import Chance
from engine.made.lettering import Typeface, typeface
from engine.made.palettes import Palette, palette
from engine.made.words import words

FAMILY = 5
"""So many objects with numbers in a row have one kind, layout, palette and typefaces."""


@dataclass(frozen=True)
class Design:
    """Choices that a painter makes its drawing from.

    `style` gives every member of a family the same numbers, `own` gives each its own. A painter
    must draw from `style` the same often for all members, or they fall apart.
    """

    style: Chance
    own: Chance
    palette: Palette
    title: Typeface
    plain: Typeface
    words: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A drawn object.

    Attributes:
        colours: RGB, meaningful a little beyond the object too, so that its edge stays clean.
        mask: L of the same size, 255 on the object.
        depth: thickness as a fraction of the width; 0 for what is flat, or no full rectangle.
        kind: name of the painter.
    """

    colours: Image.Image
    mask: Image.Image
    depth: float
    kind: str


def family(number: int) -> int:
    """Objects with the same family look alike but for text, emblem and pattern."""
    return number // FAMILY


def design(seed: int, number: int) -> Design:
    style = Chance("family", seed, family(number))
    return Design(
        style=style,
        own=Chance("object", seed, number),
        palette=palette(style.child()),
        title=typeface(style.child()),
        plain=typeface(style.child()),
        words=words(seed, number),
    )
