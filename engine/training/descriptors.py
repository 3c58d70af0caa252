"""Descriptors that gradients can pass through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.pooling import Pooling
from engine.postprocess import l2_normalize

DAMPING = 0.1


class _DampedSignedRoot(torch.autograd.Function):
    """sign(x) sqrt(|x|) with the gradient 1 / (2 (sqrt(|x|) + damping)), finite at 0.

    The true gradient is infinite where a component is zero, which sketches often have. With
    descriptors scaled to unit length the damping is relative to their typical component.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, damping: float) -> Tensor:
        root = x.abs().sqrt()
        ctx.save_for_backward(root)
        ctx.damping = damping
        return x.sign() * root

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (root,) = ctx.saved_tensors
        return gradients[0] * 0.5 / (root + ctx.damping), None


class TrainableDescriptor(nn.Module):
    """Pooling, signed root where the pooling has one, unit length: as the service does it.

    `forward` maps (B, C, h, w) activations to (B, D) descriptors.
    """

    def __init__(self, pooling: Pooling, *, damping: float = DAMPING) -> None:
        super().__init__()
        self.pooling = pooling
        self.damping = damping

    def forward(self, maps: Tensor) -> Tensor:
        pooled: Tensor = self.pooling(maps)
        if self.pooling.signed_root:
            # Typical size 1, so that the damping means the same for every image.
            size = pooled.detach().square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-12)
            pooled = _DampedSignedRoot.apply(pooled / size, self.damping)  # type: ignore[no-untyped-call]
        return l2_normalize(pooled)
