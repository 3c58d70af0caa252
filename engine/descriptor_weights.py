"""What was learned for descriptors, as one file: a co-occurrence filter, a projection, or both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from engine.backbones import build_trunk
from engine.backbones.weights import state_digest
from engine.cooccurrence_filter import READER_ERRORS, check_channels, check_shape, load_filter
from engine.errors import InvalidOption
from engine.files.storage import storage_errors, write_atomically
from engine.pooling import build_pooling, format_spec, parse_spec
from engine.postprocess import LinearProjection
from engine.types import Json

FORMAT = 1
ENTRY = "descriptor_weights"
"""Of the metadata of the file: JSON."""
FILTER, MEAN, DIRECTIONS = "cooccurrence.weight", "projection.mean", "projection.directions"
NAMES = (FILTER, MEAN, DIRECTIONS)

MADE_FOR = (
    "backbone",
    "layer",
    "weights_digest",
    "max_side",
    "scales",
    "pooling",
    "cooccurrence_digest",
    "projection_kind",
)
"""What may be said of the descriptors that something was learned for; each may be left out.

`pooling` is a line such as `cbp_ac:cooccurrence=learned`, `cooccurrence_digest` that of the filter
beneath a projection, `projection_kind` is `whitening` or `head`. Size and scales are for people:
what was learned at one serves at others.
"""
MAX_DIM = 8192
"""Values of a projected descriptor."""


@dataclass(frozen=True, eq=False)
class DescriptorWeights:
    """A learned co-occurrence filter, a learned projection, or both.

    Attributes:
        cooccurrence: (C, C, 2r+1, 2r+1) float32; see `engine.cooccurrence_filter.Filter`.
        projection: of raw descriptors, which takes the place of the PCA that a build would fit.
        made_for: entries of `MADE_FOR`. What is used with anything else is refused.
        notes: anything worth keeping, such as the data, steps, mAP before and after.
        name: of the file, for people; a copy keeps that of the original.
    """

    cooccurrence: Tensor | None
    projection: LinearProjection | None
    made_for: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        """Raises InvalidOption for other shapes, values that are not finite, unknown entries."""
        if self.cooccurrence is None and self.projection is None:
            raise InvalidOption("descriptor weights need a co-occurrence filter or a projection")
        if self.cooccurrence is not None:
            try:
                check_shape(tuple(self.cooccurrence.shape))
            except ValueError as error:
                raise InvalidOption(f"{FILTER}: {error}") from error
        if self.projection is not None:
            _check_projection(self.projection)
        for name, values in self.tensors().items():
            if not bool(torch.isfinite(values).all()):
                raise InvalidOption(f"{name} has values that are not finite")
        unknown = sorted(set(self.made_for) - set(MADE_FOR))
        if unknown:
            raise InvalidOption(
                f"made_for has no entry {unknown[0]!r}; it may have {', '.join(MADE_FOR)}"
            )

    def tensors(self) -> dict[str, Tensor]:
        """By their names in the file; float32, contiguous, on the CPU."""
        found: dict[str, Tensor] = {}
        if self.cooccurrence is not None:
            found[FILTER] = self.cooccurrence
        if self.projection is not None:
            found |= {MEAN: self.projection.mean, DIRECTIONS: self.projection.directions}
        return {name: value.detach().cpu().float().contiguous() for name, value in found.items()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, shapes and values, as 64 hexadecimal digits; not over the rest."""
        return state_digest(self.tensors())

    def only(self, part: Literal["cooccurrence", "projection"]) -> DescriptorWeights:
        """One of the two parts. Raises InvalidOption if it is not there."""
        if part == "cooccurrence":
            if self.cooccurrence is None:
                raise InvalidOption(
                    f"{self.name} holds a projection, no co-occurrence filter; "
                    "give it with --projection"
                )
            return replace(self, projection=None)
        if self.projection is None:
            raise InvalidOption(
                f"{self.name} holds a co-occurrence filter, no projection; "
                "give it with --cooccurrence"
            )
        made_for = dict(self.made_for)
        if self.cooccurrence is not None:
            # What was learned over descriptors of this filter is of no use over another's.
            made_for.setdefault("cooccurrence_digest", filter_digest(self.cooccurrence))
        return replace(self, cooccurrence=None, made_for=made_for)

    def check(self, backbone: str, layer: str | None, **actual: str | None) -> None:
        """Hold what this was made for against what it is to be used with.

        Args:
            layer: as `build_trunk` takes it.
            actual: further entries of `MADE_FOR`; one that is None is not known yet.

        Raises: InvalidOption naming both and the remedy, also for a filter for maps of another
            number of channels.
        """
        with torch.device("meta"):
            trunk = build_trunk(backbone, layer)
        for entry, found in {"backbone": backbone, "layer": trunk.layer, **actual}.items():
            wanted = self.made_for.get(entry)
            if wanted is None or found is None:
                continue
            if entry == "pooling":
                wanted, found = _all_options(str(wanted)), _all_options(found)
            if wanted != found:
                raise InvalidOption(
                    f"{self.called} was made for {entry} {_short(wanted)}, not {_short(found)}: "
                    f"{_REMEDIES[entry].format(wanted)}, or leave it out"
                )
        if self.cooccurrence is not None:
            check_channels(self.cooccurrence, trunk.channels, Path(self.name or "given"))

    @property
    def called(self) -> str:
        """`the filter mine.npy`: for messages."""
        kind = "filter" if self.projection is None else "projection"
        return f"the {kind} {self.name}" if self.name else f"the {kind}"

    def save(self, path: Path) -> None:
        """Write a .safetensors file, all of it or nothing.

        Raises: InvalidOption for another suffix or a folder that is not there, StorageFull,
            StorageReadOnly.
        """
        if path.suffix != ".safetensors":
            raise InvalidOption(f"descriptor weights are saved as .safetensors, not as {path}")
        if not path.parent.is_dir():
            raise InvalidOption(f"cannot write {path}: there is no folder {path.parent}")
        about = {
            "format": FORMAT,
            "made_for": dict(self.made_for),
            "notes": dict(self.notes),
            "name": self.name or path.name,
        }
        with storage_errors(path.parent):
            write_atomically(path, to_bytes(self.tensors(), {ENTRY: json.dumps(about)}))

    @classmethod
    def read(cls, path: Path) -> DescriptorWeights:
        """What `save` wrote; nothing in the file is executed.

        Raises: InvalidOption for a file that is missing, damaged, of another format or something
            else.
        """
        if not path.is_file():
            raise InvalidOption(f"there is no file of descriptor weights {path}")
        try:
            with safe_open(path, framework="pt") as file:
                about = _about((file.metadata() or {}).get(ENTRY))
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}
            return _from_tensors(tensors, about)
        except (InvalidOption, *READER_ERRORS) as error:
            raise InvalidOption(f"cannot use the descriptor weights {path}: {error}") from error


_REMEDIES = {
    "backbone": "choose --backbone {}",
    "layer": "choose --layer {}",
    "weights_digest": "give the --weights that it was trained on",
    "pooling": "choose --pooling {}",
    "cooccurrence_digest": "give the --cooccurrence filter that it was trained with",
}


def read_cooccurrence(path: Path) -> DescriptorWeights:
    """The filter of a file, descriptor weights or a plain one; see `load_filter`.

    Raises: InvalidOption.
    """
    if path.suffix == ".safetensors" and path.is_file() and _has_entry(path):
        return DescriptorWeights.read(path).only("cooccurrence")
    return DescriptorWeights(load_filter(path), None, name=path.name)


def read_projection(path: Path) -> DescriptorWeights:
    """The projection of a file of descriptor weights. Raises InvalidOption."""
    return DescriptorWeights.read(path).only("projection")


def filter_digest(weight: Tensor) -> str:
    """That of descriptor weights which hold this filter alone."""
    return state_digest({FILTER: weight.detach().cpu().float().contiguous()})


def projection_digest(projection: LinearProjection) -> str:
    """That of descriptor weights which hold this projection alone."""
    return state_digest(DescriptorWeights(None, projection).tensors())


def _has_entry(path: Path) -> bool:
    """Whether a file calls itself descriptor weights; what cannot be read does not."""
    try:
        with safe_open(path, framework="pt") as file:
            return ENTRY in (file.metadata() or {})
    except READER_ERRORS:
        return False


def _about(text: str | None) -> Json:
    if text is None:
        raise ValueError("it says nothing of what it holds; make one with `cooc train`")
    about = json.loads(text)
    if not isinstance(about, dict) or "format" not in about:
        raise ValueError(f"its entry {ENTRY} is not what this program writes")
    if about["format"] != FORMAT:
        raise ValueError(f"it is of format {about['format']!r}, this program reads {FORMAT}")
    for entry, kind in (("made_for", dict), ("notes", dict), ("name", str)):
        if not isinstance(about.get(entry), kind):
            raise ValueError(f"its {entry!r} is not what this program writes")
    return about


def _from_tensors(tensors: Mapping[str, Tensor], about: Json) -> DescriptorWeights:
    unknown = sorted(set(tensors) - set(NAMES))
    if unknown:
        raise ValueError(f"it has a tensor {unknown[0]!r}; it may have {', '.join(NAMES)}")
    if (MEAN in tensors) != (DIRECTIONS in tensors):
        raise ValueError(f"a projection is both {MEAN} and {DIRECTIONS}; one is missing")
    for name, value in tensors.items():
        if value.dtype != torch.float32:
            raise ValueError(f"{name} is {value.dtype}, not float32")
    projection = None
    if MEAN in tensors:
        projection = LinearProjection(tensors[MEAN], tensors[DIRECTIONS])
    return DescriptorWeights(
        tensors.get(FILTER), projection, about["made_for"], about["notes"], about["name"]
    )


def _check_projection(projection: LinearProjection) -> None:
    mean, directions = tuple(projection.mean.shape), tuple(projection.directions.shape)
    fits = len(mean) == 1 and len(directions) == 2 and directions[1] == mean[0]
    if not fits or not 1 <= directions[0] <= MAX_DIM:
        raise InvalidOption(
            f"{MEAN} has shape {mean} and {DIRECTIONS} {directions}; they must be (D,) and (d, D) "
            f"with d in [1, {MAX_DIM}]"
        )


def _all_options(spec: str) -> str:
    """The line with every option that the pooling has, in one order. Raises InvalidOption."""
    name, _ = parse_spec(spec)
    # Options do not depend on the channels: two are enough, and fast.
    options = build_pooling(spec, 2).options
    return format_spec(name, dict(sorted(options.items())))


def _short(value: object) -> str:
    text = str(value) or "none"
    return text[:12] + "..." if len(text) == 64 else text
