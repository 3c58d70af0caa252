"""Woven and thrown things: rugs and towels, vases and stones."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from engine.made.chance import Chance
from engine.made.design import Design
from engine.made.kinds.masks import full, outlined, within
from engine.made.logos import blob, logo, outline
from engine.made.palettes import mixed, shaded
from engine.made.sheet import Sheet
from engine.made.textures import blended, noise, pattern, ramp


def textile(design: Design, side: int) -> tuple[Sheet, Image.Image, float]:
    """Borders of patterns round a field with medallions; woven, so grainy."""
    style, own, look = design.style, design.own, design.palette
    sheet = Sheet(round(side * style.between(0.6, 0.95)), side, look.accents[0])
    colours = tuple(style.shuffled(look.all()))
    borders = style.whole(1, 3)
    inset = 0.0
    for _ in range(borders):
        sheet.paste(
            pattern(own, (200, 240), tuple(own.shuffled(colours)[:3]), fine=1.6),
            (inset, inset, 1 - inset, 1 - inset),
        )
        inset += style.between(0.05, 0.1)
        sheet.rectangle((inset, inset, 1 - inset, 1 - inset), look.ink)
        inset += 0.012
    field = pattern(own, (200, 240), tuple(own.shuffled(colours)[:3]))
    sheet.paste(field, (inset, inset, 1 - inset, 1 - inset))
    if style.yes(0.7):
        centre = own.child()
        medallions = style.whole(1, 3)
        for i in range(medallions):
            y = 0.5 + (i - (medallions - 1) / 2) * 0.27
            outline(sheet, (0.5, y), 0.26, centre, look.ink)
            logo(sheet, (0.5, y), 0.23, centre, look.all(), design.words[3])
    seal, colour = own.whole(0, 1 << 31), own.pick(look.all())
    for x, y in ((0.26, 0.22), (0.74, 0.22), (0.26, 0.78), (0.74, 0.78)):
        # The same in all corners, as a weaver would have it.
        outline(sheet, (x, y), 0.1, Chance("seal", seal), colour)
    thread = noise(own.child(), (sheet.width // 2, sheet.height // 2), cells=120, octaves=2)
    sheet.shade(Image.fromarray(np.clip(190 + 130 * (thread - 0.1), 0, 255).astype(np.uint8)))
    return sheet, full(sheet), 0.0


def vase(design: Design, side: int) -> tuple[Sheet, Image.Image, float]:
    """A glazed vase with painted bands, or a painted stone, lit from one side."""
    style, own, look = design.style, design.own, design.palette
    sheet = Sheet(round(side * style.between(0.6, 0.9)), side, look.accents[0])
    glaze = mixed(style.pick(look.accents), look.paper, 0.3)
    cloud = noise(own.child(), (sheet.width // 3, sheet.height // 3), cells=6)
    sheet.paste(blended((cloud - 0.2) * 1.6, shaded(glaze, 0.7), shaded(glaze, 1.2)), (0, 0, 1, 1))
    y = style.between(0.1, 0.2)
    for _ in range(style.whole(2, 4)):
        high = style.between(0.08, 0.2)
        band = pattern(own, (200, 60), tuple(own.shuffled(look.all())[:3]))
        sheet.paste(band, (0, y, 1, y + high))
        for edge in (y, y + high):
            sheet.rectangle((0, edge - 0.006, 1, edge + 0.006), look.ink)
        y += high + style.between(0.02, 0.1)
    stone = style.yes(0.4)
    for _ in range(own.whole(3, 6)):
        centre = own.between(0.15, 0.85), own.between(0.15, 0.85)
        outline(sheet, centre, own.between(0.05, 0.14), own, own.pick(look.all()))
    logo(
        sheet,
        (own.between(0.4, 0.6), own.between(0.4, 0.65)),
        0.2,
        own,
        look.all(),
        design.words[3],
    )
    light = 1 - 0.65 * ramp((48, 48), own.between(-0.3, 0.5)) ** 1.5
    sheet.shade(Image.fromarray((light * 255).astype(np.uint8)))
    if stone:
        radii = blob(own, 0.5, rough=0.2)
        stretch = sheet.height / sheet.width
        ring = sheet.around((0.5, 0.5), radii)
        middle = sheet.height / 2
        return sheet, within(sheet, [(x, middle + (v - middle) * stretch) for x, v in ring]), 0.0
    belly = [style.between(0.16, 0.3), 0.0, 0.0, 0.0, style.between(0.2, 0.34)]
    belly[1:4] = [style.between(0.15, 0.5), style.between(0.36, 0.49), style.between(0.3, 0.49)]
    side_line = [(float(np.interp(t, range(5), belly)), t / 4) for t in np.linspace(0, 4, 60)]
    smooth = _smoothed([x for x, _ in side_line])
    profile = [(0.5 - x, t) for x, (_, t) in zip(smooth, side_line, strict=True)]
    return sheet, outlined(sheet, [*profile, *((1 - x, t) for x, t in reversed(profile))]), 0.0


def _smoothed(values: list[float]) -> list[float]:
    """A running mean over a sixth of them, ends repeated."""
    wide = max(1, len(values) // 6)
    padded = [values[0]] * wide + values + [values[-1]] * wide
    return [math.fsum(padded[i : i + 2 * wide + 1]) / (2 * wide + 1) for i in range(len(values))]
