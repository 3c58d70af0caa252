"""Activations of photos under a frozen trunk, kept in memory as far as they fit."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.describer import Describer
from engine.errors import EngineError, TrainingFailed
from engine.evaluation.descriptors import ImagePart

log = logging.getLogger(__name__)


class MapCache:
    """The map of each photo as the service computes it, at one scale.

    Every photo passes the trunk alone and is rounded to 16 bits, kept or not: what is learned
    depends neither on how much fits into memory nor on where a run was broken off.
    """

    def __init__(self, describer: Describer, *, cache_bytes: int) -> None:
        """Args:
        cache_bytes: of maps that are kept; what comes later is computed whenever it is needed.
        """
        self._describer = describer
        self._free = cache_bytes
        self._kept: dict[Path, Tensor] = {}
        self._left_out: dict[Path, str] = {}
        # What a trunk in bfloat16 gives is kept without a loss.
        self._dtype = torch.bfloat16 if describer.dtype == torch.bfloat16 else torch.float16

    @property
    def left_out(self) -> dict[Path, str]:
        """Photos that cannot be read, and why."""
        return dict(self._left_out)

    def stream(self, files: Sequence[Path]) -> Iterator[tuple[int, Tensor]]:
        """Position in `files` and map (1, C, h, w) float32 of each photo, in their order.

        Photos that cannot be read are left out, with one warning each.
        """
        wanted = [file for file in files if file not in self._kept and file not in self._left_out]
        missing = set(wanted)
        loaded = self._load(wanted)
        for position, file in enumerate(files):
            if file in missing:
                features = next(loaded)
                if features is None:
                    continue
            elif file in self._left_out:
                continue
            else:
                features = self._kept[file]
            yield position, features.to(self._describer.device).float()

    def read(self, files: Sequence[Path]) -> list[Tensor]:
        """Maps of photos that could be read before. Raises: TrainingFailed."""
        found = dict(self.stream(files))
        for position, file in enumerate(files):
            if position not in found:
                raise TrainingFailed(
                    f"{file} can no longer be read ({self._left_out.get(file)}); "
                    "put it back and go on with --resume"
                )
        return [found[position] for position in range(len(files))]

    def _load(self, files: Sequence[Path]) -> Iterator[Tensor | None]:
        """Map of each photo, in their order; None for one that cannot be read."""
        for window in self._describer.load((file, ImagePart(file)) for file in files):
            for file, pixels in window:
                if isinstance(pixels, EngineError):
                    if file not in self._left_out:
                        log.warning("left out %s: %s", file, pixels)
                    self._left_out[file] = str(pixels)
                    yield None
                    continue
                features = self._compute(torch.from_numpy(np.stack([pixels])))
                self._keep(file, features)
                yield features

    @torch.no_grad()  # inference tensors could not be learned from
    def _compute(self, pixels: Tensor) -> Tensor:
        ((features,),) = self._describer.maps(pixels)
        limit = torch.finfo(self._dtype).max
        return features.clamp(max=limit).to(self._dtype)

    def _keep(self, file: Path, features: Tensor) -> None:
        size = features.numel() * features.element_size()
        if size <= self._free and file not in self._kept:
            self._free -= size
            self._kept[file] = features.cpu()
