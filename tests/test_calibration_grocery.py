"""Whether scores mean what they say: on real photos, none of which the index has ever seen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.backbones.weights import load_weights
from engine.calibration import Calibration
from engine.calibration.collect import calibrate
from engine.calibration.measuring import expected_error, reliability
from engine.calibration.strangers import refitted
from engine.describer import Describer, DescriberOptions
from engine.generations import project
from engine.images import encode_thumbnail
from engine.made.transforms import transformed
from engine.postprocess import PCAProjection
from engine.types import Pixels, Vectors

NEW = 200
"""Photos of each trial that are not stored: others ask with them."""
SEEDS = (0, 1)
VIEWS = 2


@dataclass(frozen=True)
class Photos:
    """Raw descriptors (N, D) of photos, their thumbnails, and copies (N, VIEWS, D) of those."""

    describer: Describer
    raw: Vectors
    thumbnails: list[bytes]

    def copies(self, chosen: Sequence[int]) -> Vectors:
        """Of seeds that no calibration uses."""
        made = [
            transformed(self.describer.decode(self.thumbnails[n]).pixels, 999, n, view)
            for n in chosen
            for view in range(VIEWS)
        ]
        return self.describer.describe(made)


@pytest.fixture(scope="module")
def photos() -> Photos:
    # As the fixture `shared_data`, which is made anew for each test.
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("COOC_SHARED_DATA", beside)) / "grocery" / "images"
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder}")
    describer = Describer(
        DescriberOptions(backbone="vgg_lite"), load_weights("vgg_lite", "bundled")
    )
    pixels = [describer.decode(path.read_bytes()).pixels for path in sorted(folder.iterdir())]
    return Photos(describer, describer.describe(pixels), [encode_thumbnail(p) for p in pixels])


@dataclass(frozen=True)
class Trial:
    """A calibrated index of all photos but `NEW`, and scores of what it has never seen."""

    calibration: Calibration
    matches: Vectors
    unrelated: dict[str, Vectors]


@pytest.fixture(scope="module", params=SEEDS)
def trial(request: pytest.FixtureRequest, photos: Photos) -> Trial:
    order = np.random.default_rng(request.param).permutation(len(photos.raw))
    new, kept = order[:NEW], np.sort(order[NEW:])
    rows = np.arange(len(kept))
    projection = PCAProjection.fit(torch.from_numpy(photos.raw[kept]))
    stored = project(projection, photos.raw[kept])

    def describe(pictures: Sequence[Pixels]) -> Vectors:
        return project(projection, photos.describer.describe(pictures))

    report = calibrate(
        rows,
        lambda chosen: stored[chosen],
        lambda row: photos.thumbnails[kept[row]],
        describe,
        seed=request.param,
        views=VIEWS,
        strangers=refitted(rows, lambda some: [(some, photos.raw[kept[some]])], PCAProjection.fit),
        budget_s=600.0,
    )
    assert report is not None
    asking = project(projection, photos.raw[new])
    copies = project(projection, photos.copies(new.tolist()))
    return Trial(
        report.calibration,
        np.einsum("nd,nd->n", np.repeat(asking, VIEWS, axis=0), copies),
        {
            "stored": (stored @ stored.T)[np.triu_indices(len(stored), 1)],
            "new": (asking @ stored.T).ravel(),
            "altered": (copies @ stored.T).ravel(),
        },
    )


@pytest.mark.slow
def test_probabilities_hold_on_photos_that_were_not_used(trial: Trial) -> None:
    chances = trial.calibration.probability
    matches = chances(trial.matches)
    for scores in trial.unrelated.values():
        assert expected_error(reliability(matches, [chances(scores)])) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e-2, 1e-3])
def test_false_positives_are_within_twice_the_rate(trial: Trial, rate: float) -> None:
    bound = np.float32(trial.calibration.threshold(rate))
    for kind in ("stored", "new"):
        share = float((trial.unrelated[kind] >= bound).mean())
        assert rate / 2 <= share <= 2 * rate, kind
    # Strongly changed photos are like nothing: fewer pass.
    assert (trial.unrelated["altered"] >= bound).mean() <= 2 * rate
    assert (trial.matches >= bound).mean() > (0.55 if rate == 1e-2 else 0.25)
