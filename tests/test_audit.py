from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.audit import COMMAND, audit

CLEAN = {"name": "good", "version": "1.0", "vulns": []}
OURS = {"name": "ours", "skip_reason": "not found there"}
BAD = {
    "name": "bad",
    "version": "2.0",
    "vulns": [
        {"id": "CVE-2099-1", "fix_versions": ["2.1"], "description": "x"},
        {"id": "CVE-2099-2", "fix_versions": [], "description": "y"},
    ],
}


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A service that says the same to everybody."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def service() -> Iterator[str]:
    """Something that answers as the advisory service does."""
    with answering(200, b'{"vulnerabilities": [{"id": "CVE-2019-1"}]}') as url:
        yield url


def saying(text: str, code: int) -> tuple[str, ...]:
    """A command that prints what `pip-audit` would."""
    program = f"import sys; sys.stdout.write({text!r}); sys.stderr.write('why'); sys.exit({code})"
    return (sys.executable, "-c", program)


def test_without_network_it_is_skipped_and_says_so() -> None:
    code, text = audit(saying("never run", 1), url="http://127.0.0.1:9/")
    assert code == 0
    assert text == "dependencies not audited: skipped, no network (127.0.0.1 gives no advisories)"


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b""), (200, b"<html>"), (200, b"[]"), (200, b"{}"), (200, b'{"vulnerabilities": []}')],
)
def test_a_mirror_without_advisories_does_not_pass_for_the_service(
    status: int, body: bytes
) -> None:
    with answering(status, body) as url:
        assert audit(saying("never run", 1), url=url)[1].endswith("gives no advisories)")


def test_known_vulnerabilities_fail_and_are_named(service: str) -> None:
    report = json.dumps({"dependencies": [CLEAN, OURS, BAD], "fixes": []})
    code, text = audit(saying(report, 1), url=service)
    assert code == 1
    assert "bad 2.0: CVE-2099-1; update to 2.1\n" in text
    assert "bad 2.0: CVE-2099-2; there is no release without it yet\n" in text
    assert text.endswith("2 packages audited, 2 known vulnerabilities; not known there: ours")


def test_nothing_found_passes(service: str) -> None:
    code, text = audit(saying(json.dumps({"dependencies": [CLEAN]}), 0), url=service)
    assert (code, text) == (0, "1 packages audited, 0 known vulnerabilities")


def test_an_audit_that_could_not_be_made_fails(service: str) -> None:
    assert audit(saying("", 1), url=service) == (1, "pip-audit failed: why")


def test_make_check_runs_it_and_it_is_installed_for_that() -> None:
    root = Path(__file__).parents[1]
    assert "-m tests.audit" in (root / "Makefile").read_text()
    assert "pip-audit" in (root / "pyproject.toml").read_text()
    assert COMMAND[2] == "pip_audit"
