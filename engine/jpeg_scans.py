"""How many scans a JPEG has. A pure function."""

from __future__ import annotations

import re

MAX_SCANS = 500
"""Encoders make a dozen. A decoder goes over all pixels for each, however few bytes it has: a
small file of a hundred thousand scans would keep it busy for an hour."""

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""Within coded data 0xFF is followed by 0 or by a restart marker."""
_END, _SCAN, _ALONE = 0xD9, 0xDA, {0x01, 0xD8}


def has_too_many_scans(data: bytes) -> bool:
    """Whether a JPEG file has more than `MAX_SCANS`; what comes after its end does not count."""
    if data.count(b"\xff\xda") <= MAX_SCANS:
        return False
    scans, position = 0, 2
    while found := _MARKER.search(data, position):
        kind, position = found[1][0], found.end()
        if kind == _END:
            return False
        scans += kind == _SCAN
        if scans > MAX_SCANS:
            return True
        if kind not in _ALONE:
            position += int.from_bytes(data[position : position + 2], "big")
    return False
