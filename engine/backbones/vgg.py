"""VGG16 without its classifier (arXiv:1409.1556, configuration D)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import ClassVar

from torch import nn

from engine.backbones.trunk import Layer, Trunk

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Output channels of each 3x3 convolution; 0 stands for a 2x2 max-pooling."""


class VGG16(Trunk):
    """VGG16 up to `pool5` (stride 32, the paper's layer) or the last rectifier of a block."""

    name = "vgg16"
    table: ClassVar[dict[str, Layer]] = {
        "relu1_2": Layer("3", 64, 1),
        "relu2_2": Layer("8", 128, 2),
        "relu3_3": Layer("15", 256, 4),
        "relu4_3": Layer("22", 512, 8),
        "relu5_3": Layer("29", 512, 16),
        "pool5": Layer("30", 512, 32),
    }
    layers = tuple(table)
    default_layer = "pool5"

    @classmethod
    def network(cls) -> Iterator[tuple[str, nn.Module]]:
        number = count()
        inputs = 3
        for width in WIDTHS:
            if width == 0:
                yield str(next(number)), nn.MaxPool2d(kernel_size=2, stride=2)
            else:
                yield str(next(number)), nn.Conv2d(inputs, width, kernel_size=3, padding=1)
                # In place: the largest maps of the network are not copied.
                yield str(next(number)), nn.ReLU(inplace=True)
                inputs = width
