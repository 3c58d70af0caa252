"""Pictures drawn here, each as a file and as another file of the very same pixels."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache

import numpy as np

from engine.images import decode, encode_jpeg
from engine.types import Pixels

WIDTH, HEIGHT = 96, 72
SHAPES = 7


@lru_cache(maxsize=20_000)
def photo(seed: int) -> bytes:
    """A JPEG of coloured boxes and discs before a gradient; different for every seed."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    sky, ground = draw.integers(0, 256, (2, 3))
    share = (y / HEIGHT)[..., None]
    pixels = sky * (1 - share) + ground * share
    for _ in range(SHAPES):
        centre_x, centre_y = draw.integers(0, WIDTH), draw.integers(0, HEIGHT)
        half_w, half_h = draw.integers(5, WIDTH // 3), draw.integers(5, HEIGHT // 3)
        across, down = (x - centre_x) / half_w, (y - centre_y) / half_h
        disc = draw.integers(0, 2)
        inside = across**2 + down**2 < 1 if disc else np.maximum(abs(across), abs(down)) < 1
        pixels[inside] = draw.integers(0, 256, 3)
    return encode_jpeg(pixels.astype(np.uint8))


def other_file(photo: bytes) -> bytes:
    """A PNG of the same pixels: equal descriptors, but another digest."""
    return _png(decode(photo, max_side=max(WIDTH, HEIGHT)).pixels)


def _png(pixels: Pixels) -> bytes:
    """Pixels (H, W, 3) as PNG (RFC 2083): RGB, 8 bits, rows without filter."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 1))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
