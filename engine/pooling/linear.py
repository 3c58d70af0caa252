"""Poolings that keep one value per channel. Tensors in, tensors out; results not normalised."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.cooccurrence import cooccurrence_vector, direct_cooccurrence
from engine.pooling.masks import apply_mask

RELATIVE_EPS = 1e-6
"""The epsilon of Eq 11 over the sum that it is compared with: the scale of activations, which
differs between trunks and preprocessings, must not decide its effect."""
PLAIN_POWER = 4.0
"""Up to here powers are taken as they are: those of 1e-6 and of 1e9 are numbers in float32."""


def mac(features: Tensor) -> Tensor:
    """Maximum activation of each channel (arXiv:1511.05879). (B, C, H, W) -> (B, C)."""
    return features.amax(dim=(2, 3))


def spoc(features: Tensor, *, centre_prior: bool = False) -> Tensor:
    """Mean activation of each channel. (B, C, H, W) -> (B, C).

    The sum of arXiv:1510.07493 up to a factor that normalisation removes; with `centre_prior`
    its Gaussian weights, `masks.centre`, come first.
    """
    weighted = apply_mask(features, "spct") if centre_prior else features
    return weighted.mean(dim=(2, 3))


def gem(features: Tensor, p: float = 3.0, eps: float = 1e-6) -> Tensor:
    """Generalised mean of each channel (arXiv:1711.02512, Eq 3). (B, C, H, W) -> (B, C).

    (mean of max(A, eps)^p)^(1/p); p = 1 is the mean, p -> infinity the maximum.
    """
    powers, scale = gem_powers(features, p, eps)
    return scale * powers.mean(dim=(2, 3)).pow(1.0 / p)


def gem_powers(features: Tensor, p: float, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """(max(A, eps) / m)^p, (B, C, H, W), and m, which is 1 or (B, C).

    Powers beyond `PLAIN_POWER` leave what float32 can hold. There m is the maximum of the channel,
    at least eps. Any m gives the same mean: it is a constant for autograd.
    """
    clamped = features.clamp(min=eps)
    if p <= PLAIN_POWER:
        return clamped.pow(p), clamped.new_ones(())
    scale = clamped.detach().amax(dim=(2, 3))
    return (clamped / scale[:, :, None, None]).pow(p), scale


def ucrow(features: Tensor) -> Tensor:
    """Sum of each channel: CroW without its weights (arXiv:1512.04065). -> (B, C)."""
    return features.sum(dim=(2, 3))


def crow(features: Tensor) -> Tensor:
    """Cross-dimensional weighting (arXiv:1512.04065): sum of alpha_p beta_k A. -> (B, C)."""
    return weighted_sum(features, *crow_weights(features))


def chco_sct(features: Tensor, cooccurrences: Tensor | None = None, *, radius: int = 4) -> Tensor:
    """Linear pooling weighted by co-occurrences, ChCO-SC_T (Eq 8-11).

    d_k = beta_k sum over positions p of alpha_p A_kp, with both weights from `cooccurrences`.

    Args:
        features: (B, C, H, W) activations A, C >= 2.
        cooccurrences: C_T of the same shape; by default the direct one with `radius`. Those of a
            learned filter may be negative: negative sums weigh nothing.

    Returns: (B, C).
    """
    if cooccurrences is None:
        cooccurrences = direct_cooccurrence(features, radius)
    return weighted_sum(features, *chco_sct_weights(cooccurrences))


def weighted_sum(features: Tensor, spatial: Tensor, channel: Tensor) -> Tensor:
    """beta_k sum over p of alpha_p A_kp: (B, C, H, W), (B, H, W), (B, C) -> (B, C) (Eq 8)."""
    return channel * torch.einsum("bchw,bhw->bc", features, spatial)


def crow_weights(features: Tensor) -> tuple[Tensor, Tensor]:
    """alpha (B, H, W) from the activations of all channels, beta (B, C) from their sparsity.

    beta_k = log(sum over l of Q_l / Q_k), where Q_k is the share of positions at which channel k
    is active; a channel that is active nowhere weighs 0.
    """
    active = (features > 0).to(features.dtype).mean(dim=(2, 3))  # (B, C)
    total = active.sum(dim=1, keepdim=True)
    channel = torch.log(total / torch.where(active > 0, active, total.clamp(min=1.0)))
    return spatial_weights(features.sum(dim=1)), torch.where(active > 0, channel, 0.0)


def chco_sct_weights(cooccurrences: Tensor) -> tuple[Tensor, Tensor]:
    """alpha (B, H, W) and beta (B, C) of co-occurrences (B, C, H, W) (Eq 9-11)."""
    per_channel = cooccurrence_vector(cooccurrences).clamp(min=0)  # V_C, (B, C)
    total = per_channel.sum(dim=1, keepdim=True)
    # An image without any co-occurrence has no weights; 0 / 0 must not reach the descriptor.
    safe = torch.where(total > 0, total, 1.0)
    channel = torch.where(total > 0, torch.log(safe / (per_channel + RELATIVE_EPS * safe)), 0.0)
    return spatial_weights(cooccurrences.sum(dim=1)), channel


def spatial_weights(total: Tensor, a: float = 2.0, b: float = 2.0) -> Tensor:
    """alpha_p = (S_p / (sum of S^a)^(1/a))^(1/b) of S (B, H, W); 0 where S is not positive (Eq 9).

    The root has no derivative at zero: such positions are constants for autograd.
    """
    positive = total > 0
    safe = torch.where(positive, total, 1.0)
    length = torch.where(positive, total, 0.0).pow(a).sum(dim=(1, 2), keepdim=True).pow(1.0 / a)
    length = torch.where(length > 0, length, 1.0)
    return torch.where(positive, (safe / length).pow(1.0 / b), 0.0)
