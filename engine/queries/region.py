"""The part of an image that a query means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.errors import BadRegion
from engine.images import MIN_SIDE, Box

Unit = Literal["px", "norm"]

TOLERANCE_PX = 1.0
"""Whoever drags a box on a scaled picture rounds: so far it may reach beyond the border."""


@dataclass(frozen=True)
class Region:
    """A box on the upright image (EXIF applied), from its top left corner.

    `unit` is `px`, pixels of the original, or `norm`, parts of its width and height.
    """

    x: float
    y: float
    width: float
    height: float
    unit: Unit = "px"

    def box(self, width: int, height: int) -> Box:
        """Left, top, right, bottom in pixels of an upright image of that size.

        Raises: BadRegion for one that is empty, too small, or not within the image.
        """
        across, down = (width, height) if self.unit == "norm" else (1, 1)
        left, top = self.x * across, self.y * down
        right, bottom = left + self.width * across, top + self.height * down
        if not (self.width > 0 and self.height > 0):
            raise BadRegion(f"the region is empty: {self.width:g} x {self.height:g}")
        beyond = max(-left, -top, right - width, bottom - height)
        # Not `beyond > ...`: what is no number is nowhere within the image.
        if not beyond <= TOLERANCE_PX:
            raise BadRegion(
                f"the region ({_box_text(left, top, right, bottom)} px) is not within the image, "
                f"which is {width} x {height} pixels when upright; its corners count from the top "
                "left"
            )
        left, top = max(0.0, left), max(0.0, top)
        right, bottom = min(float(width), right), min(float(height), bottom)
        # As they will be cut: at whole pixels.
        if min(round(right) - round(left), round(bottom) - round(top)) < MIN_SIDE:
            raise BadRegion(
                f"the region is {right - left:.4g} x {bottom - top:.4g} pixels of an image of "
                f"{width} x {height}; each side needs at least {MIN_SIDE}"
            )
        return left, top, right, bottom

    def is_whole(self, width: int, height: int) -> bool:
        """Whether it is all of an upright image of that size, to the pixel."""
        rounded = tuple(round(edge) for edge in self.box(width, height))
        return rounded == (0, 0, width, height)


def _box_text(left: float, top: float, right: float, bottom: float) -> str:
    return f"{left:g}, {top:g} to {right:g}, {bottom:g}"
