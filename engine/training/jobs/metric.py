"""Run metric learning: photos of things in, a projection to short descriptors out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from engine.backbones import build_trunk
from engine.backbones.weights import Weights, load_weights
from engine.cooccurrence_filter import pooling_with_filter
from engine.describer import Describer, DescriberOptions
from engine.descriptor_weights import DescriptorWeights, read_cooccurrence
from engine.errors import EngineError, InvalidOption, TrainingFailed
from engine.files.storage import storage_errors, write_atomically
from engine.postprocess import MAX_FIT_IMAGES, PCAProjection
from engine.training.adjusted import AdjustedTrunk
from engine.training.described import describe_photos, made_views, view_sizes
from engine.training.device import Compute, choose_compute
from engine.training.loop import LoopOptions, Report, train
from engine.training.metric import (
    Batches,
    Head,
    HeadLearning,
    HeldOut,
    MetricOptions,
    TrunkAndHead,
    TrunkLearning,
    start_pca,
)
from engine.training.photos import find_photos, photos_digest, read_photo
from engine.training.run_folder import RunFolder
from engine.training.seeds import generator
from engine.training.training_set import Rows, TrainingSet, check_apart, read_training_set
from engine.types import Json, Pixels

log = logging.getLogger(__name__)

VIEWS_SEED = 0
"""Not that of the run: runs of several seeds may share descriptors."""

MIN_PHOTOS = 4
"""Without labels: two to learn from, two to validate on."""


@dataclass(frozen=True)
class MetricRun:
    """What decides the result of metric learning.

    Attributes:
        data: folder of photos of which it is known what shows the same thing; see
            `engine.training.training_set.read_training_set`.
        validate: another one to validate on; else a share of the things in `data` is held out.
        hold_out: that share.
        instances: labels are not looked at; each photo is a thing of its own, and the made views
            of it are its photos.
        views: made of each photo. With labels they cost more than they give: learned from 96 drawn
            things, 8 photos each, mAP on other things was 42.0 with 3 views and 43.4 without.
        backbone, weights, layer, max_side, scales, pooling: of the descriptors.
        cooccurrence: file of a learned filter for the pooling.
        train_trunk: the trunk learns too.
        trunk_rate: learning rate of the trunk, as a share of that of the head.
    """

    data: str
    validate: str | None = None
    hold_out: float = 0.2
    instances: bool = False
    views: int = 0
    backbone: str = "vgg16"
    weights: str = "auto"
    layer: str | None = None
    max_side: int = 512
    scales: tuple[float, ...] = (1.0,)
    pooling: str = "cbp_ac"
    cooccurrence: str | None = None
    train_trunk: bool = False
    trunk_rate: float = 0.01
    metric: MetricOptions = field(default_factory=MetricOptions)
    loop: LoopOptions = field(default_factory=LoopOptions)

    def __post_init__(self) -> None:
        """Raises InvalidOption naming what is out of range."""
        if not 0 < self.hold_out < 1:
            raise InvalidOption(f"hold out is {self.hold_out}; it must be between 0 and 1")
        if not 0 <= self.views <= 100:
            raise InvalidOption(f"views is {self.views}; it must be in [0, 100]")
        if not 0 < self.trunk_rate <= 1:
            raise InvalidOption(f"trunk rate is {self.trunk_rate}; it must be in (0, 1]")
        if self.train_trunk and self.scales != (1.0,):
            raise InvalidOption(
                f"scales are {self.scales}; a trunk is trained at one scale: leave --scales out"
            )
        if self.train_trunk and self.cooccurrence is not None:
            raise InvalidOption(
                "a co-occurrence filter belongs to the trunk that it was trained for, which "
                "--train-trunk changes: leave --cooccurrence out"
            )
        if self.train_trunk and self.layer is not None and "+" in self.layer:
            raise InvalidOption(f"a trunk is trained with one layer, not {self.layer}")


def learn_metric(
    run: MetricRun,
    out: Path,
    *,
    options: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
    described: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    precision: str = "auto",
    cache_dir: Path | None = None,
    checkpoint_s: float = 60.0,
    report_described: Callable[[int, int], None] | None = None,
    report: Report | None = None,
) -> Json:
    """Train, and write `projection.safetensors` into the run folder `out`.

    With `train_trunk` also `weights.safetensors`, without which the projection is of no use.

    Args:
        options: by which `run` was asked for, plain values; kept in the run folder's config.
        beside: further ones, which do not decide the result, kept for those who resume the run.
        described: where raw descriptors are kept; default in `out`. Runs of the same photos (with
            the same ones held out), trunk and pooling may share one.

    Returns: what was reached, for people and programs; all scores are of photos held out.
    Raises: InvalidOption, TrainingFailed, WeightsUnavailable, StorageFull.
    """
    compute = choose_compute(device, precision)
    weights = load_weights(run.backbone, run.weights, cache_dir=cache_dir)
    log.info("%s", weights.notice)
    describer = _describer(run, weights, compute)
    training_set, validation_set = _sets(run)
    config = {
        "kind": "metric",
        "options": dict(options) if options is not None else asdict(run),
        "recipe": describer.recipe.fingerprint,
        "photos_digest": photos_digest(training_set.files),
        "held_out_digest": photos_digest(validation_set.files),
        "mixed": compute.mixed,
    }
    with RunFolder(out, config, beside=beside, resume=resume) as folder:
        place = described or out / "described"
        learned_from, faulty = _described(
            place / "data", training_set, describer, views=run.views, report=report_described
        )
        # Known by their views where they have no labels; else what people look for are photos.
        views = run.views if run.instances and run.validate is None else 0
        held_out, more = _described(place / "validate", validation_set, describer, views=views)
        faulty |= more
        for name, reason in faulty.items():
            log.warning("left out %s: %s", name, reason)
        seed = run.loop.seed
        clusters = learned_from.photos.clusters
        batches = Batches(clusters, run.metric, views=run.views, instances=run.instances)
        if batches.things < run.metric.things:
            log.info("batches have %d things, not %d", batches.things, run.metric.things)
        ranked = held_out.ranked()
        head = _start(out / "start.safetensors", learned_from.descriptors.flatten(0, 1), run)
        if head.dim < run.metric.dim:
            log.warning(
                "the photos differ in %d directions: descriptors will have no more values",
                head.dim,
            )
        task: HeadLearning | TrunkLearning
        if run.train_trunk:
            task = _trunk_task(
                run, head, describer, learned_from.photos.files, held_out, batches, compute
            )
        else:
            # Part by part: as float32 the raw descriptors of many photos would fill the memory.
            parts = [head.coordinates(part) for part in torch.split(learned_from.descriptors, 256)]
            task = HeadLearning(
                head,
                torch.cat(parts),
                batches,
                ranked,
                run.metric,
                seed=seed,
                device=compute.device,
            )
        outcome = train(task, run.loop, folder, checkpoint_s=checkpoint_s, report=report)
        best = folder.load_best()
        task.module.load_state_dict(best["model"])
        trained = None
        if isinstance(task, TrunkLearning):
            trained = out / "weights.safetensors"
            _write_weights(trained, task.trunk_state(), weights)
            weights = load_weights(run.backbone, str(trained))
        file = out / "projection.safetensors"
        notes = {
            "data": run.data,
            "photos": len(learned_from.photos.names),
            "loss": run.metric.loss,
            "epoch": outcome.epoch + 1,
            "scores": best["scores"],
        }
        made_for = _made_for(describer, weights)
        DescriptorWeights(None, head.projection(), made_for, notes, name=file.name).save(file)
    return {
        "projection": str(file),
        "weights": None if trained is None else str(trained),
        "dim": head.dim,
        "raw_dim": describer.pooling.dim,
        "scores": best["scores"],
        "best_epoch": outcome.epoch + 1,
        "stopped_early": outcome.stopped_early,
        "seconds": round(outcome.seconds, 1),
        "photos": len(learned_from.photos.names),
        "held_out": len(held_out.photos.names),
        "left_out": len(faulty),
    }


def _describer(run: MetricRun, weights: Weights, compute: Compute) -> Describer:
    pooling, weight = run.pooling, None
    if run.cooccurrence is not None:
        learned = read_cooccurrence(Path(run.cooccurrence))
        learned.check(run.backbone, run.layer, weights_digest=weights.digest)
        weight = learned.cooccurrence
        assert weight is not None  # `read_cooccurrence` gives one, or raises
        pooling = pooling_with_filter(pooling, weight, learned.name)
    options = DescriberOptions(
        backbone=run.backbone,
        layer=run.layer,
        max_side=run.max_side,
        scales=run.scales,
        pooling=pooling,
        device=str(compute.device),
        precision="bfloat16" if compute.mixed else "float32",
    )
    return Describer(options, weights, cooccurrence_filter=weight)


def _sets(run: MetricRun) -> tuple[TrainingSet, TrainingSet]:
    """What `run` names to learn from, and to validate on. Raises InvalidOption."""
    folder = Path(run.data)
    whole = _alone(find_photos([folder])) if run.instances else read_training_set(folder)
    if run.validate is None:
        # Before views are made: these show parts of other photos too.
        return _split(whole, run)
    other = read_training_set(Path(run.validate))
    check_apart(whole, other)
    return whole, other


def _split(photos: TrainingSet, run: MetricRun) -> tuple[TrainingSet, TrainingSet]:
    """To learn from, and held out. Raises InvalidOption."""
    if not run.instances:
        return photos.split_by_cluster(run.hold_out, run.loop.seed)
    count = len(photos.names)
    if count < MIN_PHOTOS:
        raise InvalidOption(
            f"{count} photos are in {run.data}; at least {MIN_PHOTOS} are needed, as some are held "
            "out"
        )
    order = generator(run.loop.seed, 8).permutation(count)
    out = min(max(2, round(run.hold_out * count)), count - 2)
    return photos.subset(np.sort(order[out:])), photos.subset(np.sort(order[:out]))


def _alone(files: Sequence[Path]) -> TrainingSet:
    """Photos of which each is a thing of its own."""
    none = np.zeros(0, dtype=np.int64)
    clusters = np.arange(len(files), dtype=np.int64)
    return TrainingSet(tuple(map(str, files)), tuple(files), clusters, none, none)


@dataclass(frozen=True, eq=False)
class _Photos:
    """Photos that can be read, and (N, V + 1, D) descriptors of them and of their views."""

    photos: TrainingSet
    descriptors: Tensor

    def ranked(self) -> HeldOut:
        """All of them, each view ranked for itself. Raises InvalidOption for nothing to find."""
        count = self.descriptors.shape[1]
        clusters = np.repeat(self.photos.clusters, count)
        queries = np.unique(self.photos.queries)
        if count > 1:
            queries = np.arange(len(clusters), dtype=np.int64)
        if not len(queries):
            raise InvalidOption(
                "no two photos of a thing are left to validate on; name other photos with "
                "--validate, or hold out more"
            )
        return HeldOut(self.descriptors.flatten(0, 1), clusters, queries)


def _described(
    folder: Path,
    photos: TrainingSet,
    describer: Describer,
    *,
    views: int,
    report: Callable[[int, int], None] | None = None,
) -> tuple[_Photos, dict[str, str]]:
    """Those of the photos that can be read, and what is wrong with the others."""
    found = describe_photos(
        folder, photos.files, describer, count=views, seed=VIEWS_SEED, report=report
    )
    return _Photos(photos.subset(found.rows.numpy()), found.descriptors), dict(found.faulty)


def _start(file: Path, descriptors: Tensor, run: MetricRun) -> Head:
    """The head as training begins, from the file if there is one: a resumed run has the same."""
    if file.is_file():
        try:
            return Head(PCAProjection.from_tensors(load_file(file)), run.metric.dim)
        except (OSError, SafetensorError, KeyError) as error:
            raise TrainingFailed(f"{file} is damaged ({error}); begin in a new folder") from error
    count = min(len(descriptors), MAX_FIT_IMAGES)
    rows = generator(run.loop.seed, 7).choice(len(descriptors), count, replace=False)
    pca = start_pca(descriptors[torch.from_numpy(np.sort(rows))], run.metric)
    with storage_errors(file.parent):
        write_atomically(file, save(pca.tensors()))
    return Head(pca, run.metric.dim)


def _trunk_task(
    run: MetricRun,
    head: Head,
    describer: Describer,
    files: Sequence[Path],
    held_out: _Photos,
    batches: Batches,
    compute: Compute,
) -> TrunkLearning:
    """Trunk and head together, from views of `files`."""
    trunk = build_trunk(run.backbone, run.layer)
    trunk.load(describer.weights.state)
    seed, sizes = run.loop.seed, view_sizes(run.max_side)

    def images(rows: Rows, step: int) -> Tensor:
        photos = [_pixels(files[row], run.max_side) for row in rows]
        made = made_views(photos, sizes[step % len(sizes)], seed, 9, step)
        return describer.normalise((made * 255).round().byte().permute(0, 2, 3, 1))

    def describe(state: Mapping[str, Tensor]) -> Tensor:
        learned = _describer(run, replace(describer.weights, state=dict(state)), compute)
        count = held_out.descriptors.shape[1] - 1
        found = describe_photos(None, held_out.photos.files, learned, count=count, seed=VIEWS_SEED)
        return found.descriptors.flatten(0, 1)

    return TrunkLearning(
        TrunkAndHead(AdjustedTrunk(trunk, rate=run.trunk_rate), head),
        describer.pooling,
        images,
        batches,
        held_out.ranked(),
        describe,
        run.metric,
        seed=seed,
        compute=compute,
    )


def _pixels(file: Path, max_side: int) -> Pixels:
    """Raises: TrainingFailed for a photo that could be read when the run began."""
    photo = read_photo(file, max_side=max_side)
    if isinstance(photo, EngineError):
        raise TrainingFailed(f"cannot read {file} any more: {photo}")
    return photo


def _write_weights(file: Path, state: dict[str, Tensor], weights: Weights) -> None:
    preprocessing = weights.preprocessing
    metadata = {"mean": str(preprocessing.mean), "std": str(preprocessing.std)}
    with storage_errors(file.parent):
        write_atomically(file, save(state, metadata))


def _made_for(describer: Describer, weights: Weights) -> dict[str, Any]:
    recipe = describer.recipe
    return {
        "backbone": recipe.backbone,
        "layer": recipe.layer,
        "weights_digest": weights.digest,
        "max_side": recipe.max_side,
        "scales": list(recipe.scales),
        "pooling": describer.options.pooling,
        "cooccurrence_digest": recipe.cooccurrence_digest,
        "projection_kind": "head",
    }
