"""A describer that knows its recipe and has no model: to open an index whose images are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from engine.describer import Describer, DescriberOptions
from engine.errors import WeightsUnavailable
from engine.images import Box, Cut, DecodedImage
from engine.learned_copies import read_copy
from engine.pooling import Pooling
from engine.types import Pixels, Recipe, Vectors


class StoredDescriber(Describer):
    """Stands where a `Describer` is asked for; searches by id need no more.

    Snapshots are proven on machines that have neither the weights nor a network.
    """

    def __init__(self, data_dir: Path, recipe: Recipe, precision: str = "float32") -> None:
        """Reads the index's own copy of a learned projection. Raises CorruptIndex."""
        self.options = DescriberOptions(projection_dim=recipe.projection_dim)
        self.device = torch.device("cpu")
        self._recipe = recipe
        self._precision = precision
        digest = recipe.projection_digest
        self.projection = read_copy(data_dir, digest, "--projection").projection if digest else None

    @property
    def recipe(self) -> Recipe:
        return self._recipe

    @property
    def precision(self) -> str:
        return self._precision

    def decode(
        self, data: bytes, *, box: Box | Cut | None = None, upright: bool = True
    ) -> DecodedImage:
        raise _no_model()

    def describe_with(self, images: Sequence[Pixels], poolings: Sequence[Pooling]) -> list[Vectors]:
        raise _no_model()

    def describe(self, images: Sequence[Pixels]) -> NoReturn:
        raise _no_model()


def _no_model() -> WeightsUnavailable:
    return WeightsUnavailable("this index was opened without its model; describe with another")
