"""Drawn data sets: repeatable, with true ground truth, neither trivial nor hopeless."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from app.commands import make_dataset
from engine.errors import InvalidOption, StorageFull
from engine.evaluation.datasets import Dataset, load_dataset, missing_files
from engine.evaluation.protocols import evaluate_similarities
from engine.images import decode
from engine.made import (
    SetOptions,
    clutter,
    drawn_object,
    drawn_scene,
    instance_view,
    kind_of,
    words,
    write_set,
)
from engine.made.chance import Chance
from engine.made.clutter import INSTANCES, POOL, SECTION
from engine.made.design import FAMILY, Picture, design
from engine.made.kinds import KINDS
from engine.made.lettering import lettering
from engine.made.scenes import SCENES
from engine.made.views import picture_view, side_for
from engine.made.words import OBJECTS
from engine.types import Pixels
from tests.disks import fill, small_disk

SMALL = SetOptions(
    instances=3, views=4, distractors=5, queries_per_instance=2, size=(48, 64), seed=3
)
SOURCE = Path(__file__).resolve().parents[1]
TRAINING, TEST = range(0, 20), range(1000, 1015)

app = typer.Typer()
app.command("make-dataset")(make_dataset.make_dataset)
app.command("other")(lambda: None)  # or the only command would need no name
runner = CliRunner()


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


# Views and scenes


def test_a_view_does_not_depend_on_what_was_drawn_before() -> None:
    first = instance_view(1, 7, 2, size=(60, 80)).pixels
    instance_view(1, 8, 0, size=(60, 80))
    drawn_scene(1, 5, size=(60, 80))
    drawn_object.cache_clear()
    clutter._thing.cache_clear()
    again = instance_view(1, 7, 2, size=(60, 80)).pixels
    assert first.tobytes() == again.tobytes()


def test_another_process_draws_the_same_bytes() -> None:
    script = (
        "import hashlib; from engine.made import drawn_scene, instance_view\n"
        "scene = drawn_scene(4, 2, size=(50, 70))\n"
        "view = instance_view(4, 31, 1, size=(50, 70), difficulty=0.8).pixels\n"
        "import sys; sys.stdout.write(hashlib.sha256(view.tobytes() + scene.tobytes()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    view = instance_view(4, 31, 1, size=(50, 70), difficulty=0.8).pixels
    scene = drawn_scene(4, 2, size=(50, 70))
    assert done.stdout == hashlib.sha256(view.tobytes() + scene.tobytes()).hexdigest()


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (33, 97), (32, 32)])
def test_pictures_have_the_size_that_was_asked_for(size: tuple[int, int]) -> None:
    for pixels in (instance_view(0, 12, 3, size=size).pixels, drawn_scene(0, 4, size=size)):
        assert pixels.shape == (*size, 3)
        assert pixels.dtype == np.uint8
        assert pixels.std() > 5


def test_seed_instance_view_and_difficulty_each_change_the_picture() -> None:
    calls: list[tuple[int, int, int, float]] = [
        (0, 3, 1, 0.5),
        (1, 3, 1, 0.5),
        (0, 4, 1, 0.5),
        (0, 3, 2, 0.5),
        (0, 3, 1, 0.6),
    ]
    pictures = {
        instance_view(*call[:3], size=(48, 64), difficulty=call[3]).pixels.tobytes()
        for call in calls
    }
    assert len(pictures) == len(calls)


def plain(colour: tuple[int, int, int]) -> Picture:
    size = (80, 110)
    return Picture(Image.new("RGB", size, colour), Image.new("L", size, 255), 0.0, "plain")


def view_of(colour: tuple[int, int, int], number: int, difficulty: float) -> Any:
    chance = Chance("test", number)
    return picture_view(
        plain(colour), chance, seed=0, section=0, size=(120, 160), difficulty=difficulty
    )


@pytest.mark.parametrize("number", range(4))
def test_the_box_has_the_bounds_of_an_object_in_plain_view(number: int) -> None:
    white, black = view_of((255, 255, 255), number, 0.0), view_of((0, 0, 0), number, 0.0)
    assert white.box == black.box
    difference = np.abs(white.pixels.astype(int) - black.pixels).min(axis=2) > 128
    rows, columns = np.flatnonzero(difference.any(axis=1)), np.flatnonzero(difference.any(axis=0))
    found = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    np.testing.assert_allclose(found, white.box, atol=1)
    assert abs(difference.mean() - white.area) < 0.02
    assert white.covered == 0


@pytest.mark.parametrize("number", range(6))
def test_nothing_outside_the_box_depends_on_the_object(number: int) -> None:
    white, black = view_of((255, 255, 255), number, 0.9), view_of((0, 0, 0), number, 0.9)
    left, top, right, bottom = white.box
    difference = np.abs(white.pixels.astype(int) - black.pixels).max(axis=2)
    inside = difference[top:bottom, left:right].mean()
    # Blur reaches over the edge, and JPEG to the end of its blocks of 16.
    difference[max(0, top - 16) : bottom + 16, max(0, left - 16) : right + 16] = 0
    assert inside > 10
    assert difference.max() <= 6


def test_instances_fill_a_good_part_of_the_picture_and_are_not_hidden() -> None:
    for difficulty in (0.0, 0.5, 1.0):
        views = [
            instance_view(0, number, view, size=(48, 64), difficulty=difficulty)
            for number in range(0, 40, 4)
            for view in range(3)
        ]
        areas = np.array([view.area for view in views])
        covered = np.array([view.covered for view in views])
        assert areas.min() > 0.07
        assert 0.15 < np.median(areas) < 0.7
        assert areas.max() < 0.9
        assert covered.max() <= 0.6
        assert (covered.max() > 0) == (difficulty > 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"instance": INSTANCES}, "instance is 100000"),
        ({"instance": -1}, "instance is -1"),
        ({"view": -1}, "view is -1"),
        ({"size": (20, 64)}, "size is 64x20"),
        ({"size": (64, 5000)}, "size is 5000x64"),
        ({"difficulty": 1.1}, r"difficulty is 1\.1"),
        ({"difficulty": float("nan")}, "difficulty is nan"),
    ],
)
def test_values_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    call = {"seed": 0, "instance": 0, "view": 0, "size": (48, 64), "difficulty": 0.5, **options}
    seed, instance, view = call.pop("seed"), call.pop("instance"), call.pop("view")
    with pytest.raises(InvalidOption, match=message):
        instance_view(seed, instance, view, **call)


def test_scenes_have_numbers_too() -> None:
    with pytest.raises(InvalidOption, match="scene is -1"):
        drawn_scene(0, -1)
    assert drawn_scene(0, 0, size=(40, 50)).tobytes() != drawn_scene(0, 1, size=(40, 50)).tobytes()


# Objects


def thumbnail(number: int) -> NDArray[np.float64]:
    picture = drawn_object(0, number).colours.resize((48, 48), Image.Resampling.BOX)
    return np.asarray(picture).astype(np.float64)


def test_no_two_objects_are_alike_and_those_of_a_family_are_the_nearest() -> None:
    thumbnails = np.stack([thumbnail(number) for number in range(FAMILY * len(KINDS))])
    flat = thumbnails.reshape(len(thumbnails), -1)
    apart = np.abs(flat[:, None] - flat[None]).mean(axis=2)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() > 2
    same = np.arange(len(flat)) // FAMILY
    assert (same[apart.argmin(axis=1)] == same).mean() > 0.9


def test_an_object_is_the_same_at_every_resolution() -> None:
    for number in range(0, FAMILY * len(KINDS), FAMILY):
        small, large = drawn_object(0, number, 128), drawn_object(0, number, 256)
        size = (24, 24)
        pair = [
            np.asarray(p.colours.resize(size, Image.Resampling.BOX), np.float64)
            for p in (small, large)
        ]
        assert np.abs(pair[0] - pair[1]).mean() < 12, kind_of(number)


def test_objects_are_drawn_as_large_as_their_pictures_need_up_to_a_bound() -> None:
    sides = {(32, 40): 64, (240, 320): 256, (600, 800): 1024, (1280, 900): 1024, (2048, 64): 1024}
    assert {size: side_for(size) for size in sides} == sides


def test_every_kind_takes_its_turn() -> None:
    kinds = [kind_of(number) for number in range(FAMILY * len(KINDS))]
    assert {kind: kinds.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, FAMILY)
    assert kind_of(FAMILY * len(KINDS)) == kinds[0]


# Training and test


def test_no_two_objects_have_a_word_in_common() -> None:
    things = range(INSTANCES, INSTANCES + 2 * POOL)
    numbers = [*range(200), *TEST, *things, OBJECTS - 1]
    drawn = [word for number in numbers for word in words(9, number)]
    assert len(set(drawn)) == len(drawn)
    assert all(word.isalpha() and word.islower() for word in drawn)


def test_sets_of_other_instances_share_no_printed_text(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: set[str] = set()

    def listening(text: str, face: Any) -> Image.Image:
        printed.update(word for word in text.split() if len(word) > 3)
        return lettering(text, face)

    monkeypatch.setattr("engine.made.sheet.lettering", listening)
    seen = []
    for numbers in (range(0, 40, 2), range(1000, 1040, 2)):
        printed.clear()
        drawn_object.cache_clear()
        for number in numbers:
            drawn_object(0, number, 64)
        seen.append(set(printed))
        assert printed <= {word for number in numbers for word in words(0, number)}
    assert len(seen[0]) > 100
    assert not seen[0] & seen[1]


def test_sets_of_other_instances_share_no_palette_and_no_clutter() -> None:
    training = {design(0, number).palette for number in TRAINING}
    assert not training & {design(0, number).palette for number in TEST}
    assert len(training) == len(TRAINING) // FAMILY
    assert TRAINING[-1] // SECTION != TEST[0] // SECTION


def test_sets_of_other_instances_have_other_distractors(tmp_path: Path) -> None:
    one = replace(SMALL, instances=1, distractors=3)
    write_set(tmp_path / "a", one)
    write_set(tmp_path / "b", replace(one, first_instance=1))
    first, second = digests(tmp_path / "a" / "images"), digests(tmp_path / "b" / "images")
    assert len(first) == len(second) == 7
    assert not set(first.values()) & set(second.values())
    with pytest.raises(InvalidOption, match="distractors is 1001; it must be from 0 to 1,000"):
        write_set(tmp_path / "c", replace(one, distractors=SCENES + 1))


# Sets


def test_the_reader_of_evaluate_finds_exactly_the_other_views_of_each_instance(
    tmp_path: Path,
) -> None:
    written = write_set(tmp_path / "set", SMALL)
    dataset = load_dataset(tmp_path / "set")
    assert (written.images, written.drawn, written.queries) == (17, 17, 6)
    assert dataset.format == "folder"
    assert len(dataset.database) == 17
    assert not missing_files(dataset)
    views = defaultdict(set)
    for name in dataset.database:
        if name.startswith("instance_"):
            views[name[:14]].add(name)
    assert len(views) == 3
    for query in dataset.queries:
        assert query.name in dataset.database
        assert query.counted() == views[query.name[:14]] - {query.name}
        assert query.kind == kind_of(int(query.name[9:14]))
        assert query.bbox is None


def test_a_file_shows_the_view_that_its_name_says(tmp_path: Path) -> None:
    write_set(tmp_path / "set", replace(SMALL, first_instance=41))
    for instance, view in ((41, 0), (43, 3)):
        file = tmp_path / "set" / "images" / f"instance_{instance:05d}_{view:04d}.jpg"
        stored = decode(file.read_bytes(), max_side=64).pixels
        drawn = instance_view(3, instance, view, size=(48, 64)).pixels
        assert np.abs(stored.astype(int) - drawn).mean() < 6


def test_boxes_are_those_of_the_views(tmp_path: Path) -> None:
    write_set(tmp_path / "set", replace(SMALL, boxes=True))
    for query in load_dataset(tmp_path / "set").queries:
        instance, view = int(query.name[9:14]), int(query.name[15:19])
        assert query.bbox == instance_view(3, instance, view, size=(48, 64)).box


def test_folders_are_read_as_groups(tmp_path: Path) -> None:
    write_set(tmp_path / "set", replace(SMALL, layout="folders"))
    dataset = load_dataset(tmp_path / "set")
    assert dataset.format == "groups"
    assert len(dataset.database) == 17
    assert len(dataset.queries) == 12  # scenes are alone in their folders
    assert {len(query.counted()) for query in dataset.queries} == {3}


def test_a_run_that_was_killed_goes_on_to_the_same_set(tmp_path: Path) -> None:
    options = replace(SMALL, instances=8, views=8)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    script = (
        "import os, signal; from pathlib import Path\n"
        "from engine.made import SetOptions, write_set\n"
        "def killed(done, total):\n"
        "    if done == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"write_set(Path({str(broken)!r}), {options!r}, progress=killed)"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    there = len(list(broken.glob("images/*.jpg")))
    assert there == 5
    assert not (broken / "gt.json").exists()
    assert write_set(broken, options).drawn == options.total - there
    assert write_set(broken, options).drawn == 0
    write_set(whole, options)
    assert digests(broken) == digests(whole)


def test_half_a_file_is_drawn_again(tmp_path: Path) -> None:
    write_set(tmp_path / "whole", SMALL)
    write_set(tmp_path / "broken", SMALL)
    first, second, third, *_ = sorted((tmp_path / "broken" / "images").iterdir())
    first.rename(first.with_name(first.name + ".part")).write_bytes(b"half")
    # What a power cut may leave: renamed, but without content.
    second.write_bytes(b"")
    third.write_bytes(third.read_bytes()[:500])
    (tmp_path / "broken" / "gt.json").unlink()
    assert write_set(tmp_path / "broken", SMALL).drawn == 3
    assert digests(tmp_path / "broken") == digests(tmp_path / "whole")


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "set", SMALL)
    before = digests(tmp_path / "set")
    with pytest.raises(InvalidOption, match=r"made with seed 3, not 4: give the same options or"):
        write_set(tmp_path / "set", replace(SMALL, seed=4))
    assert digests(tmp_path / "set") == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(InvalidOption, match="photos is not empty and no made set"):
        write_set(tmp_path / "photos", SMALL)
    with pytest.raises(InvalidOption, match=r"mine\.jpg is a file; choose another folder"):
        write_set(tmp_path / "photos" / "mine.jpg", SMALL)
    (tmp_path / "set" / "made.json").write_text("{")
    with pytest.raises(InvalidOption, match=r"made\.json is damaged"):
        write_set(tmp_path / "set", SMALL)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("instances", 0, "instances is 0; it must be from 1"),
        ("views", 1, "views is 1; it must be from 2"),
        ("distractors", -1, "distractors is -1"),
        ("queries_per_instance", 5, "queries_per_instance is 5; it must be from 1 to 4"),
        ("first_instance", INSTANCES, "first_instance is 100000"),
        ("layout", "zip", "layout is 'zip'; choose from gt, folders"),
        ("difficulty", -0.1, r"difficulty is -0\.1"),
    ],
)
def test_bad_options_are_named_before_anything_is_written(
    tmp_path: Path, name: str, value: Any, message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        write_set(tmp_path / "set", replace(SMALL, **{name: value}))
    assert not (tmp_path / "set").exists()


def test_a_full_disk_is_named_and_the_set_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_kb=1024) as disk:
        ballast = fill(disk, leave_kb=24)
        with pytest.raises(StorageFull, match=r"no room is left in .*set; free space"):
            write_set(disk / "set", SMALL)
        ballast.unlink()
        write_set(disk / "set", SMALL)
        write_set(tmp_path / "whole", SMALL)
        assert digests(disk / "set") == digests(tmp_path / "whole")


# How hard it is


def mean_colour(pixels: Pixels) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = pixels.reshape(-1, 3).mean(axis=0).astype(np.float32)
    return mean


def histogram(pixels: Pixels) -> NDArray[np.float32]:
    """4 x 4 x 4 colours, square rooted."""
    bins = (pixels // 64).reshape(-1, 3).astype(np.int64) @ np.array([16, 4, 1])
    counts: NDArray[np.float32] = np.bincount(bins, minlength=64).astype(np.float32)
    shares: NDArray[np.float32] = np.sqrt(counts / np.float32(len(bins)))
    return shares


def mean_ap(dataset: Dataset, vectors: NDArray[np.float32]) -> float:
    """In per cent, by Euclidean distance."""
    rows = [dataset.database.index(query.name) for query in dataset.queries]
    apart = np.linalg.norm(vectors[rows][:, None] - vectors[None], axis=2)
    return evaluate_similarities(dataset, -apart.astype(np.float32)).map


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[float, tuple[Dataset, list[Pixels]]]:
    """By difficulty: a set and its pictures."""
    made = {}
    for difficulty in (0.1, 0.5, 0.9):
        folder = tmp_path_factory.mktemp("made") / "set"
        options = SetOptions(
            instances=40, views=3, distractors=10, size=(48, 64), difficulty=difficulty
        )
        write_set(folder, options)
        dataset = load_dataset(folder)
        files = map(dataset.path, dataset.database)
        made[difficulty] = dataset, [decode(f.read_bytes(), max_side=64).pixels for f in files]
    return made


def test_colours_alone_tell_something_but_not_much(
    sets: dict[float, tuple[Dataset, list[Pixels]]],
) -> None:
    dataset, pictures = sets[0.5]
    random = np.random.default_rng(0).random((len(pictures), 3), np.float32)
    chance = mean_ap(dataset, random)
    assert mean_ap(dataset, np.stack([mean_colour(pixels) for pixels in pictures])) < 20
    assert chance + 2 < mean_ap(dataset, np.stack([histogram(p) for p in pictures])) < 40
    # Where light and clutter leave the colours alone, their mean is above chance too.
    dataset, pictures = sets[0.1]
    assert mean_ap(dataset, np.stack([mean_colour(pixels) for pixels in pictures])) > chance + 2


def test_sets_become_harder_with_difficulty(
    sets: dict[float, tuple[Dataset, list[Pixels]]],
) -> None:
    easy, middle, hard = (
        mean_ap(dataset, np.stack([histogram(pixels) for pixels in pictures]))
        for dataset, pictures in sets.values()
    )
    assert easy > middle + 10
    assert middle > hard + 2


# The command


def test_the_command_writes_a_set_and_says_what_to_do_next(tmp_path: Path) -> None:
    arguments = ["make-dataset", str(tmp_path / "set"), "--instances", "2", "--views", "3"]
    arguments += ["--distractors", "1", "--size", "80x48", "--seed", "5", "--first-instance", "9"]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "7 images (7 drawn now), 4 queries" in done.stdout
    assert f"cooc evaluate {tmp_path / 'set'}" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert load_dataset(tmp_path / "set").queries[0].name == "instance_00009_0000.jpg"
    again = runner.invoke(app, [*arguments, "--json"])
    report = json.loads(again.stdout)
    assert (report["images"], report["drawn"], report["queries"]) == (7, 0, 4)
    assert report["options"]["size"] == [48, 80]
    assert report["folder"] == str(tmp_path / "set")


def test_the_command_makes_folders(tmp_path: Path) -> None:
    arguments = ["make-dataset", str(tmp_path / "set"), "--instances", "2", "--views", "2"]
    arguments += ["--distractors", "0", "--size", "48x48", "--layout", "folders"]
    assert runner.invoke(app, arguments).exit_code == 0
    assert {path.name for path in (tmp_path / "set").iterdir() if path.is_dir()} == {
        "instance_00000",
        "instance_00001",
    }


@pytest.mark.parametrize("size", ["320", "320x", "axb", "320x240x3", "-320x240"])
def test_a_size_that_is_none_is_named(tmp_path: Path, size: str) -> None:
    done = runner.invoke(app, ["make-dataset", str(tmp_path / "set"), f"--size={size}"])
    assert isinstance(done.exception, InvalidOption)
    assert f"size is {size!r}; it must be WIDTHxHEIGHT" in str(done.exception)
