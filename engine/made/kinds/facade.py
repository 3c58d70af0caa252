"""Fronts of houses."""

from __future__ import annotations

from PIL import Image

from engine.made.chance import Chance
from engine.made.design import Design
from engine.made.kinds.masks import outlined
from engine.made.logos import logo
from engine.made.palettes import Colour, mixed, readable_on, shaded
from engine.made.sheet import Area, Sheet
from engine.made.textures import blended, noise, pattern


def facade(design: Design, side: int) -> tuple[Sheet, Image.Image, float]:
    """Rows of windows, cornices, a door, a shop with its sign, under a gable or a flat roof."""
    style, own, look = design.style, design.own, design.palette
    sheet = Sheet(round(side * style.between(0.6, 1.0)), side, look.accents[0])
    wall = mixed(
        style.pick(look.accents),
        style.pick(((178, 120, 90), (214, 200, 176), (150, 150, 148))),
        0.55,
    )
    part = (sheet.width // 4, sheet.height // 4)
    stain = noise(own.child(), part, cells=5)
    brick = style.yes()
    sheet.paste(blended(stain, shaded(wall, 0.75), shaded(wall, 1.15)), (0, 0, 1, 1))
    if brick:
        bricks = (shaded(wall, 0.7), wall, shaded(wall, 1.1), shaded(wall, 0.9))
        sheet.paste(Image.blend(sheet.image, _bricks(sheet, bricks, own), 0.6), (0, 0, 1, 1))
    roof = style.whole(0, 2)
    eaves = style.between(0.12, 0.22)
    tiles = style.pick((look.ink, (120, 60, 50), (70, 76, 90)))
    roof_tiles = pattern(style.child(), (160, 40), (tiles, shaded(tiles, 0.8)), fine=2.0)
    sheet.paste(roof_tiles, (0, 0, 1, eaves))
    trim = mixed(look.paper, wall, 0.2)
    sheet.rectangle((0, eaves, 1, eaves + 0.02), trim)
    shop = 1 - style.between(0.2, 0.26)
    rows, columns = own.whole(2, 3), own.whole(3, 4)
    arched, crossed = style.yes(0.4), style.whole(1, 3)
    glass, shutter = mixed(look.ink, (90, 120, 150), 0.5), style.pick(look.accents)
    shutters = style.yes()
    # A frieze of tiles, and a painted emblem in place of a window.
    shop -= 0.07
    frieze = pattern(own, (240, 20), (trim, *own.shuffled(look.all())[:2]))
    sheet.paste(frieze, (0, shop, 1, shop + 0.06))
    skipped = own.whole(0, rows * columns - 1)
    height, width = (shop - eaves - 0.05) / rows, 0.94 / columns
    for row in range(rows):
        y = eaves + 0.04 + row * height
        for column in range(columns):
            x = 0.03 + column * width
            area = (x + 0.24 * width, y + 0.12 * height, x + 0.76 * width, y + 0.86 * height)
            if row * columns + column == skipped:
                logo(
                    sheet,
                    (x + width / 2, y + height / 2),
                    0.62 * min(width, height),
                    own,
                    look.all(),
                    design.words[3],
                )
                continue
            _window(sheet, area, own, glass=glass, trim=trim, arched=arched, crossed=crossed)
            _beside(sheet, area, own, shutter if shutters else None, trim)
        if own.yes(0.6):
            sheet.rectangle(
                (0, y + height - 0.008, 1, y + height), shaded(trim, own.between(0.8, 1))
            )
    _shop(sheet, (0.0, shop + 0.07, 1.0, 1.0), design, trim, glass)
    peak = [
        [(0.0, 0.0), (1.0, 0.0)],
        [(0.0, eaves), (0.5, 0.0), (1.0, eaves)],
        [(0.0, eaves), (0.12, 0.0), (0.88, 0.0), (1.0, eaves)],
    ]
    return sheet, outlined(sheet, [*peak[roof], (1.0, 1.0), (0.0, 1.0)]), 0.0


def _window(
    sheet: Sheet,
    area: Area,
    own: Chance,
    *,
    glass: Colour,
    trim: Colour,
    arched: bool,
    crossed: int,
) -> None:
    left, top, right, bottom = area
    wide, high = right - left, bottom - top
    sheet.rectangle(
        (left - 0.1 * wide, top - 0.05 * high, right + 0.1 * wide, bottom + 0.08 * high), trim
    )
    pane = mixed(glass, (255, 214, 130), own.pick((0.0, 0.05, 0.15, 0.75)))
    sheet.rectangle(area, pane)
    if arched:
        sheet.rectangle((left, top, right, top + 0.3 * high), trim)
        sheet.ellipse((left, top, right, top + 0.6 * high), pane)
    curtain = own.whole(0, 3)
    if curtain == 1:
        sheet.rectangle((left, top + 0.02, left + 0.3 * wide, bottom), mixed(pane, trim, 0.6))
    elif curtain == 2:
        sheet.rectangle(
            (left, top + 0.1 * high, right, top + own.between(0.25, 0.7) * high),
            mixed(pane, trim, 0.5),
        )
    for bar in range(1, crossed):
        x = left + wide * bar / crossed
        sheet.line([(x, top), (x, bottom)], trim, 0.008)
    y = top + 0.42 * high
    sheet.line([(left, y), (right, y)], trim, 0.008)


def _beside(sheet: Sheet, area: Area, own: Chance, shutter: Colour | None, trim: Colour) -> None:
    """Shutters, open or half shut, a balcony or flowers: some windows have them."""
    left, top, right, bottom = area
    wide, high = right - left, bottom - top
    if shutter is not None and own.yes(0.75):
        for near in (left - 0.42 * wide, right + 0.08 * wide):
            sheet.rectangle((near, top, near + 0.34 * wide, bottom), shutter)
            for i in range(1, 6):
                y = top + high * i / 6
                sheet.line([(near, y), (near + 0.34 * wide, y)], shaded(shutter, 0.7), 0.005)
    extra = own.whole(0, 4)
    if extra == 1:
        for i in range(7):
            x = left - 0.2 * wide + 1.4 * wide * i / 6
            sheet.line([(x, bottom - 0.25 * high), (x, bottom + 0.08 * high)], (30, 30, 34), 0.006)
        sheet.line(
            [(left - 0.2 * wide, bottom - 0.25 * high), (right + 0.2 * wide, bottom - 0.25 * high)],
            (30, 30, 34),
            0.01,
        )
    elif extra == 2:
        sheet.rectangle((left, bottom, right, bottom + 0.1 * high), shaded(trim, 0.6))
        bloom = own.pick(((220, 60, 70), (240, 190, 60), (200, 110, 200), (240, 240, 240)))
        for i in range(6):
            x = left + wide * (i + 0.5) / 6
            sheet.disc((x, bottom - 0.02 * high), 0.014, own.pick((bloom, (60, 120, 60))))


def _shop(sheet: Sheet, area: Area, design: Design, trim: Colour, glass: Colour) -> None:
    style, own, look = design.style, design.own, design.palette
    _, top, _, bottom = area
    front = style.pick((*look.accents, look.ink))
    sheet.rectangle(area, shaded(front, 0.8))
    board = top + 0.075
    plate = style.pick((look.paper, look.ink))
    sheet.rectangle((0.03, top + 0.01, 0.97, board), plate)
    ink = readable_on(plate, look)
    sheet.text(
        f"{design.words[0]} {design.words[4]}",
        (0.06, top + 0.015, 0.94, board - 0.006),
        ink,
        design.title,
    )
    door = own.pick((0.08, 0.42, 0.74))
    for left, right in ((0.05, 0.35), (0.37, 0.63), (0.66, 0.95)):
        is_door = left - 0.05 < door < right
        colour = own.pick(look.accents) if is_door else mixed(glass, look.paper, 0.25)
        sheet.rectangle((left, board + 0.015, right, bottom if is_door else bottom - 0.03), trim)
        inside = (left + 0.015, board + 0.025, right - 0.015, bottom if is_door else bottom - 0.04)
        sheet.rectangle(inside, colour)
        if not is_door:
            logo(
                sheet,
                ((left + right) / 2, (board + bottom) / 2),
                0.055,
                own,
                look.all(),
                design.words[2],
            )


def _bricks(sheet: Sheet, colours: tuple[Colour, ...], own: Chance) -> Image.Image:
    """Courses of bricks over the whole sheet, each brick of its own shade."""
    rows, across = 34, 14
    small = Sheet(sheet.width // 2, sheet.height // 2, colours[0])
    for row in range(rows):
        for i in range(-1, across):
            x = (i + 0.5 * (row % 2)) / across
            area = (x + 0.006, row / rows + 0.005, x + 1 / across, (row + 1) / rows)
            small.rectangle(area, own.pick(colours[1:]))
    return small.image.resize(sheet.image.size)
