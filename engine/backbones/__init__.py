"""Trunks by name."""

from __future__ import annotations

from engine.backbones.resnet import ResNet101
from engine.backbones.squeezenet import SqueezeNet11
from engine.backbones.trunk import Trunk
from engine.backbones.vgg import VGG16
from engine.backbones.vgg_lite import VGGLite
from engine.errors import InvalidOption

TRUNKS: dict[str, type[Trunk]] = {
    "vgg16": VGG16,
    "squeezenet1_1": SqueezeNet11,
    "resnet101": ResNet101,
    "vgg_lite": VGGLite,
}


def build_trunk(name: str, layer: str | None = None) -> Trunk:
    """The trunk called `name`, cut after the deepest of the layers in `layer`.

    Args:
        layer: one name, or several from shallow to deep joined by `+`, e.g. `layer3+layer4`;
            None is the trunk's default.

    Raises: InvalidOption.
    """
    if name not in TRUNKS:
        raise InvalidOption(f"backbone {name!r} is unknown; choose from {', '.join(TRUNKS)}")
    return TRUNKS[name](layer)
