"""Spatial weights that multiply a feature map before it is pooled (paper, section 4.3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

MASKS = ("none", "sptd", "spct")


def top_down(height: int, width: int) -> Tensor:
    """SpTD: 1 in the top row, falling linearly to 1 / H in the bottom row. (H, W) float32.

    The paper names the mask without a formula; this is the plainest one with its property, that
    rows weigh the more the higher they are and none is lost. It assumes upright images.
    """
    rows = 1.0 - torch.arange(height, dtype=torch.float32) / height
    return rows[:, None].expand(height, width)


def centre(height: int, width: int) -> Tensor:
    """SpCt: exp(-squared distance from the centre / (2 sigma^2)). (H, W) float32.

    sigma is a third of the distance from the centre to the nearest border, min(H, W) / 6: the
    centring prior of arXiv:1510.07493.
    """
    sigma = min(height, width) / 6
    rows = torch.arange(height, dtype=torch.float32) - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float32) - (width - 1) / 2
    squared = rows[:, None].square() + columns[None, :].square()
    # The factor of the nearest position is taken out: with an even side, none lies in the centre.
    return torch.exp(-(squared - squared.min()) / (2 * sigma * sigma))


def apply_mask(features: Tensor, name: str) -> Tensor:
    """Features (B, C, H, W) times the mask called `name`; `none` gives them back unchanged.

    Raises: ValueError for another name.
    """
    if name == "none":
        return features
    if name not in MASKS:
        raise ValueError(f"mask is {name!r}; choose from {', '.join(MASKS)}")
    make = top_down if name == "sptd" else centre
    return features * make(*features.shape[-2:]).to(features)
