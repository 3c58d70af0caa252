"""The page where something comes in between: in a real browser, against a real service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from app.security.keys import KeyFile
from app.security.scopes import Scope
from tests.browser import PROGRAM, Browser, Page, browsing
from tests.drawing import photo
from tests.keyed import key_id, new_key
from tests.server import Server, serving
from tests.test_page import DONE, FIRST, RESULTS, address, found, search

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium")

PHOTOS = 65
"""More than a page of the collection, and of results."""
HOLD = """(() => {
  const real = window.fetch;
  window.held = [];
  window.fetch = (path, options) => %s
    ? new Promise((go) => window.held.push(() => {
        const answer = real(path, options);
        go(answer);
        return answer.then(() => 0);
      }))
    : real(path, options);
})()"""
"""Keeps back requests until `held` is called."""
HOLD_UPLOADS = """(() => {
  const send = XMLHttpRequest.prototype.send;
  window.uploads = [];
  XMLHttpRequest.prototype.send = function (body) {
    if (window.uploads) window.uploads.push(() => send.call(this, body));
    else send.call(this, body);
  };
})()"""
ASKED = f"{DONE} && document.querySelector('#timing').textContent !== 'Searching…'"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Never built, so that probabilities are not known; takes uploads of 1 MB (and 2 for the form
    around them)."""
    folder = tmp_path_factory.mktemp("mishaps") / "index"
    with serving(
        folder, COOC_KEEP_ORIGINALS="true", COOC_MAX_BULK_MB="1", COOC_AUTO_BUILD="false"
    ) as server:
        files = [("files", (f"set/{seed:02d}.jpg", photo(seed))) for seed in range(PHOTOS)]
        server.finish(server.http.post("/index/add", files=files).headers["Location"])
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """In the end nothing was complained of."""
    page = browser.page()
    page.goto(server.url)
    yield page
    assert page.errors == []
    page.close()


@pytest.fixture
def query(tmp_path: Path) -> Path:
    path = tmp_path / "query.jpg"
    path.write_bytes(photo(7))
    return path


def forgive(page: Page, *parts: str) -> None:
    """Take out of the console what a test has caused itself."""
    page.errors = [error for error in page.errors if not any(part in error for part in parts)]


def noise(path: Path, side: int) -> Path:
    """A file of about 3 x side x side bytes."""
    Image.frombytes("RGB", (side, side), os.urandom(3 * side * side)).save(path)
    return path


def drag(page: Page, path: Path, *kinds: str) -> None:
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in kinds:
        page.call("Input.dispatchDragEvent", type=kind, x=600, y=300, data=data)


# --- going to and fro ----------------------------------------------------------------------------


def test_skipping_to_the_content_keeps_the_search(page: Page, query: Path) -> None:
    search(page, query)
    page.evaluate("document.querySelector('.skip-link').focus()")
    page.press("Enter")
    assert page.focused() == "main"
    assert page.evaluate("location.hash") == ""
    assert page.text("#query-name") == "query.jpg"


def test_going_back_brings_back_the_part_that_was_searched(page: Page, query: Path) -> None:
    search(page, query)
    page.click("#region-toggle")
    page.wait(ASKED)
    page.click("#new-search")
    page.evaluate("history.back()")
    page.wait("document.querySelector('#query-name').checkVisibility()")
    assert page.is_seen("#region")
    assert page.evaluate("document.querySelector('#region-width').value") == "60"
    page.wait(DONE)


def test_going_back_closes_what_was_open(page: Page, query: Path) -> None:
    search(page, query)
    page.click(f"{RESULTS} .card-photo")
    page.wait("document.querySelector('#photo').open")
    page.evaluate("history.back()")
    page.wait("document.querySelector('#start').checkVisibility()")
    assert not page.evaluate("document.querySelector('#photo').open")


def test_choosing_what_is_shown_is_no_step_to_go_back_over(page: Page) -> None:
    page.click("[data-view=collection]")
    before = page.evaluate("history.length")
    page.click("[data-view=collection]")
    assert page.evaluate("history.length") == before


def test_a_part_moved_by_keys_is_forgotten_with_its_query(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/?like=set%2F05.jpg&region=0.2,0.2,0.5,0.5")
    found(page)
    page.wait("document.querySelector('#query-photo').naturalWidth > 0")
    page.evaluate("document.querySelector('#region').focus()")
    page.press("ArrowLeft", "Alt")  # back, in browsers with a head
    assert page.evaluate("document.querySelector('#region-x').value") == "20"
    page.press("ArrowRight")
    assert page.evaluate("document.querySelector('#region-x').value") == "22"
    page.evaluate("document.querySelector('#home').click()")
    # Longer than keys are waited for.
    page.evaluate("new Promise((go) => setTimeout(go, 600))")
    assert page.errors == []
    assert address(page) == {}


def test_the_corner_of_a_part_goes_as_far_as_the_hand(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/?like=set%2F05.jpg&region=0.2,0.2,0.5,0.5")
    found(page)
    page.wait("document.querySelector('#query-photo').naturalWidth > 0")
    size = page.evaluate(
        "(({width, height}) => [width, height])"
        "(document.querySelector('#query-photo').getBoundingClientRect())"
    )
    x, y = page.evaluate(
        "(({left, top}) => [left + 1, top + 1])"
        "(document.querySelector('.region-handle').getBoundingClientRect())"
    )
    page.drag((x, y), (x - size[0] / 10, y + size[1] / 10))
    page.wait("document.querySelector('#region-width').value !== '50'")
    assert page.evaluate("document.querySelector('#region-width').value") in ("39", "40", "41")
    assert page.evaluate("document.querySelector('#region-height').value") in ("59", "60", "61")
    page.wait(DONE)


def test_an_address_with_half_a_filter_is_no_search_without_one(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/?like=set%2F05.jpg&filter=%7B%22year%22%3A20")
    assert "not JSON yet" in page.text("#filter-problem")
    assert page.count(RESULTS) == 0
    assert "Change the filter" in page.text("#empty-hint")
    assert not any(url.endswith("/search") for url in page.requests)
    page.click("#filter-clear")
    found(page)


# --- answers that are late -----------------------------------------------------------------------


def test_no_more_results_are_asked_for_while_all_are_asked_for_anew(
    page: Page, server: Server
) -> None:
    page.resize(1280, 400)
    page.goto(f"{server.url}/?like=set%2F05.jpg")
    found(page)
    assert page.count(RESULTS) == 30
    page.evaluate(HOLD % "path === 'search'")
    page.evaluate("document.querySelector('#expansion').click()")
    page.evaluate("document.querySelector('#results-more').click()")
    assert page.evaluate("held.length") == 1
    page.evaluate("held.pop()()")
    page.wait(ASKED)
    page.evaluate("document.querySelector('#results-more').click()")
    page.wait("held.length === 1")
    page.evaluate("held.pop()()")
    page.wait(f"document.querySelectorAll('{RESULTS}').length === 60")


def test_a_page_of_the_collection_that_is_asked_for_twice_is_shown_once(
    page: Page, server: Server
) -> None:
    page.resize(1280, 400)
    page.goto(f"{server.url}/?view=collection")
    page.wait("document.querySelectorAll('#collection-list .card').length === 60")
    page.evaluate(
        "(() => { window.real = fetch; window.fetch = () => Promise.reject(new TypeError()); })()"
    )
    page.evaluate("document.querySelector('#collection-more').click()")
    page.wait("document.querySelector('.alert .button')")
    page.evaluate("window.fetch = window.real")
    page.evaluate(HOLD % "path.startsWith('images?')")
    page.evaluate("document.querySelector('.alert .button').click()")
    page.evaluate("document.querySelector('#collection-more').click()")
    page.wait("held.length === 2")
    page.evaluate(
        "Promise.all(held.map((go) => go())).then(() => new Promise((go) => setTimeout(go, 200)))"
    )
    page.wait(f"document.querySelectorAll('#collection-list .card').length >= {PHOTOS}")
    assert page.count("#collection-list .card") == PHOTOS


def test_a_photo_that_was_gone_on_to_stays_while_another_is_removed(
    page: Page, server: Server
) -> None:
    for name in ("a1", "a2", "a3"):
        server.http.put(f"/images/aside/{name}", files={"image": photo(int(name[1]) + 700)})
    page.goto(f"{server.url}/?view=collection")
    page.click("[data-id='aside/a1'] .card-photo")
    page.evaluate(HOLD % "options?.method === 'DELETE'")
    page.click("#photo-remove")
    page.click("#confirm-ok")
    page.wait("held.length === 1")
    page.click("#photo-next")
    assert page.text("#photo-title") == "aside/a2"
    page.evaluate("held.pop()()")
    page.wait("!document.querySelector('[data-id=\"aside/a1\"]')")
    page.wait("document.querySelector('#photo-place').textContent.startsWith('1 of')")
    assert page.text("#photo-title") == "aside/a2"
    page.press("ArrowRight")
    assert page.text("#photo-title") == "aside/a3"
    # Where those who only listen hear it: outside of a dialog that is open they hear nothing.
    announced = "document.querySelector('dialog[open] [role=status]').textContent"
    assert page.evaluate(announced).startswith("aside/a3, 2 of")
    for name in ("a2", "a3"):
        server.http.delete(f"/images/aside/{name}").raise_for_status()


def test_results_are_explained_after_one_of_them_was_removed(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/?like=set%2F05.jpg")
    found(page)
    page.click(f"{RESULTS} .card-photo")
    removed = page.text("#photo-title")
    kept = server.http.get(f"/images/{removed}/original").content
    page.click("#photo-remove")
    page.click("#confirm-ok")
    page.wait(f"document.querySelector('#photo-title').textContent !== '{removed}'")
    page.click("#why-switch")
    page.wait("document.querySelector('#why-said').textContent.match(/made the score|changed/)", 60)
    assert "Bright parts made the score" in page.text("#why-said")
    server.http.put(f"/images/{removed}", files={"image": kept}).raise_for_status()


def test_a_camera_that_was_asked_for_twice_is_let_go_twice(page: Page) -> None:
    page.evaluate(
        "(() => { const camera = navigator.mediaDevices;"
        " const real = camera.getUserMedia.bind(camera); window.gates = []; window.tracks = [];"
        " camera.getUserMedia = async (wanted) => {"
        "  await new Promise((go) => gates.push(go)); const stream = await real(wanted);"
        "  tracks.push(...stream.getTracks()); return stream; }; })()"
    )
    page.click("#camera-open")
    page.click("#camera-cancel")
    page.click("#camera-open")
    page.evaluate("gates.forEach((go) => go())")
    page.wait("!document.querySelector('#camera-snap').disabled && tracks.length === 2")
    page.click("#camera-cancel")
    page.wait("tracks.every((track) => track.readyState === 'ended')")


# --- photos of this machine ----------------------------------------------------------------------


def test_a_query_that_is_gone_from_the_disk_is_not_taken_for_a_service_that_is_gone(
    page: Page, query: Path
) -> None:
    search(page, query)
    query.unlink()
    page.evaluate("document.querySelector('#expansion').click()")
    page.wait("document.querySelector('.alert')")
    assert "“query.jpg” cannot be read any more" in page.text(".alert")
    forgive(page, "/search")  # how browsers call it differs


def test_a_folder_dropped_on_the_search_is_sent_where_folders_are_taken(
    page: Page, tmp_path: Path
) -> None:
    folder = tmp_path / "album"
    folder.mkdir()
    drag(page, folder, "dragEnter", "dragOver", "drop")
    page.wait("document.querySelector('.alert')")
    assert "That is a folder" in page.text(".alert")


def test_what_cannot_be_read_stops_no_folder(page: Page) -> None:
    found = page.evaluate(
        "import('./web/ui/drop.js').then(async ({droppedItems}) => {"
        " const file = (name, answer) => ({isDirectory: false, fullPath: `/album/${name}`,"
        "  file: (good, bad) => answer ? good(answer) : bad(new DOMException('no'))});"
        " const folder = (path, ...pages) => ({isDirectory: true, fullPath: path,"
        "  createReader: () => ({readEntries: (good, bad) =>"
        "   pages.length ? good(pages.shift() ?? []) : bad(new DOMException('no'))})});"
        " const album = folder('/album', [file('a.jpg', new File([], 'a.jpg')), file('b.jpg')],"
        "  [folder('/album/closed')], []);"
        " const {items, leftOut, unreadable} ="
        "  await droppedItems({items: [{webkitGetAsEntry: () => album}]});"
        " return [items, unreadable].map((all) => all.map(({name}) => name)).concat(leftOut); })"
    )
    assert found == [["album/a.jpg"], ["album/b.jpg", "album/closed"], 0]


def test_files_are_dropped_where_they_are_added(page: Page, server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "album"
    folder.mkdir()
    (folder / "good.jpg").write_bytes(photo(821))
    page.goto(f"{server.url}/?view=add")
    drag(page, folder, "dragEnter", "dragOver")
    assert page.text("#drop-note") == "Drop to add"
    drag(page, folder, "drop")
    page.wait("document.querySelector('#add-summary').checkVisibility()", 60)
    assert "Finished: 1 added" in page.text("#add-summary-line")
    server.http.delete("/images/album/good.jpg").raise_for_status()


def test_uploads_are_as_large_as_the_service_takes_and_larger_files_are_named(
    page: Page, server: Server, tmp_path: Path
) -> None:
    files = [noise(tmp_path / f"{number}.png", 540) for number in range(5)]
    page.goto(f"{server.url}/?view=add")
    page.upload("#add-files", *files, noise(tmp_path / "large.png", 700))
    page.wait("document.querySelector('#add-summary').checkVisibility()", 60)
    assert "5 added, 0 skipped, 1 failed" in page.text("#add-summary-line")
    assert "large.png" in page.text("#add-error-list")
    assert "1.5 MB" in page.text("#add-error-list")
    for file in files:
        server.http.delete(f"/images/{file.name}").raise_for_status()


def test_a_file_that_is_taken_away_stops_no_other(
    page: Page, server: Server, tmp_path: Path
) -> None:
    # Each is an upload of its own; the last has not begun when it is taken away.
    files = [noise(tmp_path / f"{number}.png", 580) for number in range(3)]
    page.goto(f"{server.url}/?view=add")
    page.evaluate(HOLD_UPLOADS)
    page.upload("#add-files", *files)
    page.wait("uploads.length === 1")
    files[2].unlink()
    page.evaluate("(() => { const [go] = uploads; uploads = null; go(); })()")
    page.wait("document.querySelector('#add-summary').checkVisibility()", 60)
    assert "Finished: 2 added, 0 skipped, 1 failed" in page.text("#add-summary-line")
    assert "2.png" in page.text("#add-error-list")
    for file in files[:2]:
        server.http.delete(f"/images/{file.name}").raise_for_status()
    forgive(page, "ERR_FILE_NOT_FOUND")


def test_an_upload_goes_on_when_the_service_is_back(
    page: Page, server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "patient.jpg"
    file.write_bytes(photo(811))
    page.goto(f"{server.url}/?view=add")
    server.kill()
    page.upload("#add-files", file)
    page.wait("document.querySelector('#add-phase').textContent.includes('trying again')")
    server.start()
    page.wait("document.querySelector('#add-summary').checkVisibility()", 60)
    assert "1 added" in page.text("#add-summary-line")
    server.http.delete("/images/patient.jpg").raise_for_status()
    forgive(page, "ERR_")


def test_previews_are_let_go_with_the_files_that_they_show(page: Page) -> None:
    page.evaluate(
        "import('./web/search/examples.js').then(async ({fromFile}) => {"
        " const picture = await (await fetch('web/icon.svg')).blob();"
        " const file = () => new File([picture], 'a.svg', {type: 'image/svg+xml'});"
        " window.query = fromFile(file()); window.lost = fromFile(file()).preview;"
        " window.shows = (src) => new Promise((go) => { const image = new Image();"
        "  image.onload = () => go(true); image.onerror = () => go(false); image.src = src; });"
        "})"
    )
    for _ in range(50):
        page.call("HeapProfiler.collectGarbage")
        if not page.evaluate("shows(lost)"):
            break
    assert not page.evaluate("shows(lost)")
    assert page.evaluate("shows(query.preview)")
    forgive(page, "ERR_FILE_NOT_FOUND")


# --- what is known, and who may know it ----------------------------------------------------------


def test_a_least_probability_is_no_least_score_where_none_is_known(
    page: Page, server: Server
) -> None:
    page.goto(f"{server.url}/?like=set%2F05.jpg&min=p0.90")
    found(page)
    assert page.count(RESULTS) == 30
    assert page.text("#minimum-value") == "any"
    assert page.evaluate("document.querySelector('#minimum-by').value") == "score"


def test_where_the_total_is_not_told_the_collection_is_more_than_its_first_page(
    page: Page, server: Server
) -> None:
    page.resize(1280, 400)
    page.call("Network.setBlockedURLs", urls=["*/admin/index"])
    page.goto(f"{server.url}/?view=collection")
    page.wait("document.querySelectorAll('#collection-list .card').length === 60")
    assert page.text("#collection-brief") == "60+ photos"
    forgive(page, "/admin/index")


def test_rows_of_jobs_keep_the_focus_while_others_come(page: Page, server: Server) -> None:
    bad = [("files", ("bad.jpg", photo(901)[:200]))]
    job = server.http.post("/index/add", files=bad).headers["Location"].rsplit("/", 1)[-1]
    server.finish(f"/jobs/{job}")
    page.goto(f"{server.url}/?view=index")
    page.click(f"[data-job='{job}'] summary")
    page.wait(f"document.querySelector('[data-job=\"{job}\"] .error-name')")
    before = page.count("[data-job]")
    page.evaluate("document.querySelector('#snapshot-form').requestSubmit()")
    page.wait(f"document.querySelectorAll('[data-job]').length > {before}")
    page.wait("document.querySelector('#index-said').textContent.includes('snapshot')", 60)
    assert page.evaluate(
        f"document.activeElement === document.querySelector('[data-job=\"{job}\"] summary')"
    )


def test_nobody_escapes_signing_in_and_what_was_refused_is_asked_again(
    browser: Browser, tmp_path: Path, query: Path
) -> None:
    folder = tmp_path / "index"
    with serving(folder) as server:
        server.http.put("/images/a.jpg", files={"image": photo(7)}).raise_for_status()
        first, second = new_key(folder, Scope.SEARCH), new_key(folder, Scope.SEARCH)
        page = browser.page()
        # The first question of the page is lost, and it learns later that a key is needed.
        page.call(
            "Page.addScriptToEvaluateOnNewDocument",
            source="{ const real = fetch; let lost = false; window.fetch = (path, options) =>"
            " path === 'session' && !lost ? ((lost = true), Promise.reject(new TypeError()))"
            " : real(path, options); }",
        )
        page.goto(server.url)
        page.wait("document.querySelector('#sign-in').open")
        for _ in range(3):
            page.press("Escape")
        page.wait("document.querySelector('#sign-in').open")
        page.fill("#key", first)
        page.press("Enter")
        page.wait("!document.querySelector('#sign-in').open")
        page.wait("document.querySelector('#sample-list img')")
        search(page, query)
        KeyFile(folder).revoke(key_id(first), datetime.now(UTC))
        page.evaluate("document.querySelector('#expansion').click()")
        page.wait("document.querySelector('#sign-in').open")
        page.fill("#key", second)
        page.press("Enter")
        page.wait(f"{DONE} && {FIRST} === 'a.jpg'")
        assert page.count(".alert") == 0
        forgive(page, "401")
        assert page.errors == []
        page.close()
