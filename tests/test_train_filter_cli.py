"""`cooc train filter` from a folder of photos to a filter that changes what is served."""

from __future__ import annotations

import json
import shutil
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
from engine.backbones.weights import load_weights
from engine.cooccurrence import direct_filter
from engine.descriptor_weights import DescriptorWeights, read_cooccurrence
from engine.errors import InvalidOption, TrainingFailed
from engine.pictures import filter_picture, most_changed
from engine.training.run_folder import RunFolder, stored_config
from tests.drawing import photo
from tests.test_cli import cooc_json
from tests.test_siamese import draw_set

TRUNK = ("--backbone", "squeezenet1_1", "--weights", "untrained", "--layer", "fire2")
SMALL = (*TRUNK, "--max-side", "96", "--pooling", "cbp_ac:dim=256", "--radius", "1")
SHORT = ("--pairs", "6", "--pool", "20", "--negatives", "2", "--batch", "3")
ARGUMENTS = (*SMALL, *SHORT, "--precision", "float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = draw_set(tmp_path_factory.mktemp("photos") / "set")
    (folder / "thing00" / "broken.jpg").write_bytes(photo(0)[:300])
    (folder / "single").mkdir()
    (folder / "single" / "0.jpg").write_bytes(photo(77, (96, 64)))
    (folder / "thing01" / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a run, and what the command printed."""
    out = tmp_path_factory.mktemp("runs") / "filter"
    arguments = ("--data", folder, "--out", out, *ARGUMENTS, "--epochs", "2")
    return out, cooc_json("train", "filter", *arguments)


def run(*arguments: object) -> Result:
    """The command in this process; raises what it raises."""
    return CliRunner().invoke(train.app, ["filter", *map(str, arguments)], catch_exceptions=False)


def test_a_run_leaves_a_filter_its_log_and_pictures(
    trained: tuple[Path, dict[str, Any]], folder: Path
) -> None:
    out, result = trained
    assert result["left_out"] == 1
    assert (result["steps"], result["stopped_early"]) == (4, False)
    log = RunFolder(out, stored_config(out), resume=True).entries()
    last = torch.load(out / "last.pt", weights_only=True)["model"]["weight"]
    assert not torch.equal(last, direct_filter(128, 1) / 9)
    (first, *later) = [entry["validation"]["mAP"] for entry in log if "validation" in entry]
    assert result["scores"] == {"mAP": max(first, *later), "mAP of the direct filter": first}
    for name in ("config.json", "log.jsonl", "last.pt", "best.pt"):
        assert (out / name).is_file()
    for name in ("curves.png", "filters.png"):
        with Image.open(out / name) as image:
            assert np.ptp(np.array(image.convert("L"))) > 100
    saved = DescriptorWeights.read(out / "filter.safetensors")
    assert saved.cooccurrence is not None
    assert saved.cooccurrence.shape == (128, 128, 3, 3)
    assert saved.projection is None
    config = json.loads((out / "config.json").read_text())
    assert config["options"]["data"] == str(folder)
    assert config["options"]["learning_rate"] == 0.04 / 9
    assert saved.made_for == {
        "backbone": "squeezenet1_1",
        "layer": "fire2",
        "weights_digest": config["weights_digest"],
        "max_side": 96,
        "pooling": "cbp_ac:dim=256,cooccurrence=learned,radius=1",
    }
    assert saved.notes["mAP"] == result["scores"]["mAP"]
    assert saved.notes["mAP_direct"] == result["scores"]["mAP of the direct filter"]
    assert (saved.notes["data"], saved.notes["negatives"]) == (folder.name, 2)


def test_what_was_trained_changes_the_served_descriptor(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, _ = trained
    # Of the last epoch, as the direct filter may have validated best.
    last = torch.load(out / "last.pt", weights_only=True)["model"]["weight"]
    file = tmp_path / "last.safetensors"
    DescriptorWeights(last, None).save(file)
    common = {
        "backbone": "squeezenet1_1",
        "weights": "untrained",
        "layer": "fire2",
        "max_side": 96,
        "pooling": "cbp_ac:dim=256,radius=1",
        "precision": "float32",
    }
    direct = build_describer(Settings.model_validate(common))
    learned = build_describer(Settings.model_validate({**common, "cooccurrence": file}))
    pixels = direct.decode(photo(5, (96, 64))).pixels
    cosine = float(direct.describe([pixels])[0] @ learned.describe([pixels])[0])
    assert 0.3 < cosine < 0.9999
    assert learned.recipe.fingerprint != direct.recipe.fingerprint


def test_the_filter_is_taken_by_evaluate(
    trained: tuple[Path, dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    out, _ = trained
    names = ["thing02/0.jpg", "thing02/1.jpg", "thing03/0.jpg", "thing03/1.jpg"]
    made = tmp_path / "made"
    (made / "images").mkdir(parents=True)
    for name in names:
        file = made / "images" / name.replace("/", "_")
        file.write_bytes((folder / name).read_bytes())
    flat = [name.replace("/", "_") for name in names]
    queries = {flat[0]: {"pos": [flat[1]], "junk": []}}
    (made / "gt.json").write_text(json.dumps({"database": flat, "queries": queries}))
    common = (*TRUNK, "--max-side", 96, "--projection", "none", "--no-cache")
    report = cooc_json(
        "evaluate",
        made,
        *common,
        "--pooling",
        "cbp_ac:dim=256,cooccurrence=learned,radius=1",
        "--cooccurrence",
        out / "filter.safetensors",
    )
    (row,) = report["results"]
    assert "learned" in row["pooling"]
    assert row["map"] > 50


def test_a_run_is_resumed_with_its_own_options_or_not_at_all(
    trained: tuple[Path, dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    whole, result = trained
    out = shutil.copytree(whole, tmp_path / "run")
    where = ("--data", folder, "--out", out)
    with pytest.raises(InvalidOption, match="add --resume"):
        run(*where, *ARGUMENTS, "--epochs", "2")
    digest = DescriptorWeights.read(out / "filter.safetensors").digest
    resume = ("--out", out, "--precision", "float32", "--resume", "--json")
    again = json.loads(run(*resume).stdout)
    assert again["scores"] == result["scores"]
    assert DescriptorWeights.read(out / "filter.safetensors").digest == digest
    with pytest.raises(InvalidOption, match=r"has --margin 1\.1, not 0\.5"):
        run(*where, "--precision", "float32", "--resume", "--margin", "0.5")
    with pytest.raises(TrainingFailed, match="mixed is False, not True"):
        run(*where, "--precision", "mixed", "--resume")
    (out / "log.jsonl").unlink()
    assert json.loads(run(*resume).stdout)["scores"] == result["scores"]
    with pytest.raises(InvalidOption, match="name a folder with --data"):
        run("--out", out.with_name("nothing"), *ARGUMENTS)


def test_another_folder_may_validate(folder: Path, tmp_path: Path) -> None:
    other = draw_set(tmp_path / "other", things=3, first=20)
    where = ("--data", folder, "--out", tmp_path / "run", "--validate", other)
    result = run(*where, *ARGUMENTS, "--epochs", "1", "--patience", "1", "--cache-gb", "0")
    assert "best epoch" in result.stdout
    assert "filter.safetensors" in result.stdout
    notes = read_cooccurrence(tmp_path / "run" / "filter.safetensors").notes
    assert (notes["photos"], notes["held_out_photos"]) == (25, 11)


def test_the_trunk_may_be_left_to_the_weights_and_the_run_keeps_its_name(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    small = ("--layer", "relu2", "--max-side", "96", "--pooling", "cbp_ac:dim=64", "--radius", "1")
    words = ("--weights", "bundled", *small, *SHORT, "--precision", "float32", "--epochs", "1")
    run("--data", folder, "--out", out, *words)
    made_for = read_cooccurrence(out / "filter.safetensors").made_for
    assert (made_for["backbone"], made_for["layer"]) == ("vgg_lite", "relu2")
    assert made_for["weights_digest"] == load_weights("vgg_lite", "bundled").digest
    assert stored_config(out)["options"]["backbone"] == "vgg_lite"
    run("--data", folder, "--out", out, "--precision", "float32", "--resume")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--pooling", "gem"), "does not use the filter"),
        (("--margin", "3"), "margin is 3.0"),
        (("--layer", "fire2+fire4"), "one layer"),
        (("--hold-out", "1"), "share to hold out is 1.0"),
        (("--precision", "half"), "precision is 'half'"),
        (("--learning-rate", "0"), "learning rate is 0.0"),
        (("--data", "nowhere"), "there is no folder nowhere"),
    ],
)
def test_wrong_options_are_named_before_anything_is_written(
    folder: Path, tmp_path: Path, wrong: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        run("--data", folder, "--out", tmp_path / "run", *ARGUMENTS, *wrong)
    assert not (tmp_path / "run").exists()


# The picture


def test_the_filters_that_changed_most_are_drawn_each_of_other_channels() -> None:
    direct = direct_filter(6, 1).numpy()
    learned = direct.copy()
    learned[4, 2] += 3.0
    learned[4, 1] += 2.0  # of channel 4 too
    learned[2, 0, 1, 1] += 2.0
    learned[1, 5, 0, 0] -= 4.0
    learned[0, 3, 1, 1] -= 0.5
    learned[0, 4] -= 0.1
    assert most_changed(learned, direct, 3) == [(4, 2), (2, 0), (1, 5)]
    assert most_changed(learned, direct, 99) == [(4, 2), (2, 0), (1, 5), (0, 3)]
    assert most_changed(direct, direct, 4) == []
    assert filter_picture(learned, direct)[:4] == b"\x89PNG"
    assert filter_picture(direct, direct)[:4] == b"\x89PNG"
    assert filter_picture(learned, direct, kind="svg").startswith(b"<?xml")


def test_filters_of_two_shapes_are_refused() -> None:
    with pytest.raises(InvalidOption, match="expected"):
        filter_picture(direct_filter(4, 1).numpy(), direct_filter(4, 2).numpy())
