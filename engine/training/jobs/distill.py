"""Run a distillation: photos and a teacher in, the weights of a student out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from engine.backbones import build_trunk
from engine.backbones.trunk import Trunk
from engine.backbones.weights import Weights, load_weights
from engine.errors import InvalidOption, WeightsUnavailable
from engine.files.storage import storage_errors, write_atomically
from engine.pooling import build_pooling
from engine.training.bank import Bank, BankOptions, Normalise, build_bank
from engine.training.batch_norm import Normalised, can_normalise
from engine.training.device import Compute, choose_compute
from engine.training.distill import Distillation, DistillOptions, check_comparable
from engine.training.grid import cells_of, grid_of
from engine.training.loop import LoopOptions, Report, train
from engine.training.photos import find_photos, photos_digest
from engine.training.run_folder import RunFolder
from engine.training.seeds import seeded
from engine.training.teacher import Teacher
from engine.training.threshold import with_threshold
from engine.types import Json

log = logging.getLogger(__name__)

FROM_SCRATCH = "scratch"
"""Weights of a student that begins with nothing."""


@dataclass(frozen=True)
class DistillRun:
    """What decides the result of a distillation.

    Attributes:
        photos: folders of photos; they need no labels.
        teacher, teacher_weights, teacher_layer: the trunk that is imitated.
        scales, mirrored, power: how it looks; see `engine.training.teacher.Teacher`.
        student, student_weights, student_layer: the trunk that learns; weights `scratch` begin
            a plain trunk anew, with batch norms that are folded in the end.
        pooling: by which descriptors are compared.
    """

    photos: tuple[str, ...]
    teacher: str = "squeezenet1_1"
    teacher_weights: str = "auto"
    teacher_layer: str | None = None
    scales: tuple[float, ...] = (0.7, 1.0, 1.4)
    mirrored: bool = True
    power: float = 0.5
    student: str = "vgg_lite"
    student_weights: str = FROM_SCRATCH
    student_layer: str | None = None
    pooling: str = "cbp_ac"
    bank: BankOptions = field(default_factory=BankOptions)
    distill: DistillOptions = field(default_factory=DistillOptions)
    loop: LoopOptions = field(default_factory=LoopOptions)

    def __post_init__(self) -> None:
        """Raises InvalidOption naming what is out of range."""
        if not self.scales:
            raise InvalidOption("the teacher has no scale to look at; name one, e.g. 1")
        for scale in self.scales:
            if not 0.1 <= scale <= 4:
                raise InvalidOption(f"a scale is {scale}; each must be in [0.1, 4]")
        if not 0.1 <= self.power <= 2:
            raise InvalidOption(f"power is {self.power}; it must be in [0.1, 2]")


def distill(
    run: DistillRun,
    out: Path,
    *,
    options: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
    bank_folder: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    precision: str = "auto",
    threshold: float = 0.0,
    half: bool = False,
    cache_dir: Path | None = None,
    checkpoint_s: float = 60.0,
    report_bank: Callable[[int, int], None] | None = None,
    report: Report | None = None,
) -> Json:
    """Train, and write `weights.safetensors` into the run folder `out`.

    Args:
        options: by which `run` was asked for, plain values; kept in the run folder's config.
        beside: further ones, which do not decide the result, kept for those who resume the run.
        bank_folder: where views and targets are kept; default in `out`. Runs of the same photos,
            teacher and grid may share one.
        threshold: what is cut off the trained trunk's deepest map, in units of each channel's mean
            over the validating views; see `engine.training.threshold`.
        half: save float16, half the size.

    Returns: what was reached, for people and programs.
    Raises: InvalidOption, TrainingFailed, WeightsUnavailable, StorageFull.
    """
    compute = choose_compute(device, precision)
    weights = load_weights(run.teacher, run.teacher_weights, cache_dir=cache_dir)
    teacher = Teacher(
        _trunk(run.teacher, run.teacher_layer, weights).prepare(compute.device, compute.dtype),
        scales=run.scales,
        mirrored=run.mirrored,
        power=run.power,
    )
    trunk, student = _student(run, cache_dir)
    normalise, grid = _normaliser(weights, compute), grid_of(trunk)
    pooling = build_pooling(run.pooling, trunk.channels).to(compute.device)
    theirs = None  # the same
    if trunk.channels != teacher.trunk.channels:
        theirs = build_pooling(run.pooling, teacher.trunk.channels).to(compute.device)
    check_comparable(run.distill, pooling, theirs)
    files = find_photos(Path(folder) for folder in run.photos)
    config = {
        "kind": "distill",
        "options": dict(options) if options is not None else asdict(run),
        "teacher_digest": weights.digest,
        "photos_digest": photos_digest(files),
        "mixed": compute.mixed,
    }
    with RunFolder(out, config, beside=beside, resume=resume) as folder:
        bank, faulty = build_bank(
            bank_folder or out / "bank",
            files,
            teacher,
            trunk,
            normalise,
            run.bank,
            recipe=_bank_recipe(run, weights, trunk, files, compute),
            pooling=(theirs or pooling) if run.distill.compares_descriptors else None,
            report=report_bank,
        )
        for name, reason in faulty.items():
            log.warning("left out %s: %s", name, reason)
        task = Distillation(
            student,
            bank,
            pooling,
            normalise,
            run.distill,
            teacher_pooling=theirs,
            mirrored=run.mirrored,
            grid=grid,
            seed=run.loop.seed,
            compute=compute,
        )
        outcome = train(task, run.loop, folder, checkpoint_s=checkpoint_s, report=report)
        best = folder.load_best()
        student.load_state_dict(best["model"])
        state = trunk_state(trunk, student)
        if threshold:
            trunk.load(state)
            trunk.to(compute.device).eval()
            state = with_threshold(trunk, validating_views(bank, normalise), threshold)
        file = out / "weights.safetensors"
        _write(file, state, weights, half=half)
    return {
        "weights": str(file),
        "scores": best["scores"],
        "best_epoch": outcome.epoch + 1,
        "stopped_early": outcome.stopped_early,
        "seconds": round(outcome.seconds, 1),
        "photos": len(files),
        "left_out": len(faulty),
    }


def validating_views(bank: Bank, normalise: Normalise) -> Iterator[Tensor]:
    """The views that no student learned from, normalised, a few at a time."""
    views = bank.read(bank.options.shards - 1).views
    for part in torch.split(views, 50):
        yield normalise(part.permute(0, 3, 1, 2).float() / 255)


def trunk_state(trunk: Trunk, student: nn.Module) -> dict[str, Tensor]:
    """The state dict of `trunk` that does what `student`, trained for it, does."""
    if isinstance(student, Normalised):
        return student.folded()
    return {name: value.detach().float().cpu() for name, value in student.state_dict().items()}


def _student(run: DistillRun, cache_dir: Path | None) -> tuple[Trunk, nn.Module]:
    """The trunk that will be used, and the module that is trained in its place."""
    trunk = build_trunk(run.student, run.student_layer)
    if len(trunk.map_channels) > 1:
        raise InvalidOption(f"a student has one layer, not {trunk.layer}")
    if run.student_weights != FROM_SCRATCH:
        weights = load_weights(run.student, run.student_weights, cache_dir=cache_dir)
        return trunk, _trunk(run.student, run.student_layer, weights)
    if not can_normalise(trunk):
        raise InvalidOption(
            f"{run.student} cannot begin from scratch, as it is no plain chain of convolutions; "
            "give --student-weights"
        )
    with seeded(run.loop.seed, 0):
        return trunk, Normalised(trunk)


def _trunk(name: str, layer: str | None, weights: Weights) -> Trunk:
    trunk = build_trunk(name, layer)
    try:
        trunk.load(weights.state)
    except ValueError as error:
        raise WeightsUnavailable(
            f"weights {weights.name!r} do not fit the trunk {name}: {error}"
        ) from error
    return trunk


def _normaliser(weights: Weights, compute: Compute) -> Normalise:
    """Teacher and student are given the same input: that of the teacher's preprocessing."""
    shape = (1, 3, 1, 1)
    mean = torch.tensor(weights.preprocessing.mean, device=compute.device).reshape(shape)
    std = torch.tensor(weights.preprocessing.std, device=compute.device).reshape(shape)
    return lambda images: (images.to(compute.device) - mean) / std


def _bank_recipe(
    run: DistillRun, weights: Weights, trunk: Trunk, files: Sequence[Path], compute: Compute
) -> dict[str, Any]:
    """All that decides targets; of the student that is where its cells lie."""
    return {
        "teacher": run.teacher,
        "teacher_layer": run.teacher_layer,
        "teacher_digest": weights.digest,
        "scales": list(run.scales),
        "mirrored": run.mirrored,
        "power": run.power,
        "precision": str(compute.dtype),
        "grid": asdict(grid_of(trunk)),
        "cells": [list(cells_of(trunk, *size)) for size in run.bank.sizes],
        "descriptors": run.pooling if run.distill.compares_descriptors else None,
        "photos_digest": photos_digest(files),
    }


def _write(path: Path, state: dict[str, Tensor], weights: Weights, *, half: bool) -> None:
    tensors = {name: value.half() if half else value for name, value in state.items()}
    preprocessing = weights.preprocessing
    metadata = {"mean": str(preprocessing.mean), "std": str(preprocessing.std)}
    with storage_errors(path.parent):
        write_atomically(path, save(tensors, metadata))
