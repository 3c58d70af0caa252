"""Signed square root and unit length."""

from __future__ import annotations

import torch
from torch import Tensor


def signed_sqrt(x: Tensor) -> Tensor:
    """sign(x) sqrt(|x|), element by element; any shape."""
    return x.sign() * x.abs().sqrt()


def l2_normalize(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Each row divided by its Euclidean length; a row of zeros stays zero. (..., D) -> (..., D)."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.clamp(min=eps)
