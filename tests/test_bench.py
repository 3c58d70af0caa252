"""The benchmark of Table 6: every cell becomes a row, whatever becomes of its process."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import extract, table6
from engine.backbones.weights import load_weights
from engine.describer import Describer, DescriberOptions
from engine.postprocess import LinearProjection
from tests.documented import words

COLUMNS = {"method", "channels", "height", "width", "batch", "fits", "reason", "rounds"} | {
    "ms_per_image",
    "ms_total",
    "ratio",
    "peak_mb",
    "paper_ms",
    "paper_fits",
}


def measure(**options: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table6.run(torch.device("cpu"), budget_s=0.1, **options)["rows"]
    assert all(set(row) == COLUMNS for row in rows)
    return rows


def cooc(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", "bench", "cooccurrence", *arguments]
    # One thread: several that wait for each other take long on a busy machine.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    return result


def end_yourself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait() -> None:
    time.sleep(60)


def fail() -> None:
    raise LookupError("not about memory")


def leave_little_memory() -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (250 << 20), resource.RLIM_INFINITY))


def test_every_cell_is_a_row_with_its_figures(device: torch.device) -> None:
    seen: list[tuple[int, int]] = []
    report = table6.run(
        device,
        sizes=[(3, 5, 7)],
        batches=(1, 2),
        budget_s=0.1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 6) for done in range(7)]
    assert report["max_relative_error"] <= 1e-5
    rows = report["rows"]
    assert [(row["batch"], row["method"]) for row in rows] == [
        (batch, method) for batch in (1, 2) for method in ("ours", "convolution", "shih")
    ]
    for row in rows:
        assert set(row) == COLUMNS
        assert (row["channels"], row["height"], row["width"]) == (3, 5, 7)
        assert row["fits"] and row["reason"] is None
        assert 0 < row["ms_per_image"] == row["ms_total"] / row["batch"]
        assert row["ratio"] > 0 and row["rounds"] >= 1
        assert row["paper_ms"] is None and row["paper_fits"] is None
    assert [row["ratio"] for row in rows if row["method"] == "ours"] == [1, 1]


def test_the_peak_is_that_of_the_method() -> None:
    """150 channels at radius 9: a filter of 31 MB; maps of 0.4 MB, correlations of 0.1 MB."""
    rows = measure(sizes=[(150, 24, 32)], batches=[1], radius=9)
    if rows[0]["peak_mb"] is None:
        pytest.skip("this system does not tell the peak memory of a process")
    peaks = {row["method"]: row["peak_mb"] for row in rows}
    assert 31 <= peaks["convolution"] <= 200
    assert 0 < peaks["ours"] <= 10
    assert 0 < peaks["shih"] <= 20


def test_what_cannot_fit_is_not_begun() -> None:
    """A filter of 30 TB; the map of 0.5 MB fits."""
    ours, convolution, shih = measure(sizes=[(300_000, 1, 1)], batches=[1])
    assert ours["fits"] and ours["ratio"] == 1
    for row in (convolution, shih):
        assert not row["fits"] and "needs" in row["reason"]
        assert row["ms_per_image"] is row["ratio"] is row["peak_mb"] is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_a_process_that_runs_out_of_memory_is_a_row() -> None:
    """A filter of 324 MB where 250 MB may be taken."""
    sizes = [(1024, 2, 3)]
    ours, convolution, _ = measure(sizes=sizes, batches=[1], prepare=leave_little_memory)
    assert ours["fits"]
    assert not convolution["fits"] and "out of memory" in convolution["reason"]


@pytest.mark.parametrize(
    ("prepare", "limit_s", "reason"),
    [(end_yourself, 300, "ended by SIGKILL"), (wait, 0.5, "not done after 0.5 s")],
)
def test_a_process_that_is_ended_or_never_done_is_a_row(
    prepare: Callable[[], None], limit_s: float, reason: str
) -> None:
    ours, *_ = measure(sizes=[(3, 5, 7)], batches=[1], prepare=prepare, limit_s=limit_s)
    assert (ours["fits"], ours["reason"], ours["ratio"]) == (False, reason, None)


def test_another_failure_is_no_row() -> None:
    with pytest.raises(RuntimeError, match="ended with code 1"):
        measure(sizes=[(3, 5, 7)], batches=[1], prepare=fail)


def test_the_paper_stands_beside_its_own_sizes() -> None:
    _, *table6 = words("cooc bench cooccurrence --table6")
    report = json.loads(
        cooc(*table6, "--channels", "32", "--channels", "100000000", "--json").stdout
    )
    assert report["bench"] == "cooccurrence_table6"
    assert report["threads"] >= 1 and report["device"] and report["torch"]
    fitting = [row for row in report["rows"] if row["fits"]]
    assert {row["channels"] for row in fitting} == {32} and len(fitting) == 6
    assert [row["paper_ms"] for row in fitting] == [0.258, None, 29.321, 0.318, None, 35.227]
    assert [row["paper_fits"] for row in fitting] == [True, None, True, True, None, True]
    refused = [row for row in report["rows"] if row["channels"] == 100_000_000]
    assert len(refused) == 6 and not any(row["fits"] for row in refused)


def test_extract_measures_with_what_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "SIZES", ((64, 48),))
    monkeypatch.setattr(extract, "BATCHES", (1, 2))
    options = DescriberOptions(
        backbone="squeezenet1_1",
        layer="fire2",
        pooling="cbp_ac:dim=16,cooccurrence=learned,radius=0",
        max_side=64,
    )
    describer = Describer(
        options,
        load_weights("squeezenet1_1", "untrained"),
        cooccurrence_filter=torch.ones(128, 128, 1, 1),
        projection=LinearProjection(torch.zeros(16), torch.eye(16)[:3]),
    )
    rows = extract.run(options, describer)["rows"]
    assert [(row["size"], row["batch"]) for row in rows] == [([64, 48], 1), ([64, 48], 2)]
    assert all(row["trunk_ms"] > 0 and row["whole_ms"] > 0 for row in rows)


def test_channels_belong_to_the_table() -> None:
    assert "--channels goes with --table6" in cooc("--channels", "32", code=1).stderr
