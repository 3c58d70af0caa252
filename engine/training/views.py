"""Made views of photos: other framing and perspective, other light, damage, things in front."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from engine.errors import InvalidOption
from engine.training.seeds import seeded
from engine.types import Pixels

MARGIN = 1.25
"""Views are cut this much larger, so that a perspective has something to show at its corners."""

COMPOSED = 0.35
"""Share of views that are put together of two photos."""

Size = tuple[int, int]
"""Height and width, pixels."""


def cut(photo: Pixels, random: Generator, size: Size, *, smallest: float = 0.15) -> Tensor:
    """A random part of a photo, resized: area from `smallest` of it to all, aspect within 3:4.

    Returns: (3, H, W) float32 in [0, 1].
    """
    height, width = photo.shape[:2]
    aspect = size[1] / size[0] * np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
    area = random.uniform(smallest, 1.0) * height * width
    w = int(np.clip(round(np.sqrt(area * aspect)), 8, width))
    h = int(np.clip(round(np.sqrt(area / aspect)), 8, height))
    top = int(random.integers(0, height - h + 1))
    left = int(random.integers(0, width - w + 1))
    part = torch.from_numpy(np.array(photo[top : top + h, left : left + w]))
    pixels = part.permute(2, 0, 1)[None].float() / 255
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)[0]


def views(photos: Sequence[Pixels], seed: int, *place: int, size: Size) -> Tensor:
    """One clean view of each photo: framing, perspective, mirroring, composition.

    Args:
        photos: (H_i, W_i, 3) bytes each.
        seed: with `place`, decides everything that is random.
        size: of the views.

    Returns: (N, 3, H, W) float32 in [0, 1]. Raises: InvalidOption without kornia.
    """
    random = np.random.default_rng([seed, *place, 0])
    large = (round(MARGIN * size[0]), round(MARGIN * size[1]))
    cuts = torch.stack([cut(photo, random, large) for photo in photos])
    kornia = _kornia()
    with seeded(seed, *place, 1):
        tilted = kornia.RandomPerspective(0.35, p=0.7)(cuts)
        turned = kornia.RandomAffine(12.0, p=0.3, padding_mode="reflection")(tilted)
        framed = kornia.CenterCrop(size, cropping_mode="slice")(turned)
        shown: Tensor = kornia.RandomHorizontalFlip(p=0.5)(framed)
    return _composed(shown, random)


def distort(images: Tensor, seed: int, *place: int) -> Tensor:
    """What light, lens, file format and things in front do to images; every pixel stays in place.

    Args:
        images: (N, 3, H, W) in [0, 1].

    Returns: (N, 3, H, W) in [0, 1]. Raises: InvalidOption without kornia.
    """
    kornia = _kornia()
    with seeded(seed, *place, 2):
        steps = torch.nn.Sequential(
            kornia.ColorJiggle(0.3, 0.3, 0.3, 0.05, p=0.6),
            kornia.RandomGrayscale(p=0.05),
            kornia.RandomGaussianBlur((5, 5), (0.3, 1.6), p=0.25),
            kornia.RandomGaussianNoise(std=0.03, p=0.25),
            kornia.RandomJPEG((20.0, 80.0), p=0.25),
        )
        distorted: Tensor = steps(images)
    return distorted.clamp(0, 1)


def _composed(images: Tensor, random: Generator) -> Tensor:
    """Some of the images with another one, smaller, pasted somewhere over them."""
    out = images.clone()
    count, _, height, width = images.shape
    for row in np.flatnonzero(random.random(count) < COMPOSED):
        other = images[int(random.integers(count))]
        h = int(height * random.uniform(0.3, 0.8))
        w = int(width * random.uniform(0.3, 0.8))
        small = F.interpolate(
            other[None], (h, w), mode="bilinear", align_corners=False, antialias=True
        )[0]
        top, left = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
        out[row, :, top : top + h, left : left + w] = small
    return out


def _kornia() -> ModuleType:
    try:
        from kornia import augmentation
    except ImportError as error:
        raise InvalidOption(
            "making views needs kornia: pip install 'cooc-image-search[train]'"
        ) from error
    return augmentation  # type: ignore[no-any-return,unused-ignore]
