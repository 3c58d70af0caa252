"""A trunk that learns slowly, beside something new that learns fast."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from engine.backbones.trunk import Trunk


class AdjustedTrunk(nn.Module):
    """A trunk whose parameters are w + r c: w as they were loaded, of which only c is learned.

    Optimisers like Adam move every parameter by about the learning rate; here the trunk's move by
    r of it. Weight decay draws them to what was loaded, not to zero. Batch norms stay as they
    are, for a batch of one thing's photos says little about others.
    """

    def __init__(self, trunk: Trunk, *, rate: float) -> None:
        """`trunk` is in float32 and not prepared; it is frozen."""
        super().__init__()
        # In a tuple, so that it is no part of the state dict: what was loaded can be loaded again.
        self._loaded = (trunk.eval().requires_grad_(False),)
        self.rate = rate
        norms = {name for name, module in trunk.named_modules() if hasattr(module, "running_mean")}
        self._names = [
            name for name, _ in trunk.named_parameters() if name.rpartition(".")[0] not in norms
        ]
        self.changes = nn.ParameterList(
            nn.Parameter(torch.zeros_like(trunk.get_parameter(name))) for name in self._names
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to the deepest map, (B, C, h, w)."""
        trunk = self._at_home()
        maps: Tensor = functional_call(trunk, self._adjusted(trunk), (images,))
        return maps

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """State dict of a trunk that does the same; float32 copies on the CPU."""
        trunk = self._at_home()
        state = {**trunk.state_dict(), **self._adjusted(trunk)}
        return {name: value.detach().float().cpu().clone() for name, value in state.items()}

    def _adjusted(self, trunk: Trunk) -> dict[str, Tensor]:
        return {
            name: trunk.get_parameter(name) + self.rate * change
            for name, change in zip(self._names, self.changes, strict=True)
        }

    def _at_home(self) -> Trunk:
        """The trunk, where the changes are."""
        (trunk,) = self._loaded
        return trunk.to(next(iter(self.changes)).device)
