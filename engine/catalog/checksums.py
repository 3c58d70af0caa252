"""Checksums of what the catalog stores of an image: SQLite keeps none.

A flipped bit in the file of a database shows only where it breaks its structure.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

FIELDS = "id, digest, width, height, format, metadata, created_at"
"""Columns of an image that its checksum covers, in this order."""


def record_checksum(fields: Iterable[object]) -> int:
    """CRC-32 of the values of `FIELDS`, each as text with its length."""
    total = 0
    for value in fields:
        text = str(value).encode()
        total = zlib.crc32(b"%d:" % len(text) + text, total)
    return total


def content_checksum(vector: bytes, thumbnail: bytes) -> int:
    """CRC-32 of a stored descriptor and the thumbnail after it."""
    return zlib.crc32(thumbnail, zlib.crc32(vector))


def differing(rows: Iterable[tuple[object, ...]]) -> Iterator[tuple[str, str]]:
    """Ids of images whose values are not those that were written, and which of them.

    Args:
        rows: of each the values of `FIELDS`, descriptor, thumbnail and the two checksums.
    """
    for *fields, vector, thumbnail, record, content in rows:
        assert isinstance(vector, bytes) and isinstance(thumbnail, bytes)
        if record_checksum(fields) != record:
            yield str(fields[0]), "entry"
        if content_checksum(vector, thumbnail) != content:
            yield str(fields[0]), "descriptor or thumbnail"
