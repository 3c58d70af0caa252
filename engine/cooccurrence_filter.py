"""Trained co-occurrence filters from files (paper, sections 3.1.2 and 5)."""

from __future__ import annotations

import inspect
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import InvalidOption
from engine.pooling import POOLINGS, format_spec, parse_spec
from engine.pooling.tensors import MAX_RADIUS

Filter = Tensor
"""(C, C, 2r+1, 2r+1) float32; entry [k, w] weighs channel w for the output channel k."""

SUFFIXES = (".safetensors", ".npy")

READER_ERRORS = (
    OSError,
    ValueError,
    MemoryError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TokenError,
    SafetensorError,
)
"""What NumPy and safetensors raise on damaged files."""


def load_filter(path: Path, *, channels: int | None = None) -> Filter:
    """Read a filter.

    Args:
        path: .safetensors with the tensor `weight` (or one of any name), or .npy, the format of
            the authors' file. Pickled objects are refused; nothing in the file is executed.
        channels: C of the maps it is meant for, where that is known.

    Raises: InvalidOption for another suffix, a missing or damaged file, another shape, or values
        that are not finite.
    """
    if path.suffix not in SUFFIXES:
        raise InvalidOption(f"the filter {path} must be a .safetensors or a .npy file")
    if not path.is_file():
        raise InvalidOption(f"there is no filter file {path}")
    try:
        weight = _from_npy(path) if path.suffix == ".npy" else _from_safetensors(path)
    except READER_ERRORS as error:
        raise InvalidOption(f"cannot read the filter {path}: {error}") from error
    if channels is not None:
        check_channels(weight, channels, path)
    if not bool(torch.isfinite(weight).all()):
        raise InvalidOption(f"the filter {path} has values that are not finite")
    return weight


def check_channels(weight: Filter, channels: int, path: Path) -> None:
    """Raises InvalidOption if the filter is for maps of another number of channels."""
    if weight.shape[0] != channels:
        raise InvalidOption(
            f"the filter {path} is for maps of {weight.shape[0]} channels, this trunk's have "
            f"{channels}; choose the --backbone and --layer that it was trained with"
        )


def pooling_with_filter(spec: str, weight: Filter, name: str) -> str:
    """The pooling `spec`, told to use a learned filter: `cooccurrence=learned` and its radius.

    What `spec` says of these already has to agree. Only bilinear poolings are told so, as in the
    paper: a learned co-occurrence may be negative, and the weights of ChCO would not be defined.

    Args:
        name: of the filter, for messages.

    Raises: InvalidOption for a pooling that has no use for the filter.
    """
    kind, options = parse_spec(spec)
    if kind not in POOLINGS:
        return spec  # refused where it is built, with what there is
    known = inspect.signature(POOLINGS[kind]).parameters
    wanted = options.get("cooccurrence", "learned" if POOLINGS[kind].second_order else "direct")
    if "cooccurrence" not in known or wanted != "learned":
        raise InvalidOption(
            f"pooling {spec} does not use the filter {name}; leave it out or choose e.g. "
            "--pooling cbp_ac:cooccurrence=learned"
        )
    radius = weight.shape[-1] // 2
    if options.get("radius", radius) != radius:
        raise InvalidOption(
            f"pooling {spec} has another radius than the filter {name}, whose radius is {radius}; "
            f"leave it out or write radius={radius}"
        )
    chosen = {**options, "cooccurrence": "learned"}
    if radius != known["radius"].default:
        chosen["radius"] = radius
    return format_spec(kind, chosen)


def _from_npy(path: Path) -> Filter:
    # Memory-mapped: a file of another shape is refused before its content is read.
    values = np.lib.format.open_memmap(path, mode="r")
    if values.dtype.kind not in "fiu":
        raise ValueError(f"its values are {values.dtype}, not real numbers")
    check_shape(values.shape)
    # What is too large for float32 becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(values, dtype=np.float32, order="C"))


def _from_safetensors(path: Path) -> Filter:
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        if "weight" not in names and len(names) != 1:
            listed = ", ".join(names[:5]) or "none"
            raise ValueError(f"it has to hold `weight`, or one tensor alone; it has {listed}")
        name = "weight" if "weight" in names else names[0]
        check_shape(tuple(file.get_slice(name).get_shape()))
        weight: Tensor = file.get_tensor(name)
    if not weight.is_floating_point():
        raise ValueError(f"its values are {weight.dtype}, not floats")
    return weight.float()


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises ValueError unless it is that of a filter."""
    fits = len(shape) == 4 and shape[0] == shape[1] >= 2 and shape[2] == shape[3]
    if not fits or shape[3] % 2 == 0 or shape[3] > 2 * MAX_RADIUS + 1:
        raise ValueError(
            f"its shape is {tuple(shape)}; a filter is (C, C, 2r+1, 2r+1) with C >= 2 and "
            f"r <= {MAX_RADIUS}"
        )
