"""SqueezeNet 1.1 without its classifier (arXiv:1602.07360)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from engine.backbones.trunk import Layer, Trunk


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
    """SqueezeNet 1.1 up to one of its fire modules; the last has 512 channels, stride 16."""

    name = "squeezenet1_1"
    table: ClassVar[dict[str, Layer]] = {
        "fire2": Layer("3", 128, 4),
        "fire3": Layer("4", 128, 4),
        "fire4": Layer("6", 256, 8),
        "fire5": Layer("7", 256, 8),
        "fire6": Layer("9", 384, 16),
        "fire7": Layer("10", 384, 16),
        "fire8": Layer("11", 512, 16),
        "fire9": Layer("12", 512, 16),
    }
    layers = tuple(table)
    default_layer = "fire9"

    @classmethod
    def network(cls) -> Iterator[tuple[str, nn.Module]]:
        def pool() -> nn.MaxPool2d:
            return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)

        yield "0", nn.Conv2d(3, 64, kernel_size=3, stride=2)
        yield "1", nn.ReLU(inplace=True)
        yield "2", pool()
        yield "3", Fire(64, 16, 64)
        yield "4", Fire(128, 16, 64)
        yield "5", pool()
        yield "6", Fire(128, 32, 128)
        yield "7", Fire(256, 32, 128)
        yield "8", pool()
        yield "9", Fire(256, 48, 192)
        yield "10", Fire(384, 48, 192)
        yield "11", Fire(384, 64, 256)
        yield "12", Fire(512, 64, 256)
