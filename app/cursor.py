"""Places in a list, in a form that clients pass back and do not look into."""

from __future__ import annotations

import base64
import binascii
import zlib

from app.errors import InvalidFields

_CHECK = 4
"""Bytes of the checksum in front: a mistyped cursor is refused, not taken for another place."""


def to_cursor(place: str) -> str:
    """Letters, digits, `-` and `_`."""
    content = place.encode()
    checked = zlib.crc32(content).to_bytes(_CHECK, "big") + content
    return base64.urlsafe_b64encode(checked).decode().rstrip("=")


def from_cursor(cursor: str) -> str:
    """Raises InvalidFields for what `to_cursor` has not made."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        checked = base64.b64decode(padded, altchars=b"-_", validate=True)
        content = checked[_CHECK:]
        if zlib.crc32(content).to_bytes(_CHECK, "big") != checked[:_CHECK]:
            raise ValueError("its checksum is wrong")
        return content.decode()
    except (binascii.Error, ValueError) as error:
        raise no_cursor(cursor) from error


def no_cursor(given: str) -> InvalidFields:
    """What is said of anything that was not the `next_cursor` of a page."""
    shown = given if len(given) <= 40 else given[:37] + "..."
    detail = (
        f"{shown!r} is no cursor; pass `next_cursor` of the page before, or leave it out to begin"
    )
    return InvalidFields([{"pointer": "/cursor", "detail": detail}])
