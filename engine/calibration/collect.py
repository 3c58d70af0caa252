"""Pairs of a collection, matching and not, from which its scores are calibrated."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from engine.calibration.fitting import fit
from engine.calibration.leaving_out import even, left_out
from engine.calibration.measuring import Bin, expected_error, pass_rate, reliability
from engine.calibration.model import Calibration
from engine.calibration.strangers import MAX_ASKING, Strangers
from engine.errors import EngineError
from engine.images import decode
from engine.types import Json, Pixels, Rows, Vectors

log = logging.getLogger(__name__)

MIN_IMAGES = 50
"""Fewer are not calibrated: a handful of alike photos would decide everything."""
MIN_VIEWS = 50
"""Made even where they take longer than the budget; fewer give no curve."""
MAX_STORED = 8192
"""Images that are compared with: with `MAX_ASKING` queries 4 million pairs, which take a second."""
BATCH = 8
"""Copies that are described together; between batches work can be cancelled."""
STORED_QUERIES = 0.5
"""Share of the non-matches that ask with a stored photo; the others ask with a new one. Of the
stored ones .35 to 1 times as many pass the same bound, and so both stay within twice the rate."""
RATES = (1e-2, 1e-3)
"""For which the report says how many of the pairs not used for fitting passed."""
EDGES = np.linspace(-1.0, 1.0, 201)
"""Of the bins in which the report counts scores."""

Progress = Callable[[int, int], None]
"""Called with (copies described, copies in all); may raise to cancel."""


@dataclass(frozen=True)
class CalibrationReport:
    """A calibration, and how well it does on images that it was not fitted on.

    The figures are of two trials: each half of the images is measured with what was fitted on the
    other one. The calibration is then fitted on all, so it is rather better than they say.

    Attributes:
        expected_error: expected calibration error, the mean of both trials; None where the halves
            are too small.
        passed: for each rate of `RATES` that half of the images can tell the share of non-matches
            that passed, by who asked: `stored` photos, `new` ones (left out of the projection),
            and made copies (`altered`).
        bins: the reliability diagram.
        match_counts, non_match_counts: scores, in bins between `EDGES`.
    """

    calibration: Calibration
    expected_error: float | None
    passed: dict[float, dict[str, float]]
    bins: tuple[Bin, ...]
    match_counts: tuple[int, ...]
    non_match_counts: tuple[int, ...]

    def to_json(self) -> Json:
        """The figures, for a manifest or a report."""
        return {
            "images": self.calibration.images,
            "matches": self.calibration.matches,
            "non_matches": self.calibration.pairs,
            "near": self.calibration.near,
            "expected_calibration_error": self.expected_error,
            "lowest_max_fpr": self.calibration.rates[-1] if self.calibration.rates else None,
            "false_positive_rates": {f"{rate:g}": shares for rate, shares in self.passed.items()},
            "bins": [asdict(entry) for entry in self.bins],
        }


def calibrate(
    rows: Rows,
    vectors: Callable[[Rows], Vectors],
    picture: Callable[[int], bytes | None],
    describe: Callable[[Sequence[Pixels]], Vectors],
    *,
    seed: int = 0,
    max_images: int = 200,
    views: int = 4,
    strangers: Strangers | None = None,
    max_side: int = 512,
    budget_s: float | None = None,
    progress: Progress | None = None,
) -> CalibrationReport | None:
    """Compare made copies of photos with their own and with other photos of the collection.

    Every photo gets one copy before any gets two, so that a slow model still sees many photos. With
    the same seed and time enough the answer is the same.

    Args:
        rows: (N,) all rows of the collection, ascending.
        vectors: the (n, D) unit vectors that are searched, of given rows.
        picture: the file of a row's thumbnail or original; None if there is none.
        describe: (n, D) unit vectors of pixels, projected as the stored ones are.
        max_images, views: photos that are copied, and copies of each.
        strangers: photos as new ones would be. Needed where the projection was fitted on
            `left_out(rows)`: where it was not, or there is none, those are taken as they are.
        max_side: longest side at which pictures are decoded, that of the recipe.
        budget_s: seconds for copies beyond the first `MIN_VIEWS`; default `budget(N)`.

    Returns: None for fewer than `MIN_IMAGES` images, or where hardly any picture can be read.
    Raises: what `progress`, `vectors` and `describe` raise.
    """
    if len(rows) < MIN_IMAGES:
        return None
    started = time.perf_counter()
    random = np.random.default_rng(seed)
    shown = random.permutation(even(rows, min(max_images, len(rows))))
    copied, copies = _copies(
        shown,
        picture,
        describe,
        seed=seed,
        views=views,
        max_side=max_side,
        seconds=budget(len(rows)) if budget_s is None else budget_s,
        progress=progress,
    )
    if len(np.unique(copied)) < MIN_IMAGES // 2:
        log.warning("scores are not calibrated: %d pictures could be read", len(np.unique(copied)))
        return None
    stored = np.union1d(even(rows, min(len(rows), MAX_STORED)), copied)
    if strangers is None:
        new = left_out(rows)
        new = even(new, min(len(new), MAX_ASKING))
        stored = np.union1d(stored, new)
    found = vectors(stored)
    if strangers is None:
        strangers = Strangers(new, found[np.searchsorted(stored, new)], stored, found)
    sample = _Sample(stored, found, strangers, copied, copies)
    everything = np.union1d(stored, np.union1d(strangers.rows, strangers.compared))
    half = random.permutation(everything)[::2]
    report = _report(sample, everything, half)
    log.info(
        "scores calibrated with %d copies and %d stored images in %.1f s; expected error %s",
        len(copies),
        len(stored),
        time.perf_counter() - started,
        "unknown" if report.expected_error is None else f"{report.expected_error:.3f}",
    )
    return report


def budget(count: int) -> float:
    """Seconds for describing copies: 1 for small collections, 30 from some thousands on."""
    return min(30.0, 0.5 + count / 120)


@dataclass(frozen=True)
class _Sample:
    """Stored rows (S,) and their vectors, others that stand for new photos, and copies (V, D) of
    stored photos with the rows (V,) of those."""

    rows: Rows
    stored: Vectors
    strangers: Strangers
    copied: Rows
    copies: Vectors

    def matches(self, chosen: Rows) -> Vectors:
        """Similarities of photos among the `chosen` rows and their copies."""
        own = self.stored[np.searchsorted(self.rows, self.copied)]
        scores: Vectors = np.einsum("nd,nd->n", own, self.copies)
        return scores[np.isin(self.copied, chosen)]

    def non_matches(self, chosen: Rows) -> dict[str, Vectors]:
        """Similarities of different photos, both among the `chosen` rows, by who asks."""
        kept = np.isin(self.rows, chosen)
        rows, stored = self.rows[kept], self.stored[kept]
        asking = even(np.arange(len(rows)), min(len(rows), MAX_ASKING))
        altered = np.isin(self.copied, chosen)
        new, met = (np.isin(r, chosen) for r in (self.strangers.rows, self.strangers.compared))
        return {
            "stored": _pairs(rows[asking], stored[asking], rows, stored),
            "new": _pairs(
                self.strangers.rows[new],
                self.strangers.vectors[new],
                self.strangers.compared[met],
                self.strangers.compared_vectors[met],
            ),
            "altered": (self.copies[altered] @ stored.T)[self.copied[altered][:, None] != rows],
        }

    def fit(self, chosen: Rows) -> Calibration:
        # Copies ask only for matches: strongly changed ones are like nothing else, and with them
        # among the non-matches more untouched photos would pass than the rate says.
        kinds = self.non_matches(chosen)
        return fit(
            self.matches(chosen),
            [(kinds["stored"], STORED_QUERIES), (kinds["new"], 1 - STORED_QUERIES)],
            images=int(np.isin(self.rows, chosen).sum()),
        )


def _pairs(asking: Rows, queries: Vectors, rows: Rows, vectors: Vectors) -> Vectors:
    """Similarities of different rows; two that both ask are one pair, not two. Rows ascend."""
    unlike = asking[:, None] != rows
    again = np.isin(rows, asking) & (asking[:, None] > rows)
    scores: Vectors = (queries @ vectors.T)[unlike & ~again]
    return scores


def _report(sample: _Sample, everything: Rows, half: Rows) -> CalibrationReport:
    rest_of_it = np.setdiff1d(everything, half)
    matches: list[Vectors] = []
    others: dict[str, list[Vectors]] = {}
    errors: list[float] = []
    passed: dict[float, dict[str, list[float]]] = {}
    for fitted, rest in ((half, rest_of_it), (rest_of_it, half)):
        if not all(len(sample.matches(part)) for part in (fitted, rest)):
            continue
        trial = sample.fit(fitted)
        kinds = {kind: s for kind, s in sample.non_matches(rest).items() if len(s)}
        chances = {kind: trial.probability(scores) for kind, scores in kinds.items()}
        matches.append(trial.probability(sample.matches(rest)))
        # Of each trial alone: together the error of one could make up for that of the other.
        errors.append(expected_error(reliability(matches[-1], list(chances.values()))))
        for kind, scores in kinds.items():
            others.setdefault(kind, []).append(chances[kind])
            for rate in RATES:
                if trial.rates and rate >= trial.rates[-1]:
                    share = pass_rate(scores, trial.threshold(rate))
                    passed.setdefault(rate, {}).setdefault(kind, []).append(share)
    bins: list[Bin] = []
    if matches:
        bins = reliability(np.concatenate(matches), [np.concatenate(k) for k in others.values()])
    return CalibrationReport(
        calibration=sample.fit(everything),
        expected_error=float(np.mean(errors)) if errors else None,
        passed={
            rate: {kind: float(np.mean(shares)) for kind, shares in found.items()}
            for rate, found in passed.items()
        },
        bins=tuple(bins),
        match_counts=_counts([sample.matches(everything)]),
        non_match_counts=_counts(list(sample.non_matches(everything).values())),
    )


def _copies(
    rows: Rows,
    picture: Callable[[int], bytes | None],
    describe: Callable[[Sequence[Pixels]], Vectors],
    *,
    seed: int,
    views: int,
    max_side: int,
    seconds: float,
    progress: Progress | None,
) -> tuple[Rows, Vectors]:
    """Rows and vectors (V, D) of made copies, as many as there is time for."""
    from engine.made.transforms import transformed  # needed by builds only, not by a start

    deadline = time.perf_counter() + seconds
    copied: list[int] = []
    described: list[Vectors] = []
    for view in range(views):
        for start in range(0, len(rows), BATCH):
            if len(copied) >= MIN_VIEWS and time.perf_counter() > deadline:
                break
            made: list[Pixels] = []
            for row in rows[start : start + BATCH].tolist():
                pixels = _pixels(picture(row), max_side)
                if pixels is not None:
                    made.append(transformed(pixels, seed, row, view))
                    copied.append(row)
            if made:
                described.append(describe(made))
            if progress:
                progress(len(copied), views * len(rows))
    if not described:
        return rows[:0], np.empty((0, 0), np.float32)
    return np.array(copied, np.int64), np.concatenate(described)


def _pixels(data: bytes | None, max_side: int) -> Pixels | None:
    """Of a picture that can be read."""
    if data is None:
        return None
    try:
        return decode(data, max_side=max_side).pixels
    except EngineError:
        return None


def _counts(populations: Sequence[Vectors]) -> tuple[int, ...]:
    scores = np.concatenate(populations) if populations else np.empty(0, np.float32)
    counts, _ = np.histogram(np.clip(scores, -1.0, 1.0), EDGES)
    return tuple(counts.tolist())
