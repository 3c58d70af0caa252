from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from typer.testing import CliRunner, Result

from app.commands.explain import explain
from engine.backbones.weights import Preprocessing
from engine.cooccurrence import direct_filter
from engine.describer import Describer
from engine.errors import BadImage, InvalidOption, UnsupportedImage
from engine.explaining import Grid, covered, explain_image, explain_pair, spread
from engine.pooling import POOLINGS
from engine.types import Pixels
from tests.disks import fill, small_disk
from tests.drawing import photo, scene
from tests.server import SMALL
from tests.test_cli import cooc

Build = Callable[..., Describer]

SPECS = [
    *POOLINGS,
    "gem:root=yes,mask=spct",
    "chco_sct:radius=1,mask=sptd",
    "rmac:levels=2,whole_map=no",
    "bp_aa:root=no",
    "bp_ac:radius=2,mask=spct",
    "cbp_aa:dim=300,mask=sptd",
    "cbp_ac:root=no",
    "cbp_ac:cooccurrence=learned,radius=1",
]


@pytest.fixture
def build(describer: Describer) -> Build:
    """Describers like the small one, with other options."""
    weight = direct_filter(512, 1)
    draw = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    weight += 0.5 * draw[:, :, None, None]  # some entries below zero

    def build(pooling: str = "cbp_ac", **options: Any) -> Describer:
        chosen = replace(describer.options, pooling=pooling, **options)
        return Describer(chosen, describer.weights, cooccurrence_filter=weight)

    return build


def drawn(seed: int, size: tuple[int, int] = (128, 96)) -> Pixels:
    return np.asarray(scene(seed, size))


def features(describer: Describer, pixels: Pixels) -> NDArray[np.float64]:
    """(C, h, w) of the first scale."""
    with torch.inference_mode():
        maps = next(describer.maps(torch.from_numpy(pixels[None].copy())))
    return np.asarray(maps[-1][0].double())


def unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(x / np.linalg.norm(x))


# A pair


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.7, 0.5)])
@pytest.mark.parametrize("spec", SPECS)
def test_the_parts_of_each_image_add_up_to_the_score(
    build: Build, spec: str, scales: tuple[float, ...]
) -> None:
    describer = build(spec, scales=scales)
    first, second = drawn(1), drawn(2, (70, 128))
    found = explain_pair(describer, first, second)
    assert (found.first.shape, found.second.shape) == ((5, 7), (7, 4))
    assert found.first.sum() == pytest.approx(found.score, abs=1e-5)
    assert found.second.sum() == pytest.approx(found.score, abs=1e-5)
    one, other = describer.describe([first, second])
    assert found.served_score == pytest.approx(float(one @ other), abs=1e-5)
    if spec.startswith("cbp_"):
        name, _, rest = spec.removeprefix("c").partition(":")
        kept = [part for part in rest.split(",") if part and not part.startswith("dim")]
        full = build(f"{name}:{','.join(kept)}" if kept else name, scales=scales)
        one, other = full.describe([first, second])
    assert found.score == pytest.approx(float(one @ other), abs=1e-5)


@pytest.mark.parametrize("spec", ["gem", "bp_ac", "cbp_aa"])
def test_the_parts_of_several_layers_add_up_on_the_finest_grid(build: Build, spec: str) -> None:
    describer = build(spec, layer="fire4+fire9", scales=(1.0, 0.5))
    first, second = drawn(1), drawn(2, (70, 128))
    found = explain_pair(describer, first, second)
    assert (found.first.shape, found.second.shape) == ((11, 15), (15, 8))
    assert found.first.sum() == pytest.approx(found.score, abs=1e-5)
    assert found.second.sum() == pytest.approx(found.score, abs=1e-5)
    full = build(spec.removeprefix("c") if spec.startswith("c") else spec, layer="fire4+fire9")
    full.options = describer.options
    one, other = full.describe([first, second])
    assert found.score == pytest.approx(float(one @ other), abs=1e-5)


def test_parts_are_those_of_a_loop_over_positions(build: Build) -> None:
    first, second = drawn(3), drawn(4, (70, 128))
    a, b = (features(build("spoc"), pixels) for pixels in (first, second))
    places = list(np.ndindex(a.shape[1:]))

    target = unit(b.mean(axis=(1, 2)))
    length = np.linalg.norm(a.mean(axis=(1, 2)))
    expected = np.zeros(a.shape[1:])
    for i, j in places:
        expected[i, j] = a[:, i, j] @ target / (len(places) * length)
    found = explain_pair(build("spoc"), first, second)
    np.testing.assert_allclose(found.first, expected, atol=1e-6)

    target = unit((np.maximum(b, 1e-6) ** 3).mean(axis=(1, 2)) ** (1 / 3))
    powers = np.maximum(a, 1e-6) ** 3
    pooled = powers.mean(axis=(1, 2)) ** (1 / 3)
    for i, j in places:
        shares = powers[:, i, j] / powers.sum(axis=(1, 2))
        expected[i, j] = (shares * pooled / np.linalg.norm(pooled)) @ target
    found = explain_pair(build("gem"), first, second)
    np.testing.assert_allclose(found.first, expected, atol=1e-6)

    products = {
        place: np.outer(a[(slice(None), *place)], a[(slice(None), *place)]) for place in places
    }
    total = np.sum(list(products.values()), axis=0)
    other = sum(
        np.outer(b[(slice(None), *p)], b[(slice(None), *p)]) for p in np.ndindex(b.shape[1:])
    )
    target = unit(np.sqrt(other))
    root = np.sqrt(total)
    seen = np.divide(target, root, out=np.zeros_like(root), where=root > 0) / np.linalg.norm(root)
    for place in places:
        expected[place] = (products[place] * seen).sum()
    for spec in ("bp_aa", "cbp_aa"):
        found = explain_pair(build(spec), first, second)
        np.testing.assert_allclose(found.first, expected, atol=1e-6)


def test_two_scales_add_up_cell_by_cell(build: Build) -> None:
    """Each scale's parts by hand, each cell of the coarse one split among the fine ones."""
    describer = build("spoc", scales=(1.0, 0.5))
    first, second = drawn(3, (128, 128)), drawn(4)
    with torch.inference_mode():
        maps = [
            m[0][0].double().numpy() for m in describer.maps(torch.from_numpy(first[None].copy()))
        ]
    (target,) = describer.describe([second])
    vectors = [unit(m.mean(axis=(1, 2))) for m in maps]
    expected = np.zeros(maps[0].shape[1:])
    for m in maps:
        length = np.linalg.norm(m.mean(axis=(1, 2))) * np.linalg.norm(np.sum(vectors, axis=0))
        parts = np.einsum("chw,c->hw", m, target.astype(float)) / m[0].size / length
        expected += by_tiny_cells(parts, *maps[0].shape[1:])
    found = explain_pair(describer, first, second)
    np.testing.assert_allclose(found.first, expected, atol=1e-6)


@pytest.mark.parametrize("spec", ["spoc", "cbp_ac", "mac"])
def test_an_image_explains_itself_alike_on_both_sides(build: Build, spec: str) -> None:
    found = explain_pair(build(spec), drawn(5), drawn(5))
    assert found.score == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.first, found.second, atol=1e-7)


@pytest.mark.parametrize("spec", ["spoc", "gem", "cbp_ac"])
def test_what_two_images_share_makes_more_of_their_score(build: Build, spec: str) -> None:
    """The left half of the query counts for more where the other image has it, too."""
    query, same_left, same_right = (drawn(6).copy() for _ in range(3))
    same_left[:, 64:], same_right[:, :64] = drawn(7, (64, 96)), drawn(7, (64, 96))
    left = []
    for other in (same_left, same_right):
        found = explain_pair(build(spec), query, other)
        left.append(found.first[:, :3].sum() / found.score)
    assert left[0] > 1.02 * left[1]


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.6)])
@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.startswith("gem")])
def test_a_black_image_has_no_parts_and_no_score(
    describer: Describer, spec: str, scales: tuple[float, ...]
) -> None:
    """Without biases, and with black as zero, nothing of a black image is active."""
    state = {
        name: torch.zeros_like(value) if name.endswith("bias") else value
        for name, value in describer.weights.state.items()
    }
    plain = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    weights = replace(describer.weights, state=state, preprocessing=plain)
    options = replace(describer.options, pooling=spec, scales=scales)
    built = Describer(options, weights, cooccurrence_filter=direct_filter(512, 1))
    black = np.zeros((80, 128, 3), np.uint8)
    for other in (drawn(1), black):
        found = explain_pair(built, black, other)
        assert (found.score, found.served_score) == (0, 0)
        assert not found.first.any()
        assert not found.second.any()


def test_a_pooling_that_is_not_fitted_is_refused(build: Build) -> None:
    with pytest.raises(InvalidOption, match="leave out whiten=yes"):
        explain_pair(build("rmac:whiten=yes"), drawn(1), drawn(2))


def by_tiny_cells(values: Grid, height: int, width: int) -> Grid:
    """Spread each cell over cells so small that they fit into both grids."""
    rows, columns = values.shape
    tiny = np.kron(values, np.ones((height, width))) / (height * width)
    return np.asarray(tiny.reshape(height, rows, width, columns).sum(axis=(1, 3)))


@pytest.mark.parametrize("size", [(4, 6), (7, 5), (3, 2), (1, 1), (9, 1)])
def test_spreading_keeps_every_amount_in_its_place(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4))
    result = spread(values, *size)
    np.testing.assert_allclose(result, by_tiny_cells(values, *size), atol=1e-12)
    assert result.sum() == pytest.approx(values.sum())


# One image


def test_the_maps_of_an_image_are_those_of_the_equations(build: Build) -> None:
    describer, pixels = build("cbp_ac:radius=2"), drawn(1, (128, 80))
    weight = direct_filter(512, 1) / 9
    weight[:, ::3] *= -0.5
    found = explain_image(describer, pixels, weight)
    a = features(describer, pixels)
    assert (found.radius, found.learned_radius) == (2, 1)
    np.testing.assert_allclose(found.activation, a.sum(axis=0), rtol=1e-5)
    rho = a > a.mean()
    direct = np.zeros_like(a)
    for i, j in np.ndindex(a.shape[1:]):
        rows, columns = slice(max(0, i - 2), i + 3), slice(max(0, j - 2), j + 3)
        around = (a * rho)[:, rows, columns].sum(axis=(1, 2))
        direct[:, i, j] = rho[:, i, j] * (around.sum() - around) / 511
    s = direct.sum(axis=0)
    np.testing.assert_allclose(found.direct, s, rtol=1e-4)
    np.testing.assert_allclose(found.spatial, np.sqrt(s / np.sqrt((s**2).sum())), rtol=1e-4)
    convolved = F.conv2d(torch.from_numpy(a * rho)[None], weight.double(), padding=1)[0] / 511
    assert found.learned is not None
    expected = (convolved.numpy() * rho).sum(axis=0)
    np.testing.assert_allclose(found.learned, expected, rtol=1e-3, atol=1e-3 * abs(expected).max())


def test_an_image_is_shown_at_its_own_scale_by_its_deepest_layer(build: Build) -> None:
    pixels = drawn(1)
    plain = explain_image(build("spoc"), pixels)
    other = explain_image(build("spoc", layer="fire4+fire9", scales=(0.5, 0.7)), pixels)
    np.testing.assert_array_equal(plain.activation, other.activation)
    assert (plain.learned, plain.learned_radius, plain.radius) == (None, None, 4)


def test_a_thin_image_is_covered_with_its_padding(build: Build) -> None:
    assert covered(build("spoc"), drawn(1, (128, 20))) == (32, 128)
    assert explain_image(build("spoc"), drawn(1, (128, 20))).activation.shape == (1, 7)


# The command


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """`cooc explain ...` in a folder with a photo, another one, and a text."""
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    Path("query.jpg").write_bytes(photo(1))
    Path("hit [$1].png").write_bytes(photo(2, (90, 160), "png"))
    Path("notes.jpg").write_text("no photo")
    app = typer.Typer()
    app.command()(explain)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def size(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


def test_explain_draws_a_panel_more_with_a_filter(run: Callable[..., Result]) -> None:
    result = run("query.jpg", "--out", "plain.png")
    assert result.exit_code == 0, result.output
    assert "give a trained filter with --cooccurrence FILE" in result.stderr
    save_file({"weight": direct_filter(512, 1)}, "filter.safetensors")
    result = run("query.jpg", "--out", "more.png", "--cooccurrence", "filter.safetensors")
    assert result.exit_code == 0, result.output
    assert "--cooccurrence" not in result.stderr
    (plain, height), (more, same) = size("plain.png"), size("more.png")
    assert height == same
    assert 1.2 < more / plain < 1.3  # five panels instead of four


@pytest.mark.parametrize(
    ("name", "begins"),
    [("p.jpg", b"\xff\xd8"), ("p.SVG", b"<?xml"), ("p.pdf", b"%PDF"), ("p.PNG", b"\x89PNG")],
)
def test_explain_writes_the_kind_that_the_name_says(
    run: Callable[..., Result], name: str, begins: bytes
) -> None:
    for images in (["query.jpg"], ["query.jpg", "hit [$1].png"]):
        result = run(*images, "--out", name, "--pooling", "spoc")
        assert result.exit_code == 0, result.output
        assert Path(name).read_bytes().startswith(begins)
        assert f"wrote {name}" in result.stdout


def test_a_full_disk_leaves_the_picture_of_before(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", size_kb=64) as disk:
        out = disk / "p.png"
        out.write_bytes(b"of before")
        fill(disk, leave_kb=8)
        result = run("query.jpg", "--out", out, "--pooling", "spoc")
        assert isinstance(result.exception, InvalidOption)
        assert f"cannot write {out}: No space left" in str(result.exception)
        assert out.read_bytes() == b"of before"
        assert sorted(path.name for path in disk.iterdir()) == ["ballast", "p.png"]


def test_a_pair_as_json_has_parts_that_add_up(run: Callable[..., Result]) -> None:
    result = run("query.jpg", "hit [$1].png", "--json", "--out", "pair.png")
    found = json.loads(result.stdout)
    assert (found["query"]["shape"], found["hit"]["shape"]) == ([5, 7], [7, 4])
    for side in ("query", "hit"):
        parts = np.array(found[side]["parts"])
        assert list(parts.shape) == found[side]["shape"]
        assert parts.sum() == pytest.approx(found["score"], abs=1e-5)
    assert -1 <= found["served_score"] <= 1
    assert (found["trained"], found["pooling"], found["layer"]) == (False, "cbp_ac", "fire9")
    assert size("pair.png")[0] > 500
    assert json.loads(run("query.jpg", "query.jpg", "--json").stdout)["score"] == pytest.approx(1)


def test_one_photo_as_json_has_its_maps(run: Callable[..., Result]) -> None:
    found = json.loads(run("query.jpg", "--json", "--layer", "fire4+fire9").stdout)
    assert (found["shape"], found["layer"]) == ([5, 7], "fire9")
    for name in ("activation", "direct", "spatial_weights"):
        assert np.array(found[name]).shape == (5, 7)
    assert "learned" not in found


def test_explain_computes_in_float32_unless_told_otherwise(run: Callable[..., Result]) -> None:
    plain = json.loads(run("query.jpg", "--json").stdout)
    exact = json.loads(run("query.jpg", "--json", "--precision", "float32").stdout)
    rough = json.loads(run("query.jpg", "--json", "--precision", "bfloat16").stdout)
    assert plain == exact
    assert plain != rough


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["no.jpg", "--json"], InvalidOption, r"cannot read no\.jpg: No such file"),
        (["query.jpg", "notes.jpg", "--json"], UnsupportedImage, r"notes\.jpg: not an image"),
        (["query.jpg", "cut.jpg", "--json"], BadImage, r"cut\.jpg: "),
        (["query.jpg"] * 3 + ["--json"], InvalidOption, "one photo or a pair of them, not 3"),
        (["query.jpg"], InvalidOption, "say where the picture goes"),
        (["query.jpg", "--out", "p.gif"], InvalidOption, r"--out is p\.gif; it must be a \.png"),
        (["query.jpg", "--out", "no/p.png"], InvalidOption, "in an existing folder"),
        (["query.jpg", "--json", "--cooccurrence", "no.npy"], InvalidOption, "no filter file"),
        (["query.jpg", "--json", "--layer", "fire77"], InvalidOption, "fire77"),
    ],
)
def test_mistakes_are_named_before_weights_are_looked_for(
    run: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    error: type[Exception],
    words: str,
) -> None:
    if "fire77" not in arguments:
        monkeypatch.setenv("COOC_WEIGHTS", "/no/such.pth")
    Path("cut.jpg").write_bytes(photo(1)[:500])
    result = run(*arguments)
    assert isinstance(result.exception, error)
    assert result.exception.args[0]
    with pytest.raises(error, match=words):
        raise result.exception


def test_a_filter_that_does_not_belong_is_refused(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save("small.npy", direct_filter(7, 1).numpy())
    np.save("fits.npy", direct_filter(512, 1).numpy())
    pair = ("query.jpg", "hit [$1].png", "--json", "--cooccurrence", "fits.npy")
    with pytest.raises(InvalidOption, match=r"does not use the filter fits\.npy"):
        raise run(*pair, "--pooling", "gem").exception or AssertionError("no error")
    by_default = json.loads(run(*pair).stdout)
    assert by_default["pooling"] == "cbp_ac:cooccurrence=learned,radius=1"
    learned = run(*pair, "--pooling", "cbp_ac:cooccurrence=learned,radius=1")
    assert json.loads(learned.stdout) == by_default
    monkeypatch.setenv("COOC_WEIGHTS", "/no/such.pth")
    with pytest.raises(InvalidOption, match="maps of 7 channels, this trunk's have 512"):
        raise run("query.jpg", "--json", "--cooccurrence", "small.npy").exception or AssertionError
    monkeypatch.delenv("COOC_BACKBONE")
    with pytest.raises(InvalidOption, match=r"filter fits\.npy does not say .*--backbone"):
        raise run("query.jpg", "--json", "--cooccurrence", "fits.npy").exception or AssertionError


def test_the_program_has_the_command(tmp_path: Path) -> None:
    (tmp_path / "query.jpg").write_bytes(photo(1))
    cooc("explain", tmp_path / "query.jpg", "--out", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    result = cooc("explain", tmp_path / "no.jpg", "--json", code=1)
    assert "cannot read" in result.stderr
    assert "Traceback" not in result.stderr
