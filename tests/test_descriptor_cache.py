from __future__ import annotations

import logging
import multiprocessing
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from engine.backbones.weights import load_weights
from engine.describer import Describer, DescriberOptions
from engine.errors import InvalidOption
from engine.evaluation.cache import DescriptorCache, prune
from engine.evaluation.cache_keys import description_digest, file_key
from engine.evaluation.descriptors import ImagePart, describe_files, fit_regions, free_memory
from engine.pooling import Pooling
from engine.types import Vectors
from tests.disks import fill, make_read_only, small_disk
from tests.drawing import photo
from tests.server import START_S


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


def test_the_keys_of_files_that_trade_places_change(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for path, content in ((one, b"1"), (two, b"2")):
        path.write_bytes(content)
        os.utime(path, ns=(5, 5))
    before = {file_key(path, None, True) for path in (one, two)}
    time.sleep(0.05)
    one.rename(tmp_path / "three")
    two.rename(one)
    (tmp_path / "three").rename(two)
    assert one.stat().st_mtime_ns == 5
    assert before.isdisjoint({file_key(path, None, True) for path in (one, two)})


def test_a_path_need_not_be_valid_text(
    tmp_path: Path, describer: Describer, parts: list[ImagePart]
) -> None:
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes valid text only")
    odd = ImagePart(folder / "0.jpg")
    odd.path.write_bytes(photo(3))
    for first in (0, 2):
        ((vectors,), reported) = describe(describer, ["gem"], [odd, parts[3]], tmp_path / "cache")
        assert reported[0] == (first, 2)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path, describer: Describer, parts: list[ImagePart]
) -> None:
    many = [replace(parts[0], box=(0, 0, 60 + step, 60)) for step in range(40)]
    calls: list[int] = []

    def interrupt(done: int, total: int) -> None:
        calls.append(done)
        if done == 37:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(
            describe_files(
                describer,
                [describer.build_pooling("mac")],
                many,
                cache_dir=tmp_path / "cache",
                progress=interrupt,
            )
        )
    _, reported = describe(describer, ["mac"], many, tmp_path / "cache")
    assert reported[0] == (37, 40)


def test_all_bad_images_are_named_at_once_and_the_good_ones_kept(
    tmp_path: Path, describer: Describer, parts: list[ImagePart]
) -> None:
    bad = [ImagePart(parts[0].path.with_name(f"broken{number}.jpg")) for number in range(8)]
    for part in bad:
        part.path.write_bytes(b"no image")
    mixed = [parts[0], replace(bad[0], box=(0, 0, 9, 9)), *bad[1:], *parts[1:]]
    with pytest.raises(InvalidOption) as caught:
        describe(describer, ["mac"], mixed, tmp_path / "cache")
    text = str(caught.value)
    assert "broken0.jpg (box 0, 0, 9, 9): not an image" in text
    assert "8 images cannot be used" in text
    assert [f"broken{number}.jpg" in text for number in range(8)] == 6 * [True] + 2 * [False]
    _, reported = describe(describer, ["mac"], parts, tmp_path / "cache")
    assert reported == [(6, 6)]
    pooling = describer.build_pooling("rmac:whiten=yes,levels=2")
    with pytest.raises(InvalidOption, match="8 images cannot be used"):
        fit_regions(
            describer, pooling, mixed, cache_dir=tmp_path / "cache", progress=lambda *_: None
        )
    with pytest.raises(InvalidOption, match=r"broken3\.jpg: not an image[^()]*$"):
        describe(describer, ["mac"], [*parts, bad[3]], tmp_path / "cache")


class Overflowing(Pooling):
    """Infinite for images with a wide map."""

    def forward(self, features: Tensor) -> Tensor:
        factor = float("inf") if features.shape[-1] > features.shape[-2] else 1.0
        return (features.mean(dim=(2, 3)) + 1) * factor


def test_descriptors_that_are_not_finite_are_refused_and_not_kept(
    tmp_path: Path, describer: Describer, parts: list[ImagePart]
) -> None:
    wide, high = parts[0], replace(parts[1], box=(0, 0, 60, 90))
    for _ in range(2):
        with pytest.raises(InvalidOption, match=r"0\.jpg: its descriptor by Overflowing is not"):
            list(
                describe_files(
                    describer,
                    [Overflowing(describer.trunk.channels)],
                    [high, wide],
                    cache_dir=tmp_path / "cache",
                    progress=lambda *_: None,
                )
            )
    cache = DescriptorCache(tmp_path / "cache", describer, Overflowing(describer.trunk.channels))
    with closing(cache):
        assert cache.missing([high.key, wide.key]) == [wide.key]


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


TURNS = 8


def fill_caches(
    folder: Path,
    options: DescriberOptions,
    barrier: Barrier,
    results: Queue[tuple[int, bool, bool, list[str]]],
) -> None:
    """One of several processes: open each cache with the others, and put what is missing."""
    records: list[str] = []
    watch = logging.Handler()
    watch.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("engine").addHandler(watch)
    describer = Describer(options, load_weights(options.backbone, "untrained"))
    pooling = describer.build_pooling("gem")
    keys = [f"k{number}" for number in range(200)]
    wanted = np.repeat(np.arange(200, dtype=np.float32)[:, None], pooling.dim, axis=1)
    for turn in range(TURNS):
        barrier.wait(START_S)
        with closing(DescriptorCache(folder / str(turn), describer, pooling)) as cache:
            while missing := cache.missing(keys)[:32]:
                cache.put({key: wanted[int(key[1:])] for key in missing})
            right = bool((cache.get(keys) == wanted).all())
            results.put((turn, right, not cache._overflow, list(records)))


def test_processes_may_open_and_fill_the_same_new_cache_at_once(
    tmp_path: Path, describer: Describer
) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    arguments = (tmp_path, describer.options, barrier, results)
    processes = [context.Process(target=fill_caches, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=START_S) for _ in range(3 * TURNS)]
    for process in processes:
        process.join(START_S)
    assert sorted(found) == [(turn, True, True, []) for turn in range(TURNS) for _ in processes]
    for turn in range(TURNS):
        (file,) = (tmp_path / str(turn)).glob("*.sqlite")
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("SELECT count(*) FROM descriptors").fetchone() == (200,)


def test_a_locked_cache_is_not_begun_anew(
    tmp_path: Path,
    describer: Describer,
    parts: list[ImagePart],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    describe(describer, ["gem"], parts, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.sqlite")
    monkeypatch.setattr("engine.evaluation.cache.WAIT_S", 0.1)
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        _, reported = describe(describer, ["gem"], parts, tmp_path / "cache")
    assert reported[0] == (0, 6)
    assert "locked" in caplog.text
    _, reported = describe(describer, ["gem"], parts, tmp_path / "cache")
    assert reported == [(6, 6)]


def test_damage_under_a_process_that_uses_the_cache_is_left_to_it(
    tmp_path: Path, describer: Describer, caplog: pytest.LogCaptureFixture
) -> None:
    gem = describer.build_pooling("gem")
    vector = np.ones(512, np.float32)
    with closing(DescriptorCache(tmp_path, describer, gem)) as first:
        first.put({"a": vector})
        first.path.write_bytes(b"this is no database" * 1000)
        with_log = first.path.with_name(first.path.name + "-wal")
        with_log.write_bytes(b"")
        with closing(DescriptorCache(tmp_path, describer, gem)) as second:
            assert first.path.read_bytes().startswith(b"this is no database")
            assert second.missing(["a"]) == ["a"]
            second.put({"a": vector})
            np.testing.assert_array_equal(second.get(["a"]), [vector])
    assert "not used" in caplog.text


@pytest.mark.parametrize("copied", [False, True])
def test_a_cache_that_may_only_be_read_is_read(
    tmp_path: Path,
    describer: Describer,
    parts: list[ImagePart],
    copied: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with small_disk(tmp_path / "disk", size_kb=2048) as folder:
        (first,), _ = describe(describer, ["gem"], parts[:4], folder / "cache")
        if copied:  # there, without the lock
            next(folder.glob("cache/*.lock")).unlink()
        make_read_only(folder)
        for _ in range(2):
            (again,), reported = describe(describer, ["gem"], parts, folder / "cache")
            assert reported[0] == (4, 6)
            np.testing.assert_array_equal(again[:4], first)
        assert "only read" in caplog.text
        assert prune(folder / "cache", 0) == []


def test_what_a_failing_disk_loses_is_computed_again(
    tmp_path: Path, describer: Describer, parts: list[ImagePart]
) -> None:
    (gem, mac), _ = describe(describer, ["gem", "mac"], parts, tmp_path / "whole")
    poolings = [describer.build_pooling(spec) for spec in ("gem", "mac")]
    steps = describe_files(
        describer, poolings, parts, cache_dir=tmp_path / "lost", progress=lambda *_: None
    )
    np.testing.assert_allclose(next(steps), gem, atol=1e-5)
    for file in (tmp_path / "lost").glob("*.sqlite"):
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("DROP TABLE descriptors")
    np.testing.assert_allclose(next(steps), mac, atol=1e-5)
    assert next(steps, None) is None


class Begun(Exception):
    pass


def test_fitting_takes_more_memory_than_comparing(
    tmp_path: Path, describer: Describer, parts: list[ImagePart]
) -> None:
    free = free_memory()
    if free is None:
        pytest.skip("this system does not tell how much memory is free")
    pooling = describer.build_pooling("bp_aa")

    def begin(*, fitting: bool) -> None:
        def stop(done: int, total: int) -> None:
            raise Begun

        many = parts[:1] * (free // (24 * pooling.dim))
        folder = tmp_path / "cache"
        next(
            describe_files(
                describer, [pooling], many, cache_dir=folder, progress=stop, fitting=fitting
            )
        )

    with pytest.raises(Begun):
        begin(fitting=False)
    with pytest.raises(InvalidOption, match="GB of memory"):
        begin(fitting=True)


def test_free_memory_is_that_of_the_machine_and_of_the_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert free_memory(meminfo=meminfo, cgroup=tmp_path) is None
    meminfo.write_text("MemTotal:  9000 kB\nMemFree:   10 kB\nMemAvailable:    4000 kB\n")
    assert free_memory(meminfo=meminfo, cgroup=tmp_path) == 4_096_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700000\n")
    assert free_memory(meminfo=meminfo, cgroup=tmp_path) == 4_096_000
    (tmp_path / "memory.max").write_text("1000000\n")
    assert free_memory(meminfo=meminfo, cgroup=tmp_path) == 300_000
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 200000\n")
    assert free_memory(meminfo=meminfo, cgroup=tmp_path) == 500_000


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
    (tmp_path / "vanished.sqlite").symlink_to(tmp_path / "gone")  # listed, but not there
    assert prune(tmp_path, 250) == [tmp_path / "old.sqlite"]
    assert not (tmp_path / "old.sqlite-wal").exists()
    assert (tmp_path / "middle.sqlite-wal").exists()
    assert prune(tmp_path, 0) == [tmp_path / "new.sqlite", tmp_path / "middle.sqlite"]
    assert prune(tmp_path / "nothing", 0) == []
    assert list(tmp_path.glob("*.lock")) == []


def test_a_cache_in_use_is_not_deleted(tmp_path: Path, describer: Describer) -> None:
    cache = DescriptorCache(tmp_path, describer, describer.build_pooling("gem"))
    with closing(cache):
        assert prune(tmp_path, 0) == []
        cache.put({"a": np.ones(512, np.float32)})
        assert cache.missing(["a"]) == []
    assert prune(tmp_path, 0) == [cache.path]
    assert list(tmp_path.iterdir()) == []


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
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    os.utime(file, ns=(1, 1))
    np.testing.assert_array_equal(first, fitted())
    assert reported == []
    assert file.stat().st_mtime_ns > 1  # used last, so deleted last
