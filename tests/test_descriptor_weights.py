"""Trained filters and projections as files, in the recipe, and in an index."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from app.assembly import build_describer
from app.cli import describe
from app.cli import search as search_command
from app.commands import index
from app.commands.evaluate import evaluate
from app.main import create_app
from app.settings import Settings, load_settings
from engine.backbones.weights import load_weights
from engine.cooccurrence_filter import load_filter, pooling_with_filter
from engine.descriptor_weights import (
    DescriptorWeights,
    filter_digest,
    projection_digest,
    read_cooccurrence,
    read_projection,
)
from engine.errors import CorruptIndex, InvalidOption
from engine.learned_copies import copy_path, keep_copy, read_copy
from engine.pooling import build_pooling
from engine.postprocess import LearnedWhitening, LinearProjection
from tests.drawing import photo
from tests.server import serving
from tests.test_api import finished, put, search

Run = Callable[..., dict[str, Any]]

CHANNELS, RAW, DIM = 128, 64, 16
POOLING = f"cbp_ac:dim={RAW}"
TINY: dict[str, Any] = {
    "backbone": "squeezenet1_1",
    "layer": "fire2",
    "weights": "untrained",
    "max_side": 64,
    "pooling": POOLING,
    "precision": "float32",
}
OPTIONS = tuple(
    part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", value)
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def a_filter(seed: int = 0, channels: int = CHANNELS, size: int = 3) -> Tensor:
    return noise(channels, channels, size, size, seed=seed)


def a_projection(seed: int = 0, raw: int = RAW, dim: int = DIM) -> LinearProjection:
    return LinearProjection(0.05 * noise(raw, seed=seed), noise(dim, raw, seed=seed + 1))


def by_hand(projection: LinearProjection, raw: NDArray[Any]) -> NDArray[np.float64]:
    mean, directions = (x.double().numpy() for x in (projection.mean, projection.directions))
    values = (raw.astype(np.float64) - mean) @ directions.T
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True))


def saved(
    path: Path,
    cooccurrence: Tensor | None = None,
    projection: LinearProjection | None = None,
    **made_for: object,
) -> Path:
    DescriptorWeights(cooccurrence, projection, made_for).save(path)
    return path


# --- the file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", ["filter", "projection", "both"])
def test_what_is_saved_is_read_to_the_last_bit(tmp_path: Path, parts: str) -> None:
    weights = DescriptorWeights(
        None if parts == "projection" else a_filter(channels=3, size=5),
        None if parts == "filter" else a_projection(),
        {"backbone": "vgg16", "scales": [1.0, 0.7], "projection_kind": "head"},
        {"dataset": "made up", "map": {"before": 41.5, "after": 44.25}},
    )
    path = tmp_path / "learned.safetensors"
    weights.save(path)
    found = DescriptorWeights.read(path)
    assert found.tensors().keys() == weights.tensors().keys() == load_file(path).keys()
    for name, value in weights.tensors().items():
        assert torch.equal(found.tensors()[name], value)
    assert (found.made_for, found.notes) == (weights.made_for, weights.notes)
    assert (found.name, found.digest) == ("learned.safetensors", weights.digest)
    assert [file.name for file in tmp_path.iterdir()] == ["learned.safetensors"]


def test_the_digest_is_that_of_names_shapes_and_values_alone() -> None:
    kernel, projection = a_filter(channels=3), a_projection()
    content = b"".join(
        f"{name}:{tuple(value.shape)}".encode() + value.numpy().tobytes()
        for name, value in (
            ("cooccurrence.weight", kernel),
            ("projection.directions", projection.directions),
            ("projection.mean", projection.mean),
        )
    )
    weights = DescriptorWeights(kernel, projection)
    assert weights.digest == hashlib.sha256(content).hexdigest()
    assert DescriptorWeights(kernel, projection, {"layer": "x"}, {"a": 1}).digest == weights.digest
    changed = kernel.clone()
    changed[2, 1, 0, 2] += 1e-6
    assert DescriptorWeights(changed, projection).digest != weights.digest
    assert DescriptorWeights(kernel, None).digest == filter_digest(kernel) != weights.digest
    assert DescriptorWeights(None, projection).digest == projection_digest(projection)


def test_a_whitening_that_was_just_learned_can_be_saved(tmp_path: Path) -> None:
    rows = torch.arange(12)
    fitted = LearnedWhitening.fit(noise(40, 24), rows, rows + 12, dim=8)
    path = saved(tmp_path / "lw.safetensors", projection=fitted, projection_kind="whitening")
    found = read_projection(path).projection
    assert found is not None
    assert torch.equal(found(noise(5, 24)), fitted(noise(5, 24)))


def test_each_option_takes_its_part_of_a_file(tmp_path: Path) -> None:
    kernel, projection = a_filter(channels=3), a_projection()
    both = saved(tmp_path / "both.safetensors", kernel, projection, backbone="vgg16")
    one, other = read_cooccurrence(both), read_projection(both)
    assert one.projection is None and one.digest == filter_digest(kernel)
    assert other.cooccurrence is None and other.digest == projection_digest(projection)
    # The projection was trained on descriptors of that filter.
    assert other.made_for == {"backbone": "vgg16", "cooccurrence_digest": filter_digest(kernel)}
    only = saved(tmp_path / "lw.safetensors", projection=projection)
    with pytest.raises(InvalidOption, match=r"lw\.safetensors holds a projection.*--projection"):
        read_cooccurrence(only)
    only = saved(tmp_path / "filter.safetensors", kernel)
    with pytest.raises(InvalidOption, match=r"filter\.safetensors holds a co-oc.*--cooccurrence"):
        read_projection(only)
    torch.testing.assert_close(load_filter(only), kernel, rtol=0, atol=0)


def test_plain_filters_are_still_read(tmp_path: Path) -> None:
    kernel = a_filter(channels=3)
    np.save(tmp_path / "a.npy", kernel.numpy())
    save_file({"weight": kernel}, tmp_path / "b.safetensors")
    for name in ("a.npy", "b.safetensors"):
        found = read_cooccurrence(tmp_path / name)
        assert (found.name, found.made_for) == (name, {})
        assert found.digest == filter_digest(kernel)
    with pytest.raises(InvalidOption, match=r"b\.safetensors: it says nothing of what it holds"):
        read_projection(tmp_path / "b.safetensors")


def rewrite(
    path: Path, about: Mapping[str, Any] | str | None = None, **tensors: Tensor | None
) -> None:
    """The file with other tensors, or another entry; dots are written as two underlines."""
    with safe_open(path, framework="pt") as file:
        entry = file.metadata()["descriptor_weights"]
        content = {name: file.get_tensor(name) for name in file.keys()}
    if about is not None:
        changed = about if isinstance(about, str) else json.dumps({**json.loads(entry), **about})
        entry = changed
    for name, value in tensors.items():
        content.pop(name.replace("__", "."), None)
        if value is not None:
            content[name.replace("__", ".")] = value
    save_file(content, path, {"descriptor_weights": entry})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"about": {"format": 2}}, "of format 2, this program reads 1"),
        ({"about": "{"}, "cannot use the descriptor weights"),
        ({"about": "[]"}, "is not what this program writes"),
        ({"about": {"notes": 3}}, "'notes' is not what"),
        ({"about": {"made_for": {"backbones": "vgg16"}}}, "no entry 'backbones'; it may have back"),
        ({"cooccurrence__weight": noise(3, 4, 3, 3)}, r"its shape is \(3, 4, 3, 3\)"),
        ({"cooccurrence__weight": noise(3, 3, 4, 4)}, r"its shape is \(3, 3, 4, 4\)"),
        ({"cooccurrence__weight": a_filter(channels=3) / 0}, "not finite"),
        ({"projection__mean": noise(63)}, r"mean has shape \(63,\) and .* \(16, 64\)"),
        ({"projection__mean": None}, "one is missing"),
        ({"projection__mean": torch.full((64,), torch.nan)}, "mean has values that are not finite"),
        ({"projection__mean": noise(64).double()}, "float64, not float32"),
        ({"projection__directions": noise(64)}, r"directions \(64,\)"),
        ({"projection__directions": noise(0, 64)}, r"\(0, 64\)"),
        ({"projection__other": noise(2)}, "has a tensor 'projection.other'"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = saved(tmp_path / "it.safetensors", a_filter(channels=3), a_projection())
    rewrite(path, **change)
    for read in (DescriptorWeights.read, read_cooccurrence, read_projection):
        with pytest.raises(InvalidOption, match=message) as caught:
            read(path)
        assert "it.safetensors" in caught.value.message


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "it.safetensors", a_filter(channels=3), a_projection())
    content = path.read_bytes()
    for damaged in (b"", content[:7], content[:200], content[:-40], b"\xff" * 500):
        path.write_bytes(damaged)
        for read in (read_cooccurrence, read_projection):
            with pytest.raises(InvalidOption, match=r"cannot .* it\.safetensors|cannot .*it\.saf"):
                read(path)
    path.write_bytes(pickle.dumps({"projection.mean": [1.0]}))
    with pytest.raises(InvalidOption, match="cannot use"):
        read_projection(path)
    with pytest.raises(InvalidOption, match=r"no file of descriptor weights .*no\.safetensors"):
        read_projection(tmp_path / "no.safetensors")


def test_mistakes_of_the_writer_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="need a co-occurrence filter or a projection"):
        DescriptorWeights(None, None)
    weights = DescriptorWeights(a_filter(channels=3), None)
    with pytest.raises(InvalidOption, match=r"saved as \.safetensors, not as .*it\.npy"):
        weights.save(tmp_path / "it.npy")
    with pytest.raises(InvalidOption, match="there is no folder"):
        weights.save(tmp_path / "no" / "it.safetensors")


# --- what it was made for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made_for", "message"),
    [
        (
            {"backbone": "vgg16"},
            "made for backbone vgg16, not squeezenet1_1: choose --backbone vgg",
        ),
        ({"layer": "fire9"}, "for layer fire9, not fire2: choose --layer fire9"),
        ({"weights_digest": "a" * 64}, r"aaaaaaaaaaaa\.\.\., not .*: give the --weights that"),
        ({"pooling": "gem"}, r"for pooling gem:p=3.0, not cbp_ac:.*: choose --pooling gem"),
        ({"pooling": f"cbp_ac:dim={RAW},radius=1"}, "radius=1,seed=0, not .*radius=4"),
        ({"cooccurrence_digest": "a" * 64}, r"aaaaaaaaaaaa\.\.\., not none: give the --cooccurr"),
    ],
)
def test_a_projection_for_something_else_is_refused_with_both_and_the_remedy(
    tmp_path: Path, made_for: dict[str, Any], message: str
) -> None:
    path = saved(tmp_path / "lw.safetensors", projection=a_projection(), **made_for)
    with pytest.raises(InvalidOption, match=message) as caught:
        build_describer(Settings(**TINY, projection=path))
    assert "the projection lw.safetensors" in caught.value.message


def test_a_filter_for_another_trunk_is_refused(tmp_path: Path) -> None:
    others: list[dict[str, Any]] = [
        {"backbone": "vgg16"},
        {"layer": "fire3"},
        {"weights_digest": "b" * 64},
    ]
    for made_for in others:
        path = saved(tmp_path / "filter.safetensors", a_filter(), **made_for)
        with pytest.raises(InvalidOption, match=rf"filter\.safetensors .* {next(iter(made_for))}"):
            build_describer(Settings(**TINY, cooccurrence=path))
    path = saved(tmp_path / "filter.safetensors", a_filter(channels=7))
    with pytest.raises(InvalidOption, match="maps of 7 channels, this trunk's have 128"):
        build_describer(Settings(**TINY, cooccurrence=path))
    path = saved(tmp_path / "lw.safetensors", projection=a_projection(raw=63))
    with pytest.raises(InvalidOption, match=f"of 63 values, pooling .* gives {RAW}"):
        build_describer(Settings(**TINY, projection=path))


def test_what_does_not_say_its_trunk_is_no_guess_about_it(tmp_path: Path) -> None:
    """Else the trunk under it would depend on whether there is a network."""
    np.save(tmp_path / "filter.npy", a_filter().numpy())
    head = saved(tmp_path / "head.safetensors", projection=a_projection())
    left_open = {**TINY, "backbone": "auto"}
    for settings in (
        Settings(**left_open, cooccurrence=tmp_path / "filter.npy"),
        Settings(**left_open, projection=head),
    ):
        with pytest.raises(InvalidOption, match="which trunk it was made for: choose --backbone"):
            build_describer(settings)
    said = saved(tmp_path / "said.safetensors", projection=a_projection(), backbone="squeezenet1_1")
    both = Settings(**left_open, cooccurrence=tmp_path / "filter.npy", projection=said)
    assert build_describer(both).options.backbone == "squeezenet1_1"
    vgg = saved(tmp_path / "vgg.safetensors", a_filter(), backbone="vgg16")
    message = r"vgg.safetensors was made for vgg16, .* said.* was made for squeezenet1_1"
    with pytest.raises(InvalidOption, match=message):
        build_describer(Settings(**left_open, cooccurrence=vgg, projection=said))


def test_what_was_made_for_this_is_taken_however_it_is_written(tmp_path: Path) -> None:
    digest = load_weights("squeezenet1_1", "untrained").digest
    about: dict[str, Any] = {
        "backbone": "squeezenet1_1",
        "layer": "fire2",
        "weights_digest": digest,
    }
    kernel = saved(tmp_path / "filter.safetensors", a_filter(), **about, scales=[1.0, 0.5])
    path = saved(
        tmp_path / "head.safetensors",
        projection=a_projection(),
        **about,
        # As the settings come to say it, with what is left out there, in another order.
        pooling=f"cbp_ac:radius=1,seed=0,cooccurrence=learned,dim={RAW}",
        cooccurrence_digest=filter_digest(a_filter()),
        max_side=512,
    )
    describer = build_describer(Settings(**TINY, cooccurrence=kernel, projection=path))
    assert describer.projection is not None
    assert describer.options.pooling == f"cbp_ac:dim={RAW},cooccurrence=learned,radius=1"
    other = saved(tmp_path / "filter.safetensors", a_filter(seed=1))
    with pytest.raises(InvalidOption, match="give the --cooccurrence filter that it was trained"):
        build_describer(Settings(**TINY, cooccurrence=other, projection=path))


@pytest.mark.parametrize(
    ("spec", "size", "expected"),
    [
        ("cbp_ac", 9, "cbp_ac:cooccurrence=learned"),
        ("cbp_ac", 3, "cbp_ac:cooccurrence=learned,radius=1"),
        ("bp_ac:mask=sptd", 5, "bp_ac:mask=sptd,cooccurrence=learned,radius=2"),
        ("cbp_ac:radius=4", 9, "cbp_ac:radius=4,cooccurrence=learned"),
        ("cbp_ac:cooccurrence=learned", 3, "cbp_ac:cooccurrence=learned,radius=1"),
        ("chco_sct:cooccurrence=learned", 9, "chco_sct:cooccurrence=learned"),
        ("gem", 9, "gem does not use the filter F"),
        ("cbp_aa", 9, "cbp_aa does not use the filter F"),
        # Its weights are not defined where a co-occurrence is negative: only if one insists.
        ("chco_sct", 9, "chco_sct does not use the filter F"),
        ("cbp_ac:cooccurrence=direct", 9, "does not use the filter F"),
        ("cbp_ac:radius=2", 9, "another radius than the filter F, whose radius is 4"),
    ],
)
def test_a_pooling_is_told_to_use_the_filter_if_it_can(spec: str, size: int, expected: str) -> None:
    weight = a_filter(channels=2, size=size)
    if " " in expected:
        with pytest.raises(InvalidOption, match=expected):
            pooling_with_filter(spec, weight, "F")
        return
    assert pooling_with_filter(spec, weight, "F") == expected
    loaded = build_pooling(expected, 2).state_dict()["cooccurrence.weight"]
    assert loaded.shape == weight.shape


def test_a_projection_leaves_nothing_to_say_of_how_one_is_fitted(tmp_path: Path) -> None:
    path = saved(tmp_path / "lw.safetensors", projection=a_projection())
    settings = Settings(**TINY, projection=path, projection_power=0.5)
    with pytest.raises(InvalidOption, match="projection_power would have no effect"):
        build_describer(settings)


# --- the recipe -------------------------------------------------------------------------------


def test_another_filter_is_another_fingerprint(tmp_path: Path) -> None:
    plain = build_describer(Settings(**TINY)).recipe
    recipes = [
        build_describer(
            Settings(**TINY, cooccurrence=saved(tmp_path / f"{seed}.safetensors", a_filter(seed)))
        ).recipe
        for seed in (0, 1)
    ]
    assert len({recipe.fingerprint for recipe in (plain, *recipes)}) == 3
    assert [recipe.cooccurrence_digest for recipe in (plain, *recipes)] == [
        "",
        filter_digest(a_filter(0)),
        filter_digest(a_filter(1)),
    ]
    # Even without that entry: the weight is among the tensors of the pooling.
    assert recipes[0].pooling_digest != recipes[1].pooling_digest
    assert recipes[0].pooling_options == recipes[1].pooling_options


def test_another_projection_is_another_fingerprint(tmp_path: Path) -> None:
    recipes = [build_describer(Settings(**TINY)).recipe]
    for seed in (0, 1):
        path = saved(tmp_path / f"{seed}.safetensors", projection=a_projection(seed))
        recipes.append(build_describer(Settings(**TINY, projection=path)).recipe)
    assert len({recipe.fingerprint for recipe in recipes}) == 3
    assert [recipe.projection_dim for recipe in recipes] == [512, DIM, DIM]
    assert recipes[1].projection_digest == projection_digest(a_projection(0))


def test_the_filter_is_what_descriptors_are_made_with(tmp_path: Path) -> None:
    path = saved(tmp_path / "filter.safetensors", a_filter())
    plain = build_describer(Settings(**TINY))
    learned = build_describer(Settings(**TINY, cooccurrence=path))
    pixels = plain.decode(photo(1)).pixels
    (maps,) = learned.maps(torch.from_numpy(pixels[None].copy()))
    a = maps[0].double().numpy()[0]
    active = a * (a > a.mean())
    padded = np.pad(active, ((0, 0), (1, 1), (1, 1)))
    height, width = a.shape[1:]
    tensor = np.zeros_like(a)
    for i in range(3):
        for j in range(3):
            kernel = a_filter().double().numpy()[:, :, i, j]
            tensor += np.einsum("kw,whv->khv", kernel, padded[:, i : i + height, j : j + width])
    tensor *= (a > a.mean()) / (CHANNELS - 1)
    sketch = learned.pooling.state_dict()
    h1, s1, h2, s2 = (sketch[f"sketch.{name}"].numpy() for name in ("h1", "s1", "h2", "s2"))
    products = np.einsum("chw,dhw->cd", a, tensor)
    pooled = np.zeros(RAW)
    np.add.at(pooled, (h1[:, None] + h2[None, :]) % RAW, products * np.outer(s1, s2))
    expected = np.sign(pooled) * np.sqrt(np.abs(pooled))
    expected /= np.linalg.norm(expected)
    (found,) = learned.describe([pixels])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert abs(float(found @ plain.describe([pixels])[0])) < 0.9


# --- copies -----------------------------------------------------------------------------------


def test_a_copy_is_kept_under_its_digest_and_mended(tmp_path: Path) -> None:
    weights = DescriptorWeights(a_filter(channels=3), None, {"layer": "x"}, {"a": 1}, "mine.npy")
    keep_copy(tmp_path, weights)
    path = copy_path(tmp_path, weights.digest)
    assert path == tmp_path / "learned" / f"{weights.digest}.safetensors"
    written = path.stat().st_mtime_ns
    keep_copy(tmp_path, weights)
    assert path.stat().st_mtime_ns == written
    found = read_copy(tmp_path, weights.digest, "--cooccurrence")
    assert (found.name, found.made_for, found.notes) == ("mine.npy", {"layer": "x"}, {"a": 1})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptIndex, match=rf"{path} does not have the content"):
        read_copy(tmp_path, weights.digest, "--cooccurrence")
    path.write_bytes(content[:50])
    with pytest.raises(CorruptIndex, match=r"cannot use.*start once with --cooccurrence"):
        read_copy(tmp_path, weights.digest, "--cooccurrence")
    keep_copy(tmp_path, weights)
    assert read_copy(tmp_path, weights.digest, "--cooccurrence").digest == weights.digest
    path.unlink()
    with pytest.raises(CorruptIndex, match="no file of descriptor weights"):
        read_copy(tmp_path, weights.digest, "--projection")


# --- an index ---------------------------------------------------------------------------------


def client_of(folder: Path, **settings: Any) -> TestClient:
    return TestClient(create_app(Settings(data_dir=folder, **settings)))


def test_an_index_with_a_filter_and_a_projection_lives_without_their_files(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    kernel = saved(tmp_path / "filter.safetensors", a_filter())
    head = saved(tmp_path / "head.safetensors", projection=a_projection())
    chosen = {**TINY, "cooccurrence": kernel, "projection": head}

    def raw_and_indexed(client: TestClient) -> tuple[NDArray[Any], NDArray[Any]]:
        searcher = client.app.state.cooc.service.searcher  # type: ignore[attr-defined]
        rows = searcher.catalog.live_rows()
        raw = np.concatenate([vectors for _, vectors in searcher.catalog.descriptors(rows)])
        return raw, searcher._view.index.vectors(rows)

    def assert_projected(client: TestClient) -> None:
        raw, indexed = raw_and_indexed(client)
        assert raw.shape == (len(raw), RAW)
        np.testing.assert_allclose(indexed, by_hand(a_projection(), raw), atol=2e-6)
        assert client.get("/readyz").status_code == 200
        answer = search(client, photo(3), limit=50)["results"]
        cosines = by_hand(a_projection(), raw) @ by_hand(a_projection(), raw[3])
        assert [hit["id"] for hit in answer] == [str(n) for n in np.argsort(-cosines)]
        scores = [hit["score"] for hit in answer]
        np.testing.assert_allclose(scores[1:], -np.sort(-cosines)[1:], atol=1e-5)
        assert answer[0]["match_type"] == "exact"

    with client_of(folder, **chosen) as client:
        for seed in range(12):
            assert put(client, str(seed), photo(seed)).status_code == 201
        assert_projected(client)  # before any build
        state = client.get("/admin/index").json()
        assert (state["dim"], state["projected"], state["generation"]) == (DIM, True, 0)
        version = client.get("/version").json()
        assert version["cooccurrence"] == {
            "name": "filter.safetensors",
            "digest": filter_digest(a_filter()),
        }
        assert version["projection"] == {
            "name": "head.safetensors",
            "digest": projection_digest(a_projection()),
        }
        assert state["recipe"]["cooccurrence_digest"] == filter_digest(a_filter())
        assert state["recipe"]["projection_digest"] == projection_digest(a_projection())
        job = finished(client, client.post("/admin/index/build"))
        assert (job["state"], job["result"]["dim"]) == ("succeeded", DIM)
        assert 0 < job["result"]["explained_variance"] < 1
        assert_projected(client)
        put(client, "12", photo(12))
        assert client.post("/admin/index/reload").json() == {"generation": 1, "count": 13}
        assert_projected(client)
    kernel.unlink()
    head.unlink()
    with client_of(folder, precision="float32") as client:  # started without any wish
        assert client.get("/version").json() == version
        assert_projected(client)
        put(client, "13", photo(13))
        assert_projected(client)
        assert client.app.state.cooc.service.searcher.verify() == []  # type: ignore[attr-defined]
    (folder / "CURRENT").unlink()
    shutil.rmtree(folder / "generations")
    with client_of(folder, precision="float32") as client:  # the generation is but a cache
        assert client.get("/admin/index").json()["generation"] == 0
        assert_projected(client)


def test_an_index_refuses_other_files_and_takes_the_same_again(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    kernel = saved(tmp_path / "filter.safetensors", a_filter())
    with client_of(folder, **TINY, cooccurrence=kernel) as client:
        put(client, "a", photo(1))
        fingerprint = client.get("/version").json()["fingerprint"]
    np.save(tmp_path / "same.npy", a_filter().numpy())
    with client_of(folder, cooccurrence=tmp_path / "same.npy") as client:
        assert client.get("/version").json()["fingerprint"] == fingerprint
        assert search(client, photo(1))["results"][0]["match_type"] == "exact"
    other = saved(tmp_path / "other.safetensors", a_filter(seed=1))
    mine = filter_digest(a_filter())[:12]
    theirs = filter_digest(a_filter(seed=1))[:12]
    with client_of(folder, cooccurrence=other) as client:
        answer = client.post("/search", files={"image": photo(1)})
        assert answer.status_code == 409
        detail = answer.json()["detail"]
        assert f"cooccurrence is a file of digest {mine}..., not other.safetensors" in detail
        assert f"({theirs}...)" in detail
        assert client.get("/version").json()["cooccurrence"] is None
    head = saved(tmp_path / "head.safetensors", projection=a_projection())
    with client_of(folder, projection=head) as client:
        answer = client.post("/search", files={"image": photo(1)})
        assert answer.status_code == 409
        assert "projection is not from a file, not head.safetensors" in answer.json()["detail"]
    with client_of(folder, pooling=POOLING) as client:  # says nothing against the filter
        assert client.get("/version").json()["fingerprint"] == fingerprint


def test_a_copy_that_is_lost_is_named_and_the_file_brings_it_back(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    head = saved(tmp_path / "head.safetensors", projection=a_projection())
    with client_of(folder, **TINY, projection=head) as client:
        put(client, "a", photo(1))
    copy = copy_path(folder, projection_digest(a_projection()))
    content = copy.read_bytes()
    for damaged in (None, content[:100], content[:-1] + b"\x00"):
        copy.unlink()
        if damaged is not None:
            copy.write_bytes(damaged)
        with client_of(folder) as client:
            answer = client.post("/search", files={"image": photo(1)})
            assert answer.status_code == 503
            detail = answer.json()["detail"]
            assert copy.name in detail and "start once with --projection" in detail
        with client_of(folder, projection=head) as client:
            assert search(client, photo(1))["results"][0]["id"] == "a"
        with client_of(folder) as client:
            assert search(client, photo(1))["results"][0]["id"] == "a"


def test_an_emptied_index_keeps_what_it_had_learned_until_something_else_is_asked_for(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "index"
    head = saved(tmp_path / "head.safetensors", projection=a_projection())
    with client_of(folder, **TINY, projection=head) as client:
        version = client.get("/version").json()
        put(client, "a", photo(1))
        assert client.delete("/images/a").status_code == 204
    # None of these is a wish for another recipe.
    with client_of(folder, backbone="auto", weights="auto", precision="float32") as client:
        assert client.get("/version").json() == version
        assert client.get("/admin/index").json()["dim"] == DIM
    with client_of(folder, **TINY) as client:
        put(client, "a", photo(1))
        assert client.get("/version").json()["projection"] is None
        assert client.get("/admin/index").json()["dim"] == RAW


def test_the_only_copy_outlives_a_catalog_that_is_away_for_a_moment(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    head = saved(tmp_path / "head.safetensors", projection=a_projection())
    with client_of(folder, **TINY, projection=head) as client:
        put(client, "a", photo(1))
    head.unlink()
    shutil.copytree(folder, tmp_path / "backup")
    (folder / "catalog.sqlite").unlink()
    with client_of(folder, **TINY) as client:
        assert client.get("/admin/index").json()["dim"] == RAW
    shutil.copy(tmp_path / "backup" / "catalog.sqlite", folder)
    with client_of(folder) as client:
        assert client.get("/admin/index").json()["dim"] == DIM
        assert search(client, photo(1))["results"][0]["match_type"] == "exact"


def test_a_service_killed_comes_back_with_its_own_copies(tmp_path: Path) -> None:
    kernel = saved(tmp_path / "filter.safetensors", a_filter())
    head = saved(tmp_path / "head.safetensors", projection=a_projection())
    chosen = {f"COOC_{name.upper()}": str(value) for name, value in TINY.items()}
    chosen |= {"COOC_COOCCURRENCE": str(kernel), "COOC_PROJECTION": str(head)}
    with serving(tmp_path / "index", **chosen) as server:
        for seed in range(3):
            server.http.put(f"/images/{seed}", files={"image": photo(seed)}).raise_for_status()
        before = server.http.post("/search", files={"image": photo(9)}).json()["results"]
        version = server.http.get("/version").json()
        server.kill()
        kernel.unlink()
        head.unlink()
        for name in chosen.keys() - {"COOC_PRECISION"}:
            del server.environment[name]
        server.start()
        assert version["projection"]["name"] == "head.safetensors"
        assert server.http.get("/version").json() == version
        assert server.http.post("/search", files={"image": photo(9)}).json()["results"] == before


# --- commands ---------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """`cooc ... --json` in this process; raises what the command does."""
    monkeypatch.setenv("COOC_CACHE_DIR", str(tmp_path / "cache"))
    program = typer.Typer()
    for command in (search_command, describe, evaluate):
        program.command(command.__name__)(command)
    program.add_typer(index.app, name="index")

    def run(*arguments: object) -> dict[str, Any]:
        result = CliRunner().invoke(program, [*map(str, arguments), "--json"])
        if result.exception is not None:
            raise result.exception
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    return run


def test_evaluate_with_a_trained_projection_is_the_ranking_by_hand(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, count = tmp_path / "shop", 14
    (folder / "images").mkdir(parents=True)
    names = [f"{seed:02d}.jpg" for seed in range(count)]
    for seed, name in enumerate(names):
        (folder / "images" / name).write_bytes(photo(seed))
    pairs = {names[seed]: names[(seed + 5) % count] for seed in range(count)}
    truth = {"database": names, "queries": {q: {"pos": [p]} for q, p in pairs.items()}}
    (folder / "gt.json").write_text(json.dumps(truth))
    kernel = saved(tmp_path / "filter.safetensors", a_filter())
    head = saved(tmp_path / "head.safetensors", projection=a_projection())
    no_pooling = tuple(o for o in OPTIONS if o not in ("--pooling", POOLING))
    monkeypatch.setenv("COOC_POOLING", POOLING)
    report = run(
        "evaluate",
        folder,
        *no_pooling,
        *("--cooccurrence", kernel, "--projection", "none", "--projection", head),
    )
    plain, projected = report["results"]
    assert plain["pooling"] == projected["pooling"] == f"{POOLING},cooccurrence=learned,radius=1"
    assert [plain["projection"], projected["projection"]] == ["none", "head.safetensors"]
    assert [plain["dim"], projected["dim"]] == [RAW, DIM]
    assert projected["fitted_on"] is None
    described = run(
        "describe",
        folder / "images",
        *OPTIONS,
        "--cooccurrence",
        kernel,
        "--out",
        tmp_path / "raw.npy",
    )
    assert described["dim"] == RAW
    raw = np.load(tmp_path / "raw.npy")
    for row, vectors in ((plain, raw), (projected, by_hand(a_projection(), raw))):
        similarities, precisions = vectors @ vectors.T, []
        for query, positive in pairs.items():
            asked, wanted = names.index(query), names.index(positive)
            others = [n for n in np.argsort(-similarities[asked]) if n != asked]
            rank = others.index(wanted)
            precisions.append(((1 if rank == 0 else 0) + 1 / (rank + 1)) / 2)
        assert row["map"] == pytest.approx(100 * np.mean(precisions), abs=1e-3)
    assert plain["map"] != projected["map"]
    open_trunk = no_pooling[2:]
    assert OPTIONS[:2] == ("--backbone", "squeezenet1_1")
    said = saved(tmp_path / "said.safetensors", projection=a_projection(), backbone="squeezenet1_1")
    again = run("evaluate", folder, *open_trunk, "--cooccurrence", kernel, "--projection", said)
    assert again["results"][0]["map"] == projected["map"]
    other = saved(tmp_path / "vgg.safetensors", projection=a_projection(), backbone="vgg16")
    with pytest.raises(InvalidOption, match=r"made for vgg16: leave out one or the other"):
        run("evaluate", folder, *open_trunk, "--projection", said, "--projection", other)
    gem = tuple("gem" if option == POOLING else option for option in OPTIONS)
    with pytest.raises(InvalidOption, match="is not for descriptors of 128 values"):
        run("evaluate", folder, *gem, "--projection", head)


def test_describe_index_and_search_take_what_was_trained(run: Run, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(3):
        (photos / f"{seed}.jpg").write_bytes(photo(seed))
    head = saved(tmp_path / "head.safetensors", projection=a_projection())
    raw, out = tmp_path / "raw.npy", tmp_path / "out.npy"
    run("describe", photos, *OPTIONS, "--out", raw)
    report = run("describe", photos, *OPTIONS, "--projection", head, "--out", out)
    assert report["dim"] == DIM
    np.testing.assert_allclose(np.load(out), by_hand(a_projection(), np.load(raw)), atol=1e-6)
    data = ("--data-dir", tmp_path / "index")
    run("index", "add", photos, *OPTIONS, "--projection", head, *data)
    stats = run("index", "stats", *data)
    assert stats["dim"] == DIM
    assert stats["fingerprint"] == report["fingerprint"]
    head.unlink()
    found = run("search", photos / "2.jpg", *data)["results"]
    assert (found[0]["id"], found[0]["match_type"]) == ("2.jpg", "exact")
    assert run("index", "verify", *data)["ok"]


def test_settings_name_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COOC_COOCCURRENCE", "/a/filter.npy")
    monkeypatch.setenv("COOC_PROJECTION", "/a/lw.safetensors")
    settings = load_settings()
    assert settings.cooccurrence == Path("/a/filter.npy")
    assert settings.projection == Path("/a/lw.safetensors")
