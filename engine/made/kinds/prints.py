"""Printed and painted flat things: posters in frames, books, signs."""

from __future__ import annotations

import math

from PIL import Image

from engine.made.design import Design
from engine.made.kinds.masks import full, within
from engine.made.logos import blob, logo, outline
from engine.made.palettes import mixed, readable_on, shaded
from engine.made.sheet import Sheet
from engine.made.textures import blended, noise, pattern, ramp


def poster(design: Design, side: int) -> tuple[Sheet, Image.Image, float]:
    """A framed print: a drawn landscape or still life, a title, small print."""
    style, own, look = design.style, design.own, design.palette
    wide = style.yes(0.4)
    short = round(side * style.between(0.66, 0.85))
    wood = style.pick((look.ink, (92, 60, 38), (196, 168, 120), (34, 34, 36), (225, 222, 214)))
    sheet = Sheet(side, short, wood) if wide else Sheet(short, side, wood)
    grain = noise(own.child(), (sheet.width // 4, sheet.height // 4), cells=30, octaves=2)
    sheet.paste(blended(grain, shaded(wood, 0.8), shaded(wood, 1.2)), (0, 0, 1, 1))
    inset = style.between(0.035, 0.07)
    sheet.rectangle((inset, inset, 1 - inset, 1 - inset), look.paper)
    mat = inset + style.between(0.0, 0.06)
    foot = 1 - mat - style.between(0.16, 0.26)
    area = (mat, mat, 1 - mat, foot)
    _painting(sheet, area, design)
    ink = look.ink
    title = (mat + 0.03, foot + 0.02, 1 - mat - 0.03, foot + 0.11)
    sheet.text(f"{design.words[0]} {design.words[1]}", title, ink, design.title)
    area = (mat + 0.05, foot + 0.125, 1 - mat - 0.05, 1 - mat - 0.015)
    sheet.paragraph(design.words[4:], area, ink, lines=2, ragged=own)
    return sheet, full(sheet), 0.03


def _painting(sheet: Sheet, area: tuple[float, float, float, float], design: Design) -> None:
    style, own, look = design.style, design.own, design.palette
    left, top, right, bottom = area
    part = Sheet(
        round((right - left) * sheet.width), round((bottom - top) * sheet.height), look.paper
    )
    first, second, third = look.accents
    part.paste(
        blended(ramp((8, 64), math.pi / 2), mixed(first, look.paper, 0.3), second), (0, 0, 1, 1)
    )
    abstract = style.yes()
    sun = own.between(0.2, 0.8), own.between(0.15, 0.4)
    outline(part, sun, own.between(0.1, 0.24), own, third)
    (_shapes if abstract else _landscape)(part, design)
    sheet.paste(part.image, area)


def _shapes(part: Sheet, design: Design) -> None:
    own, look = design.own, design.palette
    for _ in range(own.whole(6, 11)):
        centre = own.between(0.05, 0.95), own.between(0.1, 0.95)
        colour = mixed(own.pick(look.all()), own.pick(look.all()), own.between(0, 0.6))
        outline(part, centre, own.between(0.06, 0.28), own, colour)
    thread = [(own.between(0, 1), own.between(0, 1)) for _ in range(own.whole(3, 7))]
    part.line(thread, look.ink, 0.012)


def _landscape(part: Sheet, design: Design) -> None:
    """Four ridges, darker the nearer they are, and trees."""
    own, look = design.own, design.palette
    first, second, third = look.accents
    for layer in range(4):
        waves = [(own.between(0.5, 4) * (layer + 1), own.between(0, 6.3)) for _ in range(3)]
        ridge = []
        for x in (step / 40 for step in range(41)):
            rise = sum(math.sin(3 * f * x + phase) / (i + 1) for i, (f, phase) in enumerate(waves))
            ridge.append((x, 0.4 + 0.17 * layer + 0.08 * rise))
        tone = mixed(mixed(second, look.ink, 0.25 * layer), third, own.between(0, 0.4))
        part.polygon([*ridge, (1, 1), (0, 1)], tone)
    for _ in range(own.whole(3, 9)):
        x, y, tall = own.between(0.05, 0.95), own.between(0.6, 0.98), own.between(0.1, 0.3)
        part.line([(x, y), (x, y - tall)], shaded(look.ink, 0.8), 0.018)
        radii = blob(own, own.between(0.05, 0.12), rough=0.2)
        crown = part.around((x, y - tall), radii)
        part.draw.polygon(crown, own.pick((third, first, look.ink)))


def book(design: Design, side: int) -> tuple[Sheet, Image.Image, float]:
    """A cover: spine, pattern, title in two lines, emblem, author."""
    style, own, look = design.style, design.own, design.palette
    sheet = Sheet(round(side * style.between(0.62, 0.78)), side, look.accents[0])
    cloth, second = style.shuffled(look.accents)[:2]
    part = (64 * 3, 64 * 4)
    weave = noise(own.child(), part, cells=60, octaves=2)
    sheet.paste(blended(weave, shaded(cloth, 0.82), shaded(cloth, 1.12)), (0, 0, 1, 1))
    fields = style.whole(0, 2)
    colours = (
        mixed(cloth, second, 0.6),
        mixed(cloth, look.ink, 0.35),
        mixed(cloth, look.paper, 0.5),
    )
    if fields == 0:
        area = (0.1, 0.42, 1.0, 1.0)
    elif fields == 1:
        area = (0.1, 0.0, 1.0, 0.16)
    else:
        area = (0.55, 0.0, 1.0, 1.0)
    sheet.paste(pattern(own, part, colours), area)
    plate = style.pick((look.paper, look.ink, second))
    top = style.between(0.08, 0.2)
    sheet.rectangle((0.16, top, 0.94, top + 0.3), plate)
    ink = readable_on(plate, look)
    sheet.frame((0.18, top + 0.012, 0.92, top + 0.288), ink, 0.008)
    sheet.text(design.words[0], (0.21, top + 0.03, 0.89, top + 0.15), ink, design.title)
    sheet.text(design.words[4], (0.21, top + 0.165, 0.89, top + 0.27), ink, design.title)
    centre = (style.between(0.45, 0.65), style.between(0.6, 0.7))
    logo(sheet, centre, style.between(0.2, 0.28), own, look.all(), own.pick(design.words))
    author = (0.2, 0.89, 0.9, 0.95)
    sheet.rectangle((0.16, 0.875, 0.94, 0.965), mixed(plate, cloth, 0.2))
    sheet.text(f"{design.words[1]} {design.words[5]}", author, ink, design.plain)
    sheet.rectangle((0, 0, 0.08, 1), shaded(cloth, 0.6))
    for y in (0.1, 0.14, 0.86, 0.9):
        sheet.rectangle((0, y, 0.08, y + 0.015), second)
    sheet.line([(0.09, 0), (0.09, 1)], shaded(cloth, 0.4), 0.01)
    return sheet, full(sheet), style.between(0.05, 0.16)


def sign(design: Design, side: int) -> tuple[Sheet, Image.Image, float]:
    """A painted board of some outline: emblem, name, ornaments, scratches."""
    style, own, look = design.style, design.own, design.palette
    sheet = Sheet(side, round(side * style.between(0.6, 1.0)), look.accents[0])
    board, rim = style.shuffled(look.all())[:2]
    corners = style.pick((4, 6, 8, 40, 40))
    # Square to the sheet for four corners, on a flat side for six and eight.
    turn = math.pi / corners
    radius = 0.49 / math.cos(turn) if corners == 4 else 0.49
    stretch = sheet.width / sheet.unit

    def edge(scale: float) -> list[tuple[float, float]]:
        middle = sheet.width / 2
        ring = sheet.around((0.5, 0.5), [radius * scale] * corners, turn)
        return [(middle + (x - middle) * stretch, y) for x, y in ring]

    sheet.draw.rectangle((0, 0, sheet.width, sheet.height), rim)
    sheet.draw.polygon(edge(0.93), board)
    inside = pattern(own, (180, 120), (board, mixed(board, rim, 0.25)), fine=1.3)
    inner = Image.new("L", sheet.image.size)
    inner.paste(255, (0, 0), within(sheet, edge(0.86)))
    sheet.image.paste(inside.resize(sheet.image.size), (0, 0), inner)
    ink = readable_on(board, look)
    high = style.between(0.2, 0.34)
    logo(sheet, (0.5, high + 0.06), 0.2, own, look.all(), own.pick(design.words))
    below = high + 0.3
    sheet.rectangle((0.12, below, 0.88, below + 0.2), board)
    sheet.text(design.words[0], (0.15, below + 0.01, 0.85, below + 0.19), ink, design.title)
    sheet.text(
        f"{design.words[4]} {design.words[2]}",
        (0.24, below + 0.215, 0.76, below + 0.29),
        ink,
        design.plain,
    )
    for x in (0.13, 0.87):
        outline(sheet, (x, 0.45), 0.06, own, mixed(ink, rim, 0.4))
    wear = noise(own.child(), (sheet.width // 4, sheet.height // 4), cells=8)
    rust = Image.fromarray(((wear > 0.62) * 140).astype("uint8"))
    sheet.paste(Image.new("RGB", (8, 8), mixed(board, (110, 70, 50), 0.7)), (0, 0, 1, 1), rust)
    return sheet, within(sheet, edge(1.0)), 0.0
