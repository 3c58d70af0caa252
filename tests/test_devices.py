"""Several devices behind one queue; here the CPU, twice."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from app.assembly import open_searcher
from app.settings import Settings
from engine.backbones.weights import load_weights
from engine.describer import Describer, choose_device
from engine.errors import InvalidOption
from engine.passes.devices import device_names
from engine.searcher import Searcher
from engine.types import SearchOptions, Vectors
from tests.drawing import photo
from tests.patience import PATIENCE_S


def test_names_of_devices() -> None:
    assert device_names("auto") == ["auto"]
    assert device_names("cuda:0, cuda:1") == ["cuda:0", "cuda:1"]
    count = torch.cuda.device_count()
    assert device_names("all") == ([f"cuda:{n}" for n in range(count)] if count else ["auto"])
    for names in ("", "cuda:0,", ",cpu"):
        with pytest.raises(InvalidOption, match="empty name"):
            device_names(names)


def test_a_gpu_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(choose_device(name)) for name in ("cuda", "cuda:1")] == ["cuda", "cuda:1"]
    with pytest.raises(InvalidOption, match=r"'cuda:2', but the last GPU is cuda:1"):
        choose_device("cuda:2")


class Meeting(Describer):
    """Computes only when another one computes at the same time."""

    barrier = threading.Barrier(2, timeout=PATIENCE_S)

    def describe(self, images: Sequence[np.ndarray]) -> Vectors:
        self.barrier.wait()
        return super().describe(images)


def test_two_workers_work_at_once_and_answer_as_one_does(
    tmp_path: Path, describer: Describer
) -> None:
    weights = load_weights("squeezenet1_1", "untrained")
    options = replace(describer.options, batch_size=1)
    pair = [Meeting(options, weights) for _ in range(2)]
    with (
        closing(Searcher(tmp_path / "two", pair[0], more_describers=pair[1:])) as two,
        closing(Searcher(tmp_path / "one", describer)) as one,
    ):
        photos = [describer.decode(photo(seed)) for seed in range(10)]
        found = two.describe_many(photos)
        expected = one.describe_many(photos)
        for ours, theirs in zip(found, expected, strict=True):
            assert isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray)
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_setting_makes_a_worker_for_each_device(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path, device="cpu,cpu", backbone="squeezenet1_1", weights="untrained"
    )
    opened = open_searcher(settings)
    try:
        assert [str(each.device) for each in opened.searcher.describers] == ["cpu", "cpu"]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: opened.searcher.put(str(n), photo(n), {}), range(8)))
        assert opened.searcher.search(photo(3), SearchOptions()).hits[0].id == "3"
        assert opened.searcher.load.done == 8
    finally:
        opened.close()


def test_an_unknown_device_among_several_is_named(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path, device="cpu,gpu7", backbone="squeezenet1_1", weights="untrained"
    )
    with pytest.raises(InvalidOption, match="gpu7"):
        open_searcher(settings)
