from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import WEB, create_app
from app.settings import Settings
from tests.drawing import photo
from tests.test_bad_input import SMALL


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("headers") / "index"
    settings = Settings(data_dir=folder, max_upload_mb=1, keep_originals=True, **SMALL)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        client.put("/images/a", files={"image": photo(1)}).raise_for_status()
        yield client


def policy(text: str) -> dict[str, list[str]]:
    """A content policy: what is allowed, by directive."""
    return {name: sources for name, *sources in (part.split() for part in text.split(";"))}


ANSWERS = [
    ("GET", "/", 200),
    ("GET", "/web/app.js", 200),
    ("GET", "/docs", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/static-offline-docs/swagger-ui.css", 200),
    ("GET", "/livez", 200),
    ("GET", "/images/a", 200),
    ("GET", "/images/a/thumbnail", 200),
    ("GET", "/images/a/original", 200),
    ("GET", "/nowhere", 404),
    ("GET", "/search", 405),
    ("POST", "/search", 415),
    ("DELETE", "/images/b", 404),
]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_every_answer_has_them(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    headers = answer.headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=(self)" in headers["Permissions-Policy"]
    assert "microphone=()" in headers["Permissions-Policy"]
    assert policy(headers["Content-Security-Policy"])["default-src"] == ["'none'"]
    assert "Strict-Transport-Security" not in headers
    assert headers.get_list("X-Content-Type-Options") == ["nosniff"]


def test_refusals_and_failures_have_them_too(client: TestClient) -> None:
    state = client.app.state.cooc  # type: ignore[attr-defined]
    service, state.service = state.service, None
    try:
        failed = client.get("/admin/index")
    finally:
        state.service = service
    answers = {
        500: failed,
        413: client.post("/search", content=b"\0" * (9 << 20)),
        403: client.post("/search", headers={"Sec-Fetch-Site": "cross-site"}),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_only_https_is_told_to_stay_https(client: TestClient) -> None:
    answer = client.get("https://testserver/livez")
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_originals_keep_a_policy_of_their_own(client: TestClient) -> None:
    answer = client.get("/images/a/original")
    assert answer.headers.get_list("Content-Security-Policy") == ["default-src 'none'; sandbox"]


def test_the_page_runs_its_own_files_only(client: TestClient) -> None:
    allowed = policy(client.get("/").headers["Content-Security-Policy"])
    for directive in ("script-src", "style-src", "connect-src"):
        assert allowed[directive] == ["'self'"]
    assert allowed["frame-ancestors"] == allowed["base-uri"] == ["'none'"]
    everything = [source for sources in allowed.values() for source in sources]
    assert set(everything) <= {"'self'", "'none'", "blob:", "data:"}


class Inline(HTMLParser):
    """Finds what a policy without 'unsafe-inline' keeps from working."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        handlers = [name for name in names if name.startswith("on") or name == "style"]
        inline = tag == "style" or (tag == "script" and "src" not in names)
        elsewhere = [value for value in names.values() if value and "://" in value[:10]]
        if handlers or inline or elsewhere:
            self.found.append(f"<{tag} {attrs}>")


def test_the_page_has_nothing_that_its_policy_forbids() -> None:
    parser = Inline()
    parser.feed((WEB / "index.html").read_text())
    assert parser.found == []
    for script in WEB.glob("*.js"):
        text = script.read_text()
        forbidden = r"\beval\(|new Function|setAttribute\(\"style\"|innerHTML|https?://(?!www\.w3)"
        assert re.findall(forbidden, text) == [], script.name
    for sheet in WEB.glob("*.css"):
        assert not re.findall(r"@import|https?://", sheet.read_text()), sheet.name


@pytest.mark.parametrize("root", ["", "/photos"])
def test_the_documentation_runs_the_one_script_that_it_has(tmp_path: Path, root: str) -> None:
    app = create_app(Settings(data_dir=tmp_path, root_path=root, **SMALL))
    answer = TestClient(app, root_path=root).get(f"{root}/docs")
    scripts = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    assert len(scripts) == 1
    assert f"{root}/openapi.json" in scripts[0]
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    allowed = policy(answer.headers["Content-Security-Policy"])
    assert allowed["script-src"] == ["'self'", f"'sha256-{digest}'"]
    assert allowed["style-src"] == ["'self'"]
    assert allowed["frame-ancestors"] == ["'none'"]
    assert not any("http" in source for sources in allowed.values() for source in sources)
