"""Which positions of two images make their score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from engine.describer import Describer
from engine.errors import InvalidOption
from engine.explaining.grids import Grid, batch_of, grid_of, spread
from engine.pooling import Pooling, format_spec, parse_spec
from engine.pooling.layered import Layered
from engine.postprocess import signed_sqrt
from engine.types import Pixels


@dataclass(frozen=True)
class PairExplanation:
    """What each position of two images adds to their score.

    Attributes:
        score: cosine of the two raw descriptors; for the compact bilinear poolings that of the
            full bilinear descriptors, of which theirs are sketches.
        served_score: cosine of the raw descriptors that the index holds.
        first, second: (h, w) parts of the first and of the second image; each sums to `score`.
    """

    score: float
    served_score: float
    first: Grid
    second: Grid


def explain_pair(describer: Describer, first: Pixels, second: Pixels) -> PairExplanation:
    """Share out the score of two images among the positions of each; see `explain_pairs`."""
    (explanation,) = explain_pairs(describer, first, [second])
    return explanation


@torch.inference_mode()
def explain_pairs(
    describer: Describer, first: Pixels, others: Sequence[Pixels]
) -> list[PairExplanation]:
    """Share out the score of an image with each of some others among the positions of both.

    A descriptor is d = sum over scales s of f_s r(x_s), where x_s is pooled, r the signed root
    (or nothing), and f_s what the L2 norms divide by. Its product with a target t is therefore
    sum over s of <x_s, w_s> with w_s = f_s t / sqrt|x_s| (0 where x_s is 0), and
    `Pooling.shares` tells what each position adds to <x_s, w_s>. The target is the other image's
    descriptor. Maps of several scales and layers are brought to the finest grid, keeping sums.

    Raises: InvalidOption for a pooling that has to be fitted on a collection first.
    """
    if describer.pooling.unfitted:
        raise InvalidOption(
            f"pooling {describer.options.pooling} is fitted on a collection; two images alone "
            "cannot be explained with it: leave out whiten=yes"
        )
    pooling = _unsketched(describer)
    sketched = pooling is not describer.pooling
    scales = list(describer.maps(batch_of(first)))
    one = _Described(pooling, scales)
    left = _Described(describer.pooling, scales).vector if sketched else one.vector
    explanations = []
    for pixels in others:
        scales = list(describer.maps(batch_of(pixels)))
        other = _Described(pooling, scales)
        right = _Described(describer.pooling, scales).vector if sketched else other.vector
        explanations.append(
            PairExplanation(
                score=float(one.vector @ other.vector),
                served_score=float(left @ right),
                first=one.shares(other.vector),
                second=other.shares(one.vector),
            )
        )
    return explanations


@dataclass(frozen=True)
class _Part:
    """One layer at one scale: `factor` times its (rooted) pooled values is in the descriptor."""

    branch: Pooling
    features: Tensor  # (1, C, h, w)
    pooled: Tensor  # (dim,) float64
    factor: float

    def values(self) -> Tensor:
        rooted = signed_sqrt(self.pooled) if self.branch.signed_root else self.pooled
        return self.factor * rooted

    def shares(self, target: Tensor) -> Grid:
        """What each position adds to <values, target>: (h, w)."""
        weights = self.factor * target
        if self.branch.signed_root:
            root = self.pooled.abs().sqrt()
            weights = torch.where(root > 0, weights / root, 0.0)
        return grid_of(self.branch.shares(self.features, weights[None].to(self.features)))


class _Described:
    """The descriptor of one image as the sum that it is, in float64 from the pooled values on."""

    def __init__(self, pooling: Pooling, scales: Sequence[Sequence[Tensor]]) -> None:
        modules = pooling.branches if isinstance(pooling, Layered) else [pooling]
        branches = [module for module in modules if isinstance(module, Pooling)]
        self._scales = []
        for maps in scales:
            parts = []
            for branch, features in zip(branches, maps, strict=True):
                part = _Part(branch, features, branch(features)[0].double(), 1.0)
                # Each layer has unit length times its number of values; see `Layered`.
                parts += _scaled([part], branch.dim / _length([part]))
            self._scales.append(_scaled(parts, 1.0 / _length(parts)))
        total = float(self._sum().norm())
        self._scales = [_scaled(parts, 1.0 / (total or math.inf)) for parts in self._scales]
        self.vector = self._sum()  # (D,)

    def _sum(self) -> Tensor:
        return torch.stack([_vector(parts) for parts in self._scales]).sum(dim=0)

    def shares(self, target: Tensor) -> Grid:
        """What each position adds to <vector, target>: (h, w) on the finest grid."""
        grids = []
        for parts in self._scales:
            own = torch.split(target, [part.branch.dim for part in parts])
            grids += [part.shares(piece) for part, piece in zip(parts, own, strict=True)]
        height, width = (max(grid.shape[axis] for grid in grids) for axis in (0, 1))
        total: Grid = np.sum([spread(grid, height, width) for grid in grids], axis=0)
        return total


def _vector(parts: Sequence[_Part]) -> Tensor:
    return torch.cat([part.values() for part in parts])


def _length(parts: Sequence[_Part]) -> float:
    """Infinite where there is nothing, so that nothing divided by it stays nothing."""
    return float(_vector(parts).norm()) or math.inf


def _scaled(parts: Sequence[_Part], factor: float) -> list[_Part]:
    return [replace(part, factor=part.factor * factor) for part in parts]


def _unsketched(describer: Describer) -> Pooling:
    """The full bilinear pooling behind a compact one, with its options; others are themselves."""
    name, _ = parse_spec(describer.options.pooling)
    if not name.startswith("cbp_"):
        return describer.pooling
    options = {
        key: value for key, value in describer.pooling.options.items() if key not in ("dim", "seed")
    }
    return describer.build_pooling(format_spec(name.removeprefix("c"), options))
