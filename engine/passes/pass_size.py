"""How much goes into one forward pass: less after one that did not fit, slowly more again."""

from __future__ import annotations

import threading

FULL_PASSES_TO_GROW = 50
"""Passes that fit before more is tried."""
GROWTH = 1.25


class PassSize:
    """Input pixels of one pass. What was too much is remembered, and tried again with care: other
    programs take and free memory of the same device. Methods may be called from several threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pixels = float(most)
        self._full_passes = 0
        self._lock = threading.Lock()

    @property
    def pixels(self) -> int:
        return int(self._pixels)

    def images(self, pixels_each: float) -> int:
        """How many images of `pixels_each` share a pass; at least one."""
        return max(1, int(self._pixels / pixels_each))

    def failed(self, images: int, pixels_each: float) -> None:
        """A pass of so many images did not fit: at most half of them from now on."""
        with self._lock:
            self._pixels = min(self._pixels, max(1, images // 2) * pixels_each)
            self._full_passes = 0

    def passed(self, images: int, pixels_each: float) -> None:
        """A pass of so many images fitted."""
        # One that was not as large as it might have been tells nothing.
        if self._pixels == self._most or images + 1 <= self._pixels / pixels_each:
            return
        with self._lock:
            self._full_passes += 1
            if self._full_passes >= FULL_PASSES_TO_GROW:
                # By an image at least, or passes of few large images would never grow.
                grown = max(self._pixels * GROWTH, (images + 1) * pixels_each)
                self._pixels = min(float(self._most), grown)
                self._full_passes = 0
