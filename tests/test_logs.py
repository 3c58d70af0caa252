"""What the service logs: who asked, in every thread; nothing that is secret."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.observing.logs import Format, formatter, log_to, redacted
from engine.passes.origin import working_for
from tests.drawing import photo
from tests.test_api import add, make_client

log = logging.getLogger("engine.tests")


class Lines:
    """What was logged while it was listened to."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def parsed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.parsed() if line["event"].startswith(event)]


@contextmanager
def listening(format: Format = "json", level: int = logging.INFO) -> Iterator[Lines]:
    lines = Lines()
    handler = logging.StreamHandler(lines.stream)
    handler.setFormatter(formatter(format, terminal=False))
    loggers = [logging.getLogger(name) for name in ("app", "engine")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    logging.getLogger().addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(handler)
        for logger, old in zip(loggers, before, strict=True):
            logger.setLevel(old)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with make_client(tmp_path_factory.mktemp("logs") / "index") as client:
        yield client


def test_a_request_is_one_line_with_all_that_is_known_of_it(client: TestClient) -> None:
    with listening() as lines:
        answer = client.post(
            "/search", files={"image": photo(1)}, headers={"X-Request-ID": "order-4711"}
        )
    (line,) = lines.parsed()
    assert line.pop("time").endswith("Z")
    assert set(line.pop("ms")) == {"upload", "decode", "queue", "describe", "search", "total"}
    assert line == {
        "level": "info",
        "event": "POST /search 200",
        "logger": "app.observing.requests",
        "method": "POST",
        "route": "/search",
        "status": 200,
        "client": "testclient",
        "request_id": "order-4711",
    }
    assert answer.headers["X-Request-ID"] == "order-4711"


def test_a_refused_request_says_why_and_the_template_stays_one(client: TestClient) -> None:
    with listening() as lines:
        client.get("/images/some/where.jpg")
    (line,) = lines.of("GET /images/some/where.jpg 404")
    assert (line["route"], line["problem"]) == ("/images/{image_id}", "unknown_image")


def test_what_is_polled_is_only_heard_when_debugging(client: TestClient) -> None:
    with listening() as lines:
        for path in ("/livez", "/readyz", "/version", "/metrics"):
            client.get(path)
    assert lines.text == ""
    with listening(level=logging.DEBUG) as lines:
        client.get("/livez")
    assert [line["level"] for line in lines.of("GET /livez")] == ["debug"]


def test_jobs_log_under_their_id(client: TestClient) -> None:
    with listening() as lines:
        job = add(client, ("a.jpg", photo(30)), ("b.txt", b"no image"))
    begins, ends = lines.of("the job begins"), lines.of("the job ends")
    assert [line["job_id"] for line in (*begins, *ends)] == [job["id"]] * 2
    assert (ends[0]["state"], ends[0]["images"], ends[0]["type"]) == ("partial", 2, "add")
    assert "request_id" not in ends[0]


def test_what_looks_like_a_key_is_cut_off() -> None:
    key = f"cooc_0123abcd_{'0f' * 32}"
    assert redacted(f"a {key}, {key}x") == "a cooc_0123abcd_..., cooc_0123abcd_...x"
    assert redacted("cooc_image_search") == "cooc_image_search"


@pytest.mark.parametrize("format", ["json", "text"])
def test_what_clients_send_makes_no_lines_of_its_own(client: TestClient, format: Format) -> None:
    with listening(format) as lines:
        client.get("/images/a%0A2026-01-01T00:00:00Z%20ERROR%20forged%1B[31m")
        client.get("/images/%E2%80%A8next", headers={"X-Request-ID": "a\tb"})
    assert len(lines.text.splitlines()) == 2
    assert "\x1b" not in lines.text
    assert "forged" in lines.text


def test_what_an_exception_quotes_makes_no_lines_of_its_own() -> None:
    try:
        raise ValueError("no\n2026-01-01T00:00:00Z ERROR forged\x1b[31m")
    except ValueError:
        record = logging.LogRecord("app", logging.ERROR, "", 0, "it failed", (), sys.exc_info())
    shown = formatter("text", terminal=False).format(record)
    first, *others = shown.splitlines()
    assert "it failed" in first
    assert "forged" in others[-1] and "Traceback" in others[0]
    assert all(line.startswith("  ") for line in others)
    assert "\x1b" not in shown


def test_people_read_one_line_for_a_request(client: TestClient) -> None:
    with listening("text") as lines:
        client.get("/images/nobody", headers={"X-Request-ID": "r1"})
    line = lines.text.rstrip("\n")
    assert line[10] == "T"
    assert line[19:].startswith("Z INFO GET /images/nobody 404 method=GET route=/images/{image_id}")
    assert " ms.total=" in line
    assert line.endswith("request_id=r1")


@pytest.mark.parametrize(
    ("format", "terminal", "as_json"),
    [("auto", True, False), ("auto", False, True), ("json", True, True), ("text", False, False)],
)
def test_the_format_follows_the_terminal_unless_it_is_chosen(
    format: Format, terminal: bool, as_json: bool
) -> None:
    record = logging.LogRecord("app", logging.WARNING, "", 0, "it %s", ("rains",), None)
    text = formatter(format, terminal=terminal).format(record)
    assert text.startswith("{") == as_json
    assert "it rains" in text
    assert ("\x1b[33mWARNING" in text) == (terminal and not as_json)


@pytest.mark.parametrize(("level", "heard"), [("debug", 4), ("info", 3), ("error", 1)])
def test_lines_below_the_level_are_not_heard(level: str, heard: int) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, old = list(root.handlers), root.level
    loggers = [logging.getLogger(name) for name in ("app", "engine", "uvicorn", "dbos")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    try:
        log_to(stream, "json", level)
        for name in ("debug", "info", "warning", "error"):
            getattr(logging.getLogger("app.some"), name)("said")
        logging.getLogger("somebody.elses").info("unheard")
        assert len(stream.getvalue().splitlines()) == heard
    finally:
        root.handlers[:] = handlers
        root.setLevel(old)
        for logger, (own, its) in zip(loggers, before, strict=True):
            logger.setLevel(own)
            logger.handlers[:] = its


def test_values_that_json_does_not_have_are_shown_as_text() -> None:
    record = logging.LogRecord("app", logging.INFO, "", 0, "x", (), None)
    record.fields = {"where": Path("/a b"), "nothing": None}
    with working_for([(("job_id", "j"),)]):
        found = json.loads(formatter("json", terminal=False).format(record))
        shown = formatter("text", terminal=False).format(record)
    assert (found["where"], found["job_id"]) == ("/a b", "j")
    assert "nothing" not in found
    assert shown.endswith('x where="/a b" job_id=j')
