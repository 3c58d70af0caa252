"""What a search costs in threads, where many search at once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.generations.build import FEW, project
from engine.postprocess import LinearProjection


def test_a_few_vectors_are_projected_as_many_are() -> None:
    draw = torch.Generator().manual_seed(0)
    mean, directions = torch.randn(96, generator=draw), torch.randn(24, 96, generator=draw)
    projection = LinearProjection(mean, directions)
    vectors = torch.randn(FEW + 3, 96, generator=draw).numpy()
    vectors[1] = mean.numpy()  # nothing is left of it
    expected = projection(torch.from_numpy(vectors)).numpy()
    np.testing.assert_allclose(project(projection, vectors), expected, atol=1e-6)
    for count in (1, FEW):
        found = project(projection, vectors[:count])
        np.testing.assert_allclose(found, expected[:count], atol=1e-6)
        assert found.dtype == np.float32


COUNTED = """
import sys, threading
from pathlib import Path
from engine.catalog import Catalog
from engine.types import SearchOptions
from tests.indexes import opened

CLIENTS = 12


def threads():
    return len(list(Path("/proc/self/task").iterdir()))


with opened(Path(sys.argv[1])) as searcher:
    searcher.search_id("i0", SearchOptions())
    meeting, alone = threading.Barrier(CLIENTS + 1), threads()

    def search():
        for seed in range(5):
            searcher.search_id(f"i{seed}", SearchOptions(limit=5))
        meeting.wait()
        meeting.wait()

    clients = [threading.Thread(target=search) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    meeting.wait()
    print("more threads:", threads() - alone - CLIENTS)
    meeting.wait()
    for client in clients:
        client.join()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads as Linux does")
def test_searches_that_come_at_once_start_no_threads_of_their_own(tmp_path: Path) -> None:
    from tests.indexes import make_index

    folder = make_index(tmp_path / "index", range(80))
    # In a process of its own: what others started here must not count.
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": "", "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"more threads: (-?\d+)", done.stdout)
    assert found and int(found[1]) <= 2


IDLE = """
import time
{imports}
import numpy as np

draw = np.random.default_rng(0)
directions, vectors = (
    draw.standard_normal((rows, 8192), np.float32) for rows in (512, 1)
)
{work}
began = time.process_time()
time.sleep(0.3)
print("computed while idle:", time.process_time() - began)
"""

PROJECTED = """
import torch
from engine.generations.build import project
from engine.postprocess import LinearProjection

projection = LinearProjection(torch.zeros(8192), torch.from_numpy(directions))
time.sleep(0.3)
project(projection, vectors)
"""


@pytest.mark.parametrize(
    ("imports", "work"), [("", PROJECTED), ("import app", "vectors @ directions.T")]
)
def test_nothing_computes_any_more_after_a_search(imports: str, work: str) -> None:
    environment = {"PATH": "", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", IDLE.format(imports=imports, work=work)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.rpartition(":")[2]) < 0.02
