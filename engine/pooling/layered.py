"""One pooling over several layers of a trunk, concatenated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from engine.pooling.base import Pooling
from engine.postprocess import l2_normalize, signed_sqrt


class Layered(Pooling):
    """Descriptors of several maps, each L2-normalised, weighted by its length, concatenated.

    The weight is the number of values, so that the deepest layer, which has the most and is the
    best on its own, leads (the offline concatenation of the deep-retrieval experiments).
    """

    def __init__(self, branches: Sequence[Pooling]) -> None:
        super().__init__(branches[0].channels)
        self.branches = nn.ModuleList(branches)
        self.options = branches[0].options
        self.measure()

    @property
    def kind(self) -> str:
        return " + ".join(branch.kind for branch in self._all())

    def measure(self) -> None:
        """Take over what the branches have become by fitting."""
        self.unfitted = any(branch.unfitted for branch in self._all())
        self.dim = sum(branch.dim for branch in self._all())

    def forward(self, maps: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """Maps (B, C_i, H_i, W_i), one per branch -> (B, dim)."""
        parts = []
        for branch, features in zip(self._all(), maps, strict=True):
            pooled = branch(features)
            rooted = signed_sqrt(pooled) if branch.signed_root else pooled
            parts.append(l2_normalize(rooted) * branch.dim)
        return torch.cat(parts, dim=1)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for number, branch in enumerate(self._all()):
            prefix = f"branches.{number}."
            own = {
                name.removeprefix(prefix): value
                for name, value in state.items()
                if name.startswith(prefix)
            }
            branch.restore(own)
        self.measure()

    def _all(self) -> list[Pooling]:
        return [branch for branch in self.branches if isinstance(branch, Pooling)]
