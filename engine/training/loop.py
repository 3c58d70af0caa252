"""The loop that every kind of training shares: steps, validation, checkpoints, early stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine.errors import InvalidOption, TrainingFailed
from engine.training.run_folder import Checkpoint, RunFolder
from engine.training.schedule import SCHEDULES, learning_rate_at
from engine.training.seeds import seeded

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True)
class LoopOptions:
    """How a run goes, whatever is learned.

    Attributes:
        epochs: at most.
        learning_rate: at its peak.
        schedule: `constant`, `cosine` (to 0 at the end) or `exponential` (a factor per epoch).
        decay: that factor.
        warmup: steps in which the rate rises to its peak.
        momentum: of SGD; of Adam, beta 1.
        clip: longest gradient, all parameters together; 0 leaves it as it is.
        patience: epochs without a better validation until the run stops; 0 never stops.
        seed: of everything random.
    """

    epochs: int = 30
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    schedule: str = "constant"
    decay: float = 0.99
    warmup: int = 0
    weight_decay: float = 0.0
    momentum: float = 0.9
    clip: float = 0.0
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InvalidOption naming what is out of range."""
        if self.optimizer not in OPTIMIZERS:
            raise InvalidOption(
                f"optimizer {self.optimizer!r} is unknown; choose from {', '.join(OPTIMIZERS)}"
            )
        if self.schedule not in SCHEDULES:
            raise InvalidOption(
                f"schedule {self.schedule!r} is unknown; choose from {', '.join(SCHEDULES)}"
            )
        if self.epochs < 1:
            raise InvalidOption(f"epochs is {self.epochs}; it must be at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise InvalidOption(f"learning rate is {self.learning_rate}; it must be above 0")
        if not 0 <= self.momentum < 1:
            raise InvalidOption(f"momentum is {self.momentum}; it must be in [0, 1)")


class Task(Protocol):
    """What is learned, and from what."""

    steps: int
    """Of one epoch."""

    @property
    def module(self) -> nn.Module:
        """Everything that training changes; its state dict is what is saved."""

    def begin(self, epoch: int) -> None:
        """Mine, shuffle: what an epoch needs once. May depend on the model as it is now."""

    def losses(self, epoch: int, step: int) -> Iterator[Tensor]:
        """Losses of one step, whose gradients add up; each is used up before the next is asked for.

        Nothing random may be drawn but from `engine.training.seeds` or PyTorch's own generator.
        """

    def validate(self) -> Mapping[str, float]:
        """Figures after an epoch; the first is the score, the higher the better."""

    def state(self) -> dict[str, Any]:
        """What `begin` found, for a checkpoint: tensors and plain values."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands; `step` of `steps` counts over all epochs."""

    step: int
    steps: int
    epoch: int
    loss: float
    score: float | None


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: best score and its epoch, and whether it stopped before its last epoch."""

    score: float
    epoch: int
    stopped_early: bool
    seconds: float


def train(
    task: Task,
    options: LoopOptions,
    run: RunFolder,
    *,
    checkpoint_s: float = 60.0,
    log_steps: int = 10,
    report: Report | None = None,
) -> Outcome:
    """Train until the last epoch or until validation gets no better.

    Resumes where the newest checkpoint of the run stands; on a CPU the weights at the end are those
    of an unbroken run, bit for bit on the same machine. GPUs add in an order of their own.

    Args:
        checkpoint_s: seconds between checkpoints within an epoch; one is made after each epoch.
        log_steps: steps between lines of the log.

    Raises: TrainingFailed where a loss or gradient is not finite, or the device has too little
        memory; the newest checkpoint stays.
    """
    try:
        return _Loop(task, options, run, checkpoint_s, log_steps, report).run_all()
    except torch.OutOfMemoryError as error:
        raise TrainingFailed(
            f"the device has too little memory ({error}): begin in a new folder with a smaller "
            "--batch (or, of a metric, fewer --things)"
        ) from error


class _Loop:
    def __init__(
        self,
        task: Task,
        options: LoopOptions,
        run: RunFolder,
        checkpoint_s: float,
        log_steps: int,
        report: Report | None,
    ) -> None:
        self.task, self.options, self.run = task, options, run
        self.checkpoint_s, self.log_steps, self.report = checkpoint_s, log_steps, report
        self.parameters = [p for p in task.module.parameters() if p.requires_grad]
        if not self.parameters:
            raise TrainingFailed("nothing is to be trained: every parameter is frozen")
        self.optimizer = build_optimizer(options, self.parameters)
        self.epoch = self.step = 0
        self.best: tuple[float, int] | None = None
        self.seconds = 0.0
        self.begun: dict[str, Any] = {}
        self._sum, self._count = 0.0, 0

    def run_all(self) -> Outcome:
        self._resume()
        self._clock = time.monotonic()
        self._saved = self._clock
        if self.best is None and self.epoch == 0 and self.step == 0:
            self._validate(-1)
        stopped = self._exhausted()
        while self.epoch < self.options.epochs and not stopped:
            if self.step == 0:
                with seeded(self.options.seed, 1, self.epoch):
                    self.task.begin(self.epoch)
                self._save()
            while self.step < self.task.steps:
                self._step()
                if time.monotonic() - self._saved >= self.checkpoint_s:
                    self._save()
            self._validate(self.epoch)
            self.epoch, self.step = self.epoch + 1, 0
            self._save()
            self.run.draw()
            stopped = self._exhausted()
        assert self.best is not None  # validated before the first epoch
        early = stopped and self.epoch < self.options.epochs
        return Outcome(*self.best, stopped_early=early, seconds=self._elapsed())

    def _step(self) -> None:
        number = self.epoch * self.task.steps + self.step
        total = self.options.epochs * self.task.steps
        rate = learning_rate_at(self.options, number, total, self.task.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum = 0.0
        with seeded(self.options.seed, 2, self.epoch, self.step):
            for loss in self.task.losses(self.epoch, self.step):
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise self._failure(f"the loss is {value}", rate)
                loss.backward()  # type: ignore[no-untyped-call]
                loss_sum += value
        length = float(
            torch.nn.utils.clip_grad_norm_(self.parameters, self.options.clip or math.inf)
        )
        if not math.isfinite(length):
            raise self._failure(f"the gradient's length is {length}", rate)
        self.optimizer.step()
        self.step += 1
        self._sum, self._count = self._sum + loss_sum, self._count + 1
        if self.report:
            score = None if self.best is None else self.best[0]
            self.report(Progress(number + 1, total, self.epoch, loss_sum, score))
        if self.step % self.log_steps == 0 or self.step == self.task.steps:
            entry = {"step": number + 1, "epoch": self.epoch, "loss": self._sum / self._count}
            self.run.log({**entry, "learning_rate": rate, "seconds": round(self._elapsed(), 1)})
            self._sum, self._count = 0.0, 0

    def _validate(self, epoch: int) -> None:
        scores = dict(self.task.validate())
        score = next(iter(scores.values()))
        step = (epoch + 1) * self.task.steps
        self.run.log({"step": step, "epoch": epoch, "validation": scores})
        if not math.isfinite(score):
            raise self._failure(f"the validation score is {score}", self.options.learning_rate)
        if self.best is None or score > self.best[0]:
            self.best = (score, epoch)
            self.run.save_best(self.task.module.state_dict(), epoch=epoch, scores=scores)

    def _exhausted(self) -> bool:
        if not self.options.patience or self.best is None:
            return False
        return self.epoch - 1 - self.best[1] >= self.options.patience

    def _save(self) -> None:
        if not all(bool(weights.isfinite().all()) for weights in self.parameters):
            raise self._failure("a weight is not finite", self.options.learning_rate)
        self.run.save(
            Checkpoint(
                epoch=self.epoch,
                step=self.step,
                model=self.task.module.state_dict(),
                optimizer=self.optimizer.state_dict(),
                task={**self.task.state(), "loss_sum": self._sum, "loss_count": self._count},
                best=self.best,
                log_bytes=self.run.log_bytes(),
                seconds=self._elapsed(),
            )
        )
        self._saved = time.monotonic()

    def _resume(self) -> None:
        self._clock = time.monotonic()
        checkpoint = self.run.load()
        if checkpoint is None:
            return
        self.task.module.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self._sum = float(checkpoint.task["loss_sum"])
        self._count = int(checkpoint.task["loss_count"])
        self.task.restore(checkpoint.task)
        self.epoch, self.step = checkpoint.epoch, checkpoint.step
        self.best = None if checkpoint.best is None else (checkpoint.best[0], checkpoint.best[1])
        self.seconds = checkpoint.seconds

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self._clock

    def _failure(self, what: str, rate: float) -> TrainingFailed:
        return TrainingFailed(
            f"{what} at epoch {self.epoch}, step {self.step} (learning rate {rate:.3g}): try a "
            f"smaller --learning-rate in a new folder; {self.run.last_file} is the last good state"
        )


def build_optimizer(options: LoopOptions, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that the options name, with their momentum and weight decay."""
    common: dict[str, Any] = {"lr": options.learning_rate, "weight_decay": options.weight_decay}
    if options.optimizer == "sgd":
        common["momentum"] = options.momentum
    else:
        common["betas"] = (options.momentum, 0.999)
    # One weight per channel or less: biases and batch norms are not drawn to zero.
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[options.optimizer]([group for group in groups if group["params"]], **common)
