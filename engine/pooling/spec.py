"""Poolings with their options in one line: `cbp_ac`, `gem:p=4`, `cbp_ac:dim=4096,mask=sptd`."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import InvalidOption
from engine.pooling.base import Option

_WORDS: Mapping[str, bool] = {"yes": True, "true": True, "no": False, "false": False}


def parse_spec(spec: str) -> tuple[str, dict[str, Option]]:
    """Name and options of a pooling. Raises InvalidOption."""
    name, _, rest = spec.strip().partition(":")
    options: dict[str, Option] = {}
    for entry in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not key or not value:
            raise InvalidOption(
                f"pooling {spec!r}: {entry!r} is no option; write name:option=value,option=value"
            )
        if key in options:
            raise InvalidOption(f"pooling {spec!r} names the option {key!r} twice")
        options[key] = _value(value)
    return name.strip(), options


def format_spec(name: str, options: Mapping[str, Option]) -> str:
    """The line that `parse_spec` reads; `cbp_ac` where there are no options."""
    entries = [f"{key}={_text(value)}" for key, value in options.items()]
    return f"{name}:{','.join(entries)}" if entries else name


def _value(text: str) -> Option:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _text(value: Option) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
