"""What the service logs: JSON for machines, lines for people; on stderr."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

from structlog.processors import ExceptionRenderer, TimeStamper, add_log_level
from structlog.stdlib import ProcessorFormatter, add_logger_name

from engine.passes.origin import origin

Format = Literal["auto", "json", "text"]
Event = MutableMapping[str, Any]

_KEY = re.compile(r"(cooc_[0-9a-f]{8})_[0-9a-f]{16,}")
_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31;1m"}
_PLAIN = "\x1b[0m"


def log_to(stream: TextIO, format: Format, level: str) -> None:
    """Log lines go to `stream` from now on.

    Args:
        format: auto is text on a terminal, else JSON.
        level: of the lines of this program. Libraries are heard from warnings on.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(format, terminal=stream.isatty()))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("app", "engine"):
        logging.getLogger(name).setLevel(level.upper())
    if level == "debug":
        logging.getLogger("uvicorn").setLevel(logging.INFO)
    # A library that finds no handler of its own here makes one, with a format of its own.
    logging.getLogger("dbos").addHandler(logging.NullHandler())


def log_to_stderr(format: Format, level: str) -> None:
    """As `log_to`, to stderr."""
    log_to(sys.stderr, format, level)


def formatter(format: Format, *, terminal: bool) -> logging.Formatter:
    """A formatter for all records, whoever logs them."""
    as_json = format == "json" or (format == "auto" and not terminal)
    return ProcessorFormatter(
        foreign_pre_chain=[_fields, _origin, add_logger_name, add_log_level],
        processors=[
            TimeStamper(fmt="iso", utc=True, key="time"),
            ExceptionRenderer(_traceback),
            ProcessorFormatter.remove_processors_meta,
            _as_json if as_json else _Text(colours=terminal),
        ],
    )


def _fields(_: Any, __: str, event: Event) -> Event:
    """What a record says besides its message."""
    record = event["_record"]
    fields = getattr(record, "fields", {})
    event.update({name: value for name, value in fields.items() if value is not None})
    return event


def _origin(_: Any, __: str, event: Event) -> Event:
    """Which request or job it was about; a pass of the model may be for several."""
    found: dict[str, list[str]] = {}
    for kind, name in origin():
        found.setdefault(kind, []).append(name)
    # The job library knows its own, also where we are not within one.
    job_id = getattr(event["_record"], "operationUUID", None)
    if job_id and "job_id" not in found:
        found["job_id"] = [job_id]
    for kind, names in found.items():
        if len(names) == 1:
            event[kind] = names[0]
        else:
            event[f"{kind}s"] = names
    return event


def _traceback(exc_info: Any) -> str:
    return "".join(traceback.format_exception(*exc_info)).rstrip()


def redacted(text: str) -> str:
    """Without the secrets of keys, wherever somebody put them. The id of a key is none."""
    return _KEY.sub(r"\1_...", text)


_FIRST = ("time", "level", "event", "logger")


def _as_json(_: Any, __: str, event: Event) -> str:
    ordered = {name: event.pop(name) for name in _FIRST if name in event} | dict(event)
    text = json.dumps(ordered, ensure_ascii=False, default=str)
    # Some readers take more than \n for the end of a line.
    return redacted(text if text.isprintable() else json.dumps(ordered, default=str))


class _Text:
    """`2026-01-31T12:00:00Z INFO POST /search 200 request_id=4711 ...`: one line for a record."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _: Any, __: str, event: Event) -> str:
        level, shown = event.pop("level"), event.pop("time")[:19] + "Z"
        trace = event.pop("exception", None)
        event.pop("logger", None)
        colour = _COLOURS.get(level, "") if self._colours else ""
        name = f"{colour}{level.upper()}{_PLAIN}" if colour else level.upper()
        parts = [shown, name, _printable(str(event.pop("event")))]
        parts += [f"{name}={_value(value)}" for name, value in _flat(event).items()]
        lines = [" ".join(parts)]
        if trace is not None:
            # Indented: what an error quotes must not look like a line of its own.
            lines += [f"  {_printable(line)}" for line in trace.splitlines()]
        return redacted("\n".join(lines))


def _flat(event: Event) -> dict[str, Any]:
    """`ms.total` of `{"ms": {"total": ...}}`."""
    flat: dict[str, Any] = {}
    for name, value in event.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{part}": inner for part, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_value(one) for one in value)
    text = _printable(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or re.search(r'[\s"=]', text) else text


def _printable(text: str) -> str:
    """What clients send may have line ends and escapes: they must not make lines of their own."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
