"""The maps of one image: activations, co-occurrences, spatial weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.cooccurrence import direct_cooccurrence, learned_cooccurrence
from engine.describer import Describer
from engine.explaining.grids import Grid, batch_of, grid_of
from engine.pooling.linear import spatial_weights
from engine.types import Pixels

RADIUS = 4
"""Of the direct co-occurrence where the pooling has none."""


@dataclass(frozen=True)
class ImageExplanation:
    """Maps of one image, (h, w) each, summed over the channels of the trunk's (deepest) layer.

    Attributes:
        activation: sum of A.
        direct: sum of the direct C_T, which is S of Eq 10.
        learned: the same of the learned C_T; None without a filter.
        spatial: alpha of Eq 9, from `direct`.
        radius, learned_radius: of the direct and of the learned one, positions.
    """

    activation: Grid
    direct: Grid
    learned: Grid | None
    spatial: Grid
    radius: int
    learned_radius: int | None = None


@torch.inference_mode()
def explain_image(
    describer: Describer, pixels: Pixels, cooccurrence_filter: Tensor | None = None
) -> ImageExplanation:
    """The maps of one image at its own scale.

    Args:
        cooccurrence_filter: (C, C, 2r+1, 2r+1), for the learned co-occurrence.

    Raises: ValueError for a filter that does not fit the trunk.
    """
    images = describer.normalise(batch_of(pixels))
    features = describer.features(images)[-1].float()  # (1, C, h, w)
    given = describer.pooling.options.get("radius", RADIUS)
    radius = given if isinstance(given, int) else RADIUS
    direct = direct_cooccurrence(features, radius).sum(dim=1)  # (1, h, w)
    learned = learned_radius = None
    if cooccurrence_filter is not None:
        weight = cooccurrence_filter.to(features)
        learned = grid_of(learned_cooccurrence(features, weight).sum(dim=1))
        learned_radius = weight.shape[-1] // 2
    return ImageExplanation(
        activation=grid_of(features.sum(dim=1)),
        direct=grid_of(direct),
        learned=learned,
        spatial=grid_of(spatial_weights(direct)),
        radius=radius,
        learned_radius=learned_radius,
    )
