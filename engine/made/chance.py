"""Random choices that depend on what they are for and on nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Chance:
    """A stream of random choices, the same for the same name and numbers.

    The name keeps streams apart that have equal numbers; a use always gives as many numbers.
    """

    def __init__(self, name: str, *numbers: int) -> None:
        self.generator = np.random.default_rng([zlib.crc32(name.encode()), *numbers])

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * float(self.generator.random())

    def whole(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return int(self.generator.integers(low, high + 1))

    def pick(self, options: Sequence[T]) -> T:
        return options[self.whole(0, len(options) - 1)]

    def yes(self, probability: float = 0.5) -> bool:
        return float(self.generator.random()) < probability

    def sign(self) -> int:
        return 1 if self.yes() else -1

    def shuffled(self, options: Sequence[T]) -> list[T]:
        return [options[i] for i in self.generator.permutation(len(options))]

    def child(self) -> Chance:
        """A stream of its own, so that what it is used for does not move this one."""
        return Chance("child", int(self.generator.integers(0, 1 << 32)))
