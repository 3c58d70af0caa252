"""Made-up images as they are stored, for tests that need no model."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from engine.types import NewImage, Recipe, Vectors

RAW_DIM = 96

RECIPE = Recipe(
    backbone="squeezenet1_1",
    layer="fire9",
    weights="untrained",
    weights_digest="0" * 64,
    max_side=128,
    scales=(1.0,),
    pooling="gem",
    pooling_options={"p": 3.0},
    pooling_digest="1" * 64,
    raw_dim=RAW_DIM,
    projection_dim=16,
    projection_power=0.25,
)


def other_recipe(**changes: Any) -> Recipe:
    """The recipe with some entries changed."""
    return replace(RECIPE, **changes)


def unit_vectors(count: int, dim: int = RAW_DIM, seed: int = 0) -> Vectors:
    """(count, dim) float32 rows of length 1."""
    values = np.random.default_rng(seed).standard_normal((count, dim))
    unit: Vectors = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return unit


def an_image(image_id: str, *, seed: int = 0, dim: int = RAW_DIM, **changes: Any) -> NewImage:
    """An image whose descriptor and digest are decided by `seed`."""
    image = NewImage(
        id=image_id,
        digest=hashlib.sha256(str(seed).encode()).hexdigest(),
        width=64,
        height=48,
        format="JPEG",
        metadata={"seed": seed},
        thumbnail=b"thumbnail %d" % seed,
        descriptor=unit_vectors(1, dim, seed)[0],
    )
    return replace(image, **changes)
