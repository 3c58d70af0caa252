from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.backbones.weights import Weights, load_weights
from engine.describer import Describer, DescriberOptions, choose_device, choose_dtype
from engine.errors import BadImage, EngineError, InvalidOption, UnsupportedImage
from engine.images import Box
from engine.pooling import POOLINGS, build_pooling
from engine.types import Pixels, Recipe
from tests.drawing import encode, photo, scene

OPTIONS = DescriberOptions(backbone="squeezenet1_1", max_side=128, precision="float32")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("squeezenet1_1", "untrained")


def build(weights: Weights, **options: Any) -> Describer:
    return Describer(replace(OPTIONS, **options), weights)


def drawn(seed: int, size: tuple[int, int] = (128, 96)) -> Pixels:
    return np.asarray(scene(seed, size))


def normalised(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows of unit length."""
    return np.asarray(x / np.linalg.norm(x.astype(float), axis=-1, keepdims=True))


def cosines(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Row by row."""
    return np.asarray((normalised(a) * normalised(b)).sum(axis=-1))


# One image


def cooccurrence_by_hand(features: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """Eq 2 and 3 for a (C, H, W) map, position by position: window sums of all other channels."""
    channels, height, width = features.shape
    mask = features > features.mean()
    active = features * mask
    result = np.zeros_like(features)
    for i in range(height):
        for j in range(width):
            rows = slice(max(0, i - radius), i + radius + 1)
            columns = slice(max(0, j - radius), j + radius + 1)
            around = active[:, rows, columns].sum(axis=(1, 2))
            result[:, i, j] = (around.sum() - around) / (channels - 1) * mask[:, i, j]
    return result


def sketch_by_hand(x: NDArray[np.float64], y: NDArray[np.float64], dim: int) -> NDArray[np.float64]:
    """The tensor sketch of arXiv:1511.06062: count sketches, convolved, summed over positions."""
    channels = len(x)
    hashes = []
    for bucket_seed, sign_seed in ((1, 3), (5, 7)):
        buckets = np.random.RandomState(bucket_seed).randint(dim, size=channels)
        signs = 2 * np.random.RandomState(sign_seed).randint(2, size=channels) - 1
        hashes.append((buckets, signs))
    total = np.zeros(dim)
    for position in np.ndindex(x.shape[1:]):
        spectra = []
        for values, (buckets, signs) in zip((x, y), hashes, strict=True):
            psi = np.zeros(dim)
            for t in range(channels):
                psi[buckets[t]] += signs[t] * values[(t, *position)]
            spectra.append(np.fft.fft(psi))
        total += np.fft.ifft(spectra[0] * spectra[1]).real
    return total


def test_a_descriptor_is_every_step_of_the_paper_by_hand(
    weights: Weights, device: torch.device
) -> None:
    describer = build(weights, device=device.type)
    pixels = drawn(1, (96, 64))
    scaled = (pixels / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    images = torch.from_numpy(scaled.transpose(2, 0, 1)[None].astype(np.float32))
    with torch.inference_mode():
        activations = describer.trunk(images.to(device))[0].double().cpu().numpy()
    assert activations.shape == (512, 3, 5)
    related = cooccurrence_by_hand(activations, radius=4)
    assert 0 < np.count_nonzero(related) < related.size
    raw = sketch_by_hand(activations, related, 8192)
    expected = normalised(np.sign(raw) * np.sqrt(np.abs(raw)))
    (ours,) = describer.describe([pixels])
    assert ours.shape == (8192,)
    assert ours.dtype == np.float32
    assert ours @ expected == pytest.approx(1, abs=1e-5)
    # Not tighter: the root magnifies what rounding leaves in place of an empty bucket.
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize("pooling", ["mac", "spoc", "gem"])
def test_a_linear_descriptor_is_its_formula(weights: Weights, pooling: str) -> None:
    describer = build(weights, pooling=pooling)
    pixels = drawn(1)
    with torch.inference_mode():
        (features,) = describer.features(describer.normalise(torch.from_numpy(pixels[None].copy())))
    maps = features[0].double().cpu().numpy().reshape(512, -1)
    pooled = {
        "mac": maps.max(axis=1),
        "spoc": maps.sum(axis=1),
        "gem": (np.maximum(maps, 1e-6) ** 3).mean(axis=1) ** (1 / 3),
    }[pooling]
    np.testing.assert_allclose(describer.describe([pixels])[0], normalised(pooled), atol=1e-5)


@pytest.mark.parametrize("pooling", list(POOLINGS))
@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5)])
def test_descriptors_have_unit_length(
    weights: Weights, pooling: str, scales: tuple[float, ...], device: torch.device
) -> None:
    describer = build(weights, pooling=pooling, scales=scales, device=device.type)
    vectors = describer.describe([drawn(1), drawn(2)])
    assert vectors.shape == (2, describer.recipe.raw_dim)
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(float), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 200), (200, 20), (16, 16), (33, 32)])
def test_thin_and_tiny_images_have_a_descriptor(weights: Weights, shape: tuple[int, int]) -> None:
    describer = build(weights, pooling="gem")
    pixels = drawn(1, (shape[1], shape[0]))
    (ours,) = describer.describe([pixels])
    missing = [max(0, 32 - side) for side in shape]
    padded = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    assert np.linalg.norm(ours) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(ours, describer.describe([padded])[0], atol=1e-6)


@pytest.mark.parametrize("pooling", list(POOLINGS))
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_image_has_a_finite_descriptor(weights: Weights, pooling: str, value: int) -> None:
    blank = np.full((48, 64, 3), value, np.uint8)
    (vector,) = build(weights, pooling=pooling).describe([blank])
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) <= 1 + 1e-5


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_all_orientations_of_a_photo_have_the_same_descriptor(weights: Weights, kind: str) -> None:
    describer = build(weights)
    upright = scene(3, (160, 112))  # whole blocks of a JPEG, however it is turned
    # What turns an upright picture into the stored one: the inverse of the EXIF orientation.
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    # Colour at full resolution: decoders do not interpolate it alike in all directions.
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    images = [describer.decode(encode(upright, kind, **options))]
    for orientation, turn in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(upright.transpose(turn), kind, exif=exif, **options)
        images.append(describer.decode(data))
    vectors = describer.describe([image.pixels for image in images])
    assert {(image.width, image.height) for image in images} == {(160, 112)}
    # Quantisation differs between rows and columns, so a turned JPEG has other artefacts.
    limit = 0.9999 if kind == "PNG" else 0.95
    assert cosines(vectors, vectors[:1]).min() > limit


# Batches


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_a_descriptor_does_not_depend_on_its_company(
    weights: Weights, pooling: str, device: torch.device
) -> None:
    describer = build(weights, pooling=pooling, device=device.type)
    images = [drawn(seed) for seed in range(5)]
    together = describer.describe(images)
    alone = np.concatenate([describer.describe([image]) for image in images])
    assert cosines(together, alone).min() > 0.9999
    if pooling in ("mac", "spoc", "gem"):
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_rows_are_in_the_order_of_the_images(weights: Weights) -> None:
    describer = build(weights, pooling="spoc", batch_size=3)
    sizes = [(128, 96), (96, 128), (128, 96), (64, 64), (128, 90)] * 3
    images = [drawn(seed, size) for seed, size in enumerate(sizes)]
    vectors = describer.describe(images)
    alone = np.concatenate([describer.describe([image]) for image in images])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)
    assert (vectors @ alone.T).argmax(axis=1).tolist() == list(range(15))


def test_no_images_have_no_descriptors(weights: Weights) -> None:
    assert build(weights).describe([]).shape == (0, 8192)


def test_several_poolings_share_a_pass(weights: Weights) -> None:
    describer = build(weights)
    poolings = [build_pooling(name, 512).to(describer.device) for name in POOLINGS]
    images = [drawn(1), drawn(2, (96, 96))]
    shared = describer.describe_with(images, poolings)
    for name, vectors in zip(POOLINGS, shared, strict=True):
        np.testing.assert_allclose(
            vectors, build(weights, pooling=name).describe(images), atol=1e-5
        )


def test_a_pass_has_at_most_as_many_images_as_asked_for(weights: Weights) -> None:
    describer = build(weights, batch_size=4, device="cpu")
    assert describer.images_per_pass((32, 32, 3)) == 4
    assert describer.images_per_pass((256, 256, 3)) == 2
    assert describer.images_per_pass((9000, 9000, 3)) == 1
    larger = build(weights, batch_size=4, scales=(1.0, 2.0), device="cpu")
    assert larger.images_per_pass((256, 256, 3)) == 1


def test_threads_may_share_a_describer(weights: Weights) -> None:
    describer = build(weights, pooling="spoc")
    images = [drawn(seed) for seed in range(8)]
    expected = describer.describe(images)
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda image: describer.describe([image])[0], images))
    np.testing.assert_allclose(np.stack(rows), expected, atol=1e-5)


def test_the_pixels_are_left_alone(weights: Weights) -> None:
    pixels = drawn(1).copy()
    before = pixels.copy()
    build(weights).describe([pixels])
    assert np.array_equal(pixels, before)


# Scales and precision


@pytest.mark.parametrize("pooling", ["gem", "cbp_ac"])
def test_several_scales_are_the_mean_of_one_scale_each(weights: Weights, pooling: str) -> None:
    images = [drawn(seed) for seed in range(3)]
    scales = (1.0, 0.7071, 1.4142)
    each = [build(weights, pooling=pooling, scales=(s,)).describe(images) for s in scales]
    expected = normalised(np.mean([vectors.astype(float) for vectors in each], axis=0))
    ours = build(weights, pooling=pooling, scales=scales).describe(images)
    assert cosines(ours, expected).min() > 0.9999
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert cosines(each[0], each[1]).max() < 0.99


def test_half_the_scale_of_a_doubled_image_is_the_image(weights: Weights) -> None:
    pixels = drawn(1)
    doubled = pixels.repeat(2, axis=0).repeat(2, axis=1)
    half = build(weights, pooling="gem", scales=(0.5,)).describe([doubled])
    np.testing.assert_allclose(half, build(weights, pooling="gem").describe([pixels]), atol=1e-5)


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_half_precision_means_the_same(
    weights: Weights, pooling: str, device: torch.device
) -> None:
    images = [drawn(seed, (256, 192)) for seed in range(3)]
    full, half = (
        build(weights, pooling=pooling, precision=precision, device=device.type)
        for precision in ("float32", "bfloat16")
    )
    assert (full.precision, half.precision) == ("float32", "bfloat16")
    assert half.describe(images).dtype == np.float32
    assert cosines(full.describe(images), half.describe(images)).min() > 0.99


# Streams


@dataclass
class Held:
    """Bytes that are already there."""

    data: bytes
    box: Box | None = None
    upright: bool = True

    def read(self) -> bytes:
        return self.data


class Vanished:
    box = None
    upright = True

    def read(self) -> bytes:
        raise FileNotFoundError("it was here a minute ago")


def test_a_stream_has_an_error_for_bad_images_alone(weights: Weights) -> None:
    describer = build(weights, pooling="spoc", max_side=64, batch_size=2)
    good = {number: photo(number, (64 + number % 3, 48)) for number in range(45)}
    bad: dict[int, Held | Vanished] = {
        7: Held(b"no image"),
        11: Held(good[0][:300]),
        30: Held(b""),
        31: Vanished(),
        44: Held(encode(Image.new("RGB", (5, 5)), "PNG")),
    }
    items = ((number, bad.get(number, Held(data))) for number, data in good.items())
    results = dict(describer.stream(items))
    assert sorted(results) == list(good)
    expected = describer.describe([describer.decode(data).pixels for data in good.values()])
    for number, result in results.items():
        if number in bad:
            assert isinstance(result, BadImage | UnsupportedImage)
        else:
            assert not isinstance(result, EngineError)
            (vector,) = result
            np.testing.assert_allclose(vector, expected[number], atol=1e-5)
    assert "it was here a minute ago" in str(results[31])


def test_a_stream_cuts_out_boxes(weights: Weights) -> None:
    describer = build(weights, pooling="spoc")
    data = photo(1, (100, 80), "png")
    ((_, result),) = describer.stream([("part", Held(data, (10, 5, 74, 69)))])
    assert not isinstance(result, EngineError)
    expected = describer.describe([drawn(1, (100, 80))[5:69, 10:74]])
    np.testing.assert_allclose(result[0], expected[0], atol=1e-5)


def test_a_stream_takes_its_poolings_from_the_caller(weights: Weights) -> None:
    describer = build(weights, pooling="spoc")
    poolings = [build_pooling(name, 512).to(describer.device) for name in ("gem", "cbp_aa")]
    ((_, result),) = describer.stream([(0, Held(photo(1)))], poolings=poolings)
    assert not isinstance(result, EngineError)
    assert [vector.shape for vector in result] == [(512,), (8192,)]


def test_a_stream_reads_its_items_as_it_goes(weights: Weights) -> None:
    describer = build(weights, pooling="spoc", max_side=32, batch_size=1)
    taken: list[int] = []

    def items() -> Iterator[tuple[int, Held]]:
        for number in range(1000):
            taken.append(number)
            yield number, Held(photo(number % 3, (32, 32)))

    stream = describer.stream(items())
    next(stream)
    assert len(taken) < 50


def test_an_empty_stream_ends(weights: Weights) -> None:
    assert list(build(weights).stream([])) == []


# Recipe


@pytest.mark.parametrize(
    "change",
    [
        {"max_side": 160},
        {"scales": (1.0, 0.5)},
        {"scales": (0.5,)},
        {"pooling": "cbp_aa"},
        {"pooling": "gem"},
        {"projection_dim": 64},
        {"projection_power": 0.5},
    ],
    ids=str,
)
def test_the_fingerprint_changes_with_what_a_descriptor_means(
    weights: Weights, change: dict[str, Any]
) -> None:
    assert build(weights, **change).recipe.fingerprint != build(weights).recipe.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"device": "cpu"},
        {"precision": "bfloat16"},
        {"batch_size": 1},
        {"max_pixels": 1000},
        {"max_bytes": 1000},
        {"layer": "fire9"},
    ],
    ids=str,
)
def test_the_fingerprint_does_not_change_with_how_it_is_computed(
    weights: Weights, change: dict[str, Any]
) -> None:
    assert build(weights, **change).recipe.fingerprint == build(weights).recipe.fingerprint


def test_the_fingerprint_depends_on_the_content_of_the_weights_not_their_name(
    weights: Weights,
) -> None:
    ours = build(weights).recipe
    renamed = build(replace(weights, name="/elsewhere/weights.pth", notice="moved")).recipe
    assert renamed.fingerprint == ours.fingerprint
    other = build(replace(weights, digest="0" * 64)).recipe
    assert other.fingerprint != ours.fingerprint


def test_the_fingerprint_depends_on_every_field_of_a_recipe_but_the_name(
    weights: Weights,
) -> None:
    recipe = build(weights).recipe
    changes: dict[str, Any] = {
        "backbone": "vgg16",
        "layer": "pool5",
        "weights_digest": "0" * 64,
        "max_side": 129,
        "scales": (0.5,),
        "pooling": "cbp_aa",
        "pooling_options": {"dim": 8192, "seed": 1, "radius": 4},
        "pooling_digest": "0" * 64,
        "raw_dim": 1,
        "projection_dim": 1,
        "projection_power": 0.0,
        "projection_shrinkage": 0.1,
        "cooccurrence_digest": "0" * 64,
        "projection_digest": "0" * 64,
    }
    assert changes.keys() | {"weights"} == recipe.to_json().keys()
    prints = {replace(recipe, **{name: value}).fingerprint for name, value in changes.items()}
    assert len(prints | {recipe.fingerprint}) == len(changes) + 1
    assert replace(recipe, weights="other").fingerprint == recipe.fingerprint


def test_the_fingerprint_of_the_layers_of_vgg16_differs() -> None:
    state = load_weights("vgg16", "untrained")
    pool5, relu5_3 = (
        Describer(DescriberOptions(layer=layer, pooling="spoc"), state).recipe
        for layer in ("pool5", "relu5_3")
    )
    assert pool5.fingerprint != relu5_3.fingerprint
    assert pool5.differences(relu5_3) == ["layer: pool5, not relu5_3"]


def test_a_recipe_survives_as_json(weights: Weights) -> None:
    recipe = build(weights, scales=(1.0, 0.5)).recipe
    assert Recipe.from_json(recipe.to_json()) == recipe


# Options


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": ()}, r"scales are \(\)"),
        ({"scales": (1.0, 3.0)}, r"3\.0\); each must be in \[0\.1, 2\]"),
        ({"scales": (0.0,)}, r"scales are \(0\.0,\)"),
        ({"scales": (float("nan"),)}, "scales are"),
        ({"max_side": 16}, "max_side is 16; it must be at least 32"),
        ({"backbone": "alexnet"}, "'alexnet' is unknown"),
        ({"layer": "pool5"}, "no layer 'pool5'"),
        ({"pooling": "max"}, "pooling 'max' is unknown; choose from mac, spoc"),
        ({"device": "abacus"}, "device 'abacus' is unknown"),
        ({"device": "meta"}, "device 'meta' is not supported; use auto, cpu or cuda"),
        ({"precision": "float16"}, "'float16'; choose from auto, float32, bfloat16"),
    ],
    ids=str,
)
def test_an_option_out_of_range_is_named(
    weights: Weights, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        build(weights, **change)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_an_absent_gpu_is_named() -> None:
    with pytest.raises(InvalidOption, match="no CUDA GPU is available; use auto or cpu"):
        choose_device("cuda")


def test_auto_is_the_gpu_if_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_dtype("auto", torch.device("cuda")) == torch.float32


def test_images_are_decoded_within_the_limits_of_the_options(weights: Weights) -> None:
    describer = build(weights, max_side=64, max_pixels=160 * 120, max_bytes=50_000)
    assert describer.decode(photo(1)).pixels.shape == (48, 64, 3)
    with pytest.raises(BadImage, match="at most 19,200"):
        describer.decode(photo(1, (161, 120)))
    with pytest.raises(EngineError, match="at most 50,000"):
        describer.decode(b"\0" * 50_001)
