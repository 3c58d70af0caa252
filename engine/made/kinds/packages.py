"""Things from a shelf: cartons and bottles."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from engine.made.design import Design
from engine.made.kinds.masks import full, outlined
from engine.made.logos import blob, logo, outline
from engine.made.palettes import mixed, readable_on, shaded
from engine.made.sheet import Point, Sheet
from engine.made.textures import blended, pattern, ramp

_QUARTER = [math.pi / 2 * i / 8 for i in range(9)]
"""Angles of a quarter of a circle, radians."""


def carton(design: Design, side: int) -> tuple[Sheet, Image.Image, float]:
    """A printed box: brand, emblem, a picture of what is in it, small print, barcode."""
    style, own, look = design.style, design.own, design.palette
    sheet = Sheet(round(side * style.between(0.62, 0.95)), side, look.accents[0])
    ground = ramp((64, 64), style.between(0, math.pi))
    first, second = style.shuffled(look.accents)[:2]
    sheet.paste(blended(ground, first, mixed(first, second, style.between(0.2, 0.9))), (0, 0, 1, 1))
    band = style.between(0.08, 0.2)
    low = style.yes()
    area = (0.0, 1 - band, 1.0, 1.0) if low else (0.0, 0.0, 1.0, band)
    sheet.paste(pattern(own, (160, 60), (look.paper, look.ink, second)), area)
    top = 0.03 if low else band + 0.02
    end = top + style.between(0.15, 0.24)
    plate = style.pick((look.paper, look.ink, second, first))
    sheet.rectangle((0.05, top, 0.95, end), plate, rounded=style.between(0, 0.1))
    turn = style.pick((0, 0, 0, 8, -8))
    inner = (0.09, top + 0.02, 0.91, end - 0.02)
    sheet.text(design.words[0], inner, readable_on(plate, look), design.title, turn=turn)
    sub = end + 0.09
    sheet.text(
        f"{design.words[4]} {design.words[5]}",
        (0.1, end + 0.015, 0.9, sub),
        readable_on(first, look),
        design.plain,
    )
    left = style.yes()
    x = 0.34 if left else 0.66
    bottom = (1 - band if low else 1.0) - 0.14
    middle = (sub + bottom) / 2
    room = 0.47 * (bottom - sub) * sheet.height / sheet.unit
    _contents(sheet, (x, middle), min(0.3, room), design)
    logo(
        sheet,
        (1 - x + (0.06 if left else -0.06), middle - 0.07),
        0.15,
        own,
        look.all(),
        own.pick(design.words),
    )
    badge = (1 - x, middle + 0.12)
    sheet.disc(badge, 0.09, look.ink)
    outline(sheet, badge, 0.12, own, look.ink)
    sheet.text(
        f"{own.whole(2, 99)}{own.pick(('%', 'g', 'x', '+'))}",
        (badge[0] - 0.07, badge[1] - 0.03, badge[0] + 0.07, badge[1] + 0.03),
        look.paper,
        design.title,
    )
    print_left = 0.05 if left else 0.4
    sheet.paragraph(
        design.words[6:],
        (print_left, bottom + 0.015, print_left + 0.55, bottom + 0.12),
        readable_on(first, look),
        lines=4,
        ragged=own,
    )
    code = 0.66 if left else 0.06
    sheet.barcode((code, bottom + 0.015, code + 0.28, bottom + 0.12), own)
    return sheet, full(sheet), style.between(0.12, 0.35)


def bottle(design: Design, side: int) -> tuple[Sheet, Image.Image, float]:
    """A bottle, jar or tin with a label round it, lit from one side."""
    style, own, look = design.style, design.own, design.palette
    glass = style.pick(look.accents)
    sheet = Sheet(round(side * style.between(0.5, 0.68)), side, glass)
    neck, shoulder = style.between(0.16, 0.42), style.between(0.08, 0.24)
    curve = style.between(0.05, 0.16)
    cap = shaded(style.pick((look.ink, *look.accents)), 0.9)
    sheet.rectangle((0, 0, 1, shoulder * 0.4), cap)
    for step in range(12):
        x = step / 12
        sheet.line([(x, 0), (x, shoulder * 0.4)], shaded(cap, 0.75), 0.012)
    top = shoulder + curve + 0.05
    bottom = style.between(0.84, 0.93)
    label = style.pick((look.paper, mixed(look.paper, look.accents[1], 0.5), look.ink))
    sheet.rectangle((0, top, 1, bottom), label)
    height = bottom - top
    edge = 0.17 * height
    strip = pattern(own, (160, 36), tuple(own.shuffled(look.all())[:3]))
    sheet.paste(strip, (0, top, 1, top + edge))
    sheet.paste(strip, (0, bottom - edge, 1, bottom))
    ink = readable_on(label, look)
    high = top + 0.19 * height
    sheet.text(design.words[0], (0.1, high, 0.9, high + 0.15 * height), ink, design.title)
    sheet.text(
        design.words[4],
        (0.22, high + 0.165 * height, 0.78, high + 0.225 * height),
        ink,
        design.plain,
    )
    spot = 0.36 if style.yes(0.3) else 0.5
    radius = min(0.36, 0.17 * height * sheet.height / sheet.unit)
    colours = (*look.accents, label, ink)
    logo(sheet, (spot, high + 0.4 * height), radius, own, colours, own.pick(design.words))
    area = (0.14, bottom - edge - 0.1 * height, 0.86, bottom - edge - 0.01 * height)
    sheet.paragraph(design.words[6:], area, ink, lines=3, ragged=own)
    sheet.shade(_round_light())
    profile = [
        (0.5 - neck, 0.0),
        (0.5 - neck, shoulder),
        *(
            (0.5 - neck - (0.49 - neck) * math.sin(t), shoulder + curve * (1 - math.cos(t)))
            for t in _QUARTER
        ),
        (0.01, 0.98),
        (0.04, 1.0),
    ]
    mirrored = [(1 - x, y) for x, y in reversed(profile)]
    return sheet, outlined(sheet, [*profile, *mirrored]), 0.0


def _contents(sheet: Sheet, centre: Point, size: float, design: Design) -> None:
    """What is in the box: a heap of like things on a plate."""
    own, look = design.own, design.palette
    sheet.disc(centre, size, look.paper)
    sheet.disc(centre, size * 0.86, mixed(look.paper, look.accents[2], 0.4))
    tone = own.pick(look.accents)
    for _ in range(own.whole(5, 14)):
        x = centre[0] + own.between(-0.6, 0.6) * size * sheet.unit / sheet.width
        y = centre[1] + own.between(-0.6, 0.6) * size * sheet.unit / sheet.height
        radius = size * own.between(0.16, 0.36)
        radii = blob(own, radius, rough=0.18)
        sheet.draw.polygon(sheet.around((x, y), [1.12 * r for r in radii]), shaded(tone, 0.5))
        sheet.draw.polygon(sheet.around((x, y), radii), shaded(tone, own.between(0.8, 1.3)))
        shine = (
            x - 0.3 * radius * sheet.unit / sheet.width,
            y - 0.3 * radius * sheet.unit / sheet.height,
        )
        sheet.disc(shine, 0.25 * radius, mixed(tone, (255, 255, 255), 0.6))


def _round_light() -> Image.Image:
    """Light on a cylinder, seen from the side: a bright stripe, dark edges."""
    light = Image.new("L", (64, 1))
    draw = ImageDraw.Draw(light)
    for x in range(64):
        u = x / 63
        level = 0.45 + 0.55 * math.sin(math.pi * min(1.0, u * 0.8 + 0.16)) ** 0.8
        draw.point((x, 0), round(255 * level))
    return light
