"""What was fitted, and how it is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Decimal
from itertools import pairwise
from typing import Any

import numpy as np

from engine.errors import CorruptIndex, InvalidOption, TooFewImages
from engine.types import Json, Vectors

VERSION = 1
PAIRS_PER_ERROR = 20
"""A rate can be asked for from where so many of the pairs are expected above its threshold: their
number is then known to about a fifth. With every eighth image left out of the projection that are
140 images for a rate of .01 and 430 for .001."""
MAX_RATE = 0.5


@dataclass(frozen=True)
class Calibration:
    """How scores of a collection are to be read.

    The probability of same origin is the share of matches among pairs of that score, where as many
    matches as non-matches are compared. A match is a photo and a made copy of it (cropped, scaled,
    recompressed, recoloured, seen at an angle: `engine.made.transforms`), a non-match two photos of
    the collection taken at random. It says how much a score speaks for a match, not how likely one
    was beforehand: among the best of a million images there are high scores by chance. For that
    there is `threshold`: of the images that a query is compared with, about so many pass.

    Attributes:
        scores, probabilities: the curve, both ascending; linear in between.
        rates, thresholds: false-positive rates, descending, and the scores that they need,
            ascending. In half of the pairs a stored photo asks, in the others one on which the
            projection was not fitted, as none is on a new one.
        near: from here on a hit is `near`: a probability of .95 or more, and at most one in a
            thousand non-matches scores as high.
        images, matches, pairs: what it was fitted on; pairs are non-matches.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    rates: tuple[float, ...]
    thresholds: tuple[float, ...]
    near: float
    images: int
    matches: int
    pairs: int

    def probability(self, scores: Vectors) -> Vectors:
        """(N,) similarities to (N,) probabilities of same origin, never falling with the score."""
        return np.interp(scores, self.scores, self.probabilities).astype(np.float32)

    def threshold(self, max_fpr: float) -> float:
        """The similarity that at most about `max_fpr` of images of other origin reach.

        Raises: InvalidOption outside (0, 0.5], TooFewImages for a rate that the collection was too
            small to show: nothing is extrapolated, as the highest scores of a collection come from
            its few alike photos and follow no law.
        """
        if not 0 < max_fpr <= MAX_RATE:
            raise InvalidOption(f"max_fpr is {max_fpr}; it must be above 0 and at most {MAX_RATE}")
        if not self.rates or max_fpr < self.rates[-1]:
            lowest = f"rates from {_rounded_up(self.rates[-1])} on" if self.rates else "no rate"
            raise TooFewImages(
                f"max_fpr is {max_fpr:g}, but the {self.images:,} images of the last build can "
                f"only tell {lowest}; ask for a higher one, or add images and build the index again"
            )
        # Not between two: where scores have a gap, one within it lets in what is below.
        return next(t for r, t in zip(self.rates, self.thresholds, strict=True) if r <= max_fpr)

    def to_json(self) -> Json:
        """A plain object; `from_json` gives the calibration back."""
        entries = asdict(self).items()
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in entries}
        return {"version": VERSION, **plain}

    @classmethod
    def from_json(cls, value: object) -> Calibration:
        """Raises CorruptIndex for anything that `to_json` cannot have written."""
        try:
            return cls._parsed(value)
        except ValueError as error:
            raise CorruptIndex(
                f"the calibration of the scores is damaged ({error}); build the index again"
            ) from error

    @classmethod
    def _parsed(cls, value: object) -> Calibration:
        """Raises ValueError."""
        if not isinstance(value, dict) or value.get("version") != VERSION:
            raise ValueError(f"it is not of version {VERSION}")
        known = {"version", *cls.__dataclass_fields__}
        if set(value) != known:
            raise ValueError(f"entries differ: {', '.join(sorted(set(value) ^ known))}")
        names = ("scores", "probabilities", "rates", "thresholds")
        scores, probabilities, rates, thresholds = (_numbers(value, name) for name in names)
        near = _number(value["near"], "near")
        images, matches, pairs = (_count(value, name) for name in ("images", "matches", "pairs"))
        if not scores or len(scores) != len(probabilities) or len(rates) != len(thresholds):
            raise ValueError("lists that belong together differ in length")
        for name, numbers in (("scores", scores), ("probabilities", probabilities)):
            _check_rising(name, numbers)
        _check_rising("thresholds", thresholds)
        _check_rising("rates", rates[::-1])
        if not (0 <= probabilities[0] and probabilities[-1] <= 1):
            raise ValueError("a probability is outside [0, 1]")
        if rates and not (0 < rates[-1] and rates[0] <= MAX_RATE):
            raise ValueError(f"a rate is outside (0, {MAX_RATE}]")
        return cls(scores, probabilities, rates, thresholds, near, images, matches, pairs)


def _rounded_up(rate: float) -> str:
    """Two digits that can be asked for: the nearest two may be a lower rate."""
    written = Decimal(repr(rate))  # as people write it, and not what a double makes of it
    step = Decimal(1).scaleb(written.adjusted() - 1)
    return f"{float(written.quantize(step, ROUND_CEILING)):g}"


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} holds {value!r}, which is no number")
    return float(value)


def _numbers(value: Mapping[str, Any], name: str) -> tuple[float, ...]:
    if not isinstance(value[name], list):
        raise ValueError(f"{name} is no list")
    return tuple(_number(entry, name) for entry in value[name])


def _count(value: Mapping[str, Any], name: str) -> int:
    count = value[name]
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"{name} is {count!r}, not a count")
    return count


def _check_rising(name: str, numbers: Sequence[float]) -> None:
    if any(later < earlier for earlier, later in pairwise(numbers)):
        raise ValueError(f"{name} are out of order")
