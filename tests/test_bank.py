from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.backbones import build_trunk
from engine.backbones.untrained import untrained_state
from engine.errors import InvalidOption
from engine.images import decode
from engine.pooling import build_pooling
from engine.training.bank import Bank, BankOptions, _decoded_side, build_bank
from engine.training.folder_lock import FolderLock
from engine.training.grid import cells_of, grid_of
from engine.training.photos import find_photos, photos_digest, read_photo
from engine.training.teacher import Teacher
from engine.training.views import cut, distort, views
from tests.drawing import photo

OPTIONS = BankOptions(count=12, shard=4, sizes=((64, 64), (48, 80)), seed=3)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for number in range(5):
        where = folder / "deeper" if number % 2 else folder
        (where / f"{number}.jpg").write_bytes(photo(number))
    (folder / "notes.txt").write_text("no photo")
    (folder / ".hidden.jpg").write_bytes(photo(9))
    return folder


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    trunk = build_trunk("squeezenet1_1", "fire3")
    trunk.load(untrained_state("squeezenet1_1"))
    return Teacher(trunk.prepare(torch.device("cpu"), torch.float32), scales=(1.0, 0.5))


def normalise(images: Tensor) -> Tensor:
    return (images - 0.5) / 0.25


def build(folder: Path, photos: Path, teacher: Teacher, **changes: object) -> Bank:
    options = BankOptions(**{**vars(OPTIONS), **changes})
    student = build_trunk("vgg_lite", "relu2")
    recipe: dict[str, object] = {"teacher": "fire3"}
    bank, _ = build_bank(
        folder, find_photos([photos]), teacher, student, normalise, options, recipe=recipe
    )
    return bank


def test_photos_are_found_in_folders_and_below(photos: Path) -> None:
    names = [str(path.relative_to(photos)) for path in find_photos([photos])]
    assert names == ["0.jpg", "2.jpg", "4.jpg", "deeper/1.jpg", "deeper/3.jpg"]
    with pytest.raises(InvalidOption, match="there is no folder"):
        find_photos([photos / "elsewhere"])
    (photos / "empty").mkdir()
    with pytest.raises(InvalidOption, match="no photo is in"):
        find_photos([photos / "empty"])


def test_photos_are_known_by_names_and_sizes_wherever_they_lie(
    photos: Path, tmp_path: Path
) -> None:
    digest = photos_digest(find_photos([photos]))
    moved = photos.rename(tmp_path / "moved")
    assert photos_digest(find_photos([moved])) == digest
    assert photos_digest(reversed(find_photos([moved]))) != digest
    (moved / "0.jpg").write_bytes(photo(7))
    changed = photos_digest(find_photos([moved]))
    (moved / "2.jpg").rename(moved / "20.jpg")
    assert len({digest, changed, photos_digest(find_photos([moved]))}) == 3
    assert photos_digest([moved / "gone.jpg"]) != photos_digest([])


def test_a_photo_is_read_as_the_service_would(photos: Path) -> None:
    found = read_photo(photos / "0.jpg", max_side=100)
    assert isinstance(found, np.ndarray)
    expected = decode((photos / "0.jpg").read_bytes(), max_side=100).pixels
    np.testing.assert_array_equal(found, expected)
    assert "cannot read" in str(read_photo(photos / "none.jpg", max_side=100))


def test_a_cut_shows_a_part_of_the_photo_in_the_size_asked_for() -> None:
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[..., 0] = np.arange(120)[None]
    for seed in range(20):
        part = cut(pixels, np.random.default_rng(seed), (32, 48))
        assert part.shape == (3, 32, 48)
        columns = part[0].mean(dim=0) * 255
        # Still the photo's ramp, of at least the smallest area's width.
        assert (columns.diff() > 0).all()
        assert 120 * 0.25 < columns[-1] - columns[0] + 3 <= 122


def test_views_depend_on_seed_and_place_alone() -> None:
    pixels = [decode(photo(seed), max_side=160).pixels for seed in range(4)]
    torch.manual_seed(1)
    first = views(pixels, 7, 2, size=(48, 64))
    torch.rand(5)
    again = views(pixels, 7, 2, size=(48, 64))
    assert torch.equal(first, again)
    assert not torch.equal(first, views(pixels, 7, 3, size=(48, 64)))
    assert first.shape == (4, 3, 48, 64) and 0 <= first.min() and first.max() <= 1


def test_distortions_keep_every_pixel_in_its_place() -> None:
    grey = torch.full((40, 3, 32, 32), 0.5)
    grey[:, :, 8:16, 20:28] = 1.0
    changed = distort(grey, 0, 1)
    assert changed.shape == grey.shape and 0 <= changed.min() and changed.max() <= 1
    assert not torch.equal(changed, grey)
    assert torch.equal(changed, distort(grey, 0, 1))
    centre = changed[:, :, 10:14, 22:26].mean(dim=(1, 2, 3))
    around = changed[:, :, 20:30, 2:12].mean(dim=(1, 2, 3))
    assert (centre > around + 0.05).all()


def test_a_bank_holds_views_and_what_the_teacher_sees_of_them(
    tmp_path: Path, photos: Path, teacher: Teacher
) -> None:
    bank = build(tmp_path / "bank", photos, teacher)
    assert bank.options.shards == 3
    student = build_trunk("vgg_lite", "relu2")
    for shard, size in ((0, (64, 64)), (1, (48, 80)), (2, (64, 64))):
        tensors = bank.read(shard)
        assert tensors.views.shape == (4, *size, 3) and tensors.views.dtype == torch.uint8
        assert tensors.maps.shape == (4, *cells_of(student, *size), 128)
        assert tensors.descriptors is None
        # Views are distorted, so the maps are those of something similar, not of the views.
        shown = normalise(tensors.views.permute(0, 3, 1, 2).float() / 255)
        seen = teacher.maps(shown, grid_of(student), cells_of(student, *size)).permute(0, 2, 3, 1)
        own = torch.cosine_similarity(seen.flatten(1), tensors.maps.float().flatten(1))
        other = torch.cosine_similarity(seen.flatten(1), tensors.maps.float().roll(1, 0).flatten(1))
        assert (own > other).float().mean() >= 0.75


def test_an_interrupted_bank_goes_on_and_becomes_the_same(
    tmp_path: Path, photos: Path, teacher: Teacher
) -> None:
    whole = build(tmp_path / "whole", photos, teacher)
    broken = build(tmp_path / "broken", photos, teacher)
    broken.file(1).unlink()
    kept = broken.file(0).stat().st_mtime_ns
    again = build(tmp_path / "broken", photos, teacher)
    assert again.file(0).stat().st_mtime_ns == kept
    assert again.file(1).read_bytes() == whole.file(1).read_bytes()


def test_a_bank_may_grow_but_not_change(tmp_path: Path, photos: Path, teacher: Teacher) -> None:
    small = build(tmp_path / "bank", photos, teacher, count=8)
    before = small.file(1).read_bytes()
    large = build(tmp_path / "bank", photos, teacher)
    assert large.file(1).read_bytes() == before and large.file(2).is_file()
    with pytest.raises(InvalidOption, match=r"made with another seed \(3, not 4\)"):
        build(tmp_path / "bank", photos, teacher, seed=4)


def test_photos_that_cannot_be_read_are_left_out_and_named(
    tmp_path: Path, photos: Path, teacher: Teacher
) -> None:
    (photos / "2.jpg").write_bytes(photo(2)[:300])
    bank, faulty = build_bank(
        tmp_path / "bank",
        find_photos([photos]),
        teacher,
        build_trunk("vgg_lite", "relu2"),
        normalise,
        OPTIONS,
        recipe={},
        pooling=build_pooling("cbp_aa:dim=32", 128),
    )
    assert list(faulty) == [str(photos / "2.jpg")]
    assert "damaged" in faulty[str(photos / "2.jpg")]
    for shard in range(3):
        tensors = bank.read(shard)
        assert len(tensors.views) == len(tensors.maps) == 4  # the next photo took its place
        assert tensors.descriptors is not None
        assert tensors.descriptors.shape == (len(tensors.views), 32)


def test_a_folder_of_nothing_but_damage_is_refused(
    tmp_path: Path, photos: Path, teacher: Teacher
) -> None:
    for path in find_photos([photos]):
        path.write_bytes(b"nothing")
    with pytest.raises(InvalidOption, match="none of 5 photos can be read"):
        build(tmp_path / "bank", photos, teacher)


def test_a_damaged_list_of_what_a_bank_holds_is_named(
    tmp_path: Path, photos: Path, teacher: Teacher
) -> None:
    build(tmp_path / "bank", photos, teacher, count=4)
    for content in ("{", "[1, 2]", ""):
        (tmp_path / "bank" / "bank.json").write_text(content)
        with pytest.raises(InvalidOption, match=r"bank\.json is damaged"):
            build(tmp_path / "bank", photos, teacher, count=4)


def test_a_bank_that_another_process_makes_is_left_alone(
    tmp_path: Path, photos: Path, teacher: Teacher
) -> None:
    (tmp_path / "bank").mkdir()
    with (
        FolderLock(tmp_path / "bank"),
        pytest.raises(InvalidOption, match="another training runs in"),
    ):
        build(tmp_path / "bank", photos, teacher)
    build(tmp_path / "bank", photos, teacher, count=4)


def test_large_views_are_cut_from_larger_photos() -> None:
    assert _decoded_side(BankOptions()) == 320
    assert _decoded_side(OPTIONS) == 320
    assert _decoded_side(BankOptions(sizes=((160, 160), (480, 600)))) == 1000


def test_a_damaged_shard_is_named_with_the_remedy(
    tmp_path: Path, photos: Path, teacher: Teacher
) -> None:
    bank = build(tmp_path / "bank", photos, teacher)
    bank.file(1).write_bytes(bank.file(1).read_bytes()[:1000])
    with pytest.raises(InvalidOption, match=r"shard-00001.safetensors is damaged .* delete it"):
        Bank(tmp_path / "bank", OPTIONS).read(1)
