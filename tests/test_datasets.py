from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from engine.errors import InvalidOption
from engine.evaluation.datasets import (
    Dataset,
    Query,
    load_dataset,
    missing_files,
    queries_without_positives,
)
from engine.evaluation.datasets.landmarks import CORRUPT
from engine.evaluation.protocols import evaluate_similarities


def touch(folder: Path, names: Iterable[str]) -> None:
    """Empty files: nothing here looks into an image."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def names(*values: str) -> frozenset[str]:
    return frozenset(values)


# The format of this project


def write(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "gt.json").write_text(json.dumps(content))
    return folder


def test_a_data_set_is_read_as_it_is_written(tmp_path: Path) -> None:
    content = {
        "database": ["a.jpg", "b.jpg", "c.jpg"],
        "queries": {
            "a.jpg": {"pos": ["b.jpg"], "junk": ["c.jpg"], "kind": "product"},
            "q.jpg": {"pos": ["a.jpg"], "bbox": [1, 2.5, 30, 40]},
        },
    }
    dataset = load_dataset(write(tmp_path / "shop", content))
    assert dataset == Dataset(
        name="shop",
        folder=tmp_path / "shop",
        database=("a.jpg", "b.jpg", "c.jpg"),
        queries=(
            Query("a.jpg", names("b.jpg"), names("c.jpg"), "product", None),
            Query("q.jpg", names("a.jpg"), names(), "all", (1, 2.5, 30, 40)),
        ),
        format="folder",
        benchmark=None,
        upright=True,
    )
    assert dataset.path("a.jpg") == tmp_path / "shop" / "images" / "a.jpg"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "the file has no 'database'"),
        ({}, "the file has no 'database'"),
        ({"database": ["a"]}, "the file has no 'queries'"),
        ({"database": 3, "queries": {}}, "database is no list"),
        ({"database": "abc", "queries": {}}, "database is no list"),
        ({"database": [["a"]], "queries": {}}, r"database holds \['a'\], which is no name"),
        ({"database": ["a"], "queries": ["a"]}, "queries is no object"),
        ({"database": ["a"], "queries": {"q": {}}}, "query 'q' has no 'pos'"),
        ({"database": ["a"], "queries": {"q": ["a"]}}, "query 'q' has no 'pos'"),
        ({"database": ["a"], "queries": {"q": {"pos": 1}}}, "pos of query 'q' is no list"),
        ({"database": ["a"], "queries": {"q": {"pos": "a"}}}, "pos of query 'q' is no list"),
        (
            {"database": ["a"], "queries": {"q": {"pos": ["a"], "junk": [7]}}},
            "junk of query 'q' holds 7, which is no name",
        ),
    ],
    ids=str,
)
def test_a_data_set_of_another_form_is_refused(
    tmp_path: Path, content: object, reason: str
) -> None:
    with pytest.raises(InvalidOption, match=rf"gt\.json is not of the folder format: {reason}"):
        load_dataset(write(tmp_path, content))


@pytest.mark.parametrize(
    "box",
    [
        [1, 2, 3],
        [1, 2, 3, "wide"],
        [1, 2, 3, None],
        [1, 2, 3, [4]],
        [1, 2, 1, 4],
        [1, 4, 3, 2],
        [1, 2, float("nan"), 4],
        [1, 2, float("inf"), 4],
        [1, 2, 3, 10**400],
        [],
        "1234",
        {"x": 1},
    ],
    ids=lambda box: str(box)[:30],
)
def test_a_box_that_is_none_is_named(tmp_path: Path, box: object) -> None:
    query = {"pos": ["a"], "bbox": box}
    with pytest.raises(InvalidOption, match=r"gt\.json: query 'q' has the box .*; it must be four"):
        load_dataset(write(tmp_path, {"database": ["a"], "queries": {"q": query}}))


@pytest.mark.parametrize("content", [b"\xff\xfe{", b"{", b"", b"[" * 100_000])
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "gt.json").write_bytes(content)
    with pytest.raises(InvalidOption, match=r"gt\.json is (not of the folder format|no text)"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("role", ["pos", "junk"])
def test_a_name_that_is_not_in_the_database_is_named(tmp_path: Path, role: str) -> None:
    query = {"pos": ["a"], "junk": [], role: ["a", "ghost"]}
    with pytest.raises(InvalidOption, match="query 'q' names 'ghost', which is not in"):
        load_dataset(write(tmp_path, {"database": ["a"], "queries": {"q": query}}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"database": [], "queries": {"q": {"pos": []}}}, r"gt\.json: the database is empty"),
        ({"database": ["a"], "queries": {}}, r"gt\.json has no query"),
        (
            {"database": ["a", "b", "a"], "queries": {"q": {"pos": ["a"]}}},
            r"gt\.json: the database has 'a' twice",
        ),
    ],
)
def test_a_data_set_that_cannot_be_searched_is_refused(
    tmp_path: Path, content: object, reason: str
) -> None:
    with pytest.raises(InvalidOption, match=reason):
        load_dataset(write(tmp_path, content))


# Which format it is


def test_a_folder_without_ground_truth_is_named_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=f"{tmp_path} is no data set. Looked for: ") as raised:
        load_dataset(tmp_path)
    for part in ("gt.json", "*_query.txt", "gnd_*.pkl", "six digits", "subfolders"):
        assert part in str(raised.value)
    with pytest.raises(InvalidOption, match=r"there is no folder .*nowhere"):
        load_dataset(tmp_path / "nowhere")


def test_images_alone_are_no_data_set(tmp_path: Path) -> None:
    touch(tmp_path / "images", ["a.jpg", "b.jpg"])
    with pytest.raises(InvalidOption, match="is no data set"):
        load_dataset(tmp_path)
    touch(tmp_path / "empty", [])
    with pytest.raises(InvalidOption, match="is no data set"):
        load_dataset(tmp_path)


# Oxford5k and Paris6k


OXFORD = ["all_souls_000013", "all_souls_000026", "balliol_000051", "oxford_000317", "new_000002"]


def oxford(folder: Path, labels: str = "lab") -> Path:
    """Two queries of Oxford5k as its text files have them."""
    touch(folder / "jpg", [f"{name}.jpg" for name in reversed(OXFORD)] + ["notes.txt"])
    (folder / labels).mkdir()
    files = {
        "balliol_1_query": "oxc1_balliol_000051 14 25.5 300 299.25\n",
        "balliol_1_good": "balliol_000051\n",
        "balliol_1_ok": "",
        "balliol_1_junk": "oxford_000317\r\nnew_000002\r\n",
        "all_souls_1_query": "oxc1_all_souls_000013 136.5 34.1 648.5 955.7",
        "all_souls_1_good": "all_souls_000013\nall_souls_000026\n",
        "all_souls_1_ok": "oxford_000317\n",
        "all_souls_1_junk": "\n",
    }
    for name, content in files.items():
        (folder / labels / f"{name}.txt").write_text(content, newline="")
    return folder


@pytest.mark.parametrize("labels", ["lab", "gt", "gt_files_170407", "whatever it is"])
def test_the_text_files_of_oxford_are_read(tmp_path: Path, labels: str) -> None:
    dataset = load_dataset(oxford(tmp_path / "Oxford", labels))
    assert dataset == Dataset(
        name="Oxford",
        folder=tmp_path / "Oxford",
        database=tuple(sorted(OXFORD)),
        queries=(
            Query(
                name="all_souls_000013",
                positives=names("all_souls_000013", "all_souls_000026", "oxford_000317"),
                junk=names(),
                kind="all",
                bbox=(136.5, 34.1, 648.5, 955.7),
                keeps_itself=True,
            ),
            Query(
                name="balliol_000051",
                positives=names("balliol_000051"),
                junk=names("oxford_000317", "new_000002"),
                kind="all",
                bbox=(14, 25.5, 300, 299.25),
                keeps_itself=True,
            ),
        ),
        format="oxford",
        benchmark="oxford5k",
        upright=False,
        images="jpg",
        suffix=".jpg",
    )
    assert dataset.path("new_000002") == tmp_path / "Oxford" / "jpg" / "new_000002.jpg"
    assert missing_files(dataset) == []


def test_oxford_is_known_by_its_names_where_the_prefix_is_gone(tmp_path: Path) -> None:
    oxford(tmp_path)
    for name in ("balliol_1", "all_souls_1"):
        file = tmp_path / "lab" / f"{name}_query.txt"
        file.write_text(file.read_text().removeprefix("oxc1_"))
    assert load_dataset(tmp_path).benchmark == "oxford5k"
    (tmp_path / "jpg" / "my_photo.jpg").touch()
    (tmp_path / "lab" / "balliol_1_query.txt").write_text("my_photo 1 2 3 4")
    assert load_dataset(tmp_path).benchmark is None


def paris(folder: Path, *extra: str) -> Path:
    listed = ["paris_defense_000605", "paris_eiffel_000128", *CORRUPT, *extra]
    touch(folder / "jpg", [f"{name}.jpg" for name in listed])
    (folder / "lab").mkdir()
    files = {
        "defense_1_query": "paris_defense_000605 1.5 2 300 400",
        "defense_1_good": "paris_defense_000605",
        "defense_1_ok": "paris_eiffel_000128\nparis_pompidou_000640",
        "defense_1_junk": "paris_triomphe_000867",
    }
    for name, content in files.items():
        (folder / "lab" / f"{name}.txt").write_text(content)
    return folder


def test_images_of_paris_that_are_none_are_left_out(tmp_path: Path) -> None:
    dataset = load_dataset(paris(tmp_path))
    assert dataset.benchmark == "paris6k"
    assert dataset.database == ("paris_defense_000605", "paris_eiffel_000128")
    assert dataset.queries == (
        Query(
            name="paris_defense_000605",
            positives=names("paris_defense_000605", "paris_eiffel_000128"),
            junk=names(),
            kind="all",
            bbox=(1.5, 2, 300, 400),
            keeps_itself=True,
        ),
    )


def test_as_many_images_of_paris_are_none_as_its_size_says() -> None:
    assert len(CORRUPT) == 6412 - 6392  # files in the archives, and images of Paris6k


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("balliol_1_good", "ghost", r"balliol_1_good\.txt names 'ghost', .* no .*jpg/ghost\.jpg"),
        ("balliol_1_junk", "ghost", r"balliol_1_junk\.txt names 'ghost', .* no .*jpg/ghost\.jpg"),
        (
            "balliol_1_query",
            "oxc1_balliol_000051 1 2 3",
            r"balliol_1_query\.txt is 'oxc1_.* 1 2 3'",
        ),
        ("balliol_1_query", "", r"balliol_1_query\.txt is ''"),
        ("balliol_1_query", "new_000002 9 2 3 4", r"query 'new_000002' has the box \['9', '2', "),
        ("balliol_1_query", "new_000002 1 2 3 x", r"query 'new_000002' has the box \['1', '2', "),
        ("balliol_1_query", "new_000002 1 2 3 nan", "query 'new_000002' has the box"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, file: str, content: str, message: str) -> None:
    (oxford(tmp_path) / "lab" / f"{file}.txt").write_text(content)
    with pytest.raises(InvalidOption, match=message):
        load_dataset(tmp_path)


def test_a_text_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    file = oxford(tmp_path) / "lab" / "balliol_1_ok.txt"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidOption, match=r"balliol_1_ok\.txt is no text"):
        load_dataset(tmp_path)
    file.unlink()
    with pytest.raises(InvalidOption, match=r"cannot read .*balliol_1_ok\.txt: No such file"):
        load_dataset(tmp_path)


def test_a_missing_image_of_oxford_is_named(tmp_path: Path) -> None:
    (oxford(tmp_path) / "jpg" / "all_souls_000026.jpg").unlink()
    with pytest.raises(InvalidOption, match=r"there is no .*jpg/all_souls_000026\.jpg"):
        load_dataset(tmp_path)


def test_a_missing_query_image_is_found(tmp_path: Path) -> None:
    dataset = load_dataset(oxford(tmp_path))
    query = tmp_path / "jpg" / "all_souls_000013.jpg"
    query.unlink()
    assert missing_files(dataset) == [query]


def test_two_folders_of_query_files_are_named(tmp_path: Path) -> None:
    oxford(tmp_path)
    touch(tmp_path / "gt", ["a_query.txt"])
    with pytest.raises(InvalidOption, match=r"several folders of query files: .*/gt, .*/lab"):
        load_dataset(tmp_path)


def test_images_that_are_still_in_subfolders_are_asked_for(tmp_path: Path) -> None:
    oxford(tmp_path)
    (tmp_path / "jpg").rename(tmp_path / "elsewhere")
    (tmp_path / "jpg").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "jpg" / "oxford")
    with pytest.raises(InvalidOption, match=r"jpg holds no \.jpg file; move them there"):
        load_dataset(tmp_path)


# Revisited, and classic in the same form

REVISITED: dict[str, Any] = {
    "imlist": [
        "all_souls_000001",
        "balliol_000002",
        "new_000003",
        "trinity_000004",
        "oriel_000005",
    ],
    "qimlist": ["all_souls_000013", "oxford_000317", "radcliffe_camera_000031"],
    "gnd": [
        {"easy": [0, 1], "hard": [3], "junk": [4], "bbx": [136.5, 34.25, 648.5, 955.75]},
        {"easy": [], "hard": [2], "junk": [], "bbx": [1, 2, 3, 4]},
        {"easy": [4], "hard": [], "junk": [0, 1], "bbx": [0, 0, 10, 20]},
    ],
}
CLASSIC: dict[str, Any] = {
    "imlist": ["paris_eiffel_000001", "paris_eiffel_000002", "paris_louvre_000003"],
    "qimlist": ["paris_eiffel_000002"],
    "gnd": [{"ok": [0, 1], "junk": [2], "bbx": [1, 2, 3, 4.5]}],
}


def revisited_queries() -> tuple[Query, ...]:
    a, b, n, t, o = REVISITED["imlist"]
    first, second, third = REVISITED["qimlist"]
    box, small, large = (136.5, 34.25, 648.5, 955.75), (1, 2, 3, 4), (0, 0, 10, 20)
    return (
        Query(first, names(a, b), names(o, t), "easy", box),
        Query(third, names(o), names(a, b), "easy", large),
        Query(first, names(a, b, t), names(o), "medium", box),
        Query(second, names(n), names(), "medium", small),
        Query(third, names(o), names(a, b), "medium", large),
        Query(first, names(t), names(o, a, b), "hard", box),
        Query(second, names(n), names(), "hard", small),
    )


def as_pickle(folder: Path, content: object, *, arrays: bool = False, protocol: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    if arrays:
        assert isinstance(content, dict)
        entries = [{k: np.array(v) for k, v in entry.items()} for entry in content["gnd"]]
        content = {**content, "imlist": np.array(content["imlist"]), "gnd": entries}
    (folder / "gnd_made.pkl").write_bytes(pickle.dumps(content, protocol))
    return folder


def cell(values: list[str]) -> np.ndarray[Any, Any]:
    """A MATLAB cell array of texts, a column as in the published files."""
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


def as_matlab(folder: Path, content: dict[str, Any], **options: Any) -> Path:
    """The same with indices from 1, as MATLAB has them: `gnd` is an array of structures."""
    folder.mkdir(exist_ok=True)
    fields = list(content["gnd"][0])
    entries = np.empty((1, len(content["gnd"])), [(field, object) for field in fields])
    for place, entry in enumerate(content["gnd"]):
        for field in fields:
            values = np.array(entry[field], float)
            entries[0, place][field] = values if field == "bbx" else values + 1
    variables = {
        "imlist": cell(content["imlist"]),
        "qimlist": cell(content["qimlist"]),
        "gnd": entries,
        "other": 3,
    }
    savemat(folder / "gnd_made.mat", variables, **options)
    return folder


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("arrays", [False, True])
def test_a_revisited_query_becomes_an_easy_a_medium_and_a_hard_one(
    tmp_path: Path, arrays: bool, protocol: int
) -> None:
    folder = as_pickle(tmp_path / "roxford5k", REVISITED, arrays=arrays, protocol=protocol)
    dataset = load_dataset(folder)
    assert dataset == Dataset(
        name="roxford5k",
        folder=folder,
        database=tuple(REVISITED["imlist"]),
        queries=revisited_queries(),
        format="revisited",
        benchmark="roxford5k",
        upright=False,
        images="jpg",
        suffix=".jpg",
    )
    assert dataset.path("new_000003") == folder / "jpg" / "new_000003.jpg"


def test_classic_ground_truth_in_the_same_form_leaves_the_query_in_its_ranking(
    tmp_path: Path,
) -> None:
    e1, e2, l3 = CLASSIC["imlist"]
    dataset = load_dataset(as_pickle(tmp_path / "paris", CLASSIC))
    assert dataset == Dataset(
        name="paris",
        folder=tmp_path / "paris",
        database=(e1, e2, l3),
        queries=(Query(e2, names(e1, e2), names(l3), "all", (1, 2, 3, 4.5), keeps_itself=True),),
        format="oxford",
        benchmark="paris6k",
        upright=False,
        images="jpg",
        suffix=".jpg",
    )


@pytest.mark.parametrize("content", [REVISITED, CLASSIC], ids=["revisited", "classic"])
@pytest.mark.parametrize("options", [{}, {"do_compression": True}, {"oned_as": "column"}])
def test_a_matlab_file_is_read_as_the_pickle_is(
    tmp_path: Path, content: dict[str, Any], options: dict[str, Any]
) -> None:
    pickled = load_dataset(as_pickle(tmp_path / "pickled", content))
    matlab = load_dataset(as_matlab(tmp_path / "matlab", content, **options))
    assert replace(matlab, name="", folder=Path()) == replace(pickled, name="", folder=Path())


def test_other_shapes_of_matlab_files_are_read_alike(tmp_path: Path) -> None:
    expected = load_dataset(as_pickle(tmp_path, CLASSIC))
    (tmp_path / "gnd_made.pkl").unlink()
    one = {"ok": [[1.0], [2.0]], "junk": 3.0, "bbx": np.array([[1], [2], [3], [4.5]])}
    for variables in (
        {"imlist": cell(CLASSIC["imlist"]).T, "qimlist": cell(CLASSIC["qimlist"]), "gnd": one},
        # Rows of one matrix of characters, and a text that is in no cell.
        {"imlist": CLASSIC["imlist"], "qimlist": CLASSIC["qimlist"][0], "gnd": one},
        {"imlist": CLASSIC["imlist"], "qimlist": CLASSIC["qimlist"], "gnd": [one]},
    ):
        savemat(tmp_path / "gnd_made.mat", variables)
        assert load_dataset(tmp_path) == expected


def test_single_numbers_and_matrices_in_a_pickle_are_lists(tmp_path: Path) -> None:
    expected = load_dataset(as_pickle(tmp_path, CLASSIC))
    box = np.array([[1, 2, 3, 4.5]])
    squeezed = {"ok": np.array([[0], [1]]), "junk": np.int64(2), "bbx": box}
    byte_names = np.array([name.encode() for name in CLASSIC["imlist"]])
    content = {**CLASSIC, "imlist": byte_names, "gnd": (squeezed,)}
    assert load_dataset(as_pickle(tmp_path, content)) == expected


@pytest.mark.parametrize("box", [None, [], "absent"])
def test_without_a_box_the_whole_image_is_the_query(tmp_path: Path, box: object) -> None:
    entry = {"ok": [0], "junk": [], "bbx": box}
    if box == "absent":
        del entry["bbx"]
    dataset = load_dataset(as_pickle(tmp_path, {**CLASSIC, "gnd": [entry]}))
    assert dataset.queries[0].bbox is None


def test_ground_truth_of_both_kinds_is_read_from_the_pickle(tmp_path: Path) -> None:
    as_matlab(tmp_path, CLASSIC)
    assert load_dataset(as_pickle(tmp_path, REVISITED)).format == "revisited"


def test_ground_truth_that_was_added_to_oxford_is_read_in_its_place(tmp_path: Path) -> None:
    assert load_dataset(as_pickle(oxford(tmp_path), REVISITED)).format == "revisited"


def test_several_ground_truths_are_named(tmp_path: Path) -> None:
    as_pickle(tmp_path, REVISITED)
    (tmp_path / "gnd_other.mat").touch()
    with pytest.raises(InvalidOption, match=r"several ground truths: .*gnd_made\.pkl"):
        load_dataset(tmp_path)


def test_names_of_other_places_are_of_no_benchmark(tmp_path: Path) -> None:
    for queries, benchmark in (
        (["paris_eiffel_000001", "paris_louvre_000002"], "rparis6k"),
        (["paris_eiffel_000001", "oxford_000002"], None),
        (["my_photo", "oxford_000002"], None),
    ):
        content = {**REVISITED, "qimlist": queries, "gnd": REVISITED["gnd"][:2]}
        assert load_dataset(as_pickle(tmp_path, content)).benchmark == benchmark


def changed(place: int, **fields: object) -> dict[str, Any]:
    """REVISITED with other fields in one entry."""
    entries = [dict(entry) for entry in REVISITED["gnd"]]
    entries[place] |= fields
    return {**REVISITED, "gnd": entries}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no dictionary"),
        ({}, "has no list 'imlist'"),
        ({**REVISITED, "imlist": "name"}, "has no list 'imlist'"),
        ({**REVISITED, "imlist": ["a", 7]}, "imlist holds 7, which is no image name"),
        ({**REVISITED, "imlist": ["a", ""]}, "imlist holds '', which is no image name"),
        ({**REVISITED, "imlist": ["a", [["b"]]]}, r"imlist holds \[\.\.\.\], which is no"),
        ({**REVISITED, "qimlist": None}, "has no list 'qimlist'"),
        ({**REVISITED, "qimlist": []}, "gnd must be a list of 0 entries"),
        ({**REVISITED, "gnd": REVISITED["gnd"][:2]}, "gnd must be a list of 3 entries"),
        ({**REVISITED, "gnd": {}}, "gnd must be a list of 3 entries"),
        ({**REVISITED, "imlist": []}, "indices go from 0 to -1"),
        ({"imlist": [], "qimlist": [], "gnd": []}, "the database is empty"),
        ({"imlist": ["a"], "qimlist": [], "gnd": []}, "has no query"),
        ({**REVISITED, "imlist": list("abcda")}, "the database has 'a' twice"),
        ({**REVISITED, "gnd": [*REVISITED["gnd"][:2], 3]}, "'radcliffe_camera_000031' has no dict"),
        (changed(1, hard=[5]), "query 'oxford_000317': hard has the index 5; .* from 0 to 4"),
        (changed(1, hard=[-1]), "query 'oxford_000317': hard has the index -1"),
        (changed(1, junk=[1.5]), "query 'oxford_000317': junk has the index 1.5"),
        (changed(1, junk=[float("nan")]), "junk has the index nan"),
        (changed(1, junk=[float("inf")]), "junk has the index inf"),
        (changed(1, easy=["a"]), "easy has the index 'a'"),
        (changed(1, easy=None), "easy has the index None"),
        (changed(1, easy=[[[1]]]), r"easy has the index \[1\]"),
        (changed(2, bbx=[1, 2, 3]), r"'radcliffe_camera_000031' has the box \[1, 2, 3\]; it must"),
        (changed(2, bbx=[3, 2, 1, 4]), r"has the box \[3, 2, 1, 4\]"),
        (changed(2, bbx=[1, 2, float("nan"), 4]), "has the box"),
        (changed(2, bbx="wide"), r"has the box \['wide'\]"),
        (
            {**REVISITED, "gnd": [{"easy": [0], "junk": []}] * 3},
            "query 'all_souls_000013' has no list 'hard'",
        ),
        ({**CLASSIC, "gnd": [{"ok": [0]}]}, "query 'paris_eiffel_000002' has no list 'junk'"),
        ({**CLASSIC, "gnd": [{"bad": [0]}]}, "query 'paris_eiffel_000002' has no list 'ok'"),
        ({**REVISITED, "gnd": [{"easy": [], "hard": [], "junk": []}] * 3}, "has no query"),
    ],
    ids=str,
)
def test_ground_truth_that_is_wrong_is_named(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(InvalidOption, match=rf"gnd_made\.pkl.*{message}"):
        load_dataset(as_pickle(tmp_path, content))


def test_an_index_in_a_matlab_file_is_named_as_it_is_written(tmp_path: Path) -> None:
    for wrong, written in ((5, "6.0"), (-1, "0.0")):
        with pytest.raises(InvalidOption, match=f"index {written}; indices go from 1 to 5"):
            load_dataset(as_matlab(tmp_path, changed(1, hard=[wrong])))


def test_a_query_that_is_easy_only_is_no_hard_one(tmp_path: Path) -> None:
    dataset = load_dataset(as_pickle(tmp_path, REVISITED))
    kinds: dict[str, list[str]] = {}
    for query in dataset.queries:
        kinds.setdefault(query.name, []).append(query.kind)
    assert list(kinds.values()) == [
        ["easy", "medium", "hard"],
        ["easy", "medium"],
        ["medium", "hard"],
    ]
    assert queries_without_positives(dataset) == []


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file", b"\0" * 600, b"x" * 600])
def test_what_is_no_matlab_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "gnd_made.mat").write_bytes(content)
    with pytest.raises(InvalidOption, match=r"gnd_made\.mat is no MATLAB file or a damaged one"):
        load_dataset(tmp_path)


def test_a_matlab_file_of_the_newest_version_is_named(tmp_path: Path) -> None:
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "gnd_made.mat").write_bytes(header + b"\x89HDF\r\n\x1a\n" + b"\0" * 600)
    with pytest.raises(InvalidOption, match=r"of version 7\.3; save it with -v7"):
        load_dataset(tmp_path)


@pytest.mark.filterwarnings("ignore")  # SciPy warns of some kinds of damage
def test_damaged_matlab_files_raise_only_our_error(tmp_path: Path) -> None:
    # Compressed, as the published ones are: the damage is found before it is interpreted.
    folder = as_matlab(tmp_path, REVISITED, do_compression=True)
    original = (folder / "gnd_made.mat").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        data = bytearray(original)
        for at in random.integers(200, len(data), int(random.integers(1, 6))):
            data[at] = random.integers(256)
        keep = len(data) if random.random() < 0.7 else int(random.integers(len(data)))
        (tmp_path / "gnd_made.mat").write_bytes(data[:keep])
        try:
            load_dataset(tmp_path)
        except InvalidOption:
            refused += 1
    assert refused > 50


def test_without_scipy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_matlab(tmp_path, REVISITED)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(InvalidOption, match=r"needs the extra `mat`: pip install '\.\[mat\]'"):
        load_dataset(tmp_path)
    load_dataset(as_pickle(tmp_path, REVISITED))


def test_missing_images_of_a_revisited_data_set_are_found_once(tmp_path: Path) -> None:
    dataset = load_dataset(as_pickle(tmp_path, REVISITED))
    listed = [*REVISITED["imlist"], *REVISITED["qimlist"]]
    expected = [tmp_path / "jpg" / f"{name}.jpg" for name in listed]
    assert set(missing_files(dataset)) == set(expected)
    assert len(missing_files(dataset)) == len(expected)
    touch(tmp_path / "jpg", [path.name for path in expected if "new_000003" not in path.name])
    touch(tmp_path / "jpg", ["one that is not named.jpg"])
    assert missing_files(dataset) == [tmp_path / "jpg" / "new_000003.jpg"]


def test_a_revisited_data_set_is_scored_from_end_to_end(tmp_path: Path) -> None:
    dataset = load_dataset(as_pickle(tmp_path, REVISITED))
    values = np.array([[0.9, 0.1, 0.8, 0.7, 0.6]]).repeat(len(dataset.queries), axis=0)
    scores = evaluate_similarities(dataset, values)
    # Ranked a n t o b. Easy: first a n b, third n t o; medium: first a n t b, second the second,
    # third n t o; hard: first n t, second the second.
    easy = [(1 + (1 / 2 + 2 / 3) / 2) / 2, (0 + 1 / 3) / 2]
    medium = [(1 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 3, 1 / 4, (0 + 1 / 3) / 2]
    hard = [1 / 4, 1 / 4]
    for kind, values_of in (("easy", easy), ("medium", medium), ("hard", hard)):
        assert scores.kinds[kind] == pytest.approx(100 * sum(values_of) / len(values_of))


# Holidays


@pytest.mark.parametrize("images", ["jpg", ""])
def test_holidays_is_known_by_its_six_digits(tmp_path: Path, images: str) -> None:
    listed = ["100000.jpg", "100001.jpg", "100002.jpg", "100100.jpg", "100101.jpg", "100200.jpg"]
    touch(tmp_path / "trip" / images, [*listed, ".100300.jpg", "readme.txt"])
    dataset = load_dataset(tmp_path / "trip")
    assert dataset == Dataset(
        name="trip",
        folder=tmp_path / "trip",
        database=tuple(listed),
        queries=(
            Query("100000.jpg", names("100001.jpg", "100002.jpg"), names(), "all"),
            Query("100100.jpg", names("100101.jpg"), names(), "all"),
            Query("100200.jpg", names(), names(), "all"),
        ),
        format="holidays",
        benchmark=None,
        upright=False,
        images=images,
    )
    assert missing_files(dataset) == []
    assert queries_without_positives(dataset) == ["100200.jpg"]


def test_holidays_of_the_published_size_is_the_benchmark(tmp_path: Path) -> None:
    listed = [f"{group}0{number}.jpg" for group in range(1000, 1500) for number in (0, 1)]
    listed += [f"{group}02.jpg" for group in range(1000, 1491)]
    touch(tmp_path, listed)
    dataset = load_dataset(tmp_path)
    assert (len(dataset.database), len(dataset.queries)) == (1491, 500)
    assert dataset.benchmark == "holidays"
    (tmp_path / "100002.jpg").unlink()
    assert load_dataset(tmp_path).benchmark is None


def test_other_names_are_no_holidays(tmp_path: Path) -> None:
    touch(tmp_path / "jpg", ["100000.jpg", "100001.jpg", "tower.jpg"])
    with pytest.raises(InvalidOption, match="is no data set"):
        load_dataset(tmp_path)


def test_holidays_without_a_query_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["100001.jpg", "100002.jpg"])
    with pytest.raises(InvalidOption, match="has no query"):
        load_dataset(tmp_path)


# Groups


def test_images_in_one_subfolder_are_of_one_origin(tmp_path: Path) -> None:
    touch(tmp_path / "b", ["2.png", "1.JPG", "3.webp", "notes.txt", ".hidden.png"])
    touch(tmp_path / "a", ["1.jpg", "x.jpg"])
    touch(tmp_path / "alone", ["1.jpg"])
    touch(tmp_path / "empty", ["notes.txt"])
    touch(tmp_path / ".cache", ["1.jpg"])
    touch(tmp_path, ["loose.jpg"])
    dataset = load_dataset(tmp_path)
    assert dataset == Dataset(
        name=tmp_path.name,
        folder=tmp_path,
        database=("a/1.jpg", "a/x.jpg", "alone/1.jpg", "b/1.JPG", "b/2.png", "b/3.webp"),
        queries=(
            Query("a/1.jpg", names("a/x.jpg"), names(), "all"),
            Query("a/x.jpg", names("a/1.jpg"), names(), "all"),
            Query("b/1.JPG", names("b/2.png", "b/3.webp"), names(), "all"),
            Query("b/2.png", names("b/1.JPG", "b/3.webp"), names(), "all"),
            Query("b/3.webp", names("b/1.JPG", "b/2.png"), names(), "all"),
        ),
        format="groups",
        benchmark=None,
        upright=True,
        images="",
    )
    assert dataset.path("b/2.png") == tmp_path / "b" / "2.png"
    assert missing_files(dataset) == []


def test_groups_of_one_image_each_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a", ["1.jpg"])
    touch(tmp_path / "b", ["1.jpg"])
    with pytest.raises(InvalidOption, match=f"{tmp_path} has no query"):
        load_dataset(tmp_path)


# Of any format


def test_queries_for_which_nothing_is_to_be_found_are_named() -> None:
    queries = (
        Query("found", names("a"), names(), "all"),
        Query("nothing", names(), names(), "all"),
        Query("junk only", names("a"), names("a"), "all"),
        Query("b", names("b"), names(), "all"),
        Query("a", names("a"), names(), "all", keeps_itself=True),
        Query("nothing", names(), names(), "other"),
    )
    dataset = Dataset("made", Path("nowhere"), ("a", "b"), queries)
    assert queries_without_positives(dataset) == ["nothing", "junk only", "b"]


def test_development_data_is_read(shared_data: Path) -> None:
    dataset = load_dataset(shared_data / "grocery")
    assert (dataset.format, dataset.benchmark, dataset.upright) == ("folder", None, True)
    assert len(dataset.queries) == 186
    assert missing_files(dataset) == []
