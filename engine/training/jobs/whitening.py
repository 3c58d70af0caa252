"""Learn a whitening from pairs of photos that match: `projection.safetensors` out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.describer import Describer
from engine.descriptor_weights import DescriptorWeights
from engine.errors import EngineError, InvalidOption
from engine.evaluation.descriptors import FITTING_BYTES, ImagePart, free_memory
from engine.files.storage import storage_errors, write_atomically
from engine.pictures import spectrum_picture
from engine.postprocess import LearnedWhitening, PCAProjection
from engine.training import sfm
from engine.training.components import connected
from engine.training.mining import validation_map
from engine.training.photos import photos_digest
from engine.training.run_folder import RunFolder
from engine.training.training_set import TrainingSet, read_training_set
from engine.types import Json

log = logging.getLogger(__name__)

MIN_PAIRS = 10
"""Independent ones; fewer say next to nothing of how photos of one thing differ."""

PCA_POWER = 0.25
"""Of the projection that a build fits by default; the learned one is compared with it."""


@dataclass(frozen=True)
class WhiteningRun:
    """What decides the whitening, besides the descriptors.

    Attributes:
        data: folder of a training set, see `engine.training.training_set`; of retrieval-SfM the
            split `whiten`, or `train` where there is no such file.
        dim: values of a whitened descriptor, at most.
        shrinkage: see `LearnedWhitening.fit`; None for what it chooses.
        hold_out: share of the things by which it is measured, before it is fitted on all of them;
            0 measures nothing.
    """

    data: str
    dim: int = 512
    shrinkage: float | None = None
    hold_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InvalidOption naming what is out of range."""
        if self.dim < 1:
            raise InvalidOption(f"dim is {self.dim}; it must be at least 1")
        if self.shrinkage is not None and not 0 <= self.shrinkage <= 1:
            raise InvalidOption(f"shrinkage is {self.shrinkage}; it must be in [0, 1]")
        if not 0 <= self.hold_out < 1:
            raise InvalidOption(f"the share to hold out is {self.hold_out}; it must be in [0, 1)")


def learn_whitening(
    run: WhiteningRun,
    describer: Describer,
    out: Path,
    *,
    options: Mapping[str, Any] | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Json:
    """Learn, and write `projection.safetensors` and `spectrum.png` into the folder `out`.

    With things held out, the whitening is fitted twice: on the others to be measured, and then on
    all, which is what is written.

    Args:
        options: by which `run` was asked for, plain values; kept in the folder's config.
        report: of photos described, and all.

    Returns: what was reached, for people and programs.
    Raises: InvalidOption, TrainingFailed where `out` holds another run, StorageFull.
    """
    data = Path(run.data)
    photos = read_training_set(data, split=_split(data))
    config = {
        "kind": "whitening",
        "options": dict(options) if options is not None else asdict(run),
        "weights_digest": describer.weights.digest,
        "cooccurrence_digest": describer.recipe.cooccurrence_digest,
        "photos_digest": photos_digest(photos.files),
    }
    _check_pairs(photos)
    _check_memory(len(photos.names), describer.pooling.dim)
    with RunFolder(out, config, resume=True):  # the same again: it is written anew
        vectors, photos, left_out = _described(describer, photos, report)
        _check_pairs(photos)
        scores = _measured(run, photos, vectors) if run.hold_out else {}
        learned = _fit(run, photos, vectors)
        if learned.dim < run.dim:
            log.warning(
                "dim is %d, not %d: descriptors of %d photos span no more useful directions",
                learned.dim,
                run.dim,
                len(vectors),
            )
        held_out = f"{run.hold_out:g} of the things" if scores else "nothing"
        notes = {
            "data": data.resolve().name,
            "photos": len(photos.names),
            "things": photos.things,
            "pairs": len(photos.queries),
            "shrinkage": learned.shrinkage,
            "mAP": scores,
            "measured": f"with {held_out} held out; then fitted on all",
        }
        recipe = describer.recipe
        made_for = {
            "backbone": recipe.backbone,
            "layer": recipe.layer,
            "weights_digest": recipe.weights_digest,
            "max_side": recipe.max_side,
            "scales": list(recipe.scales),
            "pooling": describer.options.pooling,
            "cooccurrence_digest": recipe.cooccurrence_digest,
            "projection_kind": "whitening",
        }
        file = out / "projection.safetensors"
        DescriptorWeights(None, learned, made_for, notes).save(file)
        caption = (
            f"{len(photos.names)} photos of {photos.things} things, {len(photos.queries)} pairs, "
            f"shrinkage {learned.shrinkage:.3g}; mAP with {held_out} held out"
        )
        picture = spectrum_picture(learned.eigenvalues.tolist(), scores, caption=caption)
        with storage_errors(out):
            write_atomically(out / "spectrum.png", picture)
    return {
        "projection": str(file),
        "picture": str(out / "spectrum.png"),
        "scores": scores,
        "dim": learned.dim,
        "shrinkage": learned.shrinkage,
        "photos": len(photos.names),
        "pairs": len(photos.queries),
        "left_out": left_out,
    }


def independent_pairs(photos: TrainingSet) -> int:
    """Pairs whose difference is no sum of those of others: photos less what they are linked to."""
    pairs = zip(photos.queries.tolist(), photos.positives.tolist(), strict=True)
    parts = connected(len(photos.names), pairs)
    return len(parts) - len(np.unique(parts))


def _split(data: Path) -> str | None:
    if not sfm.is_in(data):
        return None
    return "whiten" if any(data.glob("retrieval-SfM-*-whiten.pkl")) else "train"


def _check_pairs(photos: TrainingSet) -> None:
    """Raises InvalidOption for too few pairs."""
    found = independent_pairs(photos)
    if found < MIN_PAIRS:
        raise InvalidOption(
            f"{len(photos.names)} photos of {photos.things} things make {found} independent pairs; "
            f"a whitening needs at least {MIN_PAIRS}, and is better with several hundred: add "
            "photos of more things"
        )


def _check_memory(photos: int, dim: int) -> None:
    """Raises InvalidOption where the fit would not fit into memory."""
    # Beside copies in double precision, products of all photos or all dimensions.
    needed = FITTING_BYTES * photos * dim + 24 * min(photos, dim) ** 2
    free = free_memory()
    if free is not None and needed > free:
        raise InvalidOption(
            f"to learn from {photos} descriptors of {dim} values takes {needed / 1e9:.1f} GB of "
            f"memory, {free / 1e9:.1f} GB are free; use fewer photos, or a smaller --pooling such "
            "as cbp_ac:dim=2048"
        )


def _described(
    describer: Describer, photos: TrainingSet, report: Callable[[int, int], None] | None
) -> tuple[Tensor, TrainingSet, int]:
    """Descriptors (N, D) of the photos that can be read, those photos, and how many cannot."""
    count = len(photos.names)
    vectors = np.zeros((count, describer.pooling.dim), dtype=np.float32)
    good = np.zeros(count, dtype=bool)
    items = ((row, ImagePart(file)) for row, file in enumerate(photos.files))
    for done, (row, found) in enumerate(describer.stream(items), start=1):
        if isinstance(found, EngineError):
            log.warning("left out %s: %s", photos.files[row], found)
        else:
            vectors[row], good[row] = found[0], True
        if report is not None:
            report(done, count)
    if good.all():
        return torch.from_numpy(vectors), photos, 0
    return torch.from_numpy(vectors[good]), photos.subset(np.flatnonzero(good)), int((~good).sum())


def _measured(run: WhiteningRun, photos: TrainingSet, vectors: Tensor) -> dict[str, float]:
    """mAP on held-out things: raw, by PCA as a build would fit it, and whitened."""
    train, held_out = photos.split_by_cluster(run.hold_out, run.seed)
    place = {name: row for row, name in enumerate(photos.names)}
    mine = vectors[[place[name] for name in train.names]]
    theirs = vectors[[place[name] for name in held_out.names]]
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "raw": lambda found: found,
        "PCA": PCAProjection.fit(mine, run.dim, PCA_POWER),
        "whitened": _fit(run, train, mine),
    }
    return {
        name: validation_map(project(theirs), held_out.clusters, held_out.queries)
        for name, project in ways.items()
    }


def _fit(run: WhiteningRun, photos: TrainingSet, vectors: Tensor) -> LearnedWhitening:
    queries, positives = torch.from_numpy(photos.queries), torch.from_numpy(photos.positives)
    try:
        return LearnedWhitening.fit(vectors, queries, positives, run.dim, shrinkage=run.shrinkage)
    except ValueError as error:
        raise InvalidOption(f"no whitening can be learned from {run.data}: {error}") from error
