"""Randomness that depends on where it is used, not on what was drawn before.

Each step of a run draws from a generator of its own, made of the seed and the step's number. A run
that was killed and resumed therefore goes on exactly as an unbroken one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator(seed: int, *place: int) -> np.random.Generator:
    """A generator for one place of a run, e.g. `generator(seed, epoch, step)`."""
    return np.random.default_rng([seed, *place])


@contextmanager
def seeded(seed: int, *place: int) -> Iterator[None]:
    """Within, PyTorch's own generators are those of this place; afterwards as they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(int(generator(seed, *place).integers(2**62)))
        yield
