"""What every trunk offers: feature maps of chosen layers and the names needed to describe them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from engine.errors import InvalidOption


class Layer(NamedTuple):
    """A map of a trunk: the module that gives it, its channels, and its stride in pixels."""

    module: str
    channels: int
    stride: int


class Trunk(nn.Module):
    """A convolutional network cut off after the deepest layer that is wanted of it.

    `forward` maps (B, 3, H, W) normalised images to (B, channels, H // stride, W // stride)
    activations (up to rounding). Parameter names are those of torchvision's models
    (`features.0.weight`, ...), so its files load without renaming.

    Attributes:
        name: of the network.
        table: its layers by name, shallow to deep.
        layers: the names alone.
        default_layer: what is meant by no layer.
        body: the child whose children run one after the other; empty for the trunk itself.
        classifier: how the names of the entries begin that only the classifier needs.
        layer: what was chosen: one name, or several from shallow to deep joined by `+`.
        map_channels: of each chosen layer, in that order; `channels` is that of the deepest.
        map_strides: in pixels, likewise; `stride` is that of the deepest.
    """

    name: ClassVar[str]
    table: ClassVar[Mapping[str, Layer]]
    layers: ClassVar[tuple[str, ...]]
    default_layer: ClassVar[str]
    body: ClassVar[str] = "features"
    classifier: ClassVar[str] = "classifier."

    def __init__(self, layer: str | None = None) -> None:
        """Raises InvalidOption for a layer that is unknown or not in its place."""
        super().__init__()
        names = self._parse(layer or self.default_layer)
        chosen = [self.table[name] for name in names]
        self.layer = "+".join(names)
        self.map_channels = tuple(entry.channels for entry in chosen)
        self.map_strides = tuple(entry.stride for entry in chosen)
        self.channels, self.stride = self.map_channels[-1], self.map_strides[-1]
        self._taken_after = {entry.module for entry in chosen}
        if self.body:
            self.add_module(self.body, nn.Module())
        body = self.get_submodule(self.body)
        for name, module in self.network():
            body.add_module(name, module)
            if name == chosen[-1].module:
                break

    @classmethod
    def network(cls) -> Iterator[tuple[str, nn.Module]]:
        """Names and modules of the whole trunk, each built when its turn comes."""
        raise NotImplementedError

    @classmethod
    def shapes(cls) -> dict[str, torch.Size]:
        """Name and shape of every entry of the whole trunk's state dict, first to last."""
        with torch.device("meta"):
            whole = cls(cls.layers[-1])
        return {name: value.shape for name, value in whole.state_dict().items()}

    def forward(self, images: Tensor) -> Tensor:
        """The deepest map, (B, channels, h, w)."""
        return self.maps(images)[-1]

    def maps(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) images to the map (B, C_i, h_i, w_i) of each chosen layer, in one pass."""
        found: list[Tensor] = []
        activations = images
        # Modules work in place on what they made themselves, never on what they are given: the
        # maps found so far stay as they are.
        for name, module in self.get_submodule(self.body).named_children():
            activations = module(activations)
            if name in self._taken_after:
                found.append(activations)
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over parameters of the whole trunk, or of as much of it as is left.

        Entries of the classifier, of layers that were cut off, and the training steps that
        batch norms count are passed over.

        Raises: ValueError naming entries that are missing, misshapen or of another network; then
            nothing was loaded.
        """
        own = self.state_dict()
        known = own.keys() | self.shapes().keys()
        unknown = [name for name in state if name not in known and not self._needless(name)]
        missing = [name for name in own if name not in state]
        misshapen = [
            f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
            for name, value in own.items()
            if name in state and state[name].shape != value.shape
        ]
        faults = [
            _some(f"entries that {self.name} does not have", unknown),
            _some("missing entries", missing),
            _some("entries of another shape", misshapen),
        ]
        if any(faults):
            raise ValueError("; ".join(fault for fault in faults if fault))
        # A trunk on the meta device has nothing to copy into: it gets copies of its own.
        empty = any(value.is_meta for value in own.values())
        taken = {name: state[name].clone() if empty else state[name] for name in own}
        self.load_state_dict(taken, assign=empty)

    def prepare(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Frozen, in evaluation mode, channels last (the faster layout on CPU and GPU)."""
        self.eval().requires_grad_(False)
        self.to(device=device, dtype=dtype)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    @classmethod
    def _needless(cls, name: str) -> bool:
        return name.startswith(cls.classifier) or name.endswith(".num_batches_tracked")

    @classmethod
    def _parse(cls, layer: str) -> list[str]:
        """The names in `layer`. Raises InvalidOption."""
        names = layer.split("+")
        for name in names:
            if name not in cls.table:
                raise InvalidOption(
                    f"{cls.name} has no layer {name!r}; choose from {', '.join(cls.layers)}, "
                    "or several of them, shallow to deep, joined by '+'"
                )
        if names != [name for name in cls.layers if name in names]:
            raise InvalidOption(
                f"layers {layer!r} of {cls.name} are not each named once and from shallow to deep; "
                f"their order is {', '.join(cls.layers)}"
            )
        return names


def _some(fault: str, names: list[str]) -> str:
    """`fault: a, b, c and 7 more`; empty without names."""
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{fault}: {', '.join(names[:3])}{more}"
