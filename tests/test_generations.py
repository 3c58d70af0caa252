from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from engine.errors import CorruptIndex, EmptyIndex, IndexMismatch, NoGeneration
from engine.generations import (
    MIN_FIT_IMAGES,
    BuildPlan,
    Generation,
    Generations,
    Manifest,
    Reporter,
    project,
)
from engine.postprocess import LinearProjection, PCAProjection
from engine.types import Json, Recipe, Rows, Vectors
from engine.vector_index import BuildOptions
from tests.stored import RAW_DIM, RECIPE, other_recipe, unit_vectors

PLAN = BuildPlan(RECIPE, "float32")
FILES = ("vectors.faiss", "projection.safetensors", "manifest.json")


class Store:
    """Descriptors under row numbers, read in chunks as from the catalog."""

    def __init__(self, count: int, *, first: int = 1, vectors: Vectors | None = None) -> None:
        self.vectors = unit_vectors(count) if vectors is None else vectors
        self.rows = np.arange(first, first + count)
        self.gone: set[int] = set()

    def read(self, rows: Rows) -> Iterator[tuple[Rows, Vectors]]:
        kept = np.array([row for row in rows if row not in self.gone], np.int64)
        for start in range(0, len(kept), 16):
            chunk = kept[start : start + 16]
            yield chunk, self.vectors[chunk - self.rows[0]]


@pytest.fixture
def generations(tmp_path: Path) -> Generations:
    return Generations(tmp_path)


def build(generations: Generations, store: Store, *, live: bool = True) -> Generation:
    manifest = generations.build(store.rows, store.read, PLAN)
    if live:
        generations.publish(manifest.number)
    return generations.load(manifest.number, RECIPE)


def as_json(manifest: Manifest) -> Json:
    content: Json = json.loads(json.dumps(asdict(manifest)))
    return content


# --- building ---------------------------------------------------------------------------------


def test_a_built_generation_is_loaded_as_it_was(generations: Generations) -> None:
    store = Store(70, first=5)
    built = build(generations, store)
    loaded = generations.load(1, RECIPE)
    assert as_json(loaded.manifest) == as_json(built.manifest)
    assert generations.current() == 1
    assert generations.verify(1) == []
    np.testing.assert_array_equal(np.sort(loaded.index.rows()), store.rows)
    vectors = loaded.index.vectors(store.rows)
    np.testing.assert_array_equal(vectors, built.index.vectors(store.rows))
    queries = unit_vectors(5, seed=9)
    np.testing.assert_array_equal(
        project(loaded.projection, queries), project(built.projection, queries)
    )


def test_the_manifest_says_what_was_built(generations: Generations) -> None:
    manifest = build(generations, Store(70, first=5)).manifest
    assert (manifest.number, manifest.count, manifest.last_row) == (1, 70, 74)
    assert (manifest.dim, manifest.projected, manifest.precision) == (16, True, "float32")
    assert manifest.fingerprint == RECIPE.fingerprint
    assert set(manifest.files) == set(FILES[:2])
    for name, checksum in manifest.files.items():
        content = (generations.path(1) / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == checksum


def test_stored_vectors_are_principal_components_of_the_collection(
    generations: Generations,
) -> None:
    store = Store(80)
    built = build(generations, store)
    raw = store.vectors.astype(np.float64)
    centred = raw - raw.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / len(raw)
    expected = centred @ directions[:16].T * variances[:16] ** -0.25
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = built.index.vectors(store.rows)
    # Directions are determined up to their sign: compare all pairs of images.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)
    explained = variances[:16].sum() / variances.sum()
    assert built.manifest.explained == pytest.approx(explained, rel=1e-5)


@pytest.mark.parametrize("shrinkage", [0.3, 1.0])
def test_the_shrinkage_of_the_recipe_is_used(generations: Generations, shrinkage: float) -> None:
    store, recipe = Store(80), other_recipe(projection_shrinkage=shrinkage, projection_power=0.5)
    generations.build(store.rows, store.read, BuildPlan(recipe, "float32"))
    loaded = generations.load(1, recipe)
    raw = store.vectors.astype(np.float64)
    centred = raw - raw.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / len(raw)
    shrunk = (1 - shrinkage) * variances[:16] + shrinkage * variances.sum() / RAW_DIM
    expected = centred @ directions[:16].T * shrunk**-0.5
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = loaded.index.vectors(store.rows)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)
    assert isinstance(loaded.projection, PCAProjection)
    assert loaded.projection.shrinkage == shrinkage


@pytest.mark.parametrize("count", [1, 2, MIN_FIT_IMAGES - 1])
def test_a_small_collection_keeps_its_raw_descriptors(generations: Generations, count: int) -> None:
    store = Store(count)
    build(generations, store)
    loaded = generations.load(1, RECIPE)
    assert loaded.projection is None
    assert (loaded.manifest.dim, loaded.manifest.projected) == (RAW_DIM, False)
    assert loaded.manifest.explained == 1.0
    np.testing.assert_array_equal(loaded.index.vectors(store.rows), store.vectors)
    np.testing.assert_array_equal(project(None, store.vectors), store.vectors)


@pytest.mark.parametrize("count", [MIN_FIT_IMAGES, 200])
def test_the_explained_variance_is_a_share(generations: Generations, count: int) -> None:
    manifest = build(generations, Store(count)).manifest
    assert manifest.projected
    assert 0.0 < manifest.explained <= 1.0


def learned_projection(dim: int = 7) -> LinearProjection:
    draw = np.random.default_rng(3)
    mean = 0.05 * draw.standard_normal(RAW_DIM)
    directions = draw.standard_normal((dim, RAW_DIM))
    return LinearProjection(*(torch.from_numpy(x.astype(np.float32)) for x in (mean, directions)))


@pytest.mark.parametrize("count", [1, 2, 5, MIN_FIT_IMAGES, 70])
def test_a_learned_projection_is_used_as_it_is_whatever_the_size(
    generations: Generations, count: int
) -> None:
    store, learned = Store(count), learned_projection()
    recipe = other_recipe(projection_digest="a" * 64)
    generations.build(store.rows, store.read, BuildPlan(recipe, "float32", learned=learned))
    raw, mean = store.vectors.astype(np.float64), learned.mean.double().numpy()
    directions = learned.directions.double().numpy()
    expected = (raw - mean) @ directions.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    loaded = generations.load(1, recipe)
    np.testing.assert_allclose(loaded.index.vectors(store.rows), expected, atol=1e-6)
    assert (loaded.manifest.dim, loaded.manifest.projected) == (7, True)
    queries = unit_vectors(5, seed=9)
    np.testing.assert_array_equal(project(loaded.projection, queries), project(learned, queries))
    # What a least-squares fit by the directions leaves unexplained.
    centred = raw - raw.mean(axis=0)
    left = centred.T - directions.T @ np.linalg.lstsq(directions.T, centred.T, rcond=None)[0]
    share = 1 - (left**2).sum() / (centred**2).sum() if count > 1 else 1.0
    assert loaded.manifest.explained == pytest.approx(share, abs=1e-9)
    with pytest.raises(IndexMismatch, match=r"projection_digest: a{12}\.\.\., not none"):
        generations.load(1, RECIPE)


def test_equal_descriptors_need_no_projection(generations: Generations) -> None:
    store = Store(60, vectors=np.repeat(unit_vectors(1), 60, axis=0))
    manifest = build(generations, store).manifest
    assert (manifest.projected, manifest.dim) == (False, RAW_DIM)
    assert generations.load(1, RECIPE).index.search(store.vectors[0], 3)[0].tolist() == [1, 2, 3]


def test_progress_counts_up_to_all_images(generations: Generations) -> None:
    store, seen = Store(70), list[tuple[int, int]]()
    generations.build(
        store.rows, store.read, PLAN, Reporter(lambda done, total: seen.append((done, total)))
    )
    assert seen == [(16, 70), (32, 70), (48, 70), (64, 70), (70, 70)]


def test_nothing_to_build_is_an_empty_index(generations: Generations) -> None:
    with pytest.raises(EmptyIndex, match="add images"):
        build(generations, Store(0))
    assert generations.numbers() == []


def test_images_deleted_during_the_build_are_left_out(generations: Generations) -> None:
    store = Store(60)
    store.gone = {7, 8, 60}
    manifest = build(generations, store).manifest
    assert manifest.count == 57
    assert set(generations.load(1, RECIPE).index.rows().tolist()) == set(range(1, 60)) - {7, 8}


def test_a_build_survives_the_deletion_of_all_its_images(generations: Generations) -> None:
    store = Store(60)
    store.gone = set(range(1, 61))
    assert build(generations, store).manifest.count == 0
    assert len(generations.load(1, RECIPE).index) == 0


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES[:2])
def test_any_flipped_byte_of_a_file_is_noticed(generations: Generations, name: str) -> None:
    build(generations, Store(60))
    file = generations.path(1) / name
    content = file.read_bytes()
    for position in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 1
        file.write_bytes(changed)
        assert generations.verify(1) == [f"{file} does not have the content that was written"]
        with pytest.raises(CorruptIndex, match=name):
            generations.load(1, RECIPE)
    file.write_bytes(content)
    assert generations.load(1, RECIPE).manifest.count == 60


@pytest.mark.parametrize("bit", [1, 4, 32, 128])
def test_any_flipped_byte_of_the_manifest_is_noticed(generations: Generations, bit: int) -> None:
    build(generations, Store(60))
    written = Manifest.read(generations.path(1))
    file = generations.path(1) / "manifest.json"
    content = file.read_bytes()
    for position in range(len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= bit
        file.write_bytes(changed)
        try:
            # Another spelling of the very same content, as 1e-1 for 0.1, may pass.
            assert Manifest.read(generations.path(1)) == written
        except CorruptIndex:
            continue


@pytest.mark.parametrize("name", FILES[:2])
def test_a_cut_off_file_is_noticed(generations: Generations, name: str) -> None:
    build(generations, Store(60))
    file = generations.path(1) / name
    content = file.read_bytes()
    for length in (0, 100, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(CorruptIndex, match=name):
            generations.load(1, RECIPE)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(generations: Generations, name: str) -> None:
    build(generations, Store(60))
    (generations.path(1) / name).unlink()
    with pytest.raises(CorruptIndex, match=name):
        generations.load(1, RECIPE)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"number": 1}'])
def test_an_unreadable_manifest_is_corrupt(generations: Generations, content: bytes) -> None:
    build(generations, Store(60))
    (generations.path(1) / "manifest.json").write_bytes(content)
    for ask in (lambda: generations.load(1, RECIPE), lambda: generations.verify(1)):
        with pytest.raises(CorruptIndex, match=r"manifest\.json"):
            ask()


def test_vectors_that_do_not_fit_their_manifest_are_corrupt(generations: Generations) -> None:
    manifest = build(generations, Store(60)).manifest
    replace(manifest, dim=17).write(generations.path(1))
    with pytest.raises(CorruptIndex, match="17 dimensions"):
        generations.load(1, RECIPE)


# --- other recipes ----------------------------------------------------------------------------


def test_another_recipe_is_refused_with_the_difference(generations: Generations) -> None:
    build(generations, Store(60))
    other = other_recipe(max_side=512, weights_digest="f" * 64)
    with pytest.raises(IndexMismatch, match=r"max_side: 128, not 512") as caught:
        generations.load(1, other)
    assert "weights_digest: 000000000000..., not ffffffffffff..." in caught.value.message
    assert "build the index again" in caught.value.message


def test_another_name_of_the_same_weights_is_no_difference(generations: Generations) -> None:
    build(generations, Store(60))
    assert generations.load(1, other_recipe(weights="a file")).manifest.count == 60


OLD_FINGERPRINT = "647a94ebd14b4229fb44b6378edb17ac793a41b8dfa51e9e878106c6e9fe88db"
"""Of `RECIPE`, as it was before recipes had a shrinkage."""


def test_a_recipe_without_shrinkage_keeps_its_old_fingerprint() -> None:
    assert RECIPE.fingerprint == OLD_FINGERPRINT
    assert other_recipe(projection_shrinkage=0.0).fingerprint == OLD_FINGERPRINT
    assert other_recipe(projection_shrinkage=0.1).fingerprint != OLD_FINGERPRINT


def test_a_recipe_without_anything_learned_keeps_its_old_fingerprint() -> None:
    assert (RECIPE.cooccurrence_digest, RECIPE.projection_digest) == ("", "")
    for entry in ("cooccurrence_digest", "projection_digest"):
        others = [other_recipe(**{entry: digit * 64}) for digit in "ab"]
        assert len({OLD_FINGERPRINT, *(other.fingerprint for other in others)}) == 3
        assert Recipe.from_json(json.loads(json.dumps(others[0].to_json()))) == others[0]
        old = {name: value for name, value in RECIPE.to_json().items() if name != entry}
        assert Recipe.from_json(old).fingerprint == OLD_FINGERPRINT
    difference = RECIPE.differences(other_recipe(projection_digest="a" * 64))
    assert difference == ["projection_digest: none, not aaaaaaaaaaaa..."]


def test_a_recipe_from_before_there_was_shrinkage_is_read() -> None:
    old = RECIPE.to_json()
    del old["projection_shrinkage"]
    assert Recipe.from_json(old) == RECIPE
    assert Recipe.from_json(json.loads(json.dumps(old))).fingerprint == OLD_FINGERPRINT
    shrunk = other_recipe(projection_shrinkage=0.25)
    assert Recipe.from_json(json.loads(json.dumps(shrunk.to_json()))) == shrunk


def test_a_generation_from_before_there_was_shrinkage_is_loaded(generations: Generations) -> None:
    manifest = build(generations, Store(60)).manifest
    folder = generations.path(1)
    tensors = load_file(folder / "projection.safetensors")
    del tensors["shrinkage"]
    (folder / "projection.safetensors").write_bytes(save(tensors))
    checksum = hashlib.sha256((folder / "projection.safetensors").read_bytes()).hexdigest()
    recipe = {key: value for key, value in manifest.recipe.items() if "shrinkage" not in key}
    files = {**manifest.files, "projection.safetensors": checksum}
    replace(manifest, recipe=recipe, files=files).write(folder)
    loaded = generations.load(1, RECIPE)
    assert isinstance(loaded.projection, PCAProjection)
    assert loaded.projection.shrinkage == 0.0
    with pytest.raises(IndexMismatch, match=r"projection_shrinkage: 0\.0, not 0\.5"):
        generations.load(1, other_recipe(projection_shrinkage=0.5))


# --- publishing -------------------------------------------------------------------------------


def test_nothing_is_live_before_publishing(generations: Generations) -> None:
    assert generations.current() is None
    assert generations.numbers() == []
    build(generations, Store(5), live=False)
    assert generations.current() is None
    assert generations.numbers() == [1]
    with pytest.raises(NoGeneration, match="generation 2"):
        generations.load(2, RECIPE)


@pytest.mark.parametrize("content", [b"", b"one\n", b"-1", b"1 2", b"\x00\xff\xfe", "²".encode()])
def test_garbage_in_current_is_corrupt(generations: Generations, content: bytes) -> None:
    build(generations, Store(5))
    generations.current_file.write_bytes(content)
    with pytest.raises(CorruptIndex, match=r"CURRENT holds .*, not a number"):
        generations.current()


def test_a_missing_current_means_no_generation(generations: Generations) -> None:
    build(generations, Store(5))
    generations.current_file.unlink()
    assert generations.current() is None
    assert build(generations, Store(5)).manifest.number == 2


def test_publishing_keeps_the_two_newest(generations: Generations) -> None:
    for number in range(1, 5):
        assert build(generations, Store(number)).manifest.number == number
        assert generations.current_file.read_text() == f"{number}\n"
        assert generations.numbers() == [n for n in (number - 1, number) if n]
    assert generations.load(3, RECIPE).manifest.count == 3


def test_going_back_to_the_older_one_keeps_it(generations: Generations) -> None:
    for count in (1, 2):
        build(generations, Store(count))
    generations.publish(1)
    assert generations.current() == 1
    assert generations.load(1, RECIPE).manifest.count == 1
    assert generations.numbers() == [1, 2]  # to go forward again


def test_what_was_never_published_goes_with_the_next_build_and_its_number_with_it(
    generations: Generations,
) -> None:
    build(generations, Store(3))
    build(generations, Store(4), live=False)
    assert generations.numbers() == [1, 2]
    assert build(generations, Store(5)).manifest.number == 3
    assert generations.numbers() == [1, 3]


def test_phases_are_told_in_order(generations: Generations) -> None:
    store, phases = Store(60), list[str]()
    options = BuildOptions(index_type="ivf_sq8", min_recall=0.0)
    plan = BuildPlan(RECIPE, "float32", options)
    generations.build(store.rows, store.read, plan, Reporter(phase=phases.append))
    assert phases == ["fitting", "writing", "coding"]


def test_leftovers_of_a_crash_are_ignored_and_written_over(generations: Generations) -> None:
    build(generations, Store(5))
    for leftover in ("2.part", "7.part"):
        (generations.folder / leftover).mkdir()
        (generations.folder / leftover / "vectors.faiss").write_bytes(b"half")
        (generations.folder / leftover / "stray").write_bytes(b"half")
    (generations.folder / "notes.txt").write_text("not ours")
    assert generations.numbers() == [1]
    assert build(generations, Store(6)).manifest.number == 2
    assert generations.numbers() == [1, 2]
    assert sorted(path.name for path in generations.path(2).iterdir()) == sorted(FILES)
    assert not (generations.folder / "2.part").exists()


def test_a_failing_build_leaves_nothing(
    generations: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(generations, Store(5))

    def fail(self: Manifest, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Manifest, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        build(generations, Store(6))
    assert [path.name for path in generations.folder.iterdir()] == ["1"]
    assert generations.current() == 1


def test_the_manifest_is_plain_json_with_its_own_checksum(generations: Generations) -> None:
    manifest = build(generations, Store(60)).manifest
    content = json.loads((generations.path(1) / "manifest.json").read_text())
    checksum = content.pop("sha256")
    assert content == as_json(manifest)
    text = json.dumps(content, sort_keys=True).encode()
    assert hashlib.sha256(text).hexdigest() == checksum
