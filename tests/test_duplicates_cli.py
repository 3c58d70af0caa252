"""`cooc index duplicates` and `rollback`: on a folder, by a service, and the page of it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app.assembly import open_searcher
from app.commands.duplicates import duplicates
from app.commands.duplicates_report import GROUPS, MEMBERS, render, write_duplicates
from app.settings import Settings
from benchmarks.crashing import pictures
from engine.errors import InvalidOption, UnknownImage
from engine.ingest import Offered, add_chunk
from tests.drawing import photo
from tests.server import serving
from tests.test_api import SMALL
from tests.test_cli import cooc, cooc_json

HOSTILE = "<script>alert(1)</script>\"'&.jpg"


def report_of(*groups: list[dict[str, Any]], size: int | None = None) -> dict[str, Any]:
    listed = [
        {"size": size or len(group), "keep": group[0]["id"], "members": group} for group in groups
    ]
    return {
        "bound": {"min_score": 0.9, "min_probability": None, "source": "option"},
        "images": 1234,
        "group_count": len(groups),
        "grouped": sum(map(len, groups)),
        "redundant": sum(map(len, groups)) - len(groups),
        "truncated": False,
        "groups": listed,
    }


def member(image_id: str, score: float = 1.0, **more: Any) -> dict[str, Any]:
    plain = {"p_same_origin": None, "width": 8, "height": 6, "kind": "near", "direct": True}
    return {"id": image_id, "score": score, **plain, **more}


def thumbnail(image_id: str) -> bytes:
    if image_id == "gone":
        raise UnknownImage("no image has the id 'gone'")
    return photo(len(image_id), (80, 60))


def test_the_page_shows_each_member_with_its_similarity() -> None:
    group = [
        member("a", kind="exact"),
        member("b", kind="exact"),
        member("ccc", 0.9512, p_same_origin=0.93),
        member("dd", 0.8, direct=False),
        member("gone", 0.99),
    ]
    page = render(report_of(group), thumbnail, title="photos")
    assert page.count("<svg") == 4
    assert page.count("data:image/jpeg;base64,") == 4
    assert "the picture is gone" in page
    assert "<b>0.951</b>, p 0.930" in page
    assert page.count('class="member keep"') == page.count('class="member indirect"') == 1
    assert "5 images" in page


def test_nothing_in_a_page_comes_from_elsewhere_or_runs() -> None:
    page = render(report_of([member(HOSTILE), member("b")]), thumbnail, title=HOSTILE)
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            for name, value in attrs:
                assert not name.startswith("on")
                assert not re.match(r"https?:|//", value or "")

    Reader().feed(page)
    assert "script" not in tags
    assert "li" in tags


def test_a_page_has_bounds_and_names_them() -> None:
    groups = [[member(f"{g}-{m}") for m in range(MEMBERS + 2)] for g in range(GROUPS + 3)]
    page = render(report_of(*groups), thumbnail, title="photos")
    assert page.count("<article") == GROUPS
    assert page.count("<li") == GROUPS * MEMBERS
    assert f"{GROUPS} largest of {GROUPS + 3}" in page
    assert f"{MEMBERS + 2} images, {MEMBERS} of them shown" in page


def test_a_page_without_groups_says_so(tmp_path: Path) -> None:
    path = tmp_path / "none.html"
    write_duplicates(path, report_of(), thumbnail, title="photos")
    assert "No two images" in path.read_text()
    with pytest.raises(InvalidOption, match="cannot write"):
        write_duplicates(tmp_path / "no" / "x.html", report_of(), thumbnail, title="photos")


def stored(folder: Path, photos: dict[str, bytes], builds: int = 0) -> tuple[str, str]:
    """A data folder with these photos, as options of a command."""
    opened = open_searcher(Settings(data_dir=folder, **SMALL))
    try:
        add_chunk(opened.searcher, [Offered(name, lambda d=d: d) for name, d in photos.items()])  # type: ignore[misc]
        for _ in range(builds):
            opened.searcher.build()
    finally:
        opened.close()
    return "--data-dir", str(folder)


@pytest.mark.slow
def test_the_command_agrees_with_the_service(tmp_path: Path) -> None:
    photos = {f"{seed:02d}.jpg": pictures.photo(seed) for seed in range(12)}
    photos |= {f"{n:02d}.png": pictures.other_file(pictures.photo(n)) for n in (3, 7)}
    data = stored(tmp_path / "index", photos)
    page = tmp_path / "here.html"
    wish = ("index", "duplicates", "--min-score", 0.999)
    here = cooc_json(*wish, "--report", page, *data)
    found = {frozenset(m["id"] for m in group["members"]) for group in here["groups"]}
    assert {frozenset({"03.jpg", "03.png"}), frozenset({"07.jpg", "07.png"})} <= found
    assert page.read_text().count("data:image/jpeg") == here["grouped"]
    with serving(tmp_path / "index"):
        other = tmp_path / "there.html"
        assert cooc_json(*wish, "--report", other, *data) == here
        assert other.read_text().count("data:image/jpeg") == here["grouped"]
        text = cooc(*wish, *data).stdout
        assert f"{here['group_count']} groups" in text and "03.png" in text


def test_a_report_that_is_no_page_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"must be a \.html file"):
        duplicates(report=tmp_path / "x.txt")


@pytest.mark.slow
def test_rollback_goes_to_the_generation_before(tmp_path: Path) -> None:
    data = stored(tmp_path / "index", {f"{n}.jpg": photo(n) for n in range(10)}, builds=2)
    assert cooc_json("index", "rollback", *data) == {"generation": 1, "count": 10}
    assert "no earlier generation" in cooc("index", "rollback", *data, code=1).stderr
    assert "generation 2 is live" in cooc("index", "rollback", "--to", 2, *data).stdout
