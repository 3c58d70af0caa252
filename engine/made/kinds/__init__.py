"""Painters by the kind of object they draw."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from engine.made.design import Design
from engine.made.kinds.facade import facade
from engine.made.kinds.packages import bottle, carton
from engine.made.kinds.prints import book, poster, sign
from engine.made.kinds.shapes import textile, vase
from engine.made.sheet import Sheet

Painter = Callable[[Design, int], tuple[Sheet, Image.Image, float]]
"""From a design and the longest side in pixels: colours, mask (L) and depth."""

KINDS: dict[str, Painter] = {
    "carton": carton,
    "bottle": bottle,
    "poster": poster,
    "book": book,
    "facade": facade,
    "sign": sign,
    "textile": textile,
    "vase": vase,
}
