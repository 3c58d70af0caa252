from __future__ import annotations

import json
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import InvalidOption
from engine.images import decode
from engine.training import training_set as module
from engine.training.components import connected
from engine.training.training_set import Rows, TrainingSet, check_apart, read_training_set
from tests import drawing


def rows(*values: int) -> Rows:
    return np.array(values, dtype=np.int64)


def put(folder: Path, *names: str) -> Path:
    """Photos, drawn, one after the other; of the kind that their suffix says."""
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        kind = {"jpeg": "jpg"}.get(file.suffix[1:].lower(), file.suffix[1:].lower()) or "jpg"
        file.write_bytes(drawing.photo(number, (40, 30), kind))
    return folder


def things(found: TrainingSet) -> set[frozenset[str]]:
    """The clusters as sets of names."""
    members: dict[int, set[str]] = {}
    for name, cluster in zip(found.names, found.clusters.tolist(), strict=True):
        members.setdefault(cluster, set()).add(name)
    return {frozenset(names) for names in members.values()}


def pairs(found: TrainingSet) -> list[tuple[str, str]]:
    return [
        (found.names[query], found.names[positive])
        for query, positive in zip(found.queries, found.positives, strict=True)
    ]


def refused(folder: Path, reason: str, split: str | None = None) -> None:
    with pytest.raises(InvalidOption, match=reason):
        read_training_set(folder, split=split)


# The value


def made() -> TrainingSet:
    """Things 7 (0, 2, 3), 4 (1, 5) and 9 (6, 8); 4 and 7 are alone."""
    return TrainingSet(
        names=tuple("abcdefghi"),
        files=tuple(Path(f"{name}.jpg") for name in "abcdefghi"),
        clusters=rows(7, 4, 7, 7, 1, 4, 9, 2, 9),
        queries=rows(0, 2, 5, 6, 0),
        positives=rows(2, 3, 1, 8, 3),
    )


def test_things_and_singles_are_counted() -> None:
    assert made().things == 3
    assert made().singles == 2


def test_a_subset_keeps_the_pairs_that_are_whole() -> None:
    part = made().subset([5, 3, 0, 1, 7])
    assert part.names == ("f", "d", "a", "b", "h")
    assert part.files == tuple(Path(f"{name}.jpg") for name in "fdabh")
    assert part.clusters.tolist() == [4, 7, 7, 4, 2]
    assert pairs(part) == [("f", "b"), ("a", "d")]
    assert (part.things, part.singles) == (2, 1)
    assert len(made().subset([]).names) == 0


def test_a_subset_of_rows_that_are_none_is_refused() -> None:
    with pytest.raises(ValueError, match="rows go from 0 to 9; expected 0 to 8"):
        made().subset([0, 9])
    with pytest.raises(ValueError, match="rows go from -1"):
        made().subset([-1])
    with pytest.raises(ValueError, match="names a photo twice"):
        made().subset([1, 1])


def many() -> TrainingSet:
    """30 things of 2 to 4 photos, mixed with 40 photos that are alone."""
    draw = np.random.default_rng(0)
    clusters = np.repeat(np.arange(70), [2, 3, 4] * 10 + [1] * 40)
    clusters = draw.permutation(clusters).astype(np.int64)
    matches = [
        (a, b)
        for a in range(len(clusters))
        for b in range(len(clusters))
        if a != b and clusters[a] == clusters[b]
    ]
    names = tuple(f"{row:03}" for row in range(len(clusters)))
    queries, positives = np.array(matches, dtype=np.int64).T
    return TrainingSet(names, tuple(map(Path, names)), clusters, queries, positives)


@pytest.mark.parametrize("seed", range(4))
def test_no_thing_is_on_both_sides_of_a_split(seed: int) -> None:
    whole = many()
    train, held_out = whole.split_by_cluster(0.2, seed)
    assert not set(train.clusters.tolist()) & set(held_out.clusters.tolist())
    assert sorted(train.names + held_out.names) == list(whole.names)
    assert list(train.names) == sorted(train.names)
    assert (train.things, held_out.things) == (24, 6)
    assert (train.singles, held_out.singles) == (32, 8)
    assert sorted(pairs(train) + pairs(held_out)) == sorted(pairs(whole))


def test_a_split_is_a_function_of_its_seed() -> None:
    def held_out(seed: int) -> tuple[str, ...]:
        return many().split_by_cluster(0.3, seed)[1].names

    assert held_out(5) == held_out(5)
    assert len({held_out(seed) for seed in range(5)}) == 5


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_both_sides_of_a_split_have_a_thing(share: float) -> None:
    train, held_out = many().split_by_cluster(share, 0)
    assert min(train.things, held_out.things) == 1
    assert len(train.queries) > 0
    assert len(held_out.queries) > 0


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(InvalidOption, match="must be between 0 and 1"):
        many().split_by_cluster(share, 0)


def test_a_single_thing_is_not_split() -> None:
    with pytest.raises(InvalidOption, match="two photos or more: 1; to hold some out"):
        made().subset([0, 2, 4]).split_by_cluster(0.5, 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"names": ("a",)}, "1 names, 3 files and clusters of shape"),
        ({"clusters": rows(0, 0)}, r"3 names, 3 files and clusters of shape \(2,\)"),
        ({"queries": rows(0)}, r"shapes \(1,\) and \(2,\)"),
        ({"queries": rows(0, 3)}, "queries has rows 0 to 3; expected 0 to 2"),
        ({"positives": rows(-1, 0)}, "positives has rows -1 to 0"),
        ({"clusters": np.zeros(3, np.int32)}, "clusters is int32; expected int64"),
        ({"positives": np.ones(2)}, "positives is float64"),
        ({"queries": rows(0, 0)}, "pair 1, a and a, is the same photo twice"),
        ({"queries": rows(2, 1)}, "pair 0, c and b, is of two clusters"),
    ],
)
def test_a_training_set_does_not_contradict_itself(change: dict[str, Any], reason: str) -> None:
    fields: dict[str, Any] = {
        "names": ("a", "b", "c"),
        "files": (Path("a"), Path("b"), Path("c")),
        "clusters": rows(0, 0, 1),
        "queries": rows(0, 1),
        "positives": rows(1, 0),
    }
    TrainingSet(**fields)
    with pytest.raises(ValueError, match=reason):
        TrainingSet(**(fields | change))


def test_what_pairs_link_is_connected() -> None:
    assert connected(7, [(5, 1), (2, 6), (1, 3), (6, 2)]).tolist() == [0, 1, 2, 1, 3, 1, 2]
    assert connected(0, []).tolist() == []
    draw = random.Random(1)
    for _ in range(50):
        count = draw.randrange(1, 30)
        links = [(draw.randrange(count), draw.randrange(count)) for _ in range(draw.randrange(25))]
        reach = np.eye(count, dtype=bool)
        for one, other in links:
            reach[one, other] = reach[other, one] = True
        for _ in range(count):
            reach = (reach.astype(int) @ reach.astype(int)) > 0
        labels = connected(count, links)
        assert ((labels[:, None] == labels[None, :]) == reach).all()


# One sub-folder for each thing


def test_every_sub_folder_is_a_thing(tmp_path: Path) -> None:
    put(tmp_path, "lid/b.JPG", "lid/a.png", "tin/x.webp", "tin/y.jpeg", "tin/z.jpg", "cup/one.jpg")
    put(tmp_path, "street.jpg", "sea.jpg")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "lid" / "a.gif").touch()
    (tmp_path / "empty").mkdir()
    found = read_training_set(tmp_path)
    assert found.names == tuple(sorted(found.names))
    assert things(found) == {
        frozenset({"lid/a.png", "lid/b.JPG"}),
        frozenset({"tin/x.webp", "tin/y.jpeg", "tin/z.jpg"}),
        frozenset({"cup/one.jpg"}),
        frozenset({"street.jpg"}),
        frozenset({"sea.jpg"}),
    }
    assert (found.things, found.singles) == (2, 3)
    assert found.files == tuple(tmp_path / name for name in found.names)
    tin = ("tin/x.webp", "tin/y.jpeg", "tin/z.jpg")
    expected = {("lid/a.png", "lid/b.JPG"), ("lid/b.JPG", "lid/a.png")}
    expected |= {(one, other) for one in tin for other in tin if one != other}
    assert len(pairs(found)) == 8
    assert set(pairs(found)) == expected
    for file in found.files:
        assert decode(file.read_bytes(), max_side=64).pixels.shape == (30, 40, 3)


def test_deeper_folders_belong_to_the_first_level(tmp_path: Path) -> None:
    put(tmp_path, "tin/front/a.jpg", "tin/back/far/b.jpg", "tin/c.jpg", "cup/front/a.jpg")
    found = read_training_set(tmp_path)
    tin = frozenset({"tin/front/a.jpg", "tin/back/far/b.jpg", "tin/c.jpg"})
    assert things(found) == {tin, frozenset({"cup/front/a.jpg"})}


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "tin/a.jpg", "tin/b.jpg", "tin/.c.jpg", ".tin/d.jpg", "tin/.old/e.jpg", ".f.jpg")
    assert read_training_set(tmp_path).names == ("tin/a.jpg", "tin/b.jpg")


def test_a_thing_may_be_a_link_to_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "a.jpg", "b.jpg")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "tin").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    assert read_training_set(tmp_path / "photos").names == ("tin/a.jpg", "tin/b.jpg")


def test_photos_of_a_large_thing_have_a_bounded_number_of_partners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PARTNERS", 4)
    for number in range(11):
        (tmp_path / "large").mkdir(exist_ok=True)
        (tmp_path / "large" / f"{number:02}.jpg").touch()
    for number in range(5):
        (tmp_path / "small").mkdir(exist_ok=True)
        (tmp_path / "small" / f"{number}.jpg").touch()
    found = read_training_set(tmp_path)
    drawn = pairs(found)
    assert len(drawn) == len(set(drawn)) == 11 * 4 + 5 * 4
    for name in found.names:
        assert sum(query == name for query, _ in drawn) == 4
        assert sum(positive == name for _, positive in drawn) == 4
    partners = [int(p[6:8]) for q, p in drawn if q == "large/00.jpg"]
    assert partners == [1, 3, 6, 8]  # spread over all


@pytest.mark.parametrize("count", [1, 2, 50, 51, 52, 173])
def test_partners_are_other_photos_each_once(tmp_path: Path, count: int) -> None:
    for number in range(count):
        (tmp_path / "it").mkdir(exist_ok=True)
        (tmp_path / "it" / f"{number}.jpg").touch()
    put(tmp_path, "pair/a.jpg", "pair/b.jpg")
    drawn = pairs(read_training_set(tmp_path))
    assert len(drawn) == len(set(drawn)) == count * min(50, count - 1) + 2


def test_a_folder_without_pairs_says_what_it_lacks(tmp_path: Path) -> None:
    refused(tmp_path / "none", "there is no folder .*none")
    refused(tmp_path, "is no training set. Looked for: retrieval-SfM-120k.pkl and ims/ .*gt.json")
    (tmp_path / "tin").mkdir()
    (tmp_path / "tin" / "a.gif").touch()
    refused(tmp_path, r"no photo is in .* or its 1 sub-folders; expected files ending in .jpg")
    put(tmp_path, "a.jpg", "b.jpg", "tin/c.jpg")
    refused(tmp_path, "each of the 3 photos in .* is alone in its folder; training needs at least")
    put(tmp_path, "tin/d.jpg")
    refused(tmp_path, "split is 'val', but .* is no retrieval-SfM", "val")
    assert read_training_set(tmp_path).things == 1


def test_photos_to_learn_from_are_no_photos_to_validate_on(tmp_path: Path) -> None:
    put(tmp_path / "one", "a/1.jpg", "a/2.jpg")
    put(tmp_path / "two", "b/1.jpg", "b/2.jpg")
    one, two = (read_training_set(tmp_path / name) for name in ("one", "two"))
    check_apart(one, two)
    (tmp_path / "two" / "b" / "3.jpg").symlink_to(tmp_path / "one" / "a" / "2.jpg")
    with pytest.raises(InvalidOption, match=r"1 photos, e\.g\. .*b/3\.jpg, are both"):
        check_apart(one, read_training_set(tmp_path / "two"))


# gt.json


def judged(folder: Path, content: object, *photos: str) -> Path:
    put(folder / "images", *photos)
    (folder / "gt.json").write_text(json.dumps(content))
    return folder


def test_judged_photos_are_joined_by_their_positives(tmp_path: Path) -> None:
    content = {
        "database": ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg", "g.jpg"],
        "queries": {
            "q.jpg": {"pos": ["c.jpg", "a.jpg"], "junk": ["b.jpg", "e.jpg", "f.jpg"]},
            "c.jpg": {"pos": ["d.jpg", "c.jpg"]},
            "b.jpg": {"pos": ["e.jpg", "f.jpg"], "junk": ["f.jpg"]},
            "p.jpg": {"pos": []},
        },
    }
    every = [f"{letter}.jpg" for letter in "abcdefgqp"]
    found = read_training_set(judged(tmp_path, content, *every))
    # f is junk and nothing else; b and e are so to one query only.
    assert found.names == tuple(f"{letter}.jpg" for letter in "abcdegqp")
    assert found.files[0] == tmp_path / "images" / "a.jpg"
    assert things(found) == {
        frozenset({"q.jpg", "a.jpg", "c.jpg", "d.jpg"}),  # d over c
        frozenset({"b.jpg", "e.jpg"}),
        frozenset({"g.jpg"}),
        frozenset({"p.jpg"}),
    }
    assert pairs(found) == [
        ("q.jpg", "a.jpg"),
        ("q.jpg", "c.jpg"),
        ("c.jpg", "d.jpg"),
        ("b.jpg", "e.jpg"),
    ]


def test_photos_that_gt_json_names_in_vain_are_named(tmp_path: Path) -> None:
    content = {
        "database": ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"],
        "queries": {"q.jpg": {"pos": ["a.jpg"]}},
    }
    judged(tmp_path, content, "a.jpg", "q.jpg")
    refused(tmp_path, r"names photos that are not in .*images: b.jpg, c.jpg, d.jpg and 1 more; add")
    put(tmp_path / "images", "b.jpg", "c.jpg", "d.jpg")
    refused(tmp_path, r"not in .*images: e.jpg; add them, or take them out of gt.json")


def test_a_gt_json_without_pairs_is_refused(tmp_path: Path) -> None:
    content = {"database": ["a.jpg"], "queries": {"a.jpg": {"pos": ["a.jpg"]}}}
    judged(tmp_path, content, "a.jpg")
    refused(tmp_path, "has no query with a positive; training needs at least two photos of a thing")
    refused(tmp_path, "split is 'train', but", "train")
    (tmp_path / "gt.json").write_text("{")
    refused(tmp_path, "is no JSON")


def test_photos_of_a_shop_become_a_training_set(shared_data: Path) -> None:
    found = read_training_set(shared_data / "grocery")
    judgement = json.loads((shared_data / "grocery" / "gt.json").read_text())
    assert len(found.queries) == sum(
        len(set(entry["pos"]) - set(entry.get("junk", [])) - {name})
        for name, entry in judgement["queries"].items()
    )
    assert set(judgement["database"]) <= set(found.names)
    assert found.things > 10
    train, held_out = found.split_by_cluster(0.2, 0)
    assert len(train.names) + len(held_out.names) == len(found.names)


# retrieval-SfM

CIDS = [f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}" for number in range(1, 10)]


def published(kind: Callable[[list[int]], Any] = list) -> dict[str, Any]:
    return {
        "train": {
            "cids": CIDS[:6],
            "cluster": kind([3, 3, 5, 5, 5, 8]),
            "bbxs": [(0.0, 0.0, 10.0, 10.0)] * 6,
            "qidxs": kind([0, 1, 2, 4]),
            "pidxs": kind([1, 0, 3, 3]),
        },
        "val": {
            "cids": CIDS[6:],
            "cluster": kind([1, 2, 1]),
            "bbxs": [(0.0, 0.0, 10.0, 10.0)] * 3,
            "qidxs": kind([0]),
            "pidxs": kind([2]),
        },
    }


def sfm(folder: Path, content: object, *, protocol: int = 2, name: str = "120k") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"retrieval-SfM-{name}.pkl"
    file.write_bytes(pickle.dumps(content, protocol))
    for number, cid in enumerate(CIDS):
        image = folder / "ims" / cid[30:32] / cid[28:30] / cid[26:28] / cid
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(drawing.photo(number, (40, 30)))
    return folder


def as_array(values: list[int]) -> Any:
    return np.array(values)


def as_scalars(values: list[int]) -> Any:
    return [np.int64(value) for value in values]


def as_matlab(values: list[int]) -> Any:
    return np.array(values, dtype=np.float64)


@pytest.mark.parametrize("kind", [list, tuple, as_array, as_scalars, as_matlab])
@pytest.mark.parametrize("protocol", [2, 4])
def test_retrieval_sfm_is_read_as_published(
    tmp_path: Path, protocol: int, kind: Callable[[list[int]], Any]
) -> None:
    folder = sfm(tmp_path, published(kind), protocol=protocol)
    found = read_training_set(folder)
    assert found.names == tuple(CIDS[:6])
    assert found.clusters.tolist() == [3, 3, 5, 5, 5, 8]
    assert found.queries.tolist() == [0, 1, 2, 4]
    assert found.positives.tolist() == [1, 0, 3, 3]
    assert found.clusters.dtype == found.queries.dtype == found.positives.dtype == np.int64
    assert (found.things, found.singles) == (2, 1)
    for number, file in enumerate(found.files):
        assert file.read_bytes() == drawing.photo(number, (40, 30))
    val = read_training_set(folder, split="val")
    assert val.names == tuple(CIDS[6:])
    assert pairs(val) == [(CIDS[6], CIDS[8])]
    assert read_training_set(folder, split="train").names == found.names


def test_the_smaller_one_is_read_too(tmp_path: Path) -> None:
    assert read_training_set(sfm(tmp_path, published(), name="30k")).things == 2


def test_names_of_python_2_are_read(tmp_path: Path) -> None:
    content = published()
    content["train"]["cids"] = np.array([cid.encode() for cid in CIDS[:6]])
    assert read_training_set(sfm(tmp_path, content)).names == tuple(CIDS[:6])


def test_pairs_for_whitening_are_a_split_of_their_own(tmp_path: Path) -> None:
    sfm(tmp_path, published())
    content = {"cids": CIDS[:5], "qidxs": [4, 2], "pidxs": [0, 4]}
    sfm(tmp_path, content, name="120k-whiten")
    found = read_training_set(tmp_path, split="whiten")
    assert things(found) == {
        frozenset({CIDS[0], CIDS[2], CIDS[4]}),
        frozenset({CIDS[1]}),
        frozenset({CIDS[3]}),
    }
    assert pairs(found) == [(CIDS[4], CIDS[0]), (CIDS[2], CIDS[4])]
    assert read_training_set(tmp_path).names == tuple(CIDS[:6])


def without(key: str) -> dict[str, Any]:
    content = published()
    del content["train"][key]
    return content


def changed(key: str, value: object) -> dict[str, Any]:
    content = published()
    content["train"][key] = value
    return content


BAD: dict[str, tuple[object, str]] = {
    "no dictionary": ([1, 2], "has no 'train'; is it the published retrieval-SfM file?"),
    "no train": ({"val": {}}, "has no 'train'"),
    "train is a list": ({"train": []}, "train has no 'cids'"),
    "no cids": (without("cids"), "train has no 'cids'"),
    "no cluster": (without("cluster"), "train has no 'cluster'"),
    "no qidxs": (without("qidxs"), "train has no 'qidxs'"),
    "no pidxs": (without("pidxs"), "train has no 'pidxs'"),
    "cids is text": (changed("cids", "abc"), "cids is no list of names"),
    "no photo": (changed("cids", []), "cids is no list of names, or an empty one"),
    "a path": (changed("cids", ["../../../etc/passwd"] * 6), "cids has '../../../etc/passwd'"),
    "a short name": (changed("cids", ["ab12"] * 6), "expected hexadecimal digits"),
    "numbers for names": (changed("cids", [1] * 6), "cids has 1; expected"),
    "out of range": (changed("pidxs", [1, 0, 3, 6]), "pidxs has 6; the 6 cids go from 0 to 5"),
    "negative": (changed("qidxs", [0, 1, -2, 4]), "qidxs has -2; the 6 cids"),
    "half": (changed("qidxs", [0, 1, 2, 0.5]), "qidxs is no list of whole numbers"),
    "not a number": (changed("cluster", [float("nan")] * 6), "cluster is no list of whole"),
    "text": (changed("pidxs", ["a"] * 4), "pidxs is no list of whole numbers"),
    "a table": (changed("pidxs", np.zeros((2, 2))), "pidxs is no list of whole numbers"),
    "a number": (changed("pidxs", 3), "pidxs is no list of whole numbers"),
    "ragged": (changed("pidxs", [1, [2], 3, 4]), "pidxs is no list of whole numbers"),
    "fewer positives": (changed("pidxs", [1, 0, 3]), "4 qidxs for 3 pidxs"),
    "fewer clusters": (changed("cluster", [3, 3]), "2 entries of cluster for 6 cids"),
    "two clusters": (changed("pidxs", [1, 0, 3, 0]), f"pair 3, {CIDS[4]} and {CIDS[0]}, is of two"),
    "the same photo": (changed("pidxs", [1, 1, 3, 3]), "is the same photo twice"),
    "no pair": (changed("pidxs", []), "4 qidxs for 0 pidxs"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_what_is_not_as_published_is_named(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    refused(sfm(tmp_path, content), rf"retrieval-SfM-120k.pkl.*{reason}")


def test_a_list_without_pairs_is_refused(tmp_path: Path) -> None:
    content = published()
    content["train"] |= {"qidxs": [], "pidxs": []}
    refused(sfm(tmp_path, content), "has no pair; training needs at least one")


def test_what_a_pickle_wants_to_run_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    refused(sfm(tmp_path, {"train": Attack()}), "is refused: .*nothing of the file was run")
    assert not (tmp_path / "ran").exists()


def test_missing_files_of_retrieval_sfm_are_named(tmp_path: Path) -> None:
    folder = sfm(tmp_path / "sfm", published())
    refused(folder, "split is 'test'; retrieval-SfM has train, val, whiten", "test")
    refused(folder, "has no retrieval-SfM-120k-whiten.pkl, where the split 'whiten' is", "whiten")
    first = CIDS[1]
    image = folder / "ims" / first[-2:] / first[-4:-2] / first[-6:-4] / first
    image.unlink()
    refused(folder, f"{first} is missing; unpack ims.tar.gz of retrieval-SfM in .*sfm$")
    (folder / "ims").rename(folder / "images")
    refused(folder, "there is no folder .*ims; unpack ims.tar.gz")
    sfm(folder, published(), name="30k")
    refused(folder, "several lists of pairs: retrieval-SfM-120k.pkl, retrieval-SfM-30k.pkl; leave")


def test_a_folder_with_whitening_alone_has_no_training_split(tmp_path: Path) -> None:
    sfm(tmp_path, {"cids": CIDS[:2], "qidxs": [0], "pidxs": [1]}, name="120k-whiten")
    refused(tmp_path, "has no retrieval-SfM-120k.pkl, where the split 'train' is; add it")
    assert read_training_set(tmp_path, split="whiten").things == 1


@pytest.mark.slow
def test_the_published_size_is_read_in_seconds(tmp_path: Path) -> None:
    """91,642 photos and 181,697 pairs."""
    draw = np.random.default_rng(0)
    cids = [f"{number:032x}" for number in range(91_642)]
    clusters = np.arange(91_642) // 166
    queries = draw.integers(0, 91_000, 181_697)
    positives = np.where(clusters[queries] == clusters[queries + 1], queries + 1, queries - 1)
    content = {
        "train": {
            "cids": cids,
            "cluster": clusters.tolist(),
            "bbxs": [(1.5, 2.5, 300.5, 400.5)] * 91_642,
            "qidxs": queries.tolist(),
            "pidxs": positives.tolist(),
        }
    }
    (tmp_path / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps(content, 2))
    for cid in cids[:3]:
        image = tmp_path / "ims" / cid[-2:] / cid[-4:-2] / cid[-6:-4] / cid
        image.parent.mkdir(parents=True)
        image.touch()
    start = time.monotonic()
    found = read_training_set(tmp_path)
    assert time.monotonic() - start < 60
    assert len(found.names) == 91_642
    assert (found.queries == queries).all()
    assert (found.positives == positives).all()
    assert found.things == 553
