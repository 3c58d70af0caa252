"""What every trunk offers: a feature map and the names needed to describe it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Trunk(nn.Module):
    """A convolutional network cut off before its classifier.

    `forward` maps (B, 3, H, W) normalised images to (B, channels, H // stride, W // stride)
    activations (up to rounding). Parameter names are those of torchvision's models
    (`features.0.weight`, ...), so its files load without renaming.
    """

    name: str
    layer: str
    channels: int
    stride: int
    features: nn.Sequential

    def forward(self, images: Tensor) -> Tensor:
        activations: Tensor = self.features(images)
        return activations

    def prepare(self, device: torch.device, dtype: torch.dtype) -> Trunk:
        """Frozen, in evaluation mode, channels last (the faster layout on CPU and GPU)."""
        self.eval().requires_grad_(False)
        self.to(device=device, dtype=dtype)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self
