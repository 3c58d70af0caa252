"""Made copies of a photo: what happens to a picture between a collection and somebody's query."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageEnhance

from engine.errors import InvalidOption
from engine.made.cameras import perspective, pose
from engine.made.chance import Chance
from engine.types import Pixels

KEPT_AREA = (0.4, 1.0)
"""Share of the area that a crop keeps; its shape changes by up to `STRETCH` at the same time."""
STRETCH = 1.25
SCALES = (0.3, 1.0)
MIN_LONGEST = 96
"""Pixels. Scaling stops there: photos are often copied as thumbnails of this size, not smaller."""
QUALITIES = (20, 95)
MAX_DEGREES = 15.0
"""Turned away from the viewer about the upright axis, and 0.7 of it about the level one."""
MAX_COLOUR = 1.4
"""Brightness, contrast and saturation are each multiplied by 1 / this to this."""
SHARE = 0.6
"""Probability of each of the five changes; at least one is made."""
STEPS = ("perspective", "crop", "scale", "colour", "jpeg")


def transformed(pixels: Pixels, *seed: int, steps: tuple[str, ...] | None = None) -> Pixels:
    """A copy of a photo that is cropped, scaled, recompressed, recoloured or seen at an angle.

    A mixture, in the order of `STEPS`: each is made with probability `SHARE`, its strength uniform
    (colour: log-uniform) within the bounds above, so that copies go from hardly changed to
    strongly.

    Args:
        pixels: (H, W, 3) bytes.
        seed: decides everything that is random; the same copy for the same numbers.
        steps: exactly these instead of a mixture; none gives the photo itself.

    Returns: (h, w, 3), no side longer than before. Raises: InvalidOption for an unknown step.
    """
    chance = Chance("transform", *seed)
    chosen = [name for name in STEPS if chance.yes(SHARE)] or [chance.pick(STEPS)]
    if steps is not None:
        unknown = [name for name in steps if name not in STEPS]
        if unknown:
            raise InvalidOption(f"step {unknown[0]!r} is unknown; choose from {', '.join(STEPS)}")
        chosen = [name for name in STEPS if name in steps]
    # Streams of their own: what one step draws does not move the next one.
    streams = {name: chance.child() for name in STEPS}
    image = Image.fromarray(pixels)
    for name in chosen:
        image = _CHANGES[name](streams[name], image)
    return np.array(image)


def _turned(chance: Chance, image: Image.Image) -> Image.Image:
    """As seen by somebody who stands aside; cut so that no edge of the photo shows."""
    quad = pose(chance, image.size, tilt=math.radians(MAX_DEGREES), roll=0.0)
    extent = quad.max(axis=0) - quad.min(axis=0)
    scaled = quad * float((np.array(image.size) / extent).min())
    # In the middle of the room that is left.
    low, high = scaled.min(axis=0), scaled.max(axis=0)
    placed = scaled + (np.array(image.size) - low - high) / 2
    inverse = np.array([*perspective(placed, image.size), 1.0]).reshape(3, 3)
    forward = np.linalg.inv(inverse)
    forward /= forward[2, 2]
    numbers = forward.reshape(9)[:8].tolist()
    return image.transform(
        image.size, Image.Transform.PERSPECTIVE, numbers, Image.Resampling.BICUBIC
    )


def _cropped(chance: Chance, image: Image.Image) -> Image.Image:
    kept, stretch = chance.between(*KEPT_AREA), math.log(STRETCH)
    aspect = math.exp(chance.between(-stretch, stretch))
    width = _side(image.width, math.sqrt(kept * aspect))
    height = _side(image.height, math.sqrt(kept / aspect))
    left = chance.whole(0, image.width - width)
    top = chance.whole(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def _scaled(chance: Chance, image: Image.Image) -> Image.Image:
    longest = max(image.size)
    scale = min(1.0, max(chance.between(*SCALES), MIN_LONGEST / longest))
    size = _side(image.width, scale), _side(image.height, scale)
    return image.resize(size, Image.Resampling.LANCZOS)


def _recoloured(chance: Chance, image: Image.Image) -> Image.Image:
    most = math.log(MAX_COLOUR)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(math.exp(chance.between(-most, most)))
    return image


def _recompressed(chance: Chance, image: Image.Image) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=chance.whole(*QUALITIES))
    return Image.open(out).convert("RGB")


def _side(length: int, factor: float) -> int:
    """Pixels of a side after a change of scale, at least 1 and at most as many as before."""
    return max(1, min(length, round(length * factor)))


_CHANGES = dict(zip(STEPS, (_turned, _cropped, _scaled, _recoloured, _recompressed), strict=True))
