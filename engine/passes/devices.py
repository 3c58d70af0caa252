"""Which devices describe: one, several, or all GPUs; and what is used of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.errors import InvalidOption


def device_names(names: str) -> list[str]:
    """`cuda:0,cuda:1` as a list; `all` are all GPUs, or `auto` where there is none.

    Each has to be one of `choose_device`. A name that is given twice gets two workers. Raises
    InvalidOption if no device is named.
    """
    if names == "all":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["auto"]
    found = [name.strip() for name in names.split(",")]
    if not all(found):
        raise InvalidOption(f"device {names!r} has an empty name; write e.g. cuda:0,cuda:1")
    return found


NO_ROOM = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
"""What the driver, the libraries on it, and the allocator of the CPU say."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a computation did not fit: only the allocator for GPUs has an error of its own."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in NO_ROOM)


def still_computes(device: torch.device) -> bool:
    """Whether it does a sum. After some failures, an illegal address among them, a GPU refuses all
    that this process asks for from then on; only a new process is served again."""
    try:
        return bool(torch.ones(2, device=device).sum().item() == 2)
    except RuntimeError as error:
        return is_out_of_memory(error)


@dataclass(frozen=True)
class DeviceUse:
    """A device that describes. Memory is that of this process, in bytes; None on a CPU, where it is
    that of the process as a whole."""

    name: str
    type: str
    used: int | None = None
    peak: int | None = None
    total: int | None = None


def device_use(device: torch.device) -> DeviceUse:
    """What tensors take on `device` now, what they took at most, and what there is of memory."""
    if device.type != "cuda":
        return DeviceUse(str(device), device.type)
    return DeviceUse(
        str(device),
        device.type,
        torch.cuda.memory_allocated(device),
        torch.cuda.max_memory_allocated(device),
        torch.cuda.get_device_properties(device).total_memory,
    )
