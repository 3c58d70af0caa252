"""Poolings by name: modules from a feature map to one descriptor per image."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from torch import Tensor

from engine.errors import InvalidOption
from engine.pooling.base import Option, Pooling
from engine.pooling.first_order import ChCoScT, Crow, Gem, Mac, Spoc, Ucrow
from engine.pooling.layered import Layered
from engine.pooling.regions import RMac
from engine.pooling.second_order import (
    BilinearActivations,
    BilinearCooccurrence,
    CompactBilinearActivations,
    CompactBilinearCooccurrence,
)
from engine.pooling.spec import format_spec, parse_spec
from engine.pooling.tensors import LearnedCooccurrence

__all__ = [
    "POOLINGS",
    "Option",
    "Pooling",
    "build_pooling",
    "format_spec",
    "load_filter",
    "parse_spec",
    "uses_filter",
]

POOLINGS: dict[str, type[Pooling]] = {
    "mac": Mac,
    "spoc": Spoc,
    "gem": Gem,
    "ucrow": Ucrow,
    "crow": Crow,
    "chco_sct": ChCoScT,
    "rmac": RMac,
    "bp_aa": BilinearActivations,
    "bp_ac": BilinearCooccurrence,
    "cbp_aa": CompactBilinearActivations,
    "cbp_ac": CompactBilinearCooccurrence,
}


def build_pooling(spec: str, channels: int | Sequence[int], **options: Option) -> Pooling:
    """The pooling that `spec` describes, e.g. `gem` or `cbp_ac:dim=4096,mask=sptd`.

    Args:
        channels: C of the map, or of each of several maps, which are then pooled one by one and
            concatenated.
        options: in addition to those in `spec`.

    Raises: InvalidOption naming what is unknown or out of range.
    """
    name, given = parse_spec(spec)
    if name not in POOLINGS:
        raise InvalidOption(f"pooling {name!r} is unknown; choose from {', '.join(POOLINGS)}")
    kind, chosen = POOLINGS[name], {**given, **options}
    known = inspect.signature(kind).parameters
    for key, value in chosen.items():
        if key == "channels" or key not in known:
            offered = ", ".join(option for option in known if option != "channels")
            raise InvalidOption(f"pooling {name!r} has no option {key!r}; it has {offered}")
        if not _fits(value, str(known[key].annotation)):
            raise InvalidOption(
                f"pooling {name!r}: {key} is {value!r}, not of type {known[key].annotation}"
            )
    counts = [channels] if isinstance(channels, int) else list(channels)
    try:
        branches = [kind(count, **chosen) for count in counts]  # type: ignore[arg-type]
    except ValueError as error:
        raise InvalidOption(f"pooling {spec!r}: {error}") from error
    return branches[0] if len(branches) == 1 else Layered(branches)


def load_filter(pooling: Pooling, weight: Tensor | None) -> None:
    """Give every learned co-occurrence in `pooling` its filter (C, C, 2r+1, 2r+1).

    Raises: InvalidOption if one is needed and not there, or of another shape.
    """
    for module in pooling.modules():
        if isinstance(module, LearnedCooccurrence):
            if weight is None:
                raise InvalidOption(
                    "cooccurrence=learned needs a trained filter; give one with --cooccurrence"
                )
            try:
                module.load(weight)
            except ValueError as error:
                raise InvalidOption(str(error)) from error


def uses_filter(spec: str) -> bool:
    """Whether the pooling needs a trained co-occurrence filter. Raises InvalidOption."""
    return parse_spec(spec)[1].get("cooccurrence") == "learned"


def _fits(value: Option, annotation: str) -> bool:
    """Whether an option read from text is what the parameter expects."""
    kinds = {part.strip() for part in annotation.split("|")}
    if isinstance(value, bool):
        return "bool" in kinds
    if isinstance(value, int):
        return bool(kinds & {"int", "float"})
    return type(value).__name__ in kinds
