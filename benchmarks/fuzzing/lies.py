"""Images made by hand whose headers lie, or whose few bytes are very many."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

Lie = Callable[[random.Random], bytes]

PNG = b"\x89PNG\r\n\x1a\n"
SIDES = (0, 1, 15, 16, 4000, 9000, 10_001, 30_000, 65_535, 2**31 - 1, 2**32 - 1)
"""Of an image, pixels: none, too few, allowed, too many, more than anybody can count."""


def chunk(kind: bytes, content: bytes, *, wrong_crc: bool = False) -> bytes:
    """Of a PNG."""
    crc = zlib.crc32(kind + content) ^ int(wrong_crc)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def header(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def png_of_any_size(draw: random.Random) -> bytes:
    """Announces a size that its pixels do not have."""
    colour, depth = draw.choice(((0, 1), (0, 8), (0, 16), (2, 8), (2, 16), (3, 8), (4, 8), (6, 16)))
    pixels = zlib.compress(bytes(draw.choice((0, 1000, 5_000_000))), 9)
    return (
        PNG
        + header(draw.choice(SIDES), draw.choice(SIDES), depth, colour, draw.randrange(3))
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def png_bomb(draw: random.Random) -> bytes:
    """As large as it says, of a few thousand bytes: from allowed to far too large."""
    width, height = draw.choice(((2000, 1500), (5000, 4000), (12_000, 9000), (20_000, 20_000)))
    squeeze = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(squeeze.compress(row) for _ in range(min(height, 12_000)))
    return (
        PNG
        + header(width, height, 1, 0)
        + chunk(b"IDAT", pixels + squeeze.flush())
        + chunk(b"IEND", b"")
    )


def png_with_extras(draw: random.Random) -> bytes:
    """Text, profile or metadata chunks that are huge, or become so when they are unpacked."""
    packed = zlib.compress(bytes(draw.choice((1000, 2_000_000, 30_000_000))), 9)
    extras = {
        b"zTXt": b"key\0\0" + packed,
        b"iTXt": b"key\0\1\0\0\0" + packed,
        b"iCCP": b"profile\0\0" + packed,
        b"tEXt": b"key\0" + bytes(draw.choice((10, 500_000))),
        b"eXIf": b"MM\0*\0\0\0\x08" + b"\xff\xff" + bytes(draw.choice((10, 500_000))),
        b"acTL": struct.pack(">II", draw.choice((0, 1, 2**31 - 1)), 0),
        b"fcTL": bytes(26),
        b"tRNS": bytes(300),
        b"PLTE": bytes(draw.choice((0, 4, 768, 3000))),
    }
    kind = draw.choice(sorted(extras))
    many = draw.choice((1, 1, 20, 1000 if len(extras[kind]) < 5000 else 3))
    pixels = chunk(b"IDAT", zlib.compress(bytes(61 * 20)))
    wrong = draw.random() < 0.2
    parts = [chunk(kind, extras[kind], wrong_crc=wrong)] * many
    return PNG + header(20, 20) + b"".join(parts) + pixels + chunk(b"IEND", b"")


def segment(marker: int, content: bytes, length: int | None = None) -> bytes:
    """Of a JPEG; `length` is what it says of itself."""
    told = len(content) + 2 if length is None else length
    return struct.pack(">BBH", 0xFF, marker, told & 0xFFFF) + content


def jpeg_with_extras(jpeg: bytes, draw: random.Random) -> bytes:
    """Metadata segments in front of a good JPEG: huge, many, empty, or with lies in them."""
    loop = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + bytes(4)
    counts = (
        b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff\xff" + b"\x01\x12\0\x02\xff\xff\xff\xff\0\0\0\0" * 50
    )
    kinds = {
        "exif loop": segment(0xE1, loop),
        "exif counts": segment(0xE1, counts),
        "exif large": segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08" + bytes(60_000)) * 50,
        "xmp": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<x>" * 20_000) * 20,
        "xml": segment(
            0xE1,
            b"http://ns.adobe.com/xap/1.0/\0<!DOCTYPE a [<!ENTITY b 'bbbbbbbbbb'>"
            b"<!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'>]><a>&c;</a>",
        ),
        "profile": b"".join(
            segment(0xE2, b"ICC_PROFILE\0" + bytes((number % 256, 255)) + bytes(65_000))
            for number in range(draw.choice((1, 255, 300)))
        ),
        "pages": segment(0xE2, b"MPF\0MM\0*\0\0\0\x08" + b"\xff\xff" + bytes(200)),
        "comments": segment(0xFE, bytes(65_000)) * 40,
        "empty": segment(0xE1, b"") * 1000,
        "short": segment(0xE1, b"Exif\0\0", draw.choice((0, 1, 2, 0xFFFF))),
        "photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0" + b"\xff" * 300),
        "adobe": segment(0xEE, b"Adobe\0d\0\0\0\0" + bytes((draw.randrange(256),))),
    }  # fmt: skip
    return jpeg[:2] + kinds[draw.choice(sorted(kinds))] + jpeg[2:]


def jpeg_of_any_size(jpeg: bytes, draw: random.Random) -> bytes:
    """Another size in its frame header."""
    found = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    sides = struct.pack(">HH", *(draw.choice(SIDES) & 0xFFFF for _ in range(2)))
    return jpeg[: found + 5] + sides + jpeg[found + 9 :]


def jpeg_of_many_scans(progressive: bytes, draw: random.Random) -> bytes:
    """Large, and each of its many scans has next to nothing: work for a decoder, not for us."""
    large = jpeg_of_any_size(progressive, draw) if draw.random() < 0.5 else progressive
    found = large.rfind(b"\xff\xda")
    return large[:found] + large[found:-2] * draw.choice((10, 200, 20_000)) + b"\xff\xd9"


def gif_of_any_size(draw: random.Random) -> bytes:
    """A canvas, and many frames that lie in it or beyond it."""
    canvas = struct.pack("<HH", *(draw.choice(SIDES) & 0xFFFF for _ in range(2)))
    frames = b""
    for _ in range(draw.choice((1, 3, 2000))):
        place = struct.pack("<HHHH", *(draw.choice(SIDES) & 0xFFFF for _ in range(4)))
        frames += b"\x2c" + place + b"\0\x02\x02\x4c\x01\0"
    return b"GIF89a" + canvas + b"\x80\0\0\0\0\0\xff\xff\xff" + frames + b";"


def bmp_of_any_size(draw: random.Random) -> bytes:
    bits, compression = draw.choice((1, 4, 8, 16, 24, 32, 77)), draw.choice((0, 1, 2, 3, 6))
    sides = [draw.choice(SIDES) & 0x7FFFFFFF for _ in range(2)]
    info = struct.pack("<IiiHHIIiiII", 40, *sides, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 1000, 0, 0, 54) + info + draw.randbytes(2000)


def tiff_of_any_tags(draw: random.Random) -> bytes:
    """Few tags, of which each may be anything; folders that point at themselves."""
    names = (256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330,
             338, 339, 347, 34665, 34675, 37724, 700)  # fmt: skip
    values = (0, 1, 2, 3, 5, 7, 8, 16, 100, 5000, 65_535, 2**31, 2**32 - 1)
    count = draw.randrange(3, 20)
    entries = [(256, 4, 1, 100), (257, 4, 1, 100)] if draw.random() < 0.5 else []
    entries += [
        (draw.choice(names), draw.choice((1, 2, 3, 4, 5, 12, 13, 16)),
         draw.choice((1, 1, 3, 1000, 2**31)), draw.choice(values))
        for _ in range(count)
    ]  # fmt: skip
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    following = struct.pack("<I", draw.choice((0, 8, 2**31)))
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    return head + packed + following + draw.randbytes(3000)


def webp_of_any_size(draw: random.Random) -> bytes:
    sides = b"".join((draw.choice(SIDES) & 0xFFFFFF).to_bytes(3, "little") for _ in range(2))
    body = b"WEBPVP8X\x0a\0\0\0" + bytes((draw.randrange(256), 0, 0, 0)) + sides
    body += b"ANIM\x06\0\0\0" + bytes(6)
    for _ in range(draw.choice((0, 1, 500))):
        body += b"ANMF" + struct.pack("<I", draw.choice((0, 16, 24, 2**31))) + draw.randbytes(24)
    return b"RIFF" + struct.pack("<I", draw.choice((len(body), 0, 2**32 - 1))) + body


def box_of_any_size(draw: random.Random) -> bytes:
    """AVIF and HEIC are boxes in boxes: of wrong lengths, nested deep."""
    brand = draw.choice((b"avif", b"avis", b"heic", b"mif1", b"msf1"))
    kind = struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1" + brand
    inner = draw.randbytes(50)
    for _ in range(draw.choice((1, 10, 3000))):
        name = draw.choice((b"meta", b"iprp", b"ipco", b"iinf", b"iloc", b"moov", b"trak", b"dinf"))
        length = draw.choice((len(inner) + 8, len(inner) + 8, len(inner) + 8, 0, 1, 2**32 - 1))
        inner = struct.pack(">I", length) + name + inner
    return kind + inner


def other_type(draw: random.Random) -> bytes:
    """No image at all."""
    return draw.choice((
        b"", b"\0", b"\xff\xd8\xff", PNG, b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM", b"II*\0", b"MM\0*",
        b"<!doctype html><script>alert(1)</script>" * 50,
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%PDF-1.7\n" + draw.randbytes(500), b"%!PS-Adobe-3.0 EPSF-3.0\n" + b"a" * 500,
        b"\x7fELF" + draw.randbytes(500), b"MZ" + draw.randbytes(500),
        b"push graphic-context\nimage over 0,0 0,0 'https://example.com/'\n",
        b"#EXTM3U\nfile:///etc/passwd\n", b"SQLite format 3\0" + bytes(4000),
        draw.randbytes(draw.choice((1, 100, 100_000))), bytes(draw.choice((1, 100, 1_000_000))),
        "\N{SNOWMAN}".encode() * 1000, b"[" * 100_000, b"{\"a\":" * 10_000,
    ))  # fmt: skip


PLAIN: tuple[Lie, ...] = (
    png_of_any_size, png_bomb, png_with_extras, gif_of_any_size, bmp_of_any_size,
    tiff_of_any_tags, tiff_of_any_tags, webp_of_any_size, box_of_any_size, other_type,
)  # fmt: skip
