"""Train a co-occurrence filter: photos of things in, `filter.safetensors` out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.backbones.weights import load_weights
from engine.cooccurrence import direct_filter
from engine.describer import Describer, DescriberOptions
from engine.descriptor_weights import DescriptorWeights
from engine.errors import InvalidOption
from engine.evaluation.descriptors import free_memory
from engine.files.storage import storage_errors, write_atomically
from engine.pictures import filter_picture
from engine.training import sfm
from engine.training.device import Compute, choose_compute
from engine.training.loop import LoopOptions, Outcome, Report, train
from engine.training.map_cache import MapCache
from engine.training.photos import photos_digest
from engine.training.run_folder import RunFolder
from engine.training.siamese import Siamese, SiameseOptions, filter_descriptor, filter_spec
from engine.training.training_set import TrainingSet, check_apart, read_training_set
from engine.types import Json

log = logging.getLogger(__name__)

TRUNK_PRECISIONS = {"auto": "auto", "float32": "float32", "mixed": "bfloat16"}


@dataclass(frozen=True)
class FilterRun:
    """What decides the filter.

    Attributes:
        data: folder of a training set, see `engine.training.training_set`.
        validate: another one whose mAP is watched; None holds out a part of `data`, or takes the
            split `val` of retrieval-SfM.
        hold_out: share of the things that is held out.
        backbone, weights, layer, max_side: the trunk, which stays as it is.
        pooling: `cbp_ac` or `bp_ac`, with options.
        radius: r of the filter (C, C, 2r+1, 2r+1).
    """

    data: str
    validate: str | None = None
    hold_out: float = 0.2
    backbone: str = "vgg16"
    weights: str = "auto"
    layer: str | None = None
    max_side: int = 512
    pooling: str = "cbp_ac"
    radius: int = 4
    siamese: SiameseOptions = field(default_factory=SiameseOptions)
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(learning_rate=5e-4))


def train_filter(
    run: FilterRun,
    out: Path,
    *,
    options: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
    resume: bool = False,
    device: str = "auto",
    precision: str = "auto",
    cache_gb: float = 2.0,
    cache_dir: Path | None = None,
    checkpoint_s: float = 120.0,
    report: Report | None = None,
) -> Json:
    """Train, and write `filter.safetensors` and `filters.png` into the run folder `out`.

    Args:
        options: by which `run` was asked for, plain values; kept in the run folder's config.
        beside: further ones, which do not decide the result, kept for those who resume the run.
        precision: of the trunk, as in the service, and of the filter's products: float32 or
            `mixed` (bfloat16).
        cache_gb: memory for the maps of photos.

    Returns: what was reached, for people and programs.
    Raises: InvalidOption, TrainingFailed, WeightsUnavailable, StorageFull.
    """
    compute = choose_compute(device, precision)
    spec = filter_spec(run.pooling, run.radius)
    training_set, held_out = _sets(run)
    describer = _describer(run, device, precision, cache_dir)
    config = {
        "kind": "filter",
        "options": dict(options) if options is not None else asdict(run),
        "weights_digest": describer.weights.digest,
        "photos_digest": photos_digest(training_set.files),
        "held_out_digest": photos_digest(held_out.files),
        "trunk_precision": describer.precision,
        "mixed": compute.mixed,
    }
    descriptor, learned = filter_descriptor(spec, describer.trunk.channels, compute)
    _check_memory(run.siamese, training_set, held_out, descriptor.pooling.dim, compute)
    maps = MapCache(describer, cache_bytes=int(cache_gb * 1e9))
    task = Siamese(
        descriptor, learned, maps, training_set, held_out, run.siamese, seed=run.loop.seed
    )
    with RunFolder(out, config, beside=beside, resume=resume) as folder:
        outcome = train(task, run.loop, folder, checkpoint_s=checkpoint_s, report=report)
        best = folder.load_best()
        before, after = task.first_score, best["scores"]["mAP"]
        if best["epoch"] < 0:
            log.warning("no epoch ranked better than the direct filter, which is what was written")
        weight: Tensor = best["model"]["weight"]
        notes = {
            "data": Path(run.data).resolve().name,
            "photos": len(training_set.names),
            "things": training_set.things,
            "held_out_photos": len(held_out.names),
            "mAP_direct": before,
            "mAP": after,
            "epoch": best["epoch"] + 1,
            "steps": (best["epoch"] + 1) * task.steps,
            **asdict(run.siamese),
            "optimizer": run.loop.optimizer,
            "learning_rate": run.loop.learning_rate,
        }
        made_for = {
            "backbone": run.backbone,
            "layer": describer.trunk.layer,
            "weights_digest": describer.weights.digest,
            "max_side": run.max_side,
            "pooling": spec,
        }
        file = out / "filter.safetensors"
        DescriptorWeights(weight, None, made_for, notes).save(file)
        picture = filter_picture(
            weight.numpy(),
            starting_filter(len(weight), run.radius).numpy(),
            caption=f"{after - before:+.4f} mAP on {len(held_out.names)} held-out photos",
        )
        with storage_errors(out):
            write_atomically(out / "filters.png", picture)
        return _result(file, folder, outcome, before, after, maps)


def usual_learning_rate(*, radius: int) -> float:
    """0.04 / s^2: each step of Adam then changes weights by up to 4 % of what they begin as.

    On 1800 made photos (SqueezeNet, r = 2, margin 1.1, cosine), 350 steps at 1.25 times that took
    objects that were not among them from 41.2 to 49.1 mAP. With margin 0.85, 20 steps at a
    sixteenth of it gained 0.1, at two thirds 0.6, and 40 steps at four times it lost 0.8.
    """
    return 0.04 / (2 * radius + 1) ** 2


def starting_filter(channels: int, radius: int) -> Tensor:
    """The direct filter as it begins: 1 / s^2 off the diagonal, 0 on it."""
    return direct_filter(channels, radius) / (2 * radius + 1) ** 2


def _sets(run: FilterRun) -> tuple[TrainingSet, TrainingSet]:
    """To learn from, and held out."""
    data = Path(run.data)
    training_set = read_training_set(data)
    if run.validate is not None:
        held_out = read_training_set(Path(run.validate))
        check_apart(training_set, held_out)
        return training_set, held_out
    if sfm.is_in(data):
        return training_set, read_training_set(data, split="val")
    return training_set.split_by_cluster(run.hold_out, run.loop.seed)


def _describer(run: FilterRun, device: str, precision: str, cache_dir: Path | None) -> Describer:
    """Of which only the trunk is used."""
    weights = load_weights(run.backbone, run.weights, cache_dir=cache_dir)
    options = DescriberOptions(
        backbone=run.backbone,
        layer=run.layer,
        max_side=run.max_side,
        pooling="spoc",
        device=device,
        precision=TRUNK_PRECISIONS[precision],
    )
    describer = Describer(options, weights)
    if len(describer.trunk.map_channels) > 1:
        raise InvalidOption(f"a filter is trained for one layer, not {describer.trunk.layer}")
    return describer


def _check_memory(
    options: SiameseOptions,
    training_set: TrainingSet,
    held_out: TrainingSet,
    dim: int,
    compute: Compute,
) -> None:
    """Raises InvalidOption where the descriptors of an epoch would not fit into memory."""
    photos = min(len(training_set.names), options.pool + 2 * options.pairs)
    # Once as they are found, and once as they are compared.
    needed = 2 * 4 * dim * max(photos, len(held_out.names))
    free = free_memory() if compute.device.type == "cpu" else None
    if free is not None and needed > free:
        raise InvalidOption(
            f"descriptors of {photos} photos with {dim} values need {needed / 1e9:.1f} GB of "
            f"memory, {free / 1e9:.1f} GB are free; choose a smaller --pool, or --pooling cbp_ac"
        )


def _result(
    file: Path, folder: RunFolder, outcome: Outcome, before: float, after: float, maps: MapCache
) -> Json:
    return {
        "filter": str(file),
        "picture": str(file.with_name("filters.png")),
        "scores": {"mAP": after, "mAP of the direct filter": before},
        "best_epoch": outcome.epoch + 1,
        "stopped_early": outcome.stopped_early,
        "seconds": round(outcome.seconds, 1),
        "steps": max((entry["step"] for entry in folder.entries()), default=0),
        "left_out": len(maps.left_out),
    }
