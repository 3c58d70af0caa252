"""Poolings that keep one value per channel. Tensors in, tensors out; results not normalised."""

from __future__ import annotations

from torch import Tensor


def mac(features: Tensor) -> Tensor:
    """Maximum activation of each channel (arXiv:1511.05879). (B, C, H, W) -> (B, C)."""
    return features.amax(dim=(2, 3))


def spoc(features: Tensor) -> Tensor:
    """Mean activation of each channel, without centre prior. (B, C, H, W) -> (B, C).

    The sum of arXiv:1510.07493 up to a factor that normalisation removes.
    """
    return features.mean(dim=(2, 3))


def gem(features: Tensor, p: float = 3.0, eps: float = 1e-6) -> Tensor:
    """Generalised mean of each channel (arXiv:1711.02512, Eq 3). (B, C, H, W) -> (B, C).

    (mean of max(A, eps)^p)^(1/p); p = 1 is the mean, p -> infinity the maximum.
    """
    return features.clamp(min=eps).pow(p).mean(dim=(2, 3)).pow(1.0 / p)
