from __future__ import annotations

import json
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from engine.errors import InvalidOption, StorageFull, TrainingFailed
from engine.training.loop import LoopOptions, Outcome, Progress, train
from engine.training.run_folder import VERSION, RunFolder, stored_config
from engine.training.schedule import learning_rate_at
from engine.training.seeds import seeded
from tests.disks import fill, small_disk

ROOT = Path(__file__).resolve().parents[1]
STEPS, BATCH, WIDTH = 7, 6, 5
OPTIONS = LoopOptions(epochs=4, learning_rate=0.02, schedule="cosine", warmup=3, clip=1.0, seed=9)


class Regression:
    """Learns a linear map through drop-out, from rows in an order that is drawn for each epoch."""

    steps = STEPS

    def __init__(self, *, width: int = WIDTH) -> None:
        with seeded(3, 0):
            self._x = torch.randn(STEPS * BATCH, width)
            self._model = nn.Sequential(
                nn.Linear(width, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)
            )
        self._y = self._x.sum(dim=1, keepdim=True).tanh()
        self._order = torch.arange(len(self._x))
        self.scores: list[float] | None = None
        self.begun: list[int] = []
        self.broken_at: int | None = None

    @property
    def module(self) -> nn.Module:
        return self._model

    def begin(self, epoch: int) -> None:
        self.begun.append(epoch)
        self._order = torch.randperm(len(self._x))

    def losses(self, epoch: int, step: int) -> Iterator[Tensor]:
        self._model.train()
        for part in self._order[step * BATCH : (step + 1) * BATCH].chunk(2):
            loss: Tensor = (self._model(self._x[part]) - self._y[part]).square().mean()
            yield loss * math.nan if epoch * STEPS + step == self.broken_at else loss

    def validate(self) -> Mapping[str, float]:
        if self.scores is not None:
            return {"score": self.scores.pop(0)}
        self._model.eval()
        with torch.no_grad():
            error = (self._model(self._x) - self._y).square().mean()
        return {"score": -float(error), "error": float(error)}

    def state(self) -> dict[str, Any]:
        return {"order": self._order}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._order = state["order"]


class Undrawn(RunFolder):
    """Half of the time of these tests would be curves that nobody looks at."""

    def draw(self) -> None:
        pass


def run_of(
    path: Path, options: LoopOptions = OPTIONS, *, resume: bool = False, drawn: bool = False
) -> RunFolder:
    kind = RunFolder if drawn else Undrawn
    return kind(path, {"kind": "test", **vars(options)}, resume=resume)


def trained(
    path: Path, task: Regression | None = None, options: LoopOptions = OPTIONS, **more: Any
) -> Outcome:
    where = {name: more.pop(name, False) for name in ("resume", "drawn")}
    with run_of(path, options, **where) as run:
        return train(task or Regression(), options, run, log_steps=3, **more)


def killed_at(path: Path, step: int) -> None:
    """Train with a checkpoint every step or two, and die without a warning after `step` steps."""

    def report(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    every_other = 0.0 if step % 2 else 0.001
    trained(path, resume=True, checkpoint_s=every_other, report=report)


def entries_of(path: Path) -> list[dict[str, Any]]:
    """The log without its times."""
    lines = (path / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal to the bit, however deep."""
    if isinstance(ours, Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
    else:
        assert ours == theirs


def content_of(path: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path / name, weights_only=True)
    return {k: v for k, v in content.items() if k not in ("seconds", "log_bytes")}


def test_a_run_that_was_killed_twice_ends_as_an_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    trained(tmp_path / "unbroken")
    steps = sorted(random.SystemRandom().sample(range(1, OPTIONS.epochs * STEPS), 2))
    broken = tmp_path / "broken"
    for step in steps:
        done = subprocess.run(
            [sys.executable, "-c", _KILLED, str(broken), str(step)], cwd=ROOT, check=False
        )
        assert done.returncode == -signal.SIGKILL, steps
    last = Regression()
    trained(broken, last, resume=True)
    for name in ("last.pt", "best.pt"):
        assert_same(content_of(broken, name), content_of(tmp_path / "unbroken", name))
    assert entries_of(broken) == entries_of(tmp_path / "unbroken"), steps
    assert 0 not in last.begun or steps[1] <= 2, "the last run did not begin anew"


_KILLED = """
import sys
from pathlib import Path

from tests.test_training_loop import killed_at

killed_at(Path(sys.argv[1]), int(sys.argv[2]))
"""


class Stopped(Exception):
    pass


def stop_at(step: int) -> Any:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise Stopped

    return report


@pytest.mark.parametrize("step", [1, 6, 7, 8, 27])
def test_the_log_has_no_line_twice_after_a_resume(tmp_path: Path, step: int) -> None:
    trained(tmp_path / "unbroken")
    with pytest.raises(Stopped):
        trained(tmp_path / "broken", checkpoint_s=1e9, report=stop_at(step))
    trained(tmp_path / "broken", resume=True)
    assert entries_of(tmp_path / "broken") == entries_of(tmp_path / "unbroken")
    steps = [entry["step"] for entry in entries_of(tmp_path / "broken") if "loss" in entry]
    assert steps == [3, 6, 7, 10, 13, 14, 17, 20, 21, 24, 27, 28]


def test_a_run_that_is_complete_is_not_trained_again(tmp_path: Path) -> None:
    first = trained(tmp_path / "run")
    before = content_of(tmp_path / "run", "last.pt")
    again = Regression()
    outcome = trained(tmp_path / "run", again, resume=True)
    assert (outcome.score, outcome.epoch) == (first.score, first.epoch)
    assert again.begun == []
    assert_same(content_of(tmp_path / "run", "last.pt"), before)


def test_another_seed_gives_another_result(tmp_path: Path) -> None:
    trained(tmp_path / "one")
    trained(tmp_path / "other", options=LoopOptions(**{**vars(OPTIONS), "seed": 10}))
    one, other = (content_of(tmp_path / name, "last.pt")["model"] for name in ("one", "other"))
    assert not torch.equal(one["0.weight"], other["0.weight"])


@pytest.mark.parametrize("checkpoint_s", [0.0, 1e9])
def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    tmp_path: Path, checkpoint_s: float
) -> None:
    task = Regression()
    task.broken_at = 2 * STEPS + 4
    with pytest.raises(TrainingFailed) as error:
        trained(tmp_path / "run", task, checkpoint_s=checkpoint_s)
    assert "the loss is nan at epoch 2, step 4" in str(error.value)
    assert "smaller --learning-rate" in str(error.value)
    assert str(tmp_path / "run" / "last.pt") in str(error.value)
    kept = content_of(tmp_path / "run", "last.pt")
    assert (kept["epoch"], kept["step"]) == (2, 4 if checkpoint_s == 0 else 0)
    assert all(bool(values.isfinite().all()) for values in kept["model"].values())
    # What broke it was not its state: from there it goes on as if nothing had been.
    trained(tmp_path / "run", resume=True)
    trained(tmp_path / "unbroken")
    mine, unbroken = (content_of(tmp_path / name, "last.pt") for name in ("run", "unbroken"))
    assert_same(mine["model"], unbroken["model"])


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    options = LoopOptions(epochs=1, learning_rate=1e38, optimizer="sgd", momentum=0.0)
    with pytest.raises(TrainingFailed, match=r"not finite|is nan|is inf"):
        trained(tmp_path / "run", options=options, checkpoint_s=0.0)
    kept = content_of(tmp_path / "run", "last.pt")
    parameters = [name for name, _ in Regression().module.named_parameters()]
    assert all(bool(kept["model"][name].isfinite().all()) for name in parameters)


def test_a_validation_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    task = Regression()
    task.scores = [0.5, math.nan]
    with pytest.raises(TrainingFailed, match="the validation score is nan"):
        trained(tmp_path / "run", task)
    assert content_of(tmp_path / "run", "best.pt")["epoch"] == -1


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    trained(tmp_path / "unbroken")
    with small_disk(tmp_path / "disk", size_kb=1024) as disk:
        run = disk / "run"
        ballast: list[Path] = []

        def report(progress: Progress) -> None:
            if progress.step == STEPS + 3:
                ballast.append(fill(disk, leave_kb=4))

        with pytest.raises(StorageFull, match="no room is left"):
            trained(run, checkpoint_s=0.0, report=report)
        kept = content_of(run, "last.pt")
        assert (kept["epoch"], kept["step"]) == (1, 2)
        assert not list(run.glob("*.part"))
        ballast[0].unlink()
        trained(run, resume=True)
        assert_same(
            content_of(run, "last.pt")["model"],
            content_of(tmp_path / "unbroken", "last.pt")["model"],
        )
        assert entries_of(run) == entries_of(tmp_path / "unbroken")


def test_a_run_with_another_config_is_refused_and_the_differences_named(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    other = LoopOptions(**{**vars(OPTIONS), "learning_rate": 0.5, "clip": 0.0})
    with pytest.raises(TrainingFailed) as error:
        run_of(tmp_path / "run", other, resume=True)
    assert "learning_rate is 0.02, not 0.5; clip is 1.0, not 0.0" in str(error.value)
    assert stored_config(tmp_path / "run")["learning_rate"] == 0.02


def test_a_checkpoint_of_another_run_is_refused_and_the_differences_named(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    other = LoopOptions(**{**vars(OPTIONS), "momentum": 0.5})
    trained(tmp_path / "other", options=other)
    shutil.copy(tmp_path / "other" / "last.pt", tmp_path / "run" / "last.pt")
    with pytest.raises(TrainingFailed, match=r"another recipe \(momentum is 0.5, not 0.9\)"):
        trained(tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no checkpoint"),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"version": VERSION, "config": 3}, path),
        lambda path: path.write_bytes(pickle.dumps({"version": VERSION}, protocol=2)[:-3]),
        lambda path: path.write_bytes(b"\x80\x02]q\x00(K\x01K\x02"),
        lambda path: path.write_bytes(b"\x80\x02R."),
        lambda path: path.write_bytes(b"\x80\x02G\x00"),
        lambda path: shutil.copy(path.with_name("best.pt"), path),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: Any) -> None:
    trained(tmp_path / "run")
    damage(tmp_path / "run" / "last.pt")
    with pytest.raises(TrainingFailed, match=r"cannot read the checkpoint .*last\.pt"):
        trained(tmp_path / "run", resume=True)


def test_a_folder_in_use_is_not_written_over(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    with pytest.raises(InvalidOption, match="add --resume"):
        run_of(tmp_path / "run")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(InvalidOption, match="neither empty nor a run"):
        run_of(tmp_path / "photos")
    (tmp_path / "cut off").mkdir()
    (tmp_path / "cut off" / "config.json.part").write_bytes(b"{")
    run_of(tmp_path / "cut off")


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path: Path) -> None:
    def report(progress: Progress) -> None:
        raise AssertionError("it trained all the same")

    with run_of(tmp_path / "run"):
        command = "import sys; from tests.test_training_loop import *; trained(Path(sys.argv[1]))"
        other = subprocess.run(
            [sys.executable, "-c", command, str(tmp_path / "run")],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
        )
        assert f"InvalidOption: another training runs in {tmp_path / 'run'}" in other.stderr
        with pytest.raises(InvalidOption, match="another training runs in"):
            trained(tmp_path / "run", resume=True, report=report)
    trained(tmp_path / "run")


def test_a_run_of_which_there_is_only_a_config_is_begun_anew(tmp_path: Path) -> None:
    wrong = LoopOptions(**{**vars(OPTIONS), "learning_rate": 0.5})
    with run_of(tmp_path / "run", wrong):
        (tmp_path / "run" / "bank").mkdir()
    trained(tmp_path / "run")
    assert stored_config(tmp_path / "run")["learning_rate"] == 0.02
    with pytest.raises(InvalidOption, match="add --resume"):
        run_of(tmp_path / "run", wrong)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InvalidOption, match=r"file is a file; choose another folder|is a file"):
            run_of(path)


@pytest.mark.parametrize("content", ["[1, 2]", "{", ""])
def test_a_damaged_config_is_named(tmp_path: Path, content: str) -> None:
    trained(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(content)
    with pytest.raises(TrainingFailed, match=r"config\.json is damaged"):
        run_of(tmp_path / "run", resume=True)
    with pytest.raises(InvalidOption, match="no run of training is in"):
        stored_config(tmp_path / "run")


def test_a_device_without_memory_is_said_with_the_remedy(tmp_path: Path) -> None:
    task = Regression()

    def losses(epoch: int, step: int) -> Iterator[Tensor]:
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    task.losses = losses  # type: ignore[method-assign]
    with pytest.raises(TrainingFailed, match=r"80 GiB.* smaller --batch"):
        trained(tmp_path / "run", task)
    assert content_of(tmp_path / "run", "last.pt")["step"] == 0


def test_a_log_that_a_power_cut_shortened_is_still_read(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    run = run_of(tmp_path / "run", resume=True)
    first = run.log_file.read_bytes().split(b"\n")[0] + b"\n"
    run.log_file.write_bytes(first)
    run.load()
    assert run.log_file.read_bytes() == first


@pytest.mark.parametrize(
    ("patience", "epochs", "stopped"), [(2, 4, True), (3, 5, True), (4, 6, False), (0, 6, False)]
)
def test_it_stops_when_validation_gets_no_better(
    tmp_path: Path, patience: int, epochs: int, stopped: bool
) -> None:
    task = Regression()
    task.scores = [0.1, 0.2, 0.5, 0.4, 0.5, 0.45, 0.3]
    options = LoopOptions(epochs=6, patience=patience)
    outcome = trained(tmp_path / "run", task, options)
    assert outcome.score == 0.5
    assert outcome.epoch == 1  # the first of equal ones
    assert outcome.stopped_early is stopped
    checks = [entry["epoch"] for entry in entries_of(tmp_path / "run") if "validation" in entry]
    assert checks == list(range(-1, epochs))


def test_the_best_model_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    task = Regression()
    task.scores = [0.1, 0.9, 0.3]
    trained(tmp_path / "run", task, LoopOptions(epochs=2))
    again = Regression()
    again.scores = [0.1, 0.9]
    trained(tmp_path / "short", again, LoopOptions(epochs=1))
    best = content_of(tmp_path / "run", "best.pt")
    assert (best["epoch"], best["scores"]) == (0, {"score": 0.9})
    assert_same(best["model"], content_of(tmp_path / "short", "last.pt")["model"])


def test_gradients_of_a_step_add_up(tmp_path: Path) -> None:
    task = Regression()
    options = LoopOptions(epochs=1, learning_rate=0.1, optimizer="sgd", momentum=0.0)
    task.steps = 1
    start = {name: value.clone() for name, value in task.module.state_dict().items()}
    trained(tmp_path / "run", task, options)
    end = content_of(tmp_path / "run", "last.pt")["model"]
    other = Regression()
    with seeded(0, 1, 0):
        other.begin(0)
    other.module.load_state_dict(start)
    with seeded(0, 2, 0, 0):
        torch.stack(list(other.losses(0, 0))).sum().backward()  # type: ignore[no-untyped-call]
    for name, weights in other.module.named_parameters():
        assert weights.grad is not None
        torch.testing.assert_close(end[name], start[name] - 0.1 * weights.grad)


def test_frozen_parameters_alone_cannot_be_trained(tmp_path: Path) -> None:
    task = Regression()
    task.module.requires_grad_(False)
    with pytest.raises(TrainingFailed, match="every parameter is frozen"):
        trained(tmp_path / "run", task)


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "lion"},
        {"schedule": "linear"},
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.inf},
        {"momentum": 1.0},
    ],
)
def test_options_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=f"{next(iter(wrong)).replace('_', ' ')} "):
        LoopOptions(**wrong)


# Schedules


def rates(steps: int = 40, epoch_steps: int = 10, **options: Any) -> list[float]:
    chosen = LoopOptions(learning_rate=0.5, **options)
    return [learning_rate_at(chosen, step, steps, epoch_steps) for step in range(steps)]


def test_schedules_have_their_closed_forms() -> None:
    steps = np.arange(40)
    assert rates() == [0.5] * 40
    np.testing.assert_allclose(
        rates(schedule="exponential", decay=0.9), 0.5 * 0.9 ** np.floor(steps / 10)
    )
    np.testing.assert_allclose(rates(schedule="cosine"), 0.5 * np.cos(np.pi * steps / 80) ** 2)


def test_a_warm_up_rises_in_a_line_and_the_cosine_begins_after_it() -> None:
    found = rates(schedule="cosine", warmup=8)
    np.testing.assert_allclose(found[:8], 0.5 * np.arange(1, 9) / 8)
    np.testing.assert_allclose(found[8:], 0.5 * np.cos(np.pi * np.arange(32) / 64) ** 2)
    np.testing.assert_allclose(rates(warmup=4)[:5], [0.125, 0.25, 0.375, 0.5, 0.5])


def test_the_rate_of_a_step_is_the_one_in_the_log(tmp_path: Path) -> None:
    trained(tmp_path / "run")
    logged = {e["step"]: e["learning_rate"] for e in entries_of(tmp_path / "run") if "loss" in e}
    total = OPTIONS.epochs * STEPS
    for step, rate in logged.items():
        assert rate == learning_rate_at(OPTIONS, step - 1, total, STEPS)


# The picture


def test_curves_are_drawn_of_loss_rate_and_validation(tmp_path: Path) -> None:
    trained(tmp_path / "run", options=LoopOptions(epochs=1), drawn=True)
    early = picture(tmp_path / "run" / "curves.png")
    trained(tmp_path / "longer", options=LoopOptions(epochs=2), drawn=True)
    late = picture(tmp_path / "longer" / "curves.png")
    assert early.shape == late.shape
    height = len(late) / 6.4  # pixels of an inch; see `training_curves`
    for top, bottom in ((0.6, 2.9), (3.3, 3.9), (4.3, 5.8)):
        part = slice(int(top * height), int(bottom * height))
        coloured = np.ptp(late[part].astype(int), axis=2) > 40
        assert coloured.any() or top == 3.3  # the rate is drawn in grey
        assert (late[part] != early[part]).any()


def picture(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))
