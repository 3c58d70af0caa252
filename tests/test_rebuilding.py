from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from engine.backbones.weights import load_weights
from engine.describer import Describer, DescriberOptions
from engine.errors import (
    EmptyIndex,
    IndexMismatch,
    InvalidOption,
    RebuildIncomplete,
    StorageFull,
)
from engine.files.data_folder import DataFolder
from engine.originals import Originals
from engine.rebuilding import Described, Rebuild, Rebuilt, Source
from engine.searcher import Searcher
from engine.types import SearchOptions
from tests.disks import fill, small_disk
from tests.drawing import photo
from tests.indexes import content

COUNT, CHUNK = 45, 32
"""Images, and how many of them are kept together: some work is left over."""
SIZE = (320, 240)
"""Of the photos: larger than a thumbnail, so that it matters which of the two is described."""


@pytest.fixture(scope="module")
def other() -> Describer:
    options = DescriberOptions(
        backbone="squeezenet1_1", max_side=160, precision="float32", projection_dim=32
    )
    return Describer(options, load_weights("squeezenet1_1", "untrained"))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, describer: Describer) -> Path:
    """45 photos and a copy of the first, built; ids and rows are not in step."""
    folder = tmp_path_factory.mktemp("template") / "index"
    with closing(Searcher(folder, describer)) as searcher:
        searcher.put("gone", photo(999), {})
        for seed in range(COUNT):
            searcher.put(f"photos/{seed:02d} ü.jpg", photo(seed, SIZE), {"seed": seed})
        searcher.put("copy", photo(0, SIZE), {})
        searcher.delete("gone")
        searcher.build()
    return folder


@pytest.fixture
def index(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "index")


def keep(folder: Path, seeds: Iterable[int]) -> None:
    for seed in seeds:
        data = photo(seed, SIZE)
        Originals(folder / "originals").keep(hashlib.sha256(data).hexdigest(), data)


def run(
    folder: Path, describer: Describer, source: Source, *, allow_missing: bool = False
) -> tuple[Described, Rebuilt]:
    with closing(Rebuild(folder, describer, source)) as work:
        described = work.describe()
        return described, work.finish(allow_missing=allow_missing)


def vectors(folder: Path) -> dict[str, np.ndarray]:
    return {
        image_id: np.frombuffer(entry[-2], np.float16).astype(np.float32)
        for image_id, entry in content(folder).items()
    }


def described_from(describer: Describer, data: bytes) -> np.ndarray:
    vector: np.ndarray = describer.describe([describer.decode(data).pixels])[0]
    return vector


def name(seed: int) -> str:
    return f"photos/{seed:02d} ü.jpg"


def without_vectors(folder: Path) -> dict[str, tuple[object, ...]]:
    return {image_id: (*entry[:-2], entry[-1]) for image_id, entry in content(folder).items()}


# --- the same images under another recipe -----------------------------------------------------


@pytest.mark.parametrize("source", [Source.ORIGINALS, Source.THUMBNAILS])
def test_everything_but_the_descriptors_stays(
    index: Path, describer: Describer, other: Describer, source: Source
) -> None:
    before, old = without_vectors(index), content(index)
    if source is Source.ORIGINALS:
        keep(index, range(COUNT))
    described, rebuilt = run(index, other, source)
    counts = (described.originals, described.thumbnails)
    # The copy has the bytes of another: they are described once.
    assert counts == ((COUNT, 0) if source is Source.ORIGINALS else (0, COUNT))
    assert (rebuilt.count, rebuilt.left_out) == (COUNT + 1, 0)
    assert without_vectors(index) == before
    found = vectors(index)
    for seed in (0, 33, 44):
        data = photo(seed, SIZE) if source is Source.ORIGINALS else before[name(seed)][-1]
        assert isinstance(data, bytes)
        cosine = float(found[name(seed)] @ described_from(other, data))
        assert cosine == pytest.approx(1.0, abs=1e-3)
    with closing(Searcher(index, other)) as searcher:
        assert searcher.catalog.recipe() == other.recipe
        assert searcher.stats().generation == rebuilt.generation
        assert searcher.verify() == []
        assert searcher.catalog.highest_row() == COUNT + 2, "row numbers are not used again"
        best = searcher.search(photo(7, SIZE), SearchOptions(limit=1)).hits[0]
        assert (best.id, best.score) == (name(7), 1.0)
    with pytest.raises(IndexMismatch):
        Searcher(index, describer)
    # What was there before can be opened as it is.
    assert content(rebuilt.aside) == old
    with closing(Searcher(rebuilt.aside, describer)) as searcher:
        assert searcher.verify() == []
    assert not (index / "rebuild").exists()


def test_auto_takes_thumbnails_where_there_is_no_original(index: Path, other: Describer) -> None:
    keep(index, range(0, COUNT, 2))
    with closing(Rebuild(index, other, Source.AUTO)) as work:
        plan = work.plan()
        kept = (COUNT + 1) // 2
        # The copy has the bytes of the first photo, whose original is kept.
        assert (plan.images, plan.originals, plan.done) == (COUNT + 1, kept + 1, 0)
        described = work.describe()
        assert (described.originals, described.thumbnails) == (kept, COUNT - kept)
        work.finish()
    found = vectors(index)
    for seed, data in ((2, photo(2, SIZE)), (3, content(index)[name(3)][-1])):
        assert float(found[name(seed)] @ described_from(other, data)) > 0.999


def test_an_image_without_original_is_told_and_not_lost(index: Path, other: Describer) -> None:
    keep(index, set(range(COUNT)) - {5, 9})
    before = content(index)
    with closing(Rebuild(index, other, Source.ORIGINALS)) as work:
        described = work.describe()
        assert sorted(image_id for image_id, _ in described.failures) == [name(5), name(9)]
        assert all("was not kept" in reason for _, reason in described.failures)
        with pytest.raises(RebuildIncomplete, match=r"2 images have no new .*--allow-missing"):
            work.finish()
    assert content(index) == before
    _, rebuilt = run(index, other, Source.ORIGINALS, allow_missing=True)
    assert (rebuilt.count, rebuilt.left_out) == (COUNT - 1, 2)
    assert set(content(index)) == set(before) - {name(5), name(9)}
    assert content(rebuilt.aside) == before


def test_thumbnails_that_are_damaged_are_told(index: Path, other: Describer) -> None:
    with closing(sqlite3.connect(index / "catalog.sqlite")) as connection:
        connection.execute("UPDATE thumbnails SET jpeg = x'ffd8ff00' WHERE row = 12")
        connection.commit()
    with closing(Rebuild(index, other, Source.THUMBNAILS)) as work:
        ((image_id, reason),) = work.describe().failures
    assert image_id == name(10)
    assert "damaged" in reason


def test_the_same_recipe_needs_no_rebuild(index: Path, describer: Describer) -> None:
    with pytest.raises(InvalidOption, match="has this recipe already"):
        Rebuild(index, describer, Source.AUTO)


def test_without_images_there_is_nothing_to_move(
    tmp_path: Path, describer: Describer, other: Describer
) -> None:
    Searcher(tmp_path / "index", describer).close()
    with pytest.raises(EmptyIndex, match="no images"):
        Rebuild(tmp_path / "index", other, Source.AUTO)


# --- interrupted ------------------------------------------------------------------------------


class Stop(BaseException):
    pass


def test_interrupted_work_goes_on_where_it_was(
    index: Path, describer: Describer, other: Describer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.rebuilding.CHUNK", CHUNK)
    before = content(index)

    def stop(done: int, total: int) -> None:
        assert (done, total) == (CHUNK, COUNT + 1)
        raise Stop

    with closing(Rebuild(index, other, Source.THUMBNAILS)) as work, pytest.raises(Stop):
        work.describe(stop)
    assert content(index) == before, "the old index is as it was"
    # It is used meanwhile: one image goes, one is replaced, one comes.
    with closing(Searcher(index, describer)) as searcher:
        searcher.delete(name(1))
        searcher.put(name(2), photo(500, SIZE), {"new": True})
        searcher.put("late", photo(501, SIZE), {})
    with closing(Rebuild(index, other, Source.THUMBNAILS)) as work:
        assert work.plan().done == CHUNK + 1 - 3 + 1  # the copy is in the part that was not reached
        described = work.describe()
        assert described.thumbnails == COUNT - CHUNK + 2
        work.finish()
    found = content(index)
    assert set(found) == (set(before) - {name(1)}) | {"late"}
    with closing(Searcher(index, other)) as searcher:
        assert searcher.verify() == []
        for seed in (500, 501):
            hit = searcher.search(photo(seed, SIZE), SearchOptions(limit=1)).hits[0]
            assert hit.score == 1.0


def test_work_towards_another_recipe_is_not_used(index: Path, other: Describer) -> None:
    options = DescriberOptions(backbone="squeezenet1_1", max_side=96, precision="float32")
    third = Describer(options, load_weights("squeezenet1_1", "untrained"))
    with closing(Rebuild(index, other, Source.THUMBNAILS)) as work:
        work.describe()
    with closing(Rebuild(index, third, Source.THUMBNAILS)) as work:
        assert work.plan().done == 0
    with closing(Rebuild(index, other, Source.THUMBNAILS)) as work:
        assert work.plan().done == COUNT + 1


def test_what_a_thumbnail_gave_does_not_stand_for_an_original(
    index: Path, other: Describer
) -> None:
    with closing(Rebuild(index, other, Source.THUMBNAILS)) as work:
        work.describe()
    keep(index, range(COUNT))
    for source in (Source.AUTO, Source.ORIGINALS):
        with closing(Rebuild(index, other, source)) as work:
            assert work.plan().done == 0
    described, _ = run(index, other, Source.AUTO)
    assert (described.originals, described.thumbnails) == (COUNT, 0)


@pytest.mark.parametrize("step", range(7))
def test_a_change_over_that_was_cut_off_is_finished_by_the_next_start(
    step: int, index: Path, other: Describer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = without_vectors(index)
    rename, left = Path.rename, [step]

    def renamed(self: Path, target: Path) -> Path:
        if self.parent == index or target.parent == index:
            if not left[0]:
                raise Stop
            left[0] -= 1
        return rename(self, target)

    with closing(Rebuild(index, other, Source.THUMBNAILS)) as work:
        work.describe()
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", renamed)
            if step < 6:
                with pytest.raises(Stop):
                    work.finish()
            else:
                work.finish()
    DataFolder(index).release()
    with closing(Searcher(index, other)) as searcher:
        assert searcher.verify() == []
        assert searcher.stats().generation > 0
    assert without_vectors(index) == before


def test_a_full_disk_leaves_the_old_index(
    template: Path, tmp_path: Path, describer: Describer, other: Describer
) -> None:
    with small_disk(tmp_path / "disk", size_kb=32_768) as disk:
        folder = shutil.copytree(template, disk / "index")
        before = content(folder)
        for room in (0, 600, 1500):
            ballast = fill(disk, leave_kb=room)
            with pytest.raises(StorageFull):
                run(folder, other, Source.THUMBNAILS)
            ballast.unlink()
            assert content(folder) == before
            with closing(Searcher(folder, describer)) as searcher:
                assert searcher.verify() == []
        run(folder, other, Source.THUMBNAILS)
        assert set(content(folder)) == set(before)
