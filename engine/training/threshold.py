"""A threshold for the activations of a trained trunk: only what stands out is kept."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from engine.backbones.trunk import Trunk
from engine.errors import InvalidOption


@torch.inference_mode()
def with_threshold(trunk: Trunk, images: Iterable[Tensor], threshold: float) -> dict[str, Tensor]:
    """The state dict of a trunk whose deepest map is (A_k - t m_k)_+ where this one's is A_k.

    A student of small size blurs: where its teacher has none, it has weak activations, which many
    images share. They are cut off by lowering the bias of the last convolution, so the network
    takes no longer.

    Args:
        trunk: ends with a convolution and a rectifier; in evaluation mode.
        images: (B, 3, H, W) each, normalised; m_k is the mean of channel k over all of them.
        threshold: t, 0 or more.

    Raises: InvalidOption for a trunk that ends otherwise, ValueError without images.
    """
    name, convolution = _last(trunk)
    total, count = torch.zeros(trunk.channels, dtype=torch.float64), 0
    for batch in images:
        maps: Tensor = trunk(batch)
        total += maps.double().sum(dim=(0, 2, 3)).cpu()
        count += maps.shape[0] * maps.shape[2] * maps.shape[3]
    if not count:
        raise ValueError("no images to take means over")
    state = {key: value.detach().clone() for key, value in trunk.state_dict().items()}
    assert convolution.bias is not None
    lowered = convolution.bias.double().cpu() - threshold * total / count
    state[f"{name}.bias"] = lowered.to(convolution.bias.dtype)
    return state


def _last(trunk: Trunk) -> tuple[str, nn.Conv2d]:
    """Name and module of the convolution before the final rectifier."""
    modules = list(trunk.get_submodule(trunk.body).named_children())
    if len(modules) < 2 or not isinstance(modules[-1][1], nn.ReLU):
        raise InvalidOption(f"{trunk.name} {trunk.layer} does not end with a rectifier")
    name, convolution = modules[-2]
    if not isinstance(convolution, nn.Conv2d) or convolution.bias is None:
        raise InvalidOption(f"{trunk.name} {trunk.layer} has no convolution with a bias at its end")
    return f"{trunk.body}.{name}" if trunk.body else name, convolution
