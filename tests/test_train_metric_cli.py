"""`cooc train metric` from drawn things to a projection that is searched with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from app.assembly import build_describer
from app.commands import train
from app.settings import Settings
from engine.backbones import build_trunk
from engine.backbones.weights import load_weights
from engine.cooccurrence import direct_filter
from engine.descriptor_weights import DescriptorWeights
from engine.errors import EngineError, InvalidOption, TrainingFailed
from engine.training.run_folder import RunFolder, stored_config
from tests import training_loops as loops
from tests.drawing import encode, scene
from tests.server import SMALL
from tests.test_cli import cooc_json

TRUNK = {
    "backbone": "squeezenet1_1",
    "layer": "fire2",
    "weights": "untrained",
    "max_side": 64,
    "pooling": "cbp_ac:dim=256,radius=1",
    "precision": "float32",
}
DESCRIPTORS = tuple(
    str(part) for name, value in TRUNK.items() for part in (f"--{name.replace('_', '-')}", value)
)
SHORT = ("--dim", 8, "--basis", 24, "--steps", 4, "--epochs", 3, "--things", 4, "--hold-out", 0.4)


def things(folder: Path, count: int, each: int, *, first: int = 0) -> Path:
    """A folder for each of `count` drawn scenes, with `each` small parts of it."""
    draw = np.random.default_rng(first)
    for thing in range(first, first + count):
        whole = scene(thing, (96, 72))
        place = folder / f"thing{thing:02d}"
        place.mkdir(parents=True)
        for number in range(each):
            left, top = (int(value) for value in draw.integers(0, (60, 44)))
            part = whole.crop((left, top, left + 36, top + 28))
            (place / f"{number}.jpg").write_bytes(encode(part, "jpg", quality=80))
    return folder


def run(*arguments: object) -> Result:
    """The command in this process; raises what it raises."""
    words = ["metric", *DESCRIPTORS, *map(str, (*SHORT, *arguments))]
    return CliRunner().invoke(train.app, words, catch_exceptions=False)


def run_json(*arguments: object) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(run(*arguments, "--json").stdout)
    return value


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return things(tmp_path_factory.mktemp("data"), 10, 4)


@pytest.fixture(scope="module")
def shared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """Options of a run whose raw descriptors others share."""
    return ("--data", data, "--views", 1, "--described", tmp_path_factory.mktemp("described"))


@pytest.fixture(scope="module")
def finished(
    shared: tuple[Any, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder of a whole run, and what the command printed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, run_json(*shared, "--out", out)


def test_from_photos_to_a_projection(finished: tuple[Path, dict[str, Any]]) -> None:
    out, result = finished
    assert result["projection"] == str(out / "projection.safetensors")
    assert result["weights"] is None
    assert (result["dim"], result["raw_dim"]) == (8, 256)
    assert (result["photos"], result["held_out"], result["left_out"]) == (24, 16, 0)
    assert list(result["scores"]) == ["mAP", "raw", "PCA"]
    assert 1 > result["scores"]["mAP"] > 0.2
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    log = RunFolder(out, stored_config(out), resume=True).entries()
    assert [entry["step"] for entry in log if "validation" in entry] == [0, 4, 8, 12]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < 0.99 * losses[0]
    start = log[0]["validation"]
    assert start["mAP"] == pytest.approx(start["PCA"], abs=1e-9)
    saved = DescriptorWeights.read(out / "projection.safetensors")
    assert saved.made_for["pooling"] == "cbp_ac:dim=256,radius=1"
    assert saved.made_for["layer"] == "fire2"
    assert saved.made_for["projection_kind"] == "head"
    assert saved.notes["scores"] == result["scores"]


def test_evaluate_ranks_by_the_saved_head(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, result = finished
    other = things(tmp_path / "other", 6, 3, first=100)
    arguments = (*DESCRIPTORS, "--projection", result["projection"], "--no-cache")
    report = cooc_json("evaluate", other, *arguments)
    (row,) = report["results"]
    saved = DescriptorWeights.read(Path(result["projection"])).projection
    assert saved is not None
    describer = build_describer(Settings.model_validate(TRUNK))
    files = sorted(other.rglob("*.jpg"))
    each = [describer.describe([describer.decode(file.read_bytes()).pixels])[0] for file in files]
    raw = np.stack(each).astype(np.float64)
    short = (raw - saved.mean.double().numpy()) @ saved.directions.double().numpy().T
    assert short.shape == (18, 8)
    names = [file.parent.name for file in files]
    clusters = [names.index(name) for name in names]
    by_hand = loops.mean_average_precision(short, clusters, list(range(len(files))))
    assert row["map"] == pytest.approx(100 * by_hand, abs=0.01)
    assert 20 < row["map"] < 100


def test_what_is_printed_for_people(shared: tuple[Any, ...], tmp_path: Path) -> None:
    shown = run(*shared, "--epochs", 1, "--out", tmp_path / "run").stdout
    first, second = shown.splitlines()
    assert first.startswith("best epoch ")
    assert [word for word in ("mAP 0.", "raw 0.", "PCA 0.") if word not in first] == []
    assert second.startswith(f"{tmp_path / 'run' / 'projection.safetensors'} (curves in")


@pytest.mark.parametrize("extra", [("--loss", "ntxent"), ("--batching", "one-against-others")])
def test_other_losses_and_batches(
    shared: tuple[Any, ...],
    finished: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    extra: tuple[Any, ...],
) -> None:
    run(*shared, *extra, "--out", tmp_path / "run")
    ours, theirs = (
        torch.load(out / "last.pt", weights_only=True)["model"]["change"]
        for out in (tmp_path / "run", finished[0])
    )
    assert ours.isfinite().all()
    assert not torch.equal(ours, theirs)


def test_a_run_that_was_killed_ends_as_one_that_was_not(
    shared: tuple[Any, ...], finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = (*shared, "--out", out, "--checkpoint-seconds", 0, "--json")
    words = map(str, ("train", "metric", *DESCRIPTORS, *SHORT, *options))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("COOC_")}
    running = subprocess.Popen(
        [sys.executable, "-m", "app.cli", *words],
        env={**inherited, **SMALL},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = random.randrange(1, 11)
    while running.poll() is None and steps_of(out) < after:
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    said = f"killed after step {after}"
    resumed = run_json(*shared, "--out", out, "--resume")
    whole, result = finished
    assert resumed["scores"] == result["scores"], said
    for name in ("last.pt", "best.pt"):
        ours, theirs = (torch.load(folder / name, weights_only=True) for folder in (out, whole))
        assert ours["epoch"] == theirs["epoch"], said
        for key, value in theirs["model"].items():
            assert torch.equal(ours["model"][key], value), said
    mine, other = (
        DescriptorWeights.read(folder / "projection.safetensors") for folder in (out, whole)
    )
    assert mine.digest == other.digest


def steps_of(out: Path) -> int:
    """Of the newest checkpoint; 0 before the first."""
    if not (out / "last.pt").is_file():
        return 0
    content = torch.load(out / "last.pt", weights_only=True)
    return int(4 * content["epoch"] + content["step"])


def test_a_resumed_run_takes_its_options_from_the_folder(
    finished: tuple[Path, dict[str, Any]], shared: tuple[Any, ...]
) -> None:
    out, result = finished
    words = ["metric", "--out", str(out), "--resume", "--json"]
    again = CliRunner().invoke(train.app, words, catch_exceptions=False)
    assert json.loads(again.stdout)["scores"] == result["scores"]
    assert not (out / "described").exists()  # it has taken that of the run
    with pytest.raises(InvalidOption, match="has --dim 8, not 4"):
        run(*shared, "--out", out, "--resume", "--dim", 4)
    with pytest.raises(InvalidOption, match="add --resume"):
        run(*shared, "--out", out)


def test_a_frozen_trunk_is_no_part_of_what_is_learned(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    out, _ = finished
    saved = DescriptorWeights.read(out / "projection.safetensors")
    assert saved.made_for["weights_digest"] == load_weights("squeezenet1_1", "untrained").digest
    model = torch.load(out / "last.pt", weights_only=True)["model"]
    assert set(model) == {"mean", "basis", "change"}
    assert model["change"].abs().max() > 0
    assert not (out / "weights.safetensors").exists()


def test_trunk_and_head_are_learned_together(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    few = ("--epochs", 2, "--steps", 2, "--things", 3, "--photos-each", 2, "--views", 0)
    learning = ("--train-trunk", "--trunk-rate", 0.1, "--learning-rate", 0.01)
    result = run_json("--data", data, *few, *learning, "--out", out)
    assert result["weights"] == str(out / "weights.safetensors")
    before = load_weights("squeezenet1_1", "untrained")
    after = load_weights("squeezenet1_1", result["weights"])
    assert after.preprocessing == before.preprocessing
    names = build_trunk("squeezenet1_1", "fire2").state_dict().keys()
    assert after.state.keys() == names
    best = torch.load(out / "best.pt", weights_only=True)["model"]
    changes = [best[f"trunk.changes.{place}"] for place in range(len(names))]
    for name, change in zip(names, changes, strict=True):
        torch.testing.assert_close(after.state[name], before.state[name] + 0.1 * change)
    last = torch.load(out / "last.pt", weights_only=True)["model"]
    assert all(bool(last[f"trunk.changes.{place}"].any()) for place in range(len(names)))
    saved = DescriptorWeights.read(Path(result["projection"]))
    assert saved.made_for["weights_digest"] == after.digest
    saved.check("squeezenet1_1", "fire2", weights_digest=after.digest)
    with pytest.raises(InvalidOption, match="was made for weights_digest"):
        saved.check("squeezenet1_1", "fire2", weights_digest=before.digest)


@pytest.mark.parametrize("chosen", ["weights", "cooccurrence"])
def test_the_trunk_may_be_left_open_and_the_run_keeps_its_name(
    data: Path, tmp_path: Path, chosen: str
) -> None:
    out, pooling = tmp_path / "run", "cbp_ac:dim=64,radius=1"
    extra: tuple[Any, ...] = ("--weights", "bundled", "--layer", "relu2")
    wanted = ("vgg_lite", "relu2")
    if chosen == "cooccurrence":
        made_for = {"backbone": "squeezenet1_1", "layer": "fire2"}
        file = tmp_path / "filter.safetensors"
        DescriptorWeights(direct_filter(128, 1), None, made_for).save(file)
        extra = ("--weights", "untrained", "--layer", "fire2", "--cooccurrence", file)
        wanted = ("squeezenet1_1", "fire2")
    extra += ("--max-side", 64, "--pooling", pooling, "--precision", "float32")
    learning = (*SHORT, "--epochs", 1, "--data", data, "--out", out)
    words = ["metric", *map(str, (*extra, *learning))]
    CliRunner().invoke(train.app, words, catch_exceptions=False)
    saved = DescriptorWeights.read(out / "projection.safetensors")
    assert (saved.made_for["backbone"], saved.made_for["layer"]) == wanted
    assert stored_config(out)["options"]["backbone"] == wanted[0]


def test_photos_without_labels_are_known_by_their_views(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(9):
        (folder / f"{seed}.jpg").write_bytes(encode(scene(seed, (64, 48)), "jpg"))
    arguments = ("--data", folder, "--epochs", 1, "--views", 2)
    result = run_json(*arguments, "--instances", "--out", tmp_path / "run")
    assert (result["photos"], result["held_out"]) == (5, 4)
    assert 0 < result["scores"]["mAP"] <= 1
    with pytest.raises(InvalidOption, match="each of the 9 photos"):
        run(*arguments, "--out", tmp_path / "labelled")


def test_photos_that_cannot_be_read_are_left_out_and_named(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = things(tmp_path / "other", 2, 3, first=50)
    (other / "thing50" / "0.jpg").write_bytes(b"no photo")
    Image.new("L", (40, 33), 128).save(other / "thing50" / "grey.png")
    Image.new("RGB", (32, 90)).save(other / "thing51" / "black.png")
    result = run_json(
        *("--data", other, "--validate", data, "--views", 0, "--things", 2, "--epochs", 1),
        *("--out", tmp_path / "run"),
    )
    assert (result["photos"], result["held_out"], result["left_out"]) == (7, 40, 1)
    (line,) = [text for text in caplog.messages if text.startswith("left out")]
    assert f"{other / 'thing50' / '0.jpg'}: " in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "{one}"), "to hold some out"),
        (("--data", "{one}", "--validate", "{data}"), "there are 1 things to learn from, 1 of"),
        (("--data", "{broken}"), "none of 2 photos can be read"),
        ((), "name a folder with --data"),
        (("--data", "{data}", "--loss", "cosface"), "loss 'cosface' is unknown"),
        (("--data", "{data}", "--hold-out", "1.5"), "hold out is 1.5"),
        (("--data", "{data}", "--views", "-1"), "views is -1"),
        (("--data", "{data}", "--train-trunk", "--scales", "1,0.7"), "leave --scales out"),
        (("--data", "{data}", "--train-trunk", "--trunk-rate", "0"), "trunk rate is 0"),
        (("--data", "{data}", "--train-trunk", "--cooccurrence", "{filter}"), "--cooccurrence out"),
        (("--data", "{data}", "--instances"), "set views above 0"),
        (("--data", "{data}", "--pooling", "gem:p=0"), "p is 0"),
    ],
)
def test_what_cannot_be_learned_from_is_said(
    data: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    names = ("one", "broken", "filter.safetensors")
    places = {"data": data} | {name.split(".")[0]: tmp_path / name for name in names}
    DescriptorWeights(direct_filter(128, 1), None).save(places["filter"])
    things(places["one"], 1, 3)
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
        (places["broken"] / name).parent.mkdir(parents=True, exist_ok=True)
        (places["broken"] / name).write_bytes(b"no photo")
    chosen = [part.format(**places) for part in options]
    with pytest.raises(EngineError, match=message):
        run("--views", 0, *chosen, "--out", tmp_path / "run")


def test_views_to_learn_from_show_no_photo_that_is_held_out(
    shared: tuple[Any, ...], finished: tuple[Path, dict[str, Any]]
) -> None:
    lists = [Path(shared[-1]) / part / "described.json" for part in ("data", "validate")]
    ours, theirs = (json.loads(file.read_text()) for file in lists)
    assert (len(ours["photos"]), ours["views"]) == (24, 1)
    assert (len(theirs["photos"]), theirs["views"]) == (16, 0)
    folders = [{Path(photo).parent.name for photo in part["photos"]} for part in (ours, theirs)]
    assert not folders[0] & folders[1]


def test_photos_that_validate_too_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="are both to learn from and to validate on"):
        run("--data", data, "--validate", data, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_descriptors_of_other_photos_are_refused(
    shared: tuple[Any, ...], finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    other = things(tmp_path / "other", 3, 3, first=70)
    with pytest.raises(InvalidOption, match="are of other photos; choose another folder"):
        run(*shared, "--data", other, "--out", tmp_path / "run")
    with pytest.raises(InvalidOption, match="are of other views"):
        run(*shared, "--views", 2, "--out", tmp_path / "views")


def test_a_run_that_diverges_keeps_its_last_good_state(
    shared: tuple[Any, ...], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    wild = ("--learning-rate", 1e38, "--optimizer", "sgd", "--checkpoint-seconds", 0)
    with pytest.raises(TrainingFailed, match="try a smaller --learning-rate"):
        run(*shared, *wild, "--out", out)
    last = torch.load(out / "last.pt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in last["model"].values())
    assert not (out / "projection.safetensors").exists()
