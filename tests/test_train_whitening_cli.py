"""`cooc train whitening` from a folder of photos to a projection that is served."""

from __future__ import annotations

import json
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
from engine.cooccurrence import direct_filter
from engine.describer import Describer
from engine.descriptor_weights import DescriptorWeights, read_projection
from engine.errors import InvalidOption, TrainingFailed
from engine.postprocess import LearnedWhitening, PCAProjection, l2_normalize
from engine.training.jobs.whitening import independent_pairs
from engine.training.training_set import TrainingSet, read_training_set
from tests import training_loops as loops
from tests.drawing import photo
from tests.test_cli import cooc_json
from tests.test_siamese import draw_set

TRUNK = {"backbone": "squeezenet1_1", "weights": "untrained", "layer": "fire2", "max_side": 96}
OPTIONS = [
    part for name, value in TRUNK.items() for part in (f"--{name.replace('_', '-')}", str(value))
]
ARGUMENTS = (*OPTIONS, "--pooling", "cbp_ac:dim=128,radius=1", "--precision", "float32")
THINGS = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = draw_set(tmp_path_factory.mktemp("photos") / "set", things=THINGS)
    (folder / "thing03" / "broken.jpg").write_bytes(photo(0)[:300])
    return folder


@pytest.fixture(scope="module")
def learned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of what was learned, and what the command printed."""
    out = tmp_path_factory.mktemp("runs") / "whitening"
    arguments = ("--data", folder, "--out", out, "--dim", 12, "--hold-out", 0.4)
    return out, cooc_json("train", "whitening", *arguments, *ARGUMENTS)


def run(*arguments: object) -> Result:
    """The command in this process; raises what it raises."""
    return CliRunner().invoke(
        train.app, ["whitening", *map(str, arguments)], catch_exceptions=False
    )


def describer(**more: object) -> Describer:
    chosen = {**TRUNK, "pooling": "cbp_ac:dim=128,radius=1", "precision": "float32", **more}
    return build_describer(Settings.model_validate(chosen))


def readable(folder: Path) -> tuple[TrainingSet, torch.Tensor]:
    """The photos that can be read, and their descriptors, one by one."""
    photos = read_training_set(folder)
    rows = [row for row, file in enumerate(photos.files) if file.name != "broken.jpg"]
    kept = photos.subset(rows)
    service = describer()
    each = [service.describe([service.decode(file.read_bytes()).pixels])[0] for file in kept.files]
    return kept, torch.from_numpy(np.stack(each))


def test_what_is_written_is_the_whitening_of_all_photos(
    learned: tuple[Path, dict[str, Any]], folder: Path
) -> None:
    out, result = learned
    kept, vectors = readable(folder)
    assert (result["photos"], result["left_out"], result["dim"]) == (3 * THINGS + 2, 1, 12)
    wanted = LearnedWhitening.fit(
        vectors, torch.from_numpy(kept.queries), torch.from_numpy(kept.positives), 12
    )
    found = read_projection(out / "projection.safetensors").projection
    assert found is not None
    # Directions have no sign: what they tell of similarity is compared.
    ours, theirs = found(vectors), wanted(vectors)
    torch.testing.assert_close(ours @ ours.T, theirs @ theirs.T, atol=2e-3, rtol=0)
    assert result["shrinkage"] == wanted.shrinkage


def test_scores_are_those_of_things_that_it_did_not_learn_from(
    learned: tuple[Path, dict[str, Any]], folder: Path
) -> None:
    _, result = learned
    kept, vectors = readable(folder)
    train, held_out = kept.split_by_cluster(0.4, 0)
    assert not {name.split("/")[0] for name in train.names} & {
        name.split("/")[0] for name in held_out.names
    }
    mine = vectors[[kept.names.index(name) for name in train.names]]
    theirs = vectors[[kept.names.index(name) for name in held_out.names]]
    pairs = torch.from_numpy(train.queries), torch.from_numpy(train.positives)
    ways = {
        "raw": l2_normalize(theirs),
        "PCA": PCAProjection.fit(mine, 12, 0.25)(theirs),
        "whitened": LearnedWhitening.fit(mine, *pairs, 12)(theirs),
    }
    clusters, queries = held_out.clusters.tolist(), held_out.queries.tolist()
    for name, found in ways.items():
        wanted = loops.mean_average_precision(found.double().numpy(), clusters, queries)
        assert result["scores"][name] == pytest.approx(wanted, abs=0.02), name


def test_the_file_says_what_it_is_for_and_how_it_was_measured(
    learned: tuple[Path, dict[str, Any]], folder: Path
) -> None:
    out, result = learned
    saved = DescriptorWeights.read(out / "projection.safetensors")
    assert saved.cooccurrence is None
    assert saved.made_for["pooling"] == "cbp_ac:dim=128,radius=1"
    assert saved.made_for["projection_kind"] == "whitening"
    assert (saved.made_for["backbone"], saved.made_for["layer"]) == ("squeezenet1_1", "fire2")
    assert saved.notes["mAP"] == result["scores"]
    assert saved.notes["measured"] == "with 0.4 of the things held out; then fitted on all"
    assert (saved.notes["data"], saved.notes["things"]) == (folder.name, THINGS)
    with Image.open(out / "spectrum.png") as image:
        assert np.ptp(np.array(image.convert("L"))) > 100


def test_an_index_searches_by_it(learned: tuple[Path, dict[str, Any]]) -> None:
    out, _ = learned
    served = describer(projection=out / "projection.safetensors")
    assert served.projection is not None
    assert served.recipe.projection_dim == 12
    with pytest.raises(InvalidOption, match="made for pooling"):
        describer(projection=out / "projection.safetensors", pooling="cbp_ac:dim=128,radius=2")


def test_it_belongs_to_the_filter_beneath_it(folder: Path, tmp_path: Path) -> None:
    weight = direct_filter(128, 1) / 9
    weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    DescriptorWeights(weight, None).save(tmp_path / "filter.safetensors")
    with_filter = ("--cooccurrence", tmp_path / "filter.safetensors")
    result = run(
        "--data", folder, "--out", tmp_path / "run", *ARGUMENTS, *with_filter, "--hold-out", 0
    )
    assert "learned from all 29 photos" in result.stdout
    assert "held out" not in result.stdout
    file = tmp_path / "run" / "projection.safetensors"
    saved = DescriptorWeights.read(file)
    assert saved.made_for["cooccurrence_digest"] == DescriptorWeights(weight, None).digest
    assert saved.made_for["pooling"] == "cbp_ac:dim=128,radius=1,cooccurrence=learned"
    assert saved.notes["measured"] == "with nothing held out; then fitted on all"
    with pytest.raises(InvalidOption, match="cooccurrence"):
        describer(projection=file)


def test_a_dim_that_the_photos_do_not_span_is_said(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ("--data", folder, "--out", tmp_path / "run", "--dim", 500, "--shrinkage", 0.3)
    shown = run(*arguments, *ARGUMENTS).stdout
    saved = read_projection(tmp_path / "run" / "projection.safetensors")
    assert saved.projection is not None
    assert saved.projection.dim <= 28  # of 29 photos
    assert f"dim is {saved.projection.dim}, not 500" in caplog.text
    assert f"{saved.projection.dim} values, shrinkage 0.3" in shown
    assert "raw" in shown and "PCA" in shown and "whitened" in shown


def test_the_same_again_is_written_anew_and_something_else_is_refused(
    learned: tuple[Path, dict[str, Any]], folder: Path
) -> None:
    out, result = learned
    where = ("--data", folder, "--out", out, "--hold-out", 0.4)
    again = json.loads(run(*where, "--dim", 12, *ARGUMENTS, "--json").stdout)
    assert again["scores"] == result["scores"]
    with pytest.raises(TrainingFailed, match="another recipe"):
        run(*where, "--dim", 13, *ARGUMENTS)


def test_too_few_pairs_are_named(tmp_path: Path) -> None:
    folder = draw_set(tmp_path / "set", things=4)
    with pytest.raises(InvalidOption, match="14 photos of 4 things make 8 independent pairs"):
        run("--data", folder, "--out", tmp_path / "run", *ARGUMENTS)


def test_photos_that_cannot_be_read_do_not_count_as_pairs(tmp_path: Path) -> None:
    folder = draw_set(tmp_path / "set", things=5)
    (folder / "thing00" / "1.jpg").write_bytes(b"no photo")
    with pytest.raises(InvalidOption, match="16 photos of 5 things make 9 independent pairs"):
        run("--data", folder, "--out", tmp_path / "run", *ARGUMENTS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--hold-out", 1), "share to hold out is 1.0"),
        (("--data", "nowhere"), "there is no folder nowhere"),
        (("--cooccurrence", "none.npy"), "there is no filter file none.npy"),
    ],
)
def test_wrong_options_are_named_before_anything_is_written(
    folder: Path, tmp_path: Path, wrong: tuple[object, ...], message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        run("--data", folder, "--out", tmp_path / "run", *ARGUMENTS, *wrong)
    assert not (tmp_path / "run").exists()


def test_independent_pairs_are_the_edges_of_a_forest(folder: Path) -> None:
    assert independent_pairs(read_training_set(folder)) == 2 * THINGS + 1  # one thing has four
