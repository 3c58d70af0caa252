"""A device with too little memory: an injected trunk that fits only so many pixels at once."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.backbones.weights import load_weights
from engine.describer import Describer
from engine.errors import OutOfMemory
from engine.passes.pass_size import FULL_PASSES_TO_GROW, PassSize
from engine.queries.querying import Example
from engine.searcher import Searcher
from engine.types import Pixels
from tests.drawing import photo


class Cramped(torch.nn.Module):
    """The same trunk, on a device where `room` images are the most that fit."""

    def __init__(self, inner: torch.nn.Module, room: int) -> None:
        super().__init__()
        self.inner, self.room = inner, room
        self.error: RuntimeError = torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2 GiB.\nDetails"
        )
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def maps(self, images: Tensor) -> list[Tensor]:
        self.batches.append(len(images))
        if len(images) > self.room:
            raise self.error
        found: list[Tensor] = self.inner.maps(images)  # type: ignore[operator]
        return found


def cramped(describer: Describer, room: int, batch_size: int = 8) -> tuple[Describer, Cramped]:
    options = replace(describer.options, batch_size=batch_size)
    made = Describer(options, load_weights("squeezenet1_1", "untrained"))
    trunk = Cramped(made.trunk, room)
    made.trunk = trunk  # type: ignore[assignment]
    return made, trunk


def pictures(count: int) -> list[Pixels]:
    random = np.random.default_rng(0)
    return list(random.integers(0, 256, (count, 64, 80, 3), np.uint8))


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(describer: Describer) -> None:
    made, trunk = cramped(describer, room=3)
    images = pictures(8)
    vectors = made.describe(images)
    np.testing.assert_allclose(vectors, describer.describe(images), atol=1e-5)
    assert trunk.batches == [8, 4, 2, 2, 4, 2, 2]


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be reported later",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 8 bytes.",
    ],
)
def test_libraries_that_have_no_room_say_so_in_words(describer: Describer, said: str) -> None:
    made, trunk = cramped(describer, room=2)
    trunk.error = RuntimeError(said)
    images = pictures(4)
    np.testing.assert_allclose(made.describe(images), describer.describe(images), atol=1e-5)
    assert trunk.batches == [4, 2, 2]
    trunk.error = RuntimeError("the sizes do not match")
    trunk.room = 0
    with pytest.raises(RuntimeError, match="sizes"):
        made.describe(images)


def test_the_smaller_size_is_remembered(describer: Describer) -> None:
    made, trunk = cramped(describer, room=3)
    made.describe(pictures(8))
    trunk.batches.clear()
    assert made.images_per_pass((64, 80, 3)) == 2
    made.describe(pictures(8))
    assert trunk.batches == [2, 2, 2, 2]


def test_it_grows_back_with_care() -> None:
    size = PassSize(800)
    tried: list[int] = []

    def make_passes(count: int, room: int) -> None:
        for _ in range(count):
            tried.append(size.images(100))
            if tried[-1] > room:
                size.failed(tried[-1], 100)
            else:
                size.passed(tried[-1], 100)

    make_passes(10 * FULL_PASSES_TO_GROW, room=3)
    # Halved twice; then one image more after each long enough run of passes that fitted.
    run = FULL_PASSES_TO_GROW
    assert tried[: 2 + 2 * run + 1] == [8, 4] + run * [2] + run * [3] + [4]
    assert sum(images > 3 for images in tried) <= 7
    tried.clear()
    make_passes(10 * FULL_PASSES_TO_GROW, room=8)
    assert max(tried) == tried[-1] == 8


def test_an_image_that_does_not_fit_alone_is_an_error_with_its_size(describer: Describer) -> None:
    made, trunk = cramped(describer, room=0)
    with pytest.raises(OutOfMemory, match=r"80 x 64 pixels .*Tried to allocate 2 GiB.*MAX_SIDE"):
        made.describe(pictures(1))
    assert trunk.batches == [1, 1], "tried once more after the cache was emptied"
    trunk.room = 1
    assert made.describe(pictures(1)).shape == (1, 8192)


def test_a_pass_is_never_less_than_one_image_nor_more_than_at_first() -> None:
    size = PassSize(1000)
    assert size.images(2000) == 1
    size.failed(1, 400)
    assert size.images(400) == 1
    for _ in range(100 * FULL_PASSES_TO_GROW):
        size.passed(size.images(100), 100)
    assert size.pixels == 1000


def test_an_explanation_that_does_not_fit_is_an_error_that_says_so(
    describer: Describer, tmp_path: Path
) -> None:
    made, trunk = cramped(describer, room=8)
    with closing(Searcher(tmp_path, made)) as searcher:
        searcher.put("a", photo(1), {})
        trunk.room = 0
        with pytest.raises(OutOfMemory, match=r"2 GiB\.\).*leave `explain` out"):
            searcher.explainer.explain(Example(photo(2)), ["a"])
        trunk.room = 8
        assert searcher.explainer.explain(Example(photo(2)), ["a"])
