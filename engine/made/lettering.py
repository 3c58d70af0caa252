"""Printed words: one font, made many by stretching, slanting, spacing and thickening."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from engine.made.chance import Chance

_SIZE = 44
"""Pixels at which letters are drawn before they are scaled."""


@dataclass(frozen=True)
class Typeface:
    """How words look: width of a letter, slant (both 1 and 0 in the font), stroke, capitals."""

    stretch: float = 1.0
    slant: float = 0.0
    stroke: int = 0
    spacing: int = 0
    capitals: bool = False


def typeface(chance: Chance) -> Typeface:
    return Typeface(
        stretch=chance.between(0.65, 1.5),
        slant=chance.pick((0.0, 0.0, 0.0, 0.22, 0.35, -0.15)),
        stroke=chance.pick((0, 1, 2, 3, 4)),
        spacing=chance.pick((0, 0, 0, 4, 10)),
        capitals=chance.yes(),
    )


@lru_cache(maxsize=256)
def lettering(text: str, face: Typeface) -> Image.Image:
    """The ink of one line of text, 255 where it is full, cut to its bounds."""
    shown = text.upper() if face.capitals else text
    font = _font()
    pad = face.stroke + 2
    gap = face.spacing + face.stroke
    # Letter by letter only where there are gaps between them: that takes longer.
    parts = list(shown) if gap else [shown]
    advances = [font.getlength(part) + gap for part in parts]
    width, height = round(sum(advances)) + 2 * pad, round(1.6 * _SIZE)
    line = Image.new("L", (max(1, width), height))
    draw = ImageDraw.Draw(line)
    left = float(pad)
    for part, advance in zip(parts, advances, strict=True):
        draw.text((left, pad), part, fill=255, font=font, stroke_width=face.stroke)
        left += advance
    if face.slant:
        lean = abs(face.slant) * height
        shift = -lean if face.slant > 0 else 0.0
        line = line.transform(
            (round(width + lean), height),
            Image.Transform.AFFINE,
            (1, face.slant, shift, 0, 1, 0),
            Image.Resampling.BILINEAR,
        )
    box = line.getbbox()
    line = line if box is None else line.crop(box)
    return line.resize((max(1, round(line.width * face.stretch)), line.height))


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_SIZE)
