"""What a camera does to a scene: light, colour cast, shadow, blur, noise, JPEG."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageFilter

from engine.made.chance import Chance
from engine.made.textures import ramp
from engine.types import Pixels


def photographed(chance: Chance, scene: Image.Image, *, difficulty: float) -> Pixels:
    """(H, W, 3) of a scene; at difficulty 0 under plain light, sharp, and hardly compressed."""
    d = difficulty
    lit = _lit(chance, scene, d)
    blur = chance.between(0, 2) * d * max(scene.size) / 320
    if blur > 0.3:
        lit = lit.filter(ImageFilter.GaussianBlur(blur))
    pixels = np.asarray(lit).astype(np.float32)
    strength = np.float32(chance.between(0, 20) * d)
    # The same in all channels, as most of what a camera adds to grey is, and a third of the time.
    grain = chance.generator.standard_normal(pixels.shape[:2], np.float32)[..., None]
    noisy = np.clip(pixels + strength * grain, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(noisy).save(out, "JPEG", quality=round(95 - d * chance.between(0, 70)))
    return np.asarray(Image.open(out).convert("RGB"))


def _lit(chance: Chance, scene: Image.Image, d: float) -> Image.Image:
    """Gain, gamma and cast by a table of each channel, then a shadow with a soft edge."""
    gain = math.exp(d * chance.between(-0.45, 0.35))
    gamma = math.exp(d * chance.between(-0.4, 0.4))
    levels = np.linspace(0, 1, 256)
    tables: list[int] = []
    for _ in range(3):
        cast = math.exp(d * chance.between(-0.22, 0.22))
        table = np.clip(gain * cast * levels**gamma, 0, 1)
        tables += [round(255 * value) for value in table.tolist()]
    lit = scene.point(tables)
    edge = ramp((48, 48), chance.between(0, 2 * math.pi))
    middle, width = chance.between(0.2, 0.8), chance.between(0.05, 0.6)
    depth = d * chance.between(0, 0.9)
    shadow = 1 - depth * np.clip((edge - middle) / width + 0.5, 0, 1)
    light = Image.fromarray((255 * shadow).astype(np.uint8)).resize(scene.size)
    return Image.composite(lit, Image.new("RGB", scene.size), light)
