"""Pictures that this project draws itself: scenes of shapes, and views of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A background with gradient and a dozen shapes; different for every seed."""
    random = np.random.default_rng(seed)
    width, height = size
    sky, ground = random.integers(0, 256, (2, 3))
    ramp = np.linspace(0, 1, height)[:, None, None]
    pixels = np.broadcast_to(sky * (1 - ramp) + ground * ramp, (height, width, 3))
    image = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        x, y = random.integers(0, width), random.integers(0, height)
        w, h = random.integers(width // 16, width // 3), random.integers(height // 16, height // 3)
        box = (int(x), int(y), int(x + w), int(y + h))
        shape = random.integers(0, 4)
        if shape == 0:
            draw.rectangle(box, fill=colour)
        elif shape == 1:
            draw.ellipse(box, fill=colour)
        elif shape == 2:
            draw.polygon([box[:2], (box[2], box[1]), (box[0], box[3])], fill=colour)
        else:
            for step in range(0, max(2, int(h)), 6):
                draw.line((box[0], box[1] + step, box[2], box[1] + step), fill=colour, width=2)
    return image


def encode(image: Image.Image, kind: str = "jpg", **options: Any) -> bytes:
    """The bytes of an image file."""
    out = io.BytesIO()
    image.save(out, FORMATS.get(kind, kind), **options)
    return out.getvalue()


def photo(seed: int, size: tuple[int, int] = (160, 120), kind: str = "jpg") -> bytes:
    """The file of a drawn scene."""
    return encode(scene(seed, size), kind)


def view(image: Image.Image, *, keep: float = 0.7, scale: float = 0.8, quality: int = 60) -> bytes:
    """The middle `keep` of each side, shrunk and recompressed."""
    width, height = image.size
    w, h = int(width * keep), int(height * keep)
    left, top = (width - w) // 2, (height - h) // 2
    part = image.crop((left, top, left + w, top + h))
    small = part.resize((int(w * scale), int(h * scale)), Image.Resampling.LANCZOS)
    return encode(small, "jpg", quality=quality)
