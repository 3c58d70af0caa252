from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Set
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from engine.describer import Describer
from engine.errors import InvalidOption, StorageFull, StorageReadOnly
from engine.images import digest
from engine.ingest import MAX_ID_LENGTH, Offered, add_chunk, check_id, id_from_name
from engine.originals import Originals
from engine.searcher import Searcher
from engine.types import AddOutcome, AddResult, Json, NewImage, SearchOptions
from tests.drawing import encode, photo, scene

ADDED, REPLACED = AddOutcome.ADDED, AddOutcome.REPLACED
SKIPPED, FAILED = AddOutcome.SKIPPED, AddOutcome.FAILED


def offer(
    name: str, data: bytes | Exception, image_id: str | None = None, **metadata: object
) -> Offered:
    def read() -> bytes:
        if isinstance(data, Exception):
            raise data
        return data

    values: Json = dict(metadata)
    return Offered(name, read, image_id, values)


def outcomes(results: list[AddResult]) -> list[tuple[AddOutcome, str | None]]:
    return [(result.outcome, result.id) for result in results]


def stored(searcher: Searcher) -> set[str]:
    records = searcher.catalog.by_rows(searcher.catalog.live_rows().tolist())
    return {record.id for record in records.values()}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# --- adding -----------------------------------------------------------------------------------


def test_offered_images_are_added_under_their_names_and_found(searcher: Searcher) -> None:
    offered = [offer(f"folder/{n}.jpg", photo(n), n=n) for n in range(20)]
    results = add_chunk(searcher, offered)
    assert outcomes(results) == [(ADDED, f"folder/{n}.jpg") for n in range(20)]
    assert [result.name for result in results] == [item.name for item in offered]
    for n in range(20):
        hit = searcher.search(photo(n), SearchOptions(limit=1)).hits[0]
        assert (hit.id, hit.score, hit.metadata) == (f"folder/{n}.jpg", 1.0, {"n": n})
    assert searcher.catalog.thumbnail("folder/3.jpg").startswith(b"\xff\xd8")
    assert searcher.verify() == []


def test_descriptors_are_those_of_a_single_add(searcher: Searcher) -> None:
    sizes = [(160, 120), (120, 160), (64, 64), (160, 120)]
    files = [photo(n, size) for n, size in enumerate(sizes)]
    add_chunk(searcher, [offer(f"{n}.jpg", data) for n, data in enumerate(files)])
    for n, data in enumerate(files):
        searcher.put("alone", data, {})
        rows = [searcher.catalog.get(name).row for name in (f"{n}.jpg", "alone")]
        ((_, vectors),) = searcher.catalog.descriptors(rows)
        # Up to rounding: a forward pass of one image adds in another order than one of two.
        np.testing.assert_allclose(vectors[0], vectors[1], atol=2e-5)


def test_nothing_offered_is_nothing_done(searcher: Searcher) -> None:
    assert add_chunk(searcher, []) == []


# --- the same bytes ---------------------------------------------------------------------------


def test_same_bytes_within_a_chunk_are_added_once(searcher: Searcher) -> None:
    results = add_chunk(
        searcher, [offer("a.jpg", photo(0)), offer("b.jpg", photo(1)), offer("c.jpg", photo(0))]
    )
    assert outcomes(results) == [(ADDED, "a.jpg"), (ADDED, "b.jpg"), (SKIPPED, None)]
    assert results[2].detail == "same bytes as 'a.jpg' of this upload"
    assert stored(searcher) == {"a.jpg", "b.jpg"}


def test_same_bytes_across_chunks_are_added_once(searcher: Searcher) -> None:
    add_chunk(searcher, [offer("a.jpg", photo(0))])
    rows = searcher.catalog.live_rows().tolist()
    results = add_chunk(searcher, [offer("a.jpg", photo(0)), offer("other.jpg", photo(0))])
    assert outcomes(results) == [(SKIPPED, "a.jpg"), (SKIPPED, "a.jpg")]
    assert results[1].detail == "the same bytes are indexed as 'a.jpg'"
    assert searcher.catalog.live_rows().tolist() == rows


def test_adding_again_keeps_an_original_that_is_missing_or_damaged(
    tmp_path: Path, describer: Describer
) -> None:
    data, folder = photo(1), tmp_path / "index" / "originals"
    for keeps in (False, True):
        originals = Originals(folder, keeps=keeps)
        with closing(Searcher(tmp_path / "index", describer, originals=originals)) as searcher:
            add_chunk(searcher, [offer("a.jpg", data)])
            assert originals.read(digest(data)) == (data if keeps else None)
            if keeps:
                originals.path(digest(data)).write_bytes(b"damaged")
                assert outcomes(add_chunk(searcher, [offer("a.jpg", data)])) == [(SKIPPED, "a.jpg")]
                assert originals.read(digest(data)) == data


def test_same_bytes_are_kept_under_each_explicit_id(searcher: Searcher) -> None:
    results = add_chunk(
        searcher,
        [offer("f", photo(0), "one"), offer("f", photo(0), "two"), offer("plain.jpg", photo(0))],
    )
    assert outcomes(results) == [(ADDED, "one"), (ADDED, "two"), (SKIPPED, None)]
    assert stored(searcher) == {"one", "two"}


def test_an_image_that_was_deleted_can_be_added_again(searcher: Searcher) -> None:
    add_chunk(searcher, [offer("a.jpg", photo(0))])
    searcher.delete("a.jpg")
    assert outcomes(add_chunk(searcher, [offer("a.jpg", photo(0))])) == [(ADDED, "a.jpg")]


# --- the same name ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", ["together", "apart"])
def test_different_images_of_one_name_are_both_kept(searcher: Searcher, chunks: str) -> None:
    offered = [offer("IMG_1.jpg", photo(n)) for n in range(3)]
    if chunks == "together":
        results = add_chunk(searcher, offered)
    else:
        results = [add_chunk(searcher, [item])[0] for item in offered]
    expected = ["IMG_1.jpg", *(f"IMG_1-{digest(photo(n))[:12]}.jpg" for n in (1, 2))]
    assert outcomes(results) == [(ADDED, name) for name in expected]
    for n, name in enumerate(expected):
        assert searcher.catalog.get(name).digest == digest(photo(n))


def test_the_longest_names_are_kept_apart_too(searcher: Searcher) -> None:
    name = "folder/" + "x" * 600 + ".jpg"
    results = add_chunk(searcher, [offer(name, photo(0)), offer(name, photo(1))])
    ids = {result.id for result in results}
    assert len(ids) == 2
    assert all(check_id(image_id or "").endswith(".jpg") for image_id in ids)


def test_an_explicit_id_replaces_the_image_of_that_id(searcher: Searcher) -> None:
    first = add_chunk(searcher, [offer("x", photo(0), "a"), offer("y", photo(1), "b")])
    assert outcomes(first) == [(ADDED, "a"), (ADDED, "b")]
    second = add_chunk(searcher, [offer("z", photo(2), "a", new=True)])
    assert outcomes(second) == [(REPLACED, "a")]
    assert searcher.catalog.get("a").digest == digest(photo(2))
    assert searcher.catalog.get("a").metadata == {"new": True}
    assert searcher.stats().count == 2
    # The same bytes once more: an explicit id is always obeyed.
    assert outcomes(add_chunk(searcher, [offer("z", photo(2), "a")])) == [(REPLACED, "a")]


def test_of_one_explicit_id_given_twice_the_last_is_kept(searcher: Searcher) -> None:
    results = add_chunk(searcher, [offer("first", photo(0), "a"), offer("last", photo(1), "a")])
    assert outcomes(results) == [(SKIPPED, "a"), (ADDED, "a")]
    assert results[0].detail == "the same id was given again later in this upload"
    assert searcher.catalog.get("a").digest == digest(photo(1))


# --- failures ---------------------------------------------------------------------------------


def test_bad_images_are_reported_and_stop_no_other(searcher: Searcher) -> None:
    tiny = encode(scene(5).resize((8, 8)), "png")
    results = add_chunk(
        searcher,
        [
            offer("good.jpg", photo(0)),
            offer("text.jpg", b"this is no image"),
            offer("empty.jpg", b""),
            offer("cut.jpg", photo(1)[:300]),
            offer("tiny.png", tiny),
            offer("gone.jpg", FileNotFoundError(2, "No such file")),
            offer("bad id.jpg", photo(2), "\x00"),
            offer("no id.jpg", photo(2), ""),
            offer("also good.jpg", photo(3)),
        ],
    )
    assert [result.outcome for result in results] == [ADDED] + [FAILED] * 7 + [ADDED]
    details = [result.detail or "" for result in results]
    for detail, part in zip(
        details[1:8],
        ("known format", "empty", "", "16", "No such file", "cannot be shown", "this one has 0"),
        strict=True,
    ):
        assert detail and part in detail
    assert stored(searcher) == {"good.jpg", "also good.jpg"}


@pytest.mark.parametrize("error", [StorageFull("full"), StorageReadOnly("locked")])
def test_a_bad_disk_stops_the_whole_chunk(searcher: Searcher, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        add_chunk(searcher, [offer("a.jpg", photo(0)), offer("b.jpg", error)])
    assert stored(searcher) == set()


def test_a_disk_that_fills_up_while_storing_stops_the_whole_chunk(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(images: object, **_: object) -> list[int]:
        raise StorageFull("no room is left")

    monkeypatch.setattr(searcher.catalog, "put", full)
    with pytest.raises(StorageFull, match="no room"):
        add_chunk(searcher, [offer("a.jpg", photo(0))])
    assert searcher.search(photo(0), SearchOptions()).hits == ()
    monkeypatch.undo()
    assert outcomes(add_chunk(searcher, [offer("a.jpg", photo(0))])) == [(ADDED, "a.jpg")]


def test_nothing_is_stored_once_it_is_told_to_stop(searcher: Searcher) -> None:
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(InterruptedError, match="stopped"):
        add_chunk(searcher, [offer("a.jpg", photo(0))], stopping=stopping)
    assert stored(searcher) == set()
    stopping.clear()
    assert outcomes(add_chunk(searcher, [offer("a.jpg", photo(0))], stopping=stopping)) == [
        (ADDED, "a.jpg")
    ]


# --- doing it again after a crash -------------------------------------------------------------


def test_a_repeated_chunk_counts_its_own_images_as_added(searcher: Searcher) -> None:
    add_chunk(searcher, [offer("IMG_1.jpg", photo(50)), offer("old.jpg", photo(51))])
    while now() <= searcher.catalog.get("old.jpg").created_at:
        pass
    started = now()
    offered = [
        offer("a.jpg", photo(0)),
        offer("IMG_1.jpg", photo(1)),
        offer("old.jpg", photo(51)),
        offer("copy of a.jpg", photo(0)),
        offer("bad.jpg", b"no image"),
    ]
    first = add_chunk(searcher, offered, since=started)
    rows = searcher.catalog.live_rows().tolist()
    again = add_chunk(searcher, offered, since=started)
    unique = f"IMG_1-{digest(photo(1))[:12]}.jpg"
    expected = [(ADDED, "a.jpg"), (ADDED, unique), (SKIPPED, "old.jpg")]
    assert outcomes(first)[:3] == outcomes(again)[:3] == expected
    assert [result.outcome for result in first] == [result.outcome for result in again]
    assert searcher.catalog.live_rows().tolist() == rows


def test_without_since_a_repeated_chunk_is_skipped(searcher: Searcher) -> None:
    offered = [offer("a.jpg", photo(0)), offer("b.jpg", photo(1))]
    add_chunk(searcher, offered)
    later = (datetime.now(UTC) + timedelta(seconds=1)).isoformat(timespec="milliseconds")
    for since in (None, later):
        again = add_chunk(searcher, offered, since=since)
        assert outcomes(again) == [(SKIPPED, "a.jpg"), (SKIPPED, "b.jpg")]


def test_a_repeated_chunk_with_ids_of_its_own_stores_nothing_again(searcher: Searcher) -> None:
    started = now()
    offered = [offer("a", photo(1), "mine/1", n=1), offer("b", photo(2), "mine/2")]
    add_chunk(searcher, offered, since=started)
    rows = searcher.catalog.live_rows().tolist()
    again = add_chunk(searcher, offered, since=started)
    assert outcomes(again) == [(ADDED, "mine/1"), (ADDED, "mine/2")]
    assert searcher.catalog.live_rows().tolist() == rows
    # Other metadata, other bytes or another run: those replace.
    changed = [offer("a", photo(1), "mine/1", n=2), offer("b", photo(3), "mine/2")]
    results = add_chunk(searcher, changed, since=started)
    assert outcomes(results) == [(REPLACED, "mine/1"), (REPLACED, "mine/2")]
    later = (datetime.now(UTC) + timedelta(seconds=1)).isoformat(timespec="milliseconds")
    assert outcomes(add_chunk(searcher, changed[:1], since=later)) == [(REPLACED, "mine/1")]


# --- ids --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photo.jpg", "photo.jpg"),
        ("a/b/c.jpg", "a/b/c.jpg"),
        ("/etc/passwd", "etc/passwd"),
        ("///a.jpg", "a.jpg"),
        ("../../secret.jpg", "secret.jpg"),
        ("a/../b/./c.jpg", "a/b/c.jpg"),
        ("a/.../b", "a/b"),
        ("C:\\Users\\me\\pic.jpg", "C:/Users/me/pic.jpg"),
        ("..\\..\\pic.jpg", "pic.jpg"),
        ("a\x00b\nc\x7f.jpg", "abc.jpg"),
        ("a/.\x01./b.jpg", "a/b.jpg"),
        ("a/.\u200b./b.jpg", "a/b.jpg"),
        ("\udcff\udcfe.jpg", ".jpg"),
        ("  spaced name .jpg  ", "spaced name .jpg"),
        ("写真/東京.jpg", "写真/東京.jpg"),
        (".hidden.jpg", ".hidden.jpg"),
        ("a//b.jpg", "a/b.jpg"),
        ("a/b/", "a/b"),
        ("photos/similar", "photos-similar"),
        ("photos/thumbnail", "photos-thumbnail"),
        ("thumbnail", "thumbnail"),
        ("", "image"),
        ("..", "image"),
        ("/", "image"),
        ("\x00", "image"),
    ],
)
def test_an_id_is_the_path_without_what_an_address_cannot_hold(name: str, expected: str) -> None:
    assert id_from_name(name) == expected
    assert check_id(expected) == expected


def test_every_name_gives_a_valid_id() -> None:
    random = np.random.default_rng(0)
    pieces = [
        "..",
        ".",
        "/",
        "\\",
        " ",
        "\x00",
        "a",
        "é",
        "\u200b",
        "similar",
        "thumbnail",
        "x" * 90,
    ]
    for _ in range(3000):
        name = "".join(random.choice(pieces, int(random.integers(0, 14))))
        image_id = id_from_name(name)
        assert check_id(image_id) == image_id
        assert not {"", ".", ".."} & set(image_id.split("/"))
        assert id_from_name(image_id) == image_id


def test_a_long_name_keeps_its_end() -> None:
    for extra in range(-3, 4):
        name = "x../" + "y" * (MAX_ID_LENGTH - 20 + extra) + ".jpg"
        image_id = id_from_name(name)
        assert len(check_id(image_id)) <= MAX_ID_LENGTH
        assert image_id.endswith("yyy.jpg")
        assert not {"", ".", ".."} & set(image_id.split("/"))


@pytest.mark.parametrize(
    "image_id",
    [
        "a",
        "a/b.jpg",
        "写真",
        "a b?c#d%2F",
        "...",
        "👩\u200d👧.jpg",
        "9.41\u202fAM.png",
        "x" * MAX_ID_LENGTH,
    ],
)
def test_good_ids_are_returned_as_they_are(image_id: str) -> None:
    assert check_id(image_id) == image_id


@pytest.mark.parametrize(
    ("image_id", "message"),
    [
        ("", "this one has 0"),
        ("x" * (MAX_ID_LENGTH + 1), "1 to 512 characters; this one has 513"),
        ("a\nb", "cannot be shown"),
        ("a\x00", "cannot be shown"),
        ("\udcff", "cannot be shown"),
        ("\u202e gpj.exe", "cannot be shown"),
        ("/", "cannot be shown"),
        (" ", "cannot be shown"),
        ("..", "as a part"),
        ("a/../b", "as a part"),
        ("./a", "as a part"),
        ("a/thumbnail", "an address of its own"),
        ("a/similar", "an address of its own"),
    ],
)
def test_ids_that_no_address_can_hold_are_refused(image_id: str, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        check_id(image_id)


def test_files_of_a_folder_are_read_when_their_turn_comes(
    searcher: Searcher, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{n}.jpg" for n in range(3)]
    for n, path in enumerate(paths):
        path.write_bytes(photo(n))
    reads: list[Callable[[], bytes]] = [path.read_bytes for path in paths]
    paths[1].unlink()
    results = add_chunk(
        searcher, [Offered(path.name, read) for path, read in zip(paths, reads, strict=True)]
    )
    assert [result.outcome for result in results] == [ADDED, FAILED, ADDED]
    assert "cannot be read" in (results[1].detail or "")


def test_a_name_taken_while_an_image_is_described_is_not_replaced(searcher: Searcher) -> None:
    """A put under the same id, acknowledged between the look at the catalog and the write."""
    has, store = searcher.catalog.has, searcher.store
    calls: list[str] = []

    def late_put(images: Sequence[NewImage], *, new_ids: Set[str] = frozenset()) -> list[int]:
        if not calls:
            calls.append("put")
            searcher.put("a.jpg", photo(1), {"mine": True})
        return store(images, new_ids=new_ids)

    searcher.store = late_put  # type: ignore[method-assign]
    (result,) = add_chunk(searcher, [offer("a.jpg", photo(2))])
    assert searcher.catalog.get("a.jpg").metadata == {"mine": True}
    assert result.outcome is ADDED
    assert result.id is not None and result.id != "a.jpg" and has(result.id)


def test_a_name_finds_a_free_id_even_if_both_usual_ones_are_taken(searcher: Searcher) -> None:
    data = photo(3)
    with_digest = f"a-{digest(data)[:12]}.jpg"
    searcher.put("a.jpg", photo(1), {})
    searcher.put(with_digest, photo(2), {})
    (result,) = add_chunk(searcher, [offer("a.jpg", data)])
    assert result.id == f"2-{with_digest}"
    assert len(stored(searcher)) == 3
