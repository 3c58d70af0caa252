"""What a caller may ask of one search, without touching what other searches use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.types import Rows

Mask = NDArray[np.bool_]

Allowed = Callable[[Rows], Mask]
"""Which of an ascending array of row numbers may be answered: (N,) bools."""


@dataclass(frozen=True)
class SearchKnobs:
    """`nprobe` cells of a coded index are looked into, where None means as many as its build found
    necessary; `exact` compares with every vector."""

    nprobe: int | None = None
    exact: bool = False
