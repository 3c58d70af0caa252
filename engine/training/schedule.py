"""The learning rate at each step of a run."""

from __future__ import annotations

import math
from typing import Protocol

SCHEDULES = ("constant", "cosine", "exponential")


class Scheduled(Protocol):
    """The options that a schedule reads."""

    @property
    def learning_rate(self) -> float: ...

    @property
    def schedule(self) -> str: ...

    @property
    def decay(self) -> float: ...

    @property
    def warmup(self) -> int: ...


def learning_rate_at(options: Scheduled, step: int, steps: int, epoch_steps: int) -> float:
    """Rate of step `step` of `steps`, `epoch_steps` to an epoch.

    constant: the peak; cosine: peak (1 + cos(pi t)) / 2 with t from 0 to 1 after the warm-up;
    exponential: peak decay^epoch. Within the warm-up the rate rises linearly to that.
    """
    peak = options.learning_rate
    if options.schedule == "cosine":
        share = max(0, step - options.warmup) / max(1, steps - options.warmup)
        rate = peak * (1 + math.cos(math.pi * share)) / 2
    elif options.schedule == "exponential":
        rate = peak * options.decay ** (step // epoch_steps)
    else:
        rate = peak
    if step < options.warmup:
        rate *= (step + 1) / options.warmup
    return rate
