"""A small plain network in the manner of VGG (arXiv:1409.1556); its weights ship with the package.

Convolutions and rectifiers alone, one after the other: no branches, no additions. Where VGG halves
its maps by max-pooling, a 4x4 convolution of stride 2 does it here, which saves the large maps
before each pooling and keeps VGG's grid (cell i is centred on pixel 16 i + 7.5).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import nn

from engine.backbones.trunk import Layer, Trunk

CONVOLUTIONS = (
    (32, 4),
    (64, 4),
    (64, 3),
    (128, 4),
    (128, 3),
    (128, 3),
    (256, 4),
    (256, 3),
    (256, 3),
    (256, 3),
    (256, 3),
    (512, 1),
)
"""Output channels and filter size of each; those of 4x4 halve the map."""


class VGGLite(Trunk):
    """3.5 million parameters; the last map has 512 channels, stride 16."""

    name = "vgg_lite"
    table: ClassVar[dict[str, Layer]] = {
        "relu2": Layer("5", 64, 4),
        "relu3": Layer("11", 128, 8),
        "relu4": Layer("21", 256, 16),
        "relu5": Layer("23", 512, 16),
    }
    layers = tuple(table)
    default_layer = "relu5"

    @classmethod
    def network(cls) -> Iterator[tuple[str, nn.Module]]:
        inputs = 3
        for number, (width, size) in enumerate(CONVOLUTIONS):
            halving = size == 4
            convolution = nn.Conv2d(
                inputs, width, size, stride=2 if halving else 1, padding=1 if size > 1 else 0
            )
            yield str(2 * number), convolution
            yield str(2 * number + 1), nn.ReLU(inplace=True)
            inputs = width
