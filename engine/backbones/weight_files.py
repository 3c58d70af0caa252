"""Reading the parameters of a trunk from a file, with the preprocessing that belongs to them."""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import WeightsUnavailable

_UNREADABLE = (
    AssertionError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
"""What the readers raise on files that are damaged or something else."""

_OF_A_TRUNK = ("features.", "conv1.", "bn1.", "layer")
"""How names in torchvision's state dicts begin, but those of classifiers."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How pixels in [0, 1] become the input of a trunk: (x - mean) / std, per RGB channel."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def read_state(path: Path) -> tuple[dict[str, Tensor], Preprocessing]:
    """The entries of a state-dict file that belong to a trunk, float32, and its preprocessing.

    Raises: WeightsUnavailable for a file that is damaged or something else.
    """
    try:
        if path.suffix == ".safetensors":
            state, preprocessing = _read_safetensors(path)
        else:
            # weights_only: a pickle may otherwise run any code.
            state = torch.load(path, map_location="cpu", weights_only=True)
            preprocessing = Preprocessing()
    except _UNREADABLE as error:
        raise WeightsUnavailable(
            f"cannot read weights from {path} ({type(error).__name__}: {error}); "
            "it must be a state dict saved as .safetensors or by torch.save"
        ) from error
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise WeightsUnavailable(f"{path} does not hold a state dict of tensors")
    trunk = {key: value.float() for key, value in state.items() if _is_of_a_trunk(str(key))}
    if not trunk:
        raise WeightsUnavailable(
            f"{path} has no entry named 'features.*' or 'layer1.*', as torchvision's trunks have; "
            f"its first names are {list(state)[:3]}"
        )
    return trunk, preprocessing


def _is_of_a_trunk(name: str) -> bool:
    # Batch norms count their training steps, which change nothing of what they do.
    return name.startswith(_OF_A_TRUNK) and not name.endswith(".num_batches_tracked")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Preprocessing]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in file.keys()}
    default = Preprocessing()
    return state, Preprocessing(
        mean=_triple(metadata.get("mean"), default.mean),
        std=_triple(metadata.get("std"), default.std),
    )


def _triple(text: str | None, default: tuple[float, float, float]) -> tuple[float, float, float]:
    if text is None:
        return default
    try:
        red, green, blue = (float(part) for part in text.strip("[]() ").split(","))
    except ValueError as error:
        raise WeightsUnavailable(f"metadata {text!r} is not three numbers") from error
    return red, green, blue
