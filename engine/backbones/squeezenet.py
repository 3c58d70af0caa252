"""SqueezeNet 1.1 without its classifier (arXiv:1602.07360)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from engine.backbones.trunk import Trunk
from engine.errors import InvalidOption


class Fire(nn.Module):
    """Squeeze to few channels, expand with 1x1 and 3x3 filters, concatenate."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, kernel_size=1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, kernel_size=1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, kernel_size=3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.squeeze_activation(self.squeeze(x))
        narrow = self.expand1x1_activation(self.expand1x1(squeezed))
        wide = self.expand3x3_activation(self.expand3x3(squeezed))
        return torch.cat([narrow, wide], dim=1)  # (B, 2 expanded, H, W)


class SqueezeNet11(Trunk):
    """SqueezeNet 1.1 up to its last fire module, `fire9`: 512 channels, stride 16."""

    name = "squeezenet1_1"
    channels = 512
    stride = 16
    layers: ClassVar[tuple[str, ...]] = ("fire9",)

    def __init__(self, layer: str = "fire9") -> None:
        super().__init__()
        if layer not in self.layers:
            raise InvalidOption(f"squeezenet1_1 has no layer {layer!r}; choose from {self.layers}")
        self.layer = layer

        def pool() -> nn.MaxPool2d:
            return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)

        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=3, stride=2),
            nn.ReLU(inplace=True),
            pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
