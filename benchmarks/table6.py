"""Table 6 of the paper: co-occurrence tensors of three sizes, one by one and five at a time.

Ours (box filter), the published convolution (Algorithm 1, its filter made beforehand) and the
maximal correlation of Shih et al. get the same made map. Each cell of the table is measured in a
process of its own: its peak memory is its own, and one that does not fit ends alone. So the cells
do not take turns, and a run wants a machine with nothing else to do.

Ours gets its map in channels_last, as the trunks give it. The convolution gets its own and its
filter contiguous, the fastest on a CPU from 512 channels on; at 32 channels_last would save a
fifth. Maximal correlation copies the map into its own layout first.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cooccurrence import published
from benchmarks.harness import machine, medians_ms, sparse_map
from engine.cooccurrence import direct_cooccurrence, direct_filter
from engine.max_correlation import max_correlation_tensor

SIZES = ((512, 24, 32), (2048, 24, 32), (32, 24, 32))  # (C, H, W): VGG, ResNet, that of Shih
BATCHES = (1, 5)
ROUNDS = 50  # at least, as in the paper; where one takes long, as many as there is time for
METHODS = ("ours", "convolution", "shih")
MB = 2**20

# Milliseconds on a GTX 1080 Ti by method, channels and batch, at 24 x 32; None: out of memory.
PAPER: dict[tuple[str, int, int], float | None] = {
    ("ours", 512, 1): 0.977,
    ("ours", 512, 5): 0.695,
    ("ours", 2048, 1): 16.678,
    ("ours", 2048, 5): 5.578,
    ("ours", 32, 1): 0.258,
    ("ours", 32, 5): 0.318,
    ("shih", 512, 1): 464.699,
    ("shih", 512, 5): 495.66,
    ("shih", 2048, 1): 2417.895,
    ("shih", 2048, 5): None,
    ("shih", 32, 1): 29.321,
    ("shih", 32, 5): 35.227,
}


@dataclass(frozen=True)
class Cell:
    method: str
    channels: int
    height: int
    width: int
    batch: int
    radius: int
    device: str
    threads: int
    budget_s: float  # for the repetitions


def run(
    device: torch.device,
    *,
    sizes: Sequence[tuple[int, int, int]] = SIZES,
    batches: Sequence[int] = BATCHES,
    radius: int = 4,
    budget_s: float = 10.0,
    limit_s: float = 300.0,
    prepare: Callable[[], object] | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """One row for each method, size (C, H, W) and batch.

    `ms_per_image` is the median divided by the batch, which the paper's figures seem to be too
    (five maps of 2048 channels: 5.6 ms; one: 16.7), `ms_total` is the whole median; `ratio` is the
    time over that of ours. `peak_mb` (MiB) is the largest memory beside the map, a filter included;
    None where the system does not tell. A cell that runs out of memory, would do so, or is not done
    after `limit_s` is a row with `fits` false and a `reason`. `max_relative_error` compares ours
    with the convolution in double precision, 32 channels.

    Args:
        budget_s: seconds for the repetitions of a cell; one that takes longer runs once.
        prepare: called first in each process, e.g. for settings of its memory.
        progress: told the number of cells that are done, and of all.
    """
    cells = [
        Cell(method, *size, batch, radius, str(device), torch.get_num_threads(), budget_s)
        for size in sizes
        for batch in batches
        for method in METHODS
    ]
    rows: list[dict[str, Any]] = []
    progress(0, len(cells))
    for done, cell in enumerate(cells, start=1):
        rows.append(_row(cell, _outcome(cell, prepare, limit_s)))
        progress(done, len(cells))
    return {
        "bench": "cooccurrence_table6",
        "rows": [row | {"ratio": _ratio(row, rows)} for row in rows],
        "radius": radius,
        "max_relative_error": _max_relative_error(device, radius),
        **machine(device),
    }


def _row(cell: Cell, outcome: dict[str, Any]) -> dict[str, Any]:
    key = (cell.method, cell.channels, cell.batch)
    known = key in PAPER and (cell.height, cell.width, cell.radius) == (24, 32, 4)
    return {
        "method": cell.method,
        "channels": cell.channels,
        "height": cell.height,
        "width": cell.width,
        "batch": cell.batch,
        "fits": True,
        "reason": None,
        "ms_per_image": None,
        "ms_total": None,
        "rounds": 0,
        "peak_mb": None,
        "paper_ms": PAPER[key] if known else None,
        "paper_fits": PAPER[key] is not None if known else None,
        **outcome,
    }


def _ratio(row: dict[str, Any], rows: list[dict[str, Any]]) -> float | None:
    same = ("channels", "height", "width", "batch")
    for ours in rows:
        if ours["method"] == "ours" and all(ours[name] == row[name] for name in same):
            if ours["fits"] and row["fits"]:
                return float(row["ms_total"] / ours["ms_total"])
    return None


def _outcome(cell: Cell, prepare: Callable[[], object] | None, limit_s: float) -> dict[str, Any]:
    """What differs from an empty row: the measurements, or why there are none."""
    # Asked beforehand: where memory is promised freely, the kernel ends whom it likes.
    needed, free = _needed_mb(cell), _free_mb(torch.device(cell.device))
    if needed > free:
        return _does_not_fit(f"needs {needed / 1024:.3g} GB of {free / 1024:.3g}")
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sending, cell, prepare))
    process.start()
    sending.close()
    try:
        if not receiving.poll(limit_s):
            return _does_not_fit(f"not done after {limit_s:g} s")
        outcome: dict[str, Any] = receiving.recv()
        return outcome
    except EOFError:
        process.join()
        code = process.exitcode or 0
        if code >= 0:
            raise RuntimeError(f"the process of {cell} ended with code {code}; see above") from None
        return _does_not_fit(f"ended by {signal.Signals(-code).name}")
    finally:
        process.kill()
        process.join()
        process.close()
        receiving.close()


def _does_not_fit(reason: str) -> dict[str, Any]:
    return {"fits": False, "reason": reason}


def _answer(
    sending: Connection[Any, Any], cell: Cell, prepare: Callable[[], object] | None
) -> None:
    """The process of a cell."""
    if prepare is not None:
        prepare()
    try:
        sending.send(_measure(cell))
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        sending.send(_does_not_fit(f"out of memory: {str(error).splitlines()[0]}"))


def _is_out_of_memory(error: Exception) -> bool:
    # On a CPU, torch has no type for it.
    words = ("allocate memory", "not enough memory", "alloc_failed")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        word in str(error).lower() for word in words
    )


@torch.inference_mode()
def _measure(cell: Cell) -> dict[str, Any]:
    torch.set_num_threads(cell.threads)
    device = torch.device(cell.device)
    # Libraries load and threads start here, not in the measured memory.
    _candidate(cell, torch.rand(1, 8, 16, 16, device=device))()
    features = _features((cell.batch, cell.channels, cell.height, cell.width), device)
    if cell.method == "ours":
        features = features.contiguous(memory_format=torch.channels_last)
    before = _restart_peak_mb(device)
    call = _candidate(cell, features)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    first_s = time.perf_counter() - started
    after = _peak_mb(device)
    # A second's worth of short ones: their median should outlast what else the machine does.
    rounds = int(min(cell.budget_s, max(1.0, ROUNDS * first_s)) / first_s)
    if rounds > 0:
        warmup = 2 if first_s < 1 else 0
        total = medians_ms({"call": call}, rounds=rounds, warmup=warmup)["call"]
    else:
        rounds, total = 1, 1000 * first_s
    return {
        "ms_per_image": total / cell.batch,
        "ms_total": total,
        "rounds": rounds,
        "peak_mb": after - before if before is not None and after is not None else None,
    }


def _features(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return sparse_map(shape, torch.Generator().manual_seed(0)).to(device)


def _candidate(cell: Cell, features: Tensor) -> Callable[[], Tensor]:
    """The method on one input; a filter is made here, once."""
    if cell.method == "ours":
        return lambda: direct_cooccurrence(features, cell.radius)
    if cell.method == "shih":
        return lambda: max_correlation_tensor(features, cell.radius)
    weight = direct_filter(features.shape[1], cell.radius).to(features.device)
    return lambda: published(features, weight, cell.radius)


def _max_relative_error(device: torch.device, radius: int) -> float:
    features = _features((1, 32, 24, 32), device)
    weight = direct_filter(32, radius).to(device)
    reference = published(features.double(), weight.double(), radius)
    ours = direct_cooccurrence(features, radius).double()
    return float((ours - reference).abs().max() / reference.abs().max())


def _needed_mb(cell: Cell) -> float:
    """The least that a cell takes: its maps, and what grows with the square of the channels."""
    maps = 4 * cell.batch * cell.channels * cell.height * cell.width
    pairs = cell.channels**2
    squares = {
        "ours": 0,
        "convolution": 2 * (2 * cell.radius + 1) ** 2,  # the filter, once more as oneDNN wants it
        "shih": 10 * cell.batch,  # correlations, choices, and the pairs while sorted
    }
    return 4 * (maps + squares[cell.method] * pairs) / MB


def _free_mb(device: torch.device) -> float:
    """Memory that may still be taken; infinite where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free / MB
    found = [float("inf")]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        found.append(_kilobytes(meminfo, "MemAvailable") / 1024)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of a container
        limit = Path("/sys/fs/cgroup") / name
        if limit.is_file() and (text := limit.read_text().strip()) != "max":
            found.append(int(text) / MB)
    return min(found)


def _restart_peak_mb(device: torch.device) -> float | None:
    """Begin a new peak of memory; returns what is taken now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform.startswith("linux"):
        # What was freed and kept would be used again unseen.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:  # forbidden here: the peak may be that of the past
            return None
    return _peak_mb(device)


def _peak_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    status = Path("/proc/self/status")
    return _kilobytes(status, "VmHWM") / 1024 if status.is_file() else None


def _kilobytes(file: Path, name: str) -> float:
    for line in file.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1])
    return float("nan")
