"""`cooc train distill` from drawn photos to weights that are served."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from app.assembly import build_describer
from app.commands import train
from app.settings import Settings
from app.training.distill import _run
from engine.backbones.weights import load_weights
from engine.errors import InvalidOption, TrainingFailed
from engine.training.run_folder import RunFolder, stored_config
from tests.drawing import photo
from tests.test_cli import cooc_json

TEACHER = ("--teacher", "squeezenet1_1", "--teacher-weights", "untrained")
TRUNKS = (*TEACHER, "--teacher-layer", "fire3", "--student-layer", "relu3")
VIEWS = ("--views", 24, "--shard", 8, "--sizes", "48x64,64x64", "--scales", "1,0.7")
SHORT = ("--pooling", "cbp_ac:dim=64,radius=1", "--batch", 4, "--epochs", 3, "--warmup", 2)
ARGUMENTS = (*TRUNKS, *VIEWS, *SHORT, "--precision", "float32")
STEPS = 4


def run(*arguments: object) -> Result:
    """The command in this process; raises what it raises."""
    words = ["distill", *map(str, arguments)]
    return CliRunner().invoke(train.app, words, catch_exceptions=False)


def run_json(*arguments: object) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(run(*arguments, "--json").stdout)
    return value


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(9):
        (folder / f"{seed}.jpg").write_bytes(photo(seed, (96, 72)))
    (folder / "broken.jpg").write_bytes(photo(1)[:300])
    return folder


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared") / "bank"


@pytest.fixture(scope="module")
def finished(
    photos: Path, bank: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder of a whole run, and what the command printed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    arguments = ("--photos", photos, "--out", out, "--bank", bank, *ARGUMENTS)
    return out, cooc_json("train", "distill", *arguments)


def test_from_photos_to_weights_that_are_served(finished: tuple[Path, dict[str, Any]]) -> None:
    out, result = finished
    assert result["weights"] == str(out / "weights.safetensors")
    assert (result["photos"], result["left_out"]) == (10, 1)
    assert list(result["scores"]) == ["cosine", "map distance"]
    log = RunFolder(out, stored_config(out), resume=True).entries()
    checks = [entry for entry in log if "validation" in entry]
    assert [entry["step"] for entry in checks] == [0, STEPS * 1, STEPS * 2, STEPS * 3]
    last, first = (checks[place]["validation"]["map distance"] for place in (-1, 0))
    assert last < first
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    weights = load_weights("vgg_lite", result["weights"])
    assert weights.preprocessing == load_weights("squeezenet1_1", "untrained").preprocessing
    settings = {"backbone": "vgg_lite", "layer": "relu3", "weights": result["weights"]}
    served = build_describer(Settings.model_validate({**settings, "max_side": 64}))
    vector = served.describe([served.decode(photo(3, (96, 72))).pixels])[0]
    assert float(vector @ vector) == pytest.approx(1, abs=1e-3)


def test_every_option_reaches_the_run(photos: Path, tmp_path: Path) -> None:
    chosen = {
        **{"maps": 0.5, "descriptors": 0.25, "pairs": 2.0, "sharpness": 1.4, "batch": 3},
        **{"pair_loss": "logarithm", "power": 0.75, "mirrored": False, "scales": "1,0.5"},
        **{"views": 9, "shard": 3, "sizes": "48x48", "epochs": 1, "seed": 7, "clip": 0.5},
        **{"learning_rate": 1e-4, "optimizer": "adam", "momentum": 0.8, "patience": 2},
    }
    words: list[object] = ["--photos", photos, "--out", tmp_path / "run"]
    for name, value in chosen.items():
        flag = name.replace("_", "-")
        words += [f"--no-{flag}"] if value is False else [f"--{flag}", value]
    run(*TRUNKS, "--precision", "float32", "--pooling", "cbp_ac:dim=64,radius=1", *words)
    options = stored_config(tmp_path / "run")["options"]
    assert {name: options[name] for name in chosen} == chosen
    made = _run(options)
    found = {**vars(made.loop), **vars(made.bank), **vars(made.distill), **vars(made)}
    wanted = {**chosen, "scales": (1.0, 0.5), "sizes": ((48, 48),), "count": chosen.pop("views")}
    wanted.pop("views")
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--scales", ""), "no scale to look at"),
        (("--scales", "nan"), "a scale is nan"),
        (("--scales", "1,0"), r"a scale is 0\.0"),
        (("--scales", "-1"), r"a scale is -1\.0"),
        (("--scales", "one"), "--scales is 'one'"),
        (("--teacher-layer", "fire5"), "set the weight of maps to 0"),
        (("--photos", "nowhere"), "there is no folder nowhere"),
    ],
)
def test_wrong_options_are_named_before_anything_is_written(
    photos: Path, tmp_path: Path, wrong: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        run("--photos", photos, "--out", tmp_path / "run", *ARGUMENTS, *wrong)
    assert not (tmp_path / "run").exists()


def test_a_teacher_with_other_channels_is_learned_by_its_distances(
    photos: Path, tmp_path: Path
) -> None:
    weights = ("--teacher-layer", "fire5", "--maps", 0, "--pairs", 1, "--pooling", "gem")
    where = ("--photos", photos, "--out", tmp_path / "run")
    result = run_json(*where, *ARGUMENTS, *weights, "--epochs", 1)
    assert list(result["scores"]) == ["minus pair distance"]
    assert (tmp_path / "run" / "weights.safetensors").is_file()


def test_what_does_not_stand_out_is_cut_off_on_demand(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, _ = finished
    shutil.copytree(out, tmp_path / "run")
    run("--out", tmp_path / "run", "--resume", "--threshold", 0.5)
    ours, theirs = (
        load_weights("vgg_lite", str(folder / "weights.safetensors")).state
        for folder in (tmp_path / "run", out)
    )
    (changed,) = (name for name in theirs if not torch.equal(ours[name], theirs[name]))
    assert changed == "features.10.bias"
    assert (ours[changed] <= theirs[changed]).all()


def test_sharper_targets_are_other_targets(
    photos: Path, bank: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    where = ("--photos", photos, "--bank", bank, "--out", tmp_path / "run")
    result = run_json(*where, *ARGUMENTS, "--sharpness", 2)
    assert result["scores"] != finished[1]["scores"]


def test_a_run_that_was_killed_ends_as_one_that_was_not(
    photos: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ("--photos", photos, "--out", out, *ARGUMENTS, "--checkpoint-seconds", 0)
    running = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "train", "distill", *map(str, options)],
        env={key: value for key, value in os.environ.items() if not key.startswith("COOC_")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = random.randrange(1, 3 * STEPS - 1)
    while running.poll() is None and steps_of(out) < after:
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    said = f"killed after step {after}"
    resumed = run_json("--out", out, "--resume")
    whole, result = finished
    assert resumed["scores"] == result["scores"], said
    for name in ("last.pt", "best.pt"):
        ours, theirs = (torch.load(folder / name, weights_only=True) for folder in (out, whole))
        assert ours["epoch"] == theirs["epoch"], said
        for key, value in theirs["model"].items():
            assert torch.equal(ours["model"][key], value), said
    mine, other = (
        load_weights("vgg_lite", str(folder / "weights.safetensors")) for folder in (out, whole)
    )
    assert mine.digest == other.digest


def steps_of(out: Path) -> int:
    """Of the newest checkpoint; 0 before the first."""
    if not (out / "last.pt").is_file():
        return 0
    content = torch.load(out / "last.pt", weights_only=True)
    return int(STEPS * content["epoch"] + content["step"])


def test_a_resumed_run_takes_its_options_from_the_folder(
    photos: Path, bank: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    out, result = finished
    assert run_json("--out", out, "--resume")["scores"] == result["scores"]
    assert not (out / "bank").exists()  # it has taken that of the run
    with pytest.raises(InvalidOption, match="has --batch 4, not 5"):
        run("--out", out, "--resume", "--batch", 5)
    with pytest.raises(TrainingFailed, match="mixed is False, not True, add --precision float32"):
        run("--out", out, "--resume", "--precision", "mixed")
    with pytest.raises(InvalidOption, match="add --resume"):
        run("--out", out, "--bank", bank, "--photos", photos, *ARGUMENTS)


def test_a_bank_of_other_targets_is_refused(
    photos: Path, bank: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    where = ("--bank", bank, "--out", tmp_path / "run")
    arguments = (*where, "--photos", photos, *ARGUMENTS)
    for other, name in (
        (("--student-layer", "relu2", "--maps", 0, "--pairs", 1), "cells"),
        (("--precision", "mixed"), "precision"),
        (("--power", 1), "power"),
    ):
        with pytest.raises(InvalidOption, match=rf"made with another {name} \("):
            run(*arguments, *other)
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    run(*where, "--photos", moved, *ARGUMENTS, "--epochs", 1)
    (moved / "3.jpg").write_bytes(photo(99, (96, 72)))
    with pytest.raises(InvalidOption, match=r"made with another photos_digest \("):
        run("--bank", bank, "--out", tmp_path / "other", "--photos", moved, *ARGUMENTS)


def test_half_as_many_bytes_are_written_on_demand(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, _ = finished
    shutil.copytree(out, tmp_path / "run")
    run("--out", tmp_path / "run", "--resume", "--half")
    small, whole = (
        load_weights("vgg_lite", str(folder / "weights.safetensors")).state
        for folder in (tmp_path / "run", out)
    )
    assert small.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(small[name].float(), value, rtol=1e-3, atol=1e-6)
