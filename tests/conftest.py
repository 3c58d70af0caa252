from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.backbones.weights import load_weights
from engine.describer import Describer, DescriberOptions
from engine.searcher import Searcher
from tests.reader import forking

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device of this machine."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def describer() -> Describer:
    """A small and fast one: untrained SqueezeNet at 128 pixels."""
    options = DescriberOptions(
        backbone="squeezenet1_1", max_side=128, precision="float32", projection_dim=64
    )
    return Describer(options, load_weights("squeezenet1_1", "untrained"))


@pytest.fixture(scope="session")
def forker() -> Iterator[str]:
    """Runs many `cooc` commands for readers of the documents, without importing all each time."""
    with forking() as path:
        yield path


@pytest.fixture
def searcher(tmp_path: Path, describer: Describer) -> Iterator[Searcher]:
    """An empty index in a folder of its own."""
    instance = Searcher(tmp_path / "index", describer)
    yield instance
    instance.close()


@pytest.fixture
def shared_data() -> Path:
    """Data sets for development, beside the project; the test is skipped where there are none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("COOC_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder}; set COOC_SHARED_DATA")
    return folder
