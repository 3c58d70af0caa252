"""Trunks by name."""

from __future__ import annotations

from engine.backbones.squeezenet import SqueezeNet11
from engine.backbones.trunk import Trunk
from engine.backbones.vgg import VGG16
from engine.errors import InvalidOption

TRUNKS: dict[str, type[VGG16] | type[SqueezeNet11]] = {
    "vgg16": VGG16,
    "squeezenet1_1": SqueezeNet11,
}


def build_trunk(name: str, layer: str | None = None) -> Trunk:
    """The trunk called `name`, cut after `layer` (default: its first). Raises InvalidOption."""
    if name not in TRUNKS:
        raise InvalidOption(f"backbone {name!r} is unknown; choose from {', '.join(TRUNKS)}")
    trunk = TRUNKS[name]
    return trunk(layer or trunk.layers[0])
