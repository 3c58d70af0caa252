"""Batch normalisation for the time of training, folded into the convolutions afterwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.backbones.trunk import Trunk
from engine.errors import InvalidOption

_PLAIN = (nn.Conv2d, nn.ReLU, nn.MaxPool2d)


class Normalised(nn.Module):
    """A plain trunk with a batch norm (arXiv:1502.03167) after each convolution.

    A network of a dozen convolutions hardly learns from scratch without. In use the trunk needs
    none: `folded` gives it parameters with which it does the same.
    """

    def __init__(self, trunk: Trunk) -> None:
        """Seeded by PyTorch's generator (He et al., arXiv:1502.01852).

        Raises: InvalidOption for a trunk that is more than a chain of convolutions.
        """
        super().__init__()
        if not can_normalise(trunk):
            raise InvalidOption(f"{trunk.name} is no plain chain of convolutions")
        self.body = nn.Sequential()
        for name, module in trunk.get_submodule(trunk.body).named_children():
            if isinstance(module, nn.Conv2d):
                convolution = nn.Conv2d(
                    module.in_channels,
                    module.out_channels,
                    module.kernel_size,  # type: ignore[arg-type]
                    stride=module.stride,  # type: ignore[arg-type]
                    padding=module.padding,  # type: ignore[arg-type]
                    bias=False,
                )
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                self.body.add_module(name, convolution)
                self.body.add_module(f"{name}n", nn.BatchNorm2d(module.out_channels))
            else:
                self.body.add_module(name, module)
        self._prefix = trunk.body
        # torch knows the faster layout of convolutions only by their weights.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to the trunk's deepest map."""
        maps: Tensor = self.body(images)
        return maps

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """State dict of the trunk that does what this does in evaluation mode; float32, copies.

        w' = w g / sqrt(v + eps), b' = b - m g / sqrt(v + eps) for each output channel.
        """
        state: dict[str, Tensor] = {}
        modules = dict(self.body.named_children())
        for name, module in modules.items():
            if isinstance(module, nn.Conv2d):
                norm = modules[f"{name}n"]
                assert isinstance(norm, nn.BatchNorm2d)
                assert norm.running_mean is not None and norm.running_var is not None
                scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
                bias = norm.bias.double() - norm.running_mean.double() * scale
                filters = module.weight.double() * scale[:, None, None, None]
                state[f"{self._prefix}.{name}.weight"] = filters.float().cpu().contiguous()
                state[f"{self._prefix}.{name}.bias"] = bias.float().cpu()
        return state


def can_normalise(trunk: Trunk) -> bool:
    """Whether the trunk is a chain of convolutions, rectifiers and poolings."""
    return bool(trunk.body) and all(
        isinstance(module, _PLAIN) for module in trunk.get_submodule(trunk.body).children()
    )
