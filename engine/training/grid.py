"""Where the cells of a feature map lie in the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.backbones.squeezenet import Fire
from engine.backbones.trunk import Trunk
from engine.errors import InvalidOption

SHORTCUT = "downsample"
"""Of a residual block."""


@dataclass(frozen=True)
class Grid:
    """Cell i is centred on pixel `first + stride * i`, counted from the middle of pixel 0."""

    first: float
    stride: int

    def centres(self, cells: int) -> Tensor:
        """(cells,) float32 pixels."""
        return self.first + self.stride * torch.arange(cells, dtype=torch.float32)

    def is_symmetric(self, cells: int, side: int) -> bool:
        """Whether cells lie in a mirrored image of `side` pixels where they lie in the image."""
        return 2 * self.first + self.stride * (cells - 1) == side - 1


def grid_of(trunk: Trunk) -> Grid:
    """The grid of the deepest map of a trunk.

    Shortcuts are passed over: what they lead around decides where a cell lies.

    Raises: InvalidOption for a trunk whose branches this does not know.
    """
    first, stride = 0.0, 1
    for name, module in trunk.named_modules():
        if SHORTCUT in name.split("."):
            continue
        if isinstance(module, Fire | nn.Sequential | Trunk):
            continue
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            size, step, padding = (_side(value) for value in _geometry(module))
            first += ((size - 1) / 2 - padding) * stride
            stride *= step
    if stride != trunk.stride:
        raise InvalidOption(
            f"where the cells of {trunk.name} lie is not known (stride {trunk.stride}, not "
            f"{stride}); choose another trunk"
        )
    return Grid(first, stride)


def cells_of(trunk: Trunk, height: int, width: int) -> tuple[int, int]:
    """Height and width of the trunk's deepest map of an image; nothing is computed."""
    with torch.device("meta"):
        shape = type(trunk)(trunk.layer)(torch.empty(1, 3, height, width)).shape
    return int(shape[2]), int(shape[3])


def sample(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Maps at places between their cells, bilinear; beyond the border its value.

    Args:
        maps: (B, C, h, w).
        rows: (h',) places in units of cells; columns: (w',) likewise.

    Returns: (B, C, h', w').
    """
    height, width = maps.shape[-2:]
    y = 2 * rows / max(height - 1, 1) - 1 if height > 1 else torch.zeros_like(rows)
    x = 2 * columns / max(width - 1, 1) - 1 if width > 1 else torch.zeros_like(columns)
    places = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)  # (h', w', 2)
    places = places.to(maps).expand(len(maps), *places.shape)
    return F.grid_sample(maps, places, padding_mode="border", align_corners=True)


def _geometry(module: nn.Conv2d | nn.MaxPool2d) -> tuple[object, object, object]:
    return module.kernel_size, module.stride, module.padding


def _side(value: object) -> int:
    return int(value[0]) if isinstance(value, tuple) else int(value)  # type: ignore[call-overload]
