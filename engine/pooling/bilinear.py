"""Compact bilinear pooling by tensor sketch (paper, section 4.2; arXiv:1511.06062)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def bilinear(x: Tensor, y: Tensor) -> Tensor:
    """Sum over positions p of x_p (outer) y_p (Eq 12): two (B, C, H, W) -> (B, C, C).

    Raises: ValueError if the shapes differ.
    """
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}, y {tuple(y.shape)}; both (B, C, H, W)")
    batch, channels = x.shape[:2]
    left = x.permute(0, 2, 3, 1).reshape(batch, -1, channels)  # (B, HW, C)
    right = y.permute(0, 2, 3, 1).reshape(batch, -1, channels)  # (B, HW, C)
    return torch.bmm(left.transpose(1, 2), right)


class CompactBilinear(nn.Module):
    """Sketch of the bilinear pooling sum over positions p of x_p (outer) y_p (Eq 12).

    The sketch of one position is the circular convolution of two count sketches,
    psi(x)[j] = sum over {t : h[t] = j} of s[t] x[t]   (arXiv:1511.06062, Algorithm 2),
    and convolving them adds each product x[i] y[j] to bucket (h1[i] + h2[j]) mod dim with sign
    s1[i] s2[j]. Summed over positions those products are the entries of one C x C matrix: it is
    made by a single matrix product and then dropped into the buckets. No FFT is needed.

    The hash functions are part of the model and are saved as the buffers h1, s1, h2, s2. They
    are drawn from NumPy's frozen legacy generator with the seeds 1, 3, 5, 7 (plus `seed`), those
    of the common reference implementation, so `seed=0` reproduces its values.
    """

    h1: Tensor
    s1: Tensor
    h2: Tensor
    s2: Tensor
    _buckets: Tensor
    _signs: Tensor

    def __init__(self, channels: int, dim: int = 8192, seed: int = 0) -> None:
        """
        Args:
            channels: C of both inputs, at least 1.
            dim: buckets of the sketch, at least 1.
            seed: which hash functions; equal seeds give equal sketches.
        """
        super().__init__()
        if channels < 1 or dim < 1:
            raise ValueError(f"channels is {channels}, dim is {dim}; both must be at least 1")
        self.channels, self.dim = channels, dim
        for name, offset in (("h1", 1), ("s1", 3), ("h2", 5), ("s2", 7)):
            draw = np.random.RandomState(seed + offset)
            if name.startswith("h"):
                values = torch.from_numpy(draw.randint(dim, size=channels).astype(np.int64))
            else:
                signs = 2 * draw.randint(2, size=channels) - 1
                values = torch.from_numpy(signs.astype(np.float32))
            self.register_buffer(name, values)
        # Made from the hashes once, not at every call; they follow them when they are loaded.
        self.register_buffer("_buckets", None, persistent=False)
        self.register_buffer("_signs", None, persistent=False)
        _follow_hashes(self)
        self.register_load_state_dict_post_hook(_follow_hashes)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The raw sketch, neither rooted nor normalised.

        Args:
            x: (B, C, H, W) float.
            y: (B, C, H, W) float.

        Returns: (B, dim), dtype and device of `x`. Raises ValueError if the shapes do not fit.
        """
        if x.shape != y.shape or x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, y {tuple(y.shape)}; "
                f"both must be (B, {self.channels}, H, W)"
            )
        products = bilinear(x, y).mul_(self._signs.to(x.dtype))  # (B, C, C)
        sketch = x.new_zeros(x.shape[0], self.dim)
        return sketch.index_add_(1, self._buckets, products.flatten(1))

    def expand(self, sketch: Tensor) -> Tensor:
        """The transpose of the sketch: what each pair of channels sees of (B, dim) values.

        <forward(x, y), v> = sum over i, j of bilinear(x, y)[i, j] expand(v)[i, j].

        Returns: (B, C, C).
        """
        seen = sketch[:, self._buckets].reshape(-1, self.channels, self.channels)
        return seen * self._signs.to(sketch.dtype)


def _follow_hashes(module: CompactBilinear, _: object = None) -> None:
    """(C C,) bucket and (C, C) sign of each pair of channels."""
    module._buckets = (module.h1[:, None] + module.h2).remainder(module.dim).reshape(-1)
    module._signs = module.s1[:, None] * module.s2
