"""Where training computes, and how finely."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.describer import choose_device, choose_dtype
from engine.errors import InvalidOption

PRECISIONS = ("auto", "float32", "mixed")


@dataclass(frozen=True)
class Compute:
    """A device and the type of its passes; parameters are float32 in any case."""

    device: torch.device
    dtype: torch.dtype

    @property
    def mixed(self) -> bool:
        return self.dtype != torch.float32

    def autocast(self) -> torch.autocast:
        """The context of a pass."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.mixed)


def choose_compute(device: str, precision: str) -> Compute:
    """`auto` is mixed precision (bfloat16) on GPUs and on CPUs with matrix units for it.

    bfloat16 has the range of float32: losses need no scaling. Raises InvalidOption.
    """
    if precision not in PRECISIONS:
        raise InvalidOption(f"precision is {precision!r}; choose from {', '.join(PRECISIONS)}")
    chosen = choose_device(device)
    if precision == "auto":
        fast = chosen.type == "cuda" or choose_dtype("auto", chosen) == torch.bfloat16
        return Compute(chosen, torch.bfloat16 if fast else torch.float32)
    return Compute(chosen, torch.bfloat16 if precision == "mixed" else torch.float32)
