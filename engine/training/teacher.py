"""A trunk as a teacher: its maps over several scales and both directions, as one map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.backbones.trunk import Trunk
from engine.pooling import Pooling
from engine.postprocess import l2_normalize, signed_sqrt
from engine.training.grid import Grid, grid_of, sample


class Teacher:
    """What a student is to see in one pass, from a frozen trunk in several.

    The map of each view of an image (resized by each scale, as it is and mirrored) is brought
    onto the student's grid. The target is their power mean,

        T = (mean over views of A_v^p)^(1/p),

    with p < 1 it keeps what all views agree on. (SqueezeNet on 979 photos of 31 products, `cbp_ac`:
    one view 47.3 mAP; scales 0.7, 1 and 1.4, both directions: p = 1 48.9, p = 0.5 50.1.)

    Attributes:
        trunk: frozen, in evaluation mode, on its device.
        grid: of the trunk's maps.
    """

    def __init__(
        self,
        trunk: Trunk,
        *,
        scales: tuple[float, ...] = (1.0,),
        mirrored: bool = False,
        power: float = 1.0,
    ) -> None:
        """`trunk` is a prepared one (see `Trunk.prepare`)."""
        self.trunk = trunk
        self.grid = grid_of(trunk)
        self.scales = scales
        self.mirrored = mirrored
        self.power = power

    @torch.inference_mode()
    def maps(self, images: Tensor, onto: Grid, cells: tuple[int, int]) -> Tensor:
        """Targets for a student.

        Args:
            images: (B, 3, H, W), normalised.
            onto: the student's grid.
            cells: height and width of its maps of these images.

        Returns: (B, C, h, w) float32.
        """
        total: Tensor | float = 0.0
        for scale in self.scales:
            for mirror in (False, True) if self.mirrored else (False,):
                seen = self._view(images, onto, cells, scale, mirror)
                total = total + (seen if self.power == 1.0 else seen.clamp_min(0) ** self.power)
        views = len(self.scales) * (2 if self.mirrored else 1)
        mean = torch.as_tensor(total) / views
        return mean if self.power == 1.0 else mean ** (1 / self.power)

    @torch.inference_mode()
    def descriptors(self, images: Tensor, pooling: Pooling) -> Tensor:
        """Sum over all views of what `pooling` makes of their maps, of unit length, (B, D)."""
        total: Tensor | float = 0.0
        for scale in self.scales:
            for mirror in (False, True) if self.mirrored else (False,):
                pooled = pooling(self._pass(_shown(images, scale, mirror)))
                total = total + l2_normalize(signed_sqrt(pooled) if pooling.signed_root else pooled)
        return l2_normalize(torch.as_tensor(total))

    def _view(
        self, images: Tensor, onto: Grid, cells: tuple[int, int], scale: float, mirror: bool
    ) -> Tensor:
        """The map of one view, on the student's grid, as float32."""
        height, width = images.shape[-2:]
        shown = _shown(images, scale, mirror)
        size = shown.shape[-2:]
        # Edges are repeated, so that cells lie where the student's do and cover the border.
        edge = max(0, round(self.grid.first - onto.first))
        shown = F.pad(shown, (edge, edge, edge, edge), mode="replicate")
        maps = self._pass(shown)
        rows = onto.centres(cells[0])
        columns = onto.centres(cells[1])
        if mirror:
            columns = width - 1 - columns
        places = [
            ((pixel + 0.5) * (side / full) - 0.5 + edge - self.grid.first) / self.grid.stride
            for pixel, side, full in ((rows, size[0], height), (columns, size[1], width))
        ]
        return sample(maps, places[0], places[1])

    def _pass(self, images: Tensor) -> Tensor:
        dtype = next(self.trunk.parameters()).dtype
        maps: Tensor = self.trunk(images.to(dtype=dtype, memory_format=torch.channels_last))
        return maps.float()


def _shown(images: Tensor, scale: float, mirror: bool) -> Tensor:
    """Images resized by `scale`, and mirrored."""
    height, width = images.shape[-2:]
    size = (max(32, round(height * scale)), max(32, round(width * scale)))
    shown = images
    if size != (height, width):
        shown = F.interpolate(
            images, size, mode="bilinear", align_corners=False, antialias=scale < 1
        )
    return shown.flip(-1) if mirror else shown
