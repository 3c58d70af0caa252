"""VGG16 without its classifier (arXiv:1409.1556, configuration D)."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from engine.backbones.trunk import Trunk
from engine.errors import InvalidOption

WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Output channels of each 3x3 convolution; 0 stands for a 2x2 max-pooling."""


class VGG16(Trunk):
    """VGG16 up to `pool5` (stride 32, the paper's layer) or `relu5_3` (stride 16)."""

    name = "vgg16"
    channels = 512
    layers: ClassVar[tuple[str, ...]] = ("pool5", "relu5_3")

    def __init__(self, layer: str = "pool5") -> None:
        super().__init__()
        if layer not in self.layers:
            raise InvalidOption(f"vgg16 has no layer {layer!r}; choose from {self.layers}")
        self.layer = layer
        self.stride = 32 if layer == "pool5" else 16
        modules: list[nn.Module] = []
        inputs = 3
        for width in WIDTHS if layer == "pool5" else WIDTHS[:-1]:
            if width == 0:
                modules.append(nn.MaxPool2d(kernel_size=2, stride=2))
            else:
                # In place: the largest maps of the network are not copied.
                convolution = nn.Conv2d(inputs, width, kernel_size=3, padding=1)
                modules += [convolution, nn.ReLU(inplace=True)]
                inputs = width
        self.features = nn.Sequential(*modules)
