"""The trunks side by side: one image of 512 x 384, nothing but the network."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.harness import machine, medians_ms
from engine.backbones import TRUNKS, build_trunk
from engine.backbones.untrained import untrained_state

HEIGHT, WIDTH = 384, 512
REFERENCE = "vgg16"


@torch.inference_mode()
def run(device: torch.device, dtypes: tuple[torch.dtype, ...]) -> dict[str, Any]:
    """Per precision and trunk: parameters, milliseconds an image, and how much faster than VGG16.

    The time of a pass does not depend on what the parameters are.
    """
    rows = [row for dtype in dtypes for row in _rows(device, dtype)]
    return {"bench": "trunks", "size": [WIDTH, HEIGHT], "rows": rows, **machine(device)}


def _rows(device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    passes = {}
    parameters = {}
    for name in TRUNKS:
        trunk = build_trunk(name)
        trunk.load(untrained_state(name))
        parameters[name] = sum(value.numel() for value in trunk.parameters())
        passes[name] = _pass(trunk.prepare(device, dtype), device, dtype)
    times = medians_ms(passes, rounds=15)
    return [
        {
            "precision": str(dtype).removeprefix("torch."),
            "backbone": name,
            "parameters": parameters[name],
            "ms": time,
            "speedup": times[REFERENCE] / time,
        }
        for name, time in times.items()
    ]


def _pass(trunk: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    images = torch.rand(1, 3, HEIGHT, WIDTH, device=device, dtype=dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    return lambda: trunk(images)
