"""Fair timing: candidates take turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def medians_ms(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2
) -> dict[str, float]:
    """Median milliseconds of each candidate over `rounds` turns."""
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(-warmup, rounds):
        for name, run in candidates.items():
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= 0:
                samples[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in samples.items()}


def sparse_map(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Made activations, as sparse as those of a real last layer: 7 of 100 are not zero."""
    return (torch.randn(shape, generator=generator) - 1.5).relu()


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure has to be read with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
