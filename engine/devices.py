"""Which devices describe: one, several, or all GPUs."""

from __future__ import annotations

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
