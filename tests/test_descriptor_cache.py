from __future__ import annotations

import logging
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.describer import Describer
from engine.errors import InvalidOption
from engine.evaluation.cache import DescriptorCache, description_digest, file_key, prune
from engine.evaluation.descriptors import ImagePart, describe_files, fit_regions
from engine.types import Vectors
from tests.disks import fill, small_disk
from tests.drawing import photo


@pytest.fixture
def parts(tmp_path: Path) -> list[ImagePart]:
    """Five drawn photos, and one of them again, cut to a box."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(5):
        (folder / f"{seed}.jpg").write_bytes(photo(seed))
    whole = [ImagePart(folder / f"{seed}.jpg") for seed in range(5)]
    return [*whole, replace(whole[0], box=(10, 10, 100, 90))]


def describe(
    describer: Describer, specs: list[str], parts: list[ImagePart], folder: Path
) -> tuple[list[Vectors], list[tuple[int, int]]]:
    """Descriptors of each pooling, and the progress that was reported."""
    reported: list[tuple[int, int]] = []
    poolings = [describer.build_pooling(spec) for spec in specs]
    vectors = describe_files(
        describer,
        poolings,
        parts,
        cache_dir=folder,
        progress=lambda done, total: reported.append((done, total)),
    )
    return list(vectors), reported


def test_the_second_time_nothing_is_computed_and_the_same_comes_out(
    tmp_path: Path, describer: Describer, parts: list[ImagePart]
) -> None:
    first, began = describe(describer, ["gem", "cbp_ac:dim=64"], parts, tmp_path / "cache")
    again, then = describe(describer, ["gem", "cbp_ac:dim=64"], parts, tmp_path / "cache")
    assert began[0] == (0, 6)
    assert began[-1] == (6, 6)
    assert then == [(6, 6)]
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(before, after)


def test_what_comes_out_is_what_the_describer_makes(
    tmp_path: Path, describer: Describer, parts: list[ImagePart]
) -> None:
    pooling = describer.build_pooling("gem")
    ((vectors,), _) = describe(describer, ["gem"], parts, tmp_path / "cache")
    pixels = [describer.decode(part.read(), box=part.box).pixels for part in parts]
    (expected,) = describer.describe_with(pixels, [pooling])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert not np.allclose(vectors[0], vectors[5], atol=1e-2)  # the box is another image


def test_only_what_is_new_or_changed_is_computed(
    tmp_path: Path, describer: Describer, parts: list[ImagePart]
) -> None:
    describe(describer, ["gem"], parts[:3], tmp_path / "cache")
    _, reported = describe(describer, ["gem"], parts, tmp_path / "cache")
    assert reported[0] == (3, 6)
    changed = parts[1].path
    changed.write_bytes(photo(77))
    os.utime(changed, ns=(1, 1))
    ((vectors,), reported) = describe(describer, ["gem"], parts, tmp_path / "cache")
    assert reported[0] == (5, 6)
    pixels = describer.decode(photo(77)).pixels
    (expected,) = describer.describe_with([pixels], [describer.build_pooling("gem")])
    np.testing.assert_allclose(vectors[1], expected[0], atol=1e-5)


def test_a_pooling_that_is_new_does_not_compute_the_old_ones_again(
    tmp_path: Path, describer: Describer, parts: list[ImagePart]
) -> None:
    describe(describer, ["gem"], parts, tmp_path / "cache")
    file = next((tmp_path / "cache").glob("*.sqlite"))
    with sqlite3.connect(file) as connection:
        # Were it computed again, this would be overwritten.
        marked = np.full(512, 7, np.float32)
        connection.execute("UPDATE descriptors SET vector = ?", (marked.tobytes(),))
    connection.close()
    (gem, mac), _ = describe(describer, ["gem", "mac"], parts, tmp_path / "cache")
    assert (gem == 7).all()
    assert not (mac == 7).any()


def test_each_way_to_describe_has_a_file_of_its_own(describer: Describer) -> None:
    specs = ["gem", "gem:p=4", "spoc", "spoc:root=yes", "spoc:mask=spct", "cbp_aa", "cbp_aa:seed=1"]
    poolings = [describer.build_pooling(spec) for spec in specs]
    digests = {description_digest(describer, pooling) for pooling in poolings}
    assert len(digests) == len(specs)
    options = replace(describer.options, max_side=96)
    smaller = Describer(options, describer.weights)
    assert description_digest(smaller, poolings[0]) not in digests
    thrice = Describer(replace(options, max_side=128, scales=(1.0, 0.7)), describer.weights)
    assert description_digest(thrice, poolings[0]) not in digests


def test_a_key_tells_files_boxes_and_orientations_apart(parts: list[ImagePart]) -> None:
    path = parts[0].path
    keys = [
        file_key(path, None, True),
        file_key(path, None, False),
        file_key(path, (1, 2, 30, 40), True),
        file_key(path, (1, 2, 30, 41), True),
        file_key(parts[1].path, None, True),
    ]
    assert len(set(keys)) == 5


def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, describer: Describer, parts: list[ImagePart]
) -> None:
    many = [replace(parts[0], box=(0, 0, 60 + step, 60)) for step in range(40)]
    broken = [*many, ImagePart(parts[0].path.with_name("broken.jpg"))]
    broken[-1].path.write_bytes(b"no image")
    with pytest.raises(InvalidOption, match=r"broken\.jpg: not an image"):
        describe(describer, ["mac"], broken, tmp_path / "cache")
    _, reported = describe(describer, ["mac"], many, tmp_path / "cache")
    assert reported[0] == (32, 40)


def test_a_damaged_cache_is_begun_anew(
    tmp_path: Path,
    describer: Describer,
    parts: list[ImagePart],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (before, *_), _ = describe(describer, ["gem"], parts, tmp_path / "cache")
    file = next((tmp_path / "cache").glob("*.sqlite"))
    file.write_bytes(b"this is no database" * 1000)
    with caplog.at_level(logging.WARNING):
        (after, *_), reported = describe(describer, ["gem"], parts, tmp_path / "cache")
    assert reported[0] == (0, 6)
    assert "beginning it anew" in caplog.text
    np.testing.assert_array_equal(before, after)


def test_a_full_disk_ends_the_caching_not_the_work(
    describer: Describer, parts: list[ImagePart], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", size_kb=256) as folder:
        fill(folder)
        (vectors, *_), _ = describe(describer, ["gem"], parts, folder / "cache")
    (expected, *_), _ = describe(describer, ["gem"], parts, tmp_path / "cache")
    np.testing.assert_array_equal(vectors, expected)


def test_descriptors_that_memory_cannot_hold_are_refused_before_any_work(
    tmp_path: Path, describer: Describer, parts: list[ImagePart]
) -> None:
    with pytest.raises(InvalidOption, match=r"GB of memory.*use a compact pooling"):
        describe(describer, ["bp_aa"], parts * 300_000, tmp_path / "cache")


def test_caches_used_longest_ago_are_deleted_first(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        file = tmp_path / f"{name}.sqlite"
        file.write_bytes(bytes(100))
        (tmp_path / f"{name}.sqlite-wal").write_bytes(bytes(10))
        os.utime(file, (1000 - age, 1000 - age))
    assert prune(tmp_path, 250) == [tmp_path / "old.sqlite"]
    assert not (tmp_path / "old.sqlite-wal").exists()
    assert (tmp_path / "middle.sqlite-wal").exists()
    assert prune(tmp_path, 0) == [tmp_path / "new.sqlite", tmp_path / "middle.sqlite"]
    assert prune(tmp_path / "nothing", 0) == []


def test_a_missing_descriptor_is_an_error_of_ours(tmp_path: Path, describer: Describer) -> None:
    cache = DescriptorCache(tmp_path, describer, describer.build_pooling("gem"))
    with pytest.raises(KeyError, match="absent"):
        cache.get(["absent"])
    cache.close()


def test_a_whitening_of_regions_is_fitted_once(
    tmp_path: Path, describer: Describer, parts: list[ImagePart]
) -> None:
    reported: list[tuple[int, int]] = []

    def fitted() -> Vectors:
        pooling = describer.build_pooling("rmac:whiten=yes,levels=2")
        fit_regions(
            describer,
            pooling,
            parts,
            cache_dir=tmp_path / "cache",
            progress=lambda done, total: reported.append((done, total)),
        )
        pixels = [describer.decode(part.read()).pixels for part in parts[:2]]
        (vectors,) = describer.describe_with(pixels, [pooling])
        return vectors

    first = fitted()
    assert reported[-1] == (6, 6)
    reported.clear()
    np.testing.assert_array_equal(first, fitted())
    assert reported == []
