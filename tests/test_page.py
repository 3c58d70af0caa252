"""The page in a real browser, against a real service."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from PIL import Image

from app.security.keys import KeyFile
from app.security.scopes import Scope
from engine.catalog.merge_patch import merge_patch
from engine.types import Json
from tests.browser import PROGRAM, Browser, Page, browsing
from tests.drawing import photo, scene
from tests.keyed import key_id, new_key
from tests.prefix_proxy import prefixed
from tests.server import Server, serving

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium")

PHOTOS = 60
RESULTS = "#results > .card:not([hidden])"
FIRST = "document.querySelector('#results > .card')?.dataset.id"
DONE = "document.querySelector('#answer').getAttribute('aria-busy') === 'false'"
AXE = os.environ.get("AXE_CORE_JS", "")
"""Where axe.min.js of the npm package axe-core lies, for those who have it."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page") / "index"
    with serving(folder, COOC_KEEP_ORIGINALS="true", COOC_MAX_SIDE="320") as server:
        for year in (2023, 2024):
            seeds = range(PHOTOS // 2) if year == 2023 else range(PHOTOS // 2, PHOTOS)
            files = [("files", (f"set/{seed:02d}.jpg", photo(seed))) for seed in seeds]
            data = {"metadata": json.dumps({"year": year})}
            added = server.http.post("/index/add", files=files, data=data)
            server.finish(added.headers["Location"])
        built = server.http.post("/admin/index/build")
        assert server.finish(built.headers["Location"])["state"] == "succeeded"
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page as its visitor finds it; in the end nothing was complained of or asked elsewhere."""
    page = browser.page()
    page.goto(server.url)
    yield page
    assert page.errors == []
    asked = {
        urlsplit(url).netloc for url in page.requests if not url.startswith(("blob:", "data:"))
    }
    assert asked == {urlsplit(server.url).netloc}
    page.close()


@pytest.fixture
def query(tmp_path: Path) -> Path:
    """A file with the same bytes as the stored set/07.jpg."""
    path = tmp_path / "query.jpg"
    path.write_bytes(photo(7))
    return path


def search(page: Page, file: Path) -> None:
    page.upload("#query-file", file)
    found(page)


def found(page: Page) -> None:
    page.wait(f"{DONE} && {FIRST}")


def address(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(str(page.evaluate("location.href"))).query)


def test_a_photo_finds_itself_and_more_come_as_one_scrolls(page: Page, query: Path) -> None:
    page.wait("document.querySelectorAll('#sample-list img').length > 5")
    search(page, query)
    assert page.evaluate(FIRST) == "set/07.jpg"
    assert "exact" in page.text(RESULTS)
    assert page.evaluate("document.title") == "Co-occurrence image search"
    page.wait(
        "(document.querySelector('#results-more').scrollIntoView(),"
        f" document.querySelectorAll('{RESULTS}').length === {PHOTOS})"
    )
    page.wait(f"document.querySelector('#results-title').textContent === '{PHOTOS} results'")
    ids = page.evaluate("[...document.querySelectorAll('#results > .card')].map(c => c.dataset.id)")
    assert len(set(ids)) == PHOTOS


def test_photos_keep_their_shape(page: Page, server: Server) -> None:
    made = {"wide": (400, 160), "tall": (180, 280)}
    for number, (name, size) in enumerate(made.items()):
        data = io.BytesIO()
        scene(900 + number, size).save(data, "JPEG")
        server.http.put(f"/images/a/{name}", files={"image": data.getvalue()})
    try:
        page.goto(f"{server.url}/?view=collection")
        page.wait("document.querySelectorAll('#collection-list .card').length > 50")
        for name, (width, height) in made.items():
            across, down = page.evaluate(
                f"(({{width, height}}) => [width, height])(document.querySelector("
                f"'[data-id=\"a/{name}\"] .card-photo').getBoundingClientRect())"
            )
            assert across / down == pytest.approx(width / height, rel=0.02)
        heights = page.evaluate(
            "Object.values(Object.groupBy([...document.querySelectorAll('#collection-list .card')],"
            "(card) => card.offsetTop)).map((row) => row.map((card) => card.offsetHeight))"
        )
        for row in heights:
            assert max(row) - min(row) <= 1
    finally:
        for name in made:
            server.http.delete(f"/images/a/{name}")


def test_the_slider_hides_at_once_what_is_less_probable(page: Page, query: Path) -> None:
    search(page, query)
    page.evaluate(
        "((s) => { s.value = '0.99'; s.dispatchEvent(new Event('input', {bubbles: true}));"
        " s.dispatchEvent(new Event('change', {bubbles: true})); })"
        "(document.querySelector('#minimum'))"
    )
    assert page.text("#minimum-value") == "99.0 %"
    assert page.count(RESULTS) == 1
    assert "of 30+ results" in page.text("#results-title")
    assert address(page)["min"] == ["p0.99"]


def test_a_box_dragged_on_the_query_searches_that_part(page: Page, tmp_path: Path) -> None:
    # Two photos side by side: each half finds its own.
    pair = Image.new("RGB", (320, 120))
    for number, seed in enumerate((11, 23)):
        pair.paste(Image.open(io.BytesIO(photo(seed))), (160 * number, 0))
    path = tmp_path / "pair.png"
    pair.save(path)
    search(page, path)
    page.wait("document.querySelector('#query-photo').naturalWidth > 0")
    left, top, width, height = page.evaluate(
        "(({left, top, width, height}) => [left, top, width, height])"
        "(document.querySelector('#query-photo').getBoundingClientRect())"
    )
    page.drag((left + 1, top + 1), (left + width / 2, top + height - 1))
    page.wait(f"{FIRST} === 'set/11.jpg'")
    assert page.is_seen("#region")
    # The same by the keyboard: to the right border.
    page.evaluate("document.querySelector('#region').focus()")
    for _ in range(30):
        page.press("ArrowRight")
    page.wait(f"{FIRST} === 'set/23.jpg'")
    assert page.evaluate("document.querySelector('#region-x').value") in ("49", "50", "51")
    page.click("#region-toggle")
    page.wait("document.querySelector('#region').hidden")


def test_a_result_is_shown_beside_its_query_with_what_made_the_score(
    page: Page, query: Path
) -> None:
    search(page, query)
    page.click("#results > .card:nth-child(2) .card-photo")
    page.wait("document.querySelector('#photo').open")
    assert page.text("#photo-place").startswith("2 of ")
    assert "Score" in page.text("#verdict-text")
    page.click("#why-switch")
    page.wait("!document.querySelector('#heat-photo').hidden", 60)
    assert "made the score" in page.text("#why-said")
    drawn = "(c) => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
    for side in ("query", "photo"):
        assert page.evaluate(f"({drawn})(document.querySelector('#heat-{side}'))") > 8
    page.press("ArrowLeft")
    page.wait("document.querySelector('#photo-title').textContent === 'set/07.jpg'")
    page.wait("document.querySelector('#photo-full').checkVisibility()")
    page.press("Escape")
    page.wait("!document.querySelector('#photo').open")
    page.wait("document.activeElement.closest('.card')?.dataset.id === 'set/07.jpg'")


def test_an_address_brings_a_search_back_and_so_does_the_back_button(
    page: Page, server: Server, query: Path
) -> None:
    page.goto(f"{server.url}/?like=set%2F05.jpg&filter=%7B%22year%22%3A2024%7D&expand=1")
    found(page)
    assert page.evaluate("document.querySelector('#filter').value") == '{"year":2024}'
    assert page.evaluate("document.querySelector('#expansion').checked")
    ids = page.evaluate("[...document.querySelectorAll('#results > .card')].map(c => c.dataset.id)")
    assert ids and all(int(name[4:6]) >= PHOTOS // 2 for name in ids)
    page.click("#new-search")
    search(page, query)
    assert page.evaluate(FIRST) == "set/07.jpg"
    assert "like" not in address(page)
    page.evaluate("history.go(-2)")
    page.wait("document.querySelector('#query-name').textContent === 'set/05.jpg'")
    # What was dropped is in no address, but this visit remembers it.
    page.evaluate("history.go(2)")
    page.wait("document.querySelector('#query-name').textContent === 'query.jpg'")
    page.wait(f"{FIRST} === 'set/07.jpg'")


def test_several_examples_are_one_search(page: Page, server: Server, query: Path) -> None:
    page.goto(f"{server.url}/?like=set%2F05.jpg")
    found(page)
    page.evaluate(
        "document.querySelector('#results > .card:nth-child(1) .card-tool:nth-child(2)').click()"
    )
    page.wait("document.querySelectorAll('#like-list .chip').length === 2")
    page.wait(DONE)
    page.evaluate(
        "document.querySelector('#results > .card:nth-child(2) .card-tool:nth-child(3)').click()"
    )
    page.wait("document.querySelectorAll('#unlike-list .chip').length === 1")
    found(page)
    assert len(address(page)["like"]) == 2
    assert len(address(page)["unlike"]) == 1
    page.click("#unlike-list .chip-remove")
    page.wait("!document.querySelectorAll('#unlike-list .chip').length")


def test_what_is_wrong_with_a_filter_is_told_below_it(page: Page, query: Path) -> None:
    search(page, query)
    page.fill("#filter", '{"year": ')
    page.press("Enter")
    assert "not JSON yet" in page.text("#filter-problem")
    page.fill("#filter", '{"field": "year", "gte": [1]}')
    page.press("Enter")
    page.wait("document.querySelector('#filter-problem').textContent.includes('gte')")
    page.fill("#filter", '{"year": 1999}')
    page.press("Enter")
    page.wait("document.querySelector('#empty-title').textContent.includes('filter')")
    page.click("#filter-clear")
    found(page)
    assert not page.is_seen("#filter-problem")
    page.errors = [error for error in page.errors if "422" not in error]


def test_photos_are_added_with_progress_and_told_why_not(
    page: Page, server: Server, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    good.write_bytes(photo(500))
    bad.write_bytes(photo(501)[:300])
    page.goto(f"{server.url}/?view=add")
    page.evaluate("document.querySelector('#add-options details').open = true")
    page.fill("#add-metadata", '{"album": "new"}')
    page.upload("#add-files", good, bad)
    page.wait("document.querySelector('#add-summary').checkVisibility()")
    assert "1 added, 0 skipped, 1 failed" in page.text("#add-summary-line")
    assert "bad.jpg" in page.text("#add-error-list")
    assert server.http.get("/images/good.jpg").json()["metadata"] == {"album": "new"}
    # It heard of it by events.
    assert any(url.endswith("/events") for url in page.requests)
    server.http.delete("/images/good.jpg").raise_for_status()


def test_without_events_jobs_are_asked_after(page: Page, server: Server, tmp_path: Path) -> None:
    page.call("Network.setBlockedURLs", urls=["*/events"])
    stored = tmp_path / "again.jpg"
    stored.write_bytes(photo(3))
    page.goto(f"{server.url}/?view=add")
    page.upload("#add-files", stored)
    page.wait("document.querySelector('#add-summary').checkVisibility()")
    assert "0 added, 1 skipped, 0 failed" in page.text("#add-summary-line")
    page.errors = [error for error in page.errors if "/events" not in error]


def test_the_collection_is_listed_changed_and_cleared(page: Page, server: Server) -> None:
    for seed in (601, 602):
        server.http.put(f"/images/aside/{seed}", files={"image": photo(seed)})
    page.goto(f"{server.url}/?view=collection")
    page.click("[data-id='aside/601'] .card-photo")
    page.click("#metadata-edit")
    page.fill("#metadata-text", '{"place": {"city": "Porto"}')
    page.evaluate("document.querySelector('#metadata-form').requestSubmit()")
    assert "not JSON yet" in page.text("#metadata-problem")
    page.fill("#metadata-text", '{"place": {"city": "Porto"}}')
    page.evaluate("document.querySelector('#metadata-form').requestSubmit()")
    page.wait("document.querySelector('#metadata-form').hidden")
    assert server.http.get("/images/aside/601").json()["metadata"] == {"place": {"city": "Porto"}}
    page.click("#photo-remove")
    page.click("#confirm-ok")
    page.wait("!document.querySelector('[data-id=\"aside/601\"]')")
    assert server.http.get("/images/aside/601").status_code == 404
    page.click("#photo-close")
    page.evaluate("document.querySelector('[data-id=\"aside/602\"] .card-select').click()")
    assert page.text("#selection-count") == "1 selected"
    page.click("#selection-remove")
    page.click("#confirm-ok")
    page.wait("!document.querySelector('[data-id=\"aside/602\"]')")
    assert server.http.get("/images/aside/602").status_code == 404


def test_the_index_is_built_and_gone_back_from(page: Page, server: Server) -> None:
    before = server.http.get("/admin/index").json()["generation"]
    page.goto(f"{server.url}/?view=index")
    page.click("#build")
    page.wait("document.querySelector('#index-said').textContent.includes('is live')", 60)
    assert server.http.get("/admin/index").json()["generation"] == before + 1
    page.wait("document.querySelectorAll('#generation-list button').length > 0")
    page.click("#generation-list button")
    page.wait("document.querySelector('#index-said').textContent.includes('live again')")
    assert server.http.get("/admin/index").json()["generation"] == before
    page.evaluate("document.querySelector('#reliability-panel details').open = true")
    page.wait("document.querySelector('#reliability').naturalWidth > 100")
    page.fill("#snapshot-note", "before lunch")
    page.evaluate("document.querySelector('#snapshot-form').requestSubmit()")
    page.wait("document.querySelector('#snapshot-list').textContent.includes('before lunch')", 60)
    page.wait("document.querySelectorAll('[data-job]').length >= 3")


def test_everything_can_be_done_with_the_keyboard(page: Page, server: Server) -> None:
    page.press("Tab")
    assert page.text(":focus") == "Skip to the content"
    page.press("Enter")
    page.goto(f"{server.url}/?like=set%2F05.jpg")
    found(page)
    page.evaluate("document.querySelector('#results-title').focus()")
    for _ in range(6):
        if page.focused() == "card-photo":
            break
        page.press("Tab")
    assert page.focused() == "card-photo"
    at = (
        "[...document.querySelectorAll('#results > .card')]"
        ".indexOf(document.activeElement.closest('.card'))"
    )
    assert page.evaluate(at) == 0
    page.press("ArrowRight")
    assert page.evaluate(at) == 1
    page.press("ArrowDown")
    below = page.evaluate(at)
    assert below > 1
    page.press("ArrowUp")
    assert page.evaluate(at) < below
    page.press("End")
    assert page.evaluate(at) == page.count(RESULTS) - 1
    page.press("Home")
    page.press("Enter")
    page.wait("document.querySelector('#photo').open")
    page.press("Escape")
    page.wait(f"!document.querySelector('#photo').open && {at} === 0")
    # One stop for all photos: the tools of the focused one, then what comes after the list.
    for _ in range(4):
        page.press("Tab")
    assert page.evaluate("document.activeElement.closest('#results') === null")


def test_the_camera_takes_the_query(page: Page) -> None:
    page.click("#camera-open")
    page.wait("!document.querySelector('#camera-snap').disabled")
    page.click("#camera-snap")
    found(page)
    assert page.text("#query-name") == "camera.jpg"
    assert not page.evaluate("document.querySelector('#camera-video').srcObject")


def test_a_photo_is_pasted_or_dropped(page: Page, query: Path) -> None:
    data = list(query.read_bytes())
    transfer = (
        "((d) => (d.items.add(new File([new Uint8Array(%s)], '%s', {type: 'image/jpeg'})), d))"
        "(new DataTransfer())"
    )
    pasted = transfer % (data, "pasted.jpg")
    page.evaluate(
        "document.dispatchEvent(new ClipboardEvent('paste',"
        f" {{clipboardData: {pasted}, bubbles: true}}))"
    )
    page.wait(f"{FIRST} === 'set/07.jpg'")
    assert page.text("#query-name") == "pasted.jpg"
    dropped = transfer % (data, "dropped.jpg")
    page.evaluate(
        "document.body.dispatchEvent(new DragEvent('drop',"
        f" {{dataTransfer: {dropped}, bubbles: true, cancelable: true}}))"
    )
    page.wait("document.querySelector('#query-name').textContent === 'dropped.jpg'")


def test_several_photos_that_are_dropped_are_one_search(page: Page, query: Path) -> None:
    data = list(query.read_bytes())

    def drop(count: int) -> None:
        page.evaluate(
            f"{{const bytes = new Uint8Array({data}), files = new DataTransfer();"
            f"for (let n = 0; n < {count}; n++)"
            " files.items.add(new File([bytes], `${n}.jpg`, {type: 'image/jpeg'}));"
            "document.body.dispatchEvent(new DragEvent('drop',"
            " {dataTransfer: files, bubbles: true, cancelable: true}))}"
        )

    drop(3)
    page.wait(f"{FIRST} === 'set/07.jpg'")
    assert page.evaluate("document.querySelectorAll('#like-list img').length") == 3
    drop(17)
    page.wait("document.body.innerText.includes('These are 17 photos; a search takes 16 at most.')")
    assert page.evaluate("document.querySelectorAll('#like-list img').length") == 3


@pytest.mark.parametrize("width", [360, 768, 1920])
def test_nothing_sticks_out_at_any_width(page: Page, server: Server, width: int) -> None:
    page.resize(width, 800, phone=width < 500)
    for where in (
        "",
        "?like=set%2F05.jpg&unlike=set%2F06.jpg",
        "?view=collection",
        "?view=add",
        "?view=index",
    ):
        page.goto(f"{server.url}/{where}")
        page.wait(DONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, where
        small = page.evaluate(
            "[...document.querySelectorAll('button, a, select, .button, input')].filter((e) =>"
            " e.checkVisibility({opacityProperty: true})"
            " && !e.closest('.visually-hidden, .skip-link')"
            " && e.getBoundingClientRect().height < 24 && getComputedStyle(e).display !== 'inline'"
            " && !['checkbox', 'radio'].includes(e.type)).map((e) => e.outerHTML.slice(0, 120))"
        )
        assert small == [], where


def test_a_service_that_is_gone_is_told_and_tried_again(
    browser: Browser, server: Server, query: Path
) -> None:
    page = browser.page()
    page.goto(server.url)
    server.kill()
    page.upload("#query-file", query)
    page.wait("document.querySelector('.alert')")
    assert "cannot be reached" in page.text(".alert")
    server.start()
    page.click(".alert .button")
    page.wait(f"{FIRST} === 'set/07.jpg'")
    assert page.count(".alert") == 0
    page.close()


def test_behind_a_prefix_a_key_is_asked_for_and_decides_what_is_shown(
    browser: Browser, tmp_path: Path, query: Path
) -> None:
    folder = tmp_path / "index"
    with (
        serving(folder, COOC_ROOT_PATH="/photos") as server,
        prefixed(server.url, "/photos") as url,
    ):
        server.http.put("/images/a.jpg", files={"image": photo(7)}).raise_for_status()
        admin, reader = (new_key(folder, scope) for scope in (Scope.ADMIN, Scope.SEARCH))
        assert httpx.get(f"{url}version", timeout=60).status_code == 401
        page = browser.page()
        page.call("Page.navigate", url=url)
        page.wait("document.querySelector('#sign-in')?.open")
        page.fill("#key", "cooc_wrong")
        page.press("Enter")
        page.wait("document.querySelector('#key-error').textContent")
        page.fill("#key", reader)
        page.press("Enter")
        page.wait("document.querySelector('#main').dataset.ready")
        search(page, query)
        assert page.evaluate(FIRST) == "a.jpg"
        page.wait("document.querySelector('#results img').naturalWidth > 0")
        assert not page.is_seen("[data-view=add]")
        assert not page.is_seen("[data-view=index]")
        page.click("#results .card-photo")
        assert not page.is_seen("#photo-remove")
        page.press("Escape")
        KeyFile(folder).revoke(key_id(reader), datetime.now(UTC))
        page.upload("#query-file", query)
        page.wait("document.querySelector('#sign-in')?.open")
        assert "no longer good" in page.text("#sign-in-why")
        page.fill("#key", admin)
        page.press("Enter")
        page.wait("document.querySelector('[data-view=index]').checkVisibility()")
        page.click("[data-view=index]")
        page.wait("document.querySelector('#index-facts').textContent.includes('Generation')")
        assert page.evaluate("location.pathname") == "/photos/"
        page.click("#sign-out")
        page.wait("document.querySelector('#sign-in')?.open")
        assert {
            urlsplit(asked).path[:8] for asked in page.requests if asked.startswith("http")
        } == {"/photos/"}
        page.errors = [error for error in page.errors if "401" not in error]
        assert page.errors == []
        page.close()


@pytest.mark.skipif(not AXE, reason="AXE_CORE_JS does not say where axe-core lies")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, server: Server, scheme: str) -> None:
    page.prefer(prefers_color_scheme=scheme)
    places = {
        "?": "",
        "?like=set%2F05.jpg&like=set%2F06.jpg&unlike=set%2F08.jpg": "",
        "?like=set%2F05.jpg": "document.querySelector('#results .card-photo').click()",
        "?view=collection": "document.querySelector('.card-select').click()",
        "?view=add": "",
        "?view=index": "document.querySelector('#reliability-panel details').open = true",
    }
    for place, act in places.items():
        page.goto(f"{server.url}/{place}")
        page.wait(DONE)
        if act:
            page.wait("document.querySelector('.card-photo, #index-facts dt')")
            page.evaluate(act)
        page.evaluate(Path(AXE).read_text() + "; 0")
        found = page.evaluate(
            "axe.run().then((r) => r.violations.map((v) =>"
            " [v.id, v.impact, v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160))]))"
        )
        assert found == [], place


def test_what_is_edited_becomes_the_merge_patch_that_makes_it(page: Page) -> None:
    cases: list[tuple[Json, Json]] = [
        ({}, {"a": 1}),
        ({"a": 1, "b": 2}, {"b": 2}),
        ({"a": {"b": 1, "c": [1]}}, {"a": {"c": [1, 2]}}),
        ({"a": {"b": 1}}, {"a": [1]}),
        ({"a": [1]}, {"a": {"b": {"c": True}}}),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1}}}),
        ({"a": "1"}, {"a": 1}),
        ({"constructor": 1, "__proto__": {"a": 1}}, {}),
        ({}, {"__proto__": {"a": 1}, "toString": 1}),
    ]
    for old, new in cases:
        # As text: in JavaScript itself `__proto__` is no name like any other.
        texts = ", ".join(f"JSON.parse({json.dumps(json.dumps(value))})" for value in (old, new))
        patch = page.evaluate(
            "import('./web/photo/merge_patch.js').then((m) => "
            f"JSON.stringify(m.difference({texts})))"
        )
        assert merge_patch(old, json.loads(patch)) == new
    nothing = "m.difference({a: {b: 1}}, {a: {b: 1}})"
    assert page.evaluate(f"import('./web/photo/merge_patch.js').then((m) => {nothing})") == {}
