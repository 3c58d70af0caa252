"""What `cooc evaluate` writes besides its table: the page, contact sheets, the correlation."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.evaluating import pictures, report
from app.evaluating.pictures import safe_name, write_contact_sheets, write_correlation
from app.evaluating.report import method_label, render, write_report
from engine.cooccurrence import direct_filter, learned_cooccurrence
from engine.describer import Describer
from engine.errors import InvalidOption
from engine.evaluation import correlation
from engine.evaluation.correlation import grouped_queries, query_vectors
from engine.evaluation.datasets import Dataset, Query, load_dataset
from engine.evaluation.methods import Method, Projection, QueryExpansion
from engine.evaluation.protocols import evaluate_similarities
from engine.evaluation.run import Evaluated
from engine.images import decode
from engine.pictures import (
    Relevance,
    SheetHit,
    contact_sheet,
    correlation_of,
    correlation_picture,
)
from engine.types import Expansion, Pixels
from tests.benchmarks_made import BOX, LANDMARKS, oxford, revisited
from tests.drawing import encode, photo, scene, view
from tests.test_cli import cooc

HOSTILE = "<script>alert(1)<b>\"' onload=x &amp;.jpg"
NOT_UTF8 = "caf\udce9.jpg"
VOID = {"meta", "br", "rect", "path", "use", "image"}


@dataclass
class Node:
    """An element of a page."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        parts = (part if isinstance(part, str) else part.text for part in self.children)
        return " ".join("".join(parts).split())

    def walk(self) -> Iterator[Node]:
        yield self
        for part in self.children:
            if isinstance(part, Node):
                yield from part.walk()

    def all(self, tag: str = "", kind: str = "") -> list[Node]:
        """Elements with that tag and class, in the order of the page."""
        return [
            node
            for node in self.walk()
            if tag in ("", node.tag)
            and (not kind or kind in node.attributes.get("class", "").split())
        ]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Node("page")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop().tag == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(page: str) -> Node:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert len(reader.open) == 1, "an element is not closed"
    return reader.open[0]


def made(folder: Path, names: list[str], queries: list[Query]) -> Dataset:
    """A data set of drawn scenes, as wide as high in none of them."""
    for seed, name in enumerate(names):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(seed, (160, 120)))
    return Dataset("drawn", folder, tuple(names), tuple(queries))


def ranked(dataset: Dataset, *rankings: list[str], pooling: str = "gem") -> Evaluated:
    """An evaluation in which each query finds the database in the order given."""
    similarities = np.zeros((len(rankings), len(dataset.database)), np.float32)
    for row, ranking in enumerate(rankings):
        for rank, name in enumerate(ranking):
            similarities[row, dataset.database.index(name)] = 0.99 - rank / 100
    scores = evaluate_similarities(dataset, similarities)
    return Evaluated(Method(pooling), scores, 7, similarities, None)


def query(name: str, *positives: str, junk: str = "", kind: str = "all") -> Query:
    return Query(name, frozenset(positives), frozenset([junk] if junk else []), kind)


LETTERS = [f"{letter}.jpg" for letter in "abcdefghijklmnopqrs"]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """19 images; `a` looks for b and c, `d` for e with junk f, `g` for h and i."""
    queries = [
        query("a.jpg", "b.jpg", "c.jpg"),
        query("d.jpg", "e.jpg", junk="f.jpg"),
        query("g.jpg", "h.jpg", "i.jpg"),
    ]
    return made(tmp_path / "set", LETTERS, queries)


@pytest.fixture
def evaluated(dataset: Dataset) -> Evaluated:
    """`a` is answered perfectly, `d` by its fourth, `g` by its third and its very last."""
    others = [name for name in LETTERS if name not in ("g.jpg", "h.jpg", "i.jpg")]
    return ranked(
        dataset,
        ["a.jpg", "b.jpg", "c.jpg"],
        ["d.jpg", "f.jpg", "a.jpg", "b.jpg", "c.jpg", "e.jpg", *LETTERS[6:]],
        [*others[:2], "h.jpg", *others[2:], "i.jpg"],
    )


def opened(file: Path | io.BytesIO) -> Image.Image:
    """The image with its pixels, and the file closed again."""
    with Image.open(file) as image:
        image.load()
        return image


def cards(page: Node) -> dict[str, Node]:
    return {card.all("h4")[0].text: card for card in page.all("article")}


def shown(hits: Node) -> list[tuple[str, str]]:
    """Name and colour of each hit of a list."""
    return [
        (hit.all("span", "name")[0].attributes["title"], hit.attributes["class"].split()[1])
        for hit in hits.all("li", "hit")
    ]


def test_the_worst_query_comes_first_with_its_figures(
    dataset: Dataset, describer: Describer, evaluated: Evaluated
) -> None:
    page = read(render(dataset, describer, [evaluated]))
    assert list(cards(page)) == ["d.jpg", "g.jpg", "a.jpg"]
    # By hand, ranks from 0. d: 3 of 1 positive. g: 2 and 17 of 2.
    of_d = (0 + 1 / 4) / 2
    of_g = ((0 + 1 / 3) / 2 + (1 / 17 + 2 / 18) / 2) / 2
    for name, ap in (("d.jpg", of_d), ("g.jpg", of_g), ("a.jpg", 1.0)):
        assert cards(page)[name].all("p", "ap")[0].text == f"AP {100 * ap:.1f}"
    text = cards(page)["g.jpg"].all("header")[0].text
    assert "first positive at rank 3" in text
    assert "positives in the first 10: 1 of 2" in text
    assert [node.text for node in page.all("h3")] == ["Worst 2 queries", "Best 1 query"]
    facts = [node.text for node in page.all("ul", "facts")[0].all("li")]
    assert facts[1:] == ["1 of 3 queries have a positive first", "0 of 3 have none in the first 10"]
    rows = page.all("table", "all")[0].all("tbody")[0].all("tr")
    assert [row.all("th")[0].text for row in rows] == ["d.jpg", "g.jpg", "a.jpg"]
    assert [row.all("td")[-1].text for row in rows] == [f"{100 * ap:.1f}" for ap in (of_d, of_g, 1)]


def test_frames_are_green_for_positives_and_neither_junk_nor_the_query_is_shown(
    dataset: Dataset, describer: Describer, evaluated: Evaluated
) -> None:
    found = cards(read(render(dataset, describer, [evaluated])))
    first = shown(found["d.jpg"].all("ol", "hits")[0])
    assert first[:5] == [
        ("a.jpg", "wrong"),
        ("b.jpg", "wrong"),
        ("c.jpg", "wrong"),
        ("e.jpg", "positive"),
        ("g.jpg", "wrong"),
    ]
    assert len(first) == 10
    assert not {"d.jpg", "f.jpg"} & {name for name, _ in first}
    of_a = [colour for _, colour in shown(found["a.jpg"].all("ol", "hits")[0])]
    assert of_a == ["positive"] * 2 + ["wrong"] * 8


def test_positives_that_were_ranked_last_are_shown_with_their_ranks(
    dataset: Dataset, describer: Describer, evaluated: Evaluated
) -> None:
    found = cards(read(render(dataset, describer, [evaluated])))
    (missed,) = found["g.jpg"].all("ul", "hits")
    assert shown(missed) == [("i.jpg", "positive")]
    assert missed.all("span", "rank")[0].text == "rank 18"
    assert "missed: rank 18" in missed.all("svg")[0].attributes["aria-label"]
    assert not found["d.jpg"].all("ul", "hits")  # its only positive is among the hits


def test_equal_queries_keep_the_order_of_the_data_set(tmp_path: Path, describer: Describer) -> None:
    names = [f"{number:02d}.jpg" for number in range(26)]
    dataset = made(tmp_path, names, [query(a, b) for a, b in pairwise(names)])
    evaluated = ranked(dataset, *([b] for b in names[1:]))
    assert evaluated.scores.map == 100
    page = read(render(dataset, describer, [evaluated]))
    assert [node.text for node in page.all("h3")] == ["Worst 10 queries", "Best 10 queries"]
    assert [node.text for node in page.all("h4")] == [*names[:10], *names[:10]]


def test_each_picture_is_in_the_page_once_and_nothing_is_loaded(
    dataset: Dataset, describer: Describer, evaluated: Evaluated
) -> None:
    other = replace(evaluated, method=Method("cbp_ac", Projection("fitted")), fitted_on="drawn")
    text = render(dataset, describer, [evaluated, other])
    page = read(text)
    pictures = page.all("image")
    named = {name for card in page.all("article") for name, _ in shown(card)}
    named |= set(cards(page))
    assert len(pictures) == len(named) == text.count("data:image/jpeg;base64,")
    known = {f"#{picture.attributes['id']}" for picture in pictures}
    used = [node.attributes["href"] for node in page.all("use")]
    assert set(used) == known
    assert len(used) > 2 * len(known)
    for node in page.walk():
        assert node.tag not in ("script", "link", "img", "iframe", "object", "embed", "base")
        assert not {"src", "srcset", "style", "xlink:href", "action"} & node.attributes.keys()
        assert node.attributes.get("href", "#").startswith(("#", "data:image/jpeg;"))
    assert not re.search(r"https?:|url\(|@import", text)
    for picture in pictures:
        data = base64.b64decode(picture.attributes["href"].partition(",")[2])
        assert opened(io.BytesIO(data)).size == (160, 120)


def test_a_page_of_many_pictures_has_smaller_ones(
    dataset: Dataset,
    describer: Describer,
    evaluated: Evaluated,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "FULL_SIZE", 7)
    for picture in read(render(dataset, describer, [evaluated])).all("image"):
        data = base64.b64decode(picture.attributes["href"].partition(",")[2])
        assert 80 <= opened(io.BytesIO(data)).width < 130
        assert picture.attributes["width"] == "160"  # where boxes are measured


def test_names_do_not_become_markup(tmp_path: Path, describer: Describer) -> None:
    names = [HOSTILE, NOT_UTF8, "c.jpg"]
    kinds = ("<i>one</i>", "{{ 7 * 7 }}")
    queries = [query(HOSTILE, NOT_UTF8, kind=kinds[0]), query("c.jpg", HOSTILE, kind=kinds[1])]
    dataset = replace(made(tmp_path, names, queries), name="</title><script>")
    path = tmp_path / "report.html"
    write_report(path, dataset, describer, [ranked(dataset, [NOT_UTF8], [NOT_UTF8, HOSTILE])])
    page = read(path.read_text(encoding="utf-8"))
    assert not page.all("script")
    assert not page.all("i")
    assert not any(name.startswith("on") for node in page.walk() for name in node.attributes)
    assert [node.text for node in page.all("h4")] == ["c.jpg", HOSTILE]
    assert {name for card in page.all("article") for name, _ in shown(card)} == {
        HOSTILE,
        "caf\\udce9.jpg",
        "c.jpg",
    }
    assert page.all("title")[0].text == "Evaluation of </title><script>"
    assert kinds[1] in page.text
    assert len(page.all("image")) == 3


def test_the_part_that_was_searched_for_is_drawn_on_the_whole_query(
    tmp_path: Path, describer: Describer
) -> None:
    folder = oxford(tmp_path / "Oxford")
    dataset = load_dataset(folder)
    names = [sorted(entry.counted()) for entry in dataset.queries]
    page = read(render(dataset, describer, [ranked(dataset, *names)]))
    for card in page.all("article"):
        picture = card.all("svg")[0]
        assert picture.attributes["viewbox"] == "0 0 300 200"
        for box in picture.all("rect"):
            x, y, width, height = (
                float(box.attributes[name]) for name in ("x", "y", "width", "height")
            )
            assert (x, y, x + width, y + height) == BOX
        assert len(picture.all("rect")) == 2
        assert not card.all("ol")[0].all("rect")


def test_a_picture_that_is_gone_leaves_its_name(
    dataset: Dataset, describer: Describer, evaluated: Evaluated
) -> None:
    dataset.path("a.jpg").unlink()
    dataset.path("b.jpg").write_bytes(photo(1)[:300])
    page = read(render(dataset, describer, [evaluated]))
    gone = page.all("span", "gone")
    assert {node.text for node in gone} == {"a.jpg", "b.jpg"}
    assert all("cannot be read" in node.attributes["aria-label"] for node in gone)
    assert cards(page).keys() == {"d.jpg", "g.jpg", "a.jpg"}


def test_the_head_says_what_was_evaluated(
    dataset: Dataset, describer: Describer, evaluated: Evaluated
) -> None:
    method = Method(
        "cbp_ac", Projection("fitted"), QueryExpansion(Expansion.ALPHA, neighbours=3), 5
    )
    other = replace(evaluated, method=method, fitted_on="elsewhere")
    lonely = replace(dataset, queries=(*dataset.queries, query("s.jpg")))
    page = read(render(lonely, describer, [evaluated, other]))
    head = page.all("header", "head")[0].text
    for word in (
        "drawn",
        "squeezenet1_1",
        describer.trunk.layer,
        describer.weights.digest,
        "128 pixels",
        "float32",
        "The weights are untrained.",
        "4; 1 without a positive, not counted",
    ):
        assert word in head
    label = "cbp_ac, projection fitted (elsewhere), expansion alpha 3, augmentation 5"
    assert method_label(other) == label
    assert [node.text for node in page.all("h2")] == [
        "Methods",
        "1. gem, projection none",
        f"2. {label}",
        "All queries",
    ]
    row = page.all("tbody")[0].all("tr")[1]
    scores = evaluated.scores
    figures = [scores.map, *scores.precision_at.values()]
    assert [cell.text for cell in row.all("td")] == ["7", "3", *(f"{x:.2f}" for x in figures)]


def test_kinds_of_queries_have_columns(tmp_path: Path, describer: Describer) -> None:
    queries = [query("a.jpg", "b.jpg", kind="easy"), query("b.jpg", "c.jpg", kind="hard")]
    dataset = made(tmp_path, LETTERS[:4], queries)
    page = read(render(dataset, describer, [ranked(dataset, ["b.jpg"], ["d.jpg", "c.jpg"])]))
    columns = [cell.text for cell in page.all("thead")[0].all("th")]
    cells = [cell.text for cell in page.all("tbody")[0].all("td")]
    figures = dict(zip(columns[1:], cells, strict=True))
    # The positive of "hard" is at rank 1 from 0: (0 + 1/2) / 2.
    assert (figures["easy"], figures["hard"], figures["mAP"]) == ("100.00", "25.00", "62.50")


def test_histograms_count_every_query_once(tmp_path: Path, describer: Describer) -> None:
    names = [f"{number:02d}.jpg" for number in range(12)]
    dataset = made(tmp_path, names, [query(name, "11.jpg") for name in names[:6]])
    ranks = [0, 1, 1, 4, 9, 10]
    rankings = []
    for name, rank in zip(names, ranks, strict=False):
        others = [other for other in names[:11] if other != name]
        rankings.append([*others[:rank], "11.jpg", *others[rank:]])
    page = read(render(dataset, describer, [ranked(dataset, *rankings)]))
    (drawn,) = page.all("svg", "histogram")
    # AP of one positive at rank r > 0 is 1 / (2 (r + 1)): 1, 1/4, 1/4, 1/10, 1/20, 1/22.
    label = "Queries by average precision: 0 to 10: 2, 10 to 20: 1, 20 to 30: 2, 90 to 100: 1"
    assert drawn.attributes["aria-label"] == label
    heights = [float(bar.attributes["height"]) for bar in drawn.all("rect")]
    assert heights == [66, 33, 66, 33]
    assert [node.text for node in drawn.all("text")][:4] == ["2", "1", "2", "1"]


def test_headings_are_in_order_and_pictures_have_words(
    dataset: Dataset, describer: Describer, evaluated: Evaluated
) -> None:
    page = read(render(dataset, describer, [evaluated]))
    levels = [int(node.tag[1]) for node in page.walk() if re.fullmatch("h[1-6]", node.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(next_ <= level + 1 for level, next_ in pairwise(levels))
    drawn = [node for node in page.all("svg") if "aria-hidden" not in node.attributes]
    assert len(drawn) > 30
    assert all(node.attributes["role"] == "img" for node in drawn)
    assert all(node.attributes["aria-label"].strip() for node in drawn)
    assert page.all("html")[0].attributes["lang"] == "en"


@pytest.mark.parametrize("place", ["nowhere/report.html", "a folder"])
def test_a_report_that_cannot_be_written_names_its_path(
    place: str, tmp_path: Path, dataset: Dataset, describer: Describer, evaluated: Evaluated
) -> None:
    (tmp_path / "a folder").mkdir()
    with pytest.raises(InvalidOption, match=f"cannot write .*{place}: "):
        write_report(tmp_path / place, dataset, describer, [evaluated])
    assert not list(tmp_path.glob("*.part"))


# --- contact sheets ---------------------------------------------------------------------------


def silent(done: int, total: int) -> None:
    """No progress."""


def small(dataset: Dataset, name: str) -> Pixels:
    return decode(dataset.path(name).read_bytes(), max_side=200).pixels


def test_a_contact_sheet_shows_the_query_and_its_first_twenty_hits(
    tmp_path: Path,
) -> None:
    names = [f"{number:02d}.jpg" for number in range(25)]
    queries = [query("00.jpg", "03.jpg", "24.jpg", junk="01.jpg"), query("05.jpg", "00.jpg")]
    dataset = made(tmp_path / "set", names, queries)
    evaluated = ranked(dataset, names, names)
    seen: list[tuple[int, int]] = []
    write_contact_sheets(
        tmp_path / "sheets", dataset, evaluated, lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 2), (2, 2)]
    written = sorted(path.name for path in (tmp_path / "sheets").iterdir())
    assert written == ["0001_00.jpg", "0002_05.jpg"]
    hits = [
        SheetHit(
            small(dataset, name),
            name,
            rank,
            float(evaluated.similarities[0, int(name[:2])]),
            Relevance.POSITIVE if name == "03.jpg" else Relevance.UNRELATED,
        )
        for rank, name in enumerate(names[2:22], start=1)
    ]
    # 03 is second: (0 + 1/2) / 2; 24 is at rank 22 from 0: (1/22 + 2/23) / 2.
    ap = ((0 + 1 / 2) / 2 + (1 / 22 + 2 / 23) / 2) / 2
    title = f"gem, projection none: AP {100 * ap:.1f}, 1 of 2 positives in the first 20"
    expected = contact_sheet(
        small(dataset, "00.jpg"), hits, name="00.jpg", title=title, columns=7, kind="jpg"
    )
    assert (tmp_path / "sheets" / "0001_00.jpg").read_bytes() == expected


def test_a_sheet_outlines_what_was_searched_for_and_names_the_kind(tmp_path: Path) -> None:
    names = ["0.jpg", "1.jpg", "2.jpg"]
    whole = query("0.jpg", "1.jpg", kind="easy")
    part = replace(query("1.jpg", "2.jpg", kind="hard"), bbox=(40, 30, 120, 90))
    dataset = made(tmp_path / "set", names, [whole, part])
    evaluated = ranked(dataset, names, names)
    write_contact_sheets(tmp_path / "sheets", dataset, evaluated, silent)
    for number, (asked, kind, box) in enumerate(
        # Drawn scenes are 160 pixels wide and 120 high.
        [(whole, "easy", None), (part, "hard", (0.25, 0.25, 0.75, 0.75))]
    ):
        ranking = [name for name in names if name != asked.name]
        hits = [
            SheetHit(
                small(dataset, name),
                name,
                rank,
                float(evaluated.similarities[number, names.index(name)]),
                Relevance.POSITIVE if name in asked.positives else Relevance.UNRELATED,
            )
            for rank, name in enumerate(ranking, start=1)
        ]
        ap = 100 * evaluated.scores.per_query[number].average_precision
        label = f"gem, projection none, {kind}"
        expected = contact_sheet(
            small(dataset, asked.name),
            hits,
            name=asked.name,
            title=f"{label}: AP {ap:.1f}, 1 of 1 positives in the first 20",
            part=box,
            columns=7,
            kind="jpg",
        )
        (written,) = (tmp_path / "sheets").glob(f"{number + 1:04d}_*")
        assert written.read_bytes() == expected


def test_sheets_stay_in_their_folder_whatever_the_names(tmp_path: Path) -> None:
    names = ["../images/up.jpg", "part/of/it.jpg", NOT_UTF8, HOSTILE]
    queries = [query(name, names[number - 1]) for number, name in enumerate(names)]
    dataset = made(tmp_path / "set", names, queries)
    sheets = tmp_path / "sheets"
    sheets.mkdir()
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(b"not ours")
    (sheets / f"0001_{safe_name(names[0])}.jpg").symlink_to(outside)
    (sheets / f"0002_{safe_name(names[1])}.jpg").write_bytes(b"of last time")
    before = sorted(path for path in tmp_path.rglob("*") if sheets not in path.parents)
    write_contact_sheets(sheets, dataset, ranked(dataset, *([name] for name in names)), silent)
    assert sorted(path for path in tmp_path.rglob("*") if sheets not in path.parents) == before
    assert outside.read_bytes() == b"not ours"
    assert sorted(path.name for path in sheets.iterdir()) == [
        "0001_.._images_up.jpg",
        "0002_part_of_it.jpg",
        "0003_caf_.jpg",
        "0004__script_alert_1_b_onload_x_amp_.jpg",
    ]
    for path in sheets.iterdir():
        assert not path.is_symlink()
        assert opened(path).format == "JPEG"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a b.jpg", "a_b"),
        ("all_souls_000013", "all_souls_000013"),
        ("v1.2", "v1.2"),
        ("photo.JPEG", "photo"),
        ("東京.png", "_"),
        ("c:\\x\\..\\y\0.webp", "c_x_.._y_"),
        ("long/" * 80, "long_" * 20),
    ],
)
def test_names_are_made_safe_for_files(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_queries_without_a_positive_have_no_sheet_and_keep_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [query("a.jpg"), query("b.jpg", "a.jpg"), query("c.jpg", "a.jpg"), query("d.jpg")]
    dataset = made(tmp_path / "set", LETTERS[:4], queries)
    evaluated = ranked(dataset, *([] for _ in queries))
    write_contact_sheets(tmp_path / "all", dataset, evaluated, silent)
    assert sorted(path.stem for path in (tmp_path / "all").iterdir()) == ["0002_b", "0003_c"]
    monkeypatch.setattr(pictures, "SHEETS", 1)
    write_contact_sheets(tmp_path / "first", dataset, evaluated, silent)
    assert [path.stem for path in (tmp_path / "first").iterdir()] == ["0002_b"]


def test_a_sheet_has_grey_where_a_picture_is_gone(
    tmp_path: Path, dataset: Dataset, evaluated: Evaluated
) -> None:
    write_contact_sheets(tmp_path / "before", dataset, evaluated, silent)
    dataset.path("d.jpg").unlink()
    write_contact_sheets(tmp_path / "after", dataset, evaluated, silent)
    before, after = (
        np.asarray(opened(tmp_path / folder / "0002_d.jpg")).astype(np.int16)
        for folder in ("before", "after")
    )
    changed = np.argwhere(np.abs(before - after).max(axis=2) > 40)
    top, left = changed.min(axis=0)
    bottom, right = changed.max(axis=0)
    middle = after[top + 8 : bottom - 8, left + 8 : right - 8]
    assert middle.size > 10_000
    assert np.abs(middle - 0x8A).max() <= 12  # as a JPEG has it


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, dataset: Dataset, evaluated: Evaluated
) -> None:
    with pytest.raises(InvalidOption, match=r"cannot make the folder .*nowhere/sheets: "):
        write_contact_sheets(tmp_path / "nowhere" / "sheets", dataset, evaluated, silent)


# --- correlation ------------------------------------------------------------------------------


def views(folder: Path) -> Dataset:
    """Two scenes, three views of each, mixed; those of one scene are each other's positives."""
    names = [f"{scene_}_{number}.jpg" for number in range(3) for scene_ in ("mill", "port")]
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = scene(1 if name.startswith("mill") else 2)
        path.write_bytes(view(drawn, keep=0.95 - 0.02 * int(name[5]), scale=0.9, quality=90))
    queries = [query(name, *(other for other in names if other[0] == name[0])) for name in names]
    return Dataset("views", folder, tuple(names), tuple(queries))


def test_views_of_one_scene_stand_together_and_correlate(
    tmp_path: Path, describer: Describer
) -> None:
    dataset = views(tmp_path)
    found = query_vectors(dataset, describer, cache_dir=tmp_path / "cache", progress=silent)
    assert found.labels == ["mill"] * 3 + ["port"] * 3
    matrix = correlation_of(found.vectors)
    within = [matrix[:3, :3], matrix[3:, 3:]]
    assert min(part.min() for part in within) > matrix[:3, 3:].max()


def test_correlations_are_those_of_the_summed_convolution(
    tmp_path: Path, describer: Describer
) -> None:
    """C_V by the published filter (Eq 4 to 6) in place of the box filter, un-normalised."""
    dataset = views(tmp_path)
    totals = []
    for name in sorted(dataset.database):
        pixels = describer.decode(dataset.path(name).read_bytes()).pixels
        ((features,),) = describer.maps(torch.from_numpy(np.stack([pixels])))
        filter_weight = direct_filter(features.shape[1], radius=4)
        tensor = learned_cooccurrence(features.contiguous(), filter_weight)
        totals.append(tensor.sum(dim=(2, 3))[0].numpy())
    found = query_vectors(dataset, describer, cache_dir=tmp_path / "cache", progress=silent)
    np.testing.assert_allclose(
        correlation_of(found.vectors), np.corrcoef(np.stack(totals).astype(np.float64)), atol=1e-4
    )


def test_many_queries_are_chosen_evenly_and_the_title_says_so(
    tmp_path: Path, describer: Describer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = views(tmp_path / "set")
    cache = tmp_path / "cache"
    whole = query_vectors(dataset, describer, cache_dir=cache, progress=silent)
    monkeypatch.setattr(correlation, "MAX_QUERIES", 3)
    some = query_vectors(dataset, describer, cache_dir=cache, progress=silent)
    assert (whole.total, some.total, len(some.labels)) == (6, 6, 3)
    np.testing.assert_array_equal(some.vectors, whole.vectors[[0, 2, 5]])
    write_correlation(tmp_path / "some.png", dataset, describer, cache, silent)
    expected = correlation_picture(
        correlation_of(some.vectors),
        ["mill", "mill", "port"],
        "views: correlation of total co-occurrences, 3 of 6 queries",
        caption=f"squeezenet1_1 {describer.trunk.layer}, untrained weights; "
        "direct co-occurrence, r = 4",
    )
    assert (tmp_path / "some.png").read_bytes() == expected


def test_a_correlation_that_cannot_be_written_names_its_path(
    tmp_path: Path, describer: Describer
) -> None:
    path = tmp_path / "nowhere" / "x.png"
    with pytest.raises(InvalidOption, match=r"cannot write .*nowhere/x\.png: "):
        write_correlation(path, views(tmp_path), describer, tmp_path / "cache", silent)


@pytest.mark.parametrize("make", [oxford, revisited])
def test_queries_of_the_landmark_sets_are_grouped_by_landmark(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    dataset = load_dataset(make(tmp_path / "set"))
    grouped = grouped_queries(dataset)
    assert [label for _, label in grouped] == list(LANDMARKS)  # each image once
    assert [dataset.queries[number].name for number, _ in grouped] == [
        f"{name}_000000" for name in LANDMARKS
    ]


def test_groups_are_of_one_kind_and_of_mutual_positives(tmp_path: Path) -> None:
    queries = (
        query("x1.jpg", "x2.jpg", kind="box"),
        query("y1.jpg", "z1.jpg", kind="can"),
        query("z1.jpg", kind="can"),  # does not return it
        query("w1.jpg", kind="can"),
        query("x2.jpg", "x1.jpg", "x3.jpg", kind="box"),
        query("y2.jpg", "y1.jpg", kind="box"),  # of another kind
        query("x3.jpg", "x2.jpg", kind="box"),  # through x2
    )
    dataset = Dataset("hand made", tmp_path, tuple(q.name for q in queries), queries)
    assert grouped_queries(dataset) == [
        (0, "box: x"),
        (4, "box: x"),
        (6, "box: x"),
        (5, "box: y"),
        (1, "can: y"),
        (2, "can: z"),
        (3, "can: w"),
    ]


def test_groups_by_folder_are_called_by_it(tmp_path: Path) -> None:
    for group in ("red door", "7"):
        (tmp_path / group).mkdir()
        for number in range(2):
            (tmp_path / group / f"{number}.jpg").write_bytes(encode(scene(number)))
    dataset = load_dataset(tmp_path)
    labels = [label for _, label in grouped_queries(dataset)]
    assert sorted(labels) == ["7", "7", "red door", "red door"]
    assert labels[0] == labels[1]


# --- the command ------------------------------------------------------------------------------


def test_the_command_writes_all_three(tmp_path: Path) -> None:
    folder = oxford(tmp_path / "Oxford")
    report, sheets, picture = (tmp_path / name for name in ("r.html", "sheets", "c.png"))
    cooc(
        "evaluate",
        folder,
        "--pooling=gem",
        "--pooling=cbp_ac:dim=512",
        "--projection=none",
        "--report",
        report,
        "--contact-sheets",
        sheets,
        "--correlation",
        picture,
        "--no-cache",
    )
    page = read(report.read_text())
    assert [node.text for node in page.all("h2")][1:3] == [
        "1. gem, projection none",
        "2. cbp_ac:dim=512, projection none",
    ]
    assert len(page.all("article")) == 2 * 3
    assert sorted(path.name for path in sheets.iterdir()) == [
        f"{number:04d}_{name}_000000.jpg" for number, name in enumerate(LANDMARKS, start=1)
    ]
    assert opened(picture).format == "PNG"
