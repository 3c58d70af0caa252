"""Archives that should not be trusted: bombs, names that lead elsewhere, links, lies."""

from __future__ import annotations

import gzip
import io
import random
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable

Archive = Callable[[bytes, random.Random], bytes]
"""A file to pack, and chance."""

NAMES = (
    "../../escaped.jpg", "/etc/cron.d/x.jpg", "..\\..\\x.jpg", "C:\\x.jpg", "a/../../../b.jpg",
    "", ".", "..", "/", "a//b.jpg", "x" * 5000 + ".jpg", "a\0b.jpg", "a\nb.jpg", "caf\u00e9.jpg",
    "\U0001f600.jpg", "\u202egpj.exe", "a/thumbnail", "__MACOSX/._a.jpg", ".hidden.jpg", "~/x.jpg",
    "CON", "a" + "/b" * 1000 + ".jpg", " ", "%2e%2e%2fx.jpg", "-rf.jpg", "$(id).jpg",
)  # fmt: skip


def zip_names(data: bytes, draw: random.Random) -> bytes:
    return _zip([(draw.choice(NAMES), data) for _ in range(draw.choice((1, 5, 30)))])


def zip_bomb(_: bytes, draw: random.Random) -> bytes:
    return _zip([(f"{n}.bmp", bytes(draw.choice((1, 5, 20)) << 20)) for n in range(4)])


def zip_of_many(_: bytes, draw: random.Random) -> bytes:
    return _zip([(f"{n}.jpg", b"") for n in range(draw.choice((1, 500)))])


def zip_nested(data: bytes, draw: random.Random) -> bytes:
    packed = data
    for depth in range(draw.choice((1, 5, 50))):
        packed = _zip([(f"{depth}.zip", packed)])
    return packed


def zip_links(data: bytes, draw: random.Random) -> bytes:
    target = draw.choice((b"/etc/passwd", b"../../catalog.sqlite", b"a.jpg"))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, target)
        archive.writestr("a.jpg", data)
    return out.getvalue()


def zip_wrong_sums(data: bytes, draw: random.Random) -> bytes:
    """Wrong checksums, sizes, methods or flags, in either of the two places that have them."""
    packed = bytearray(_zip([("a.jpg", data), ("b.jpg", data[::-1])], zipfile.ZIP_STORED))
    central = packed.find(b"PK\1\2")
    offset = draw.choice((6, 8, 14, 18, 22, central + 8, central + 10, central + 16, central + 20,
                          central + 24, central + 42))  # fmt: skip
    packed[offset : offset + 2] = draw.choice((b"\0\0", b"\1\0", b"\xff\xff", b"c\0"))
    return bytes(packed)


def zip_overlapping(_: bytes, draw: random.Random) -> bytes:
    """Many entries of one and the same packed file, as few bytes for very many."""
    packed = _zip([("a.bmp", bytes(draw.choice((1, 8)) << 20))])
    begin = packed.find(b"PK\1\2")
    end = packed.find(b"PK\5\6")
    entry, count = packed[begin:end], draw.choice((10, 500))
    closing = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, count * len(entry), begin, 0)
    return packed[:begin] + entry * count + closing


def tar_names(data: bytes, draw: random.Random) -> bytes:
    members = [tarfile.TarInfo(draw.choice(NAMES) or "a.jpg") for _ in range(5)]
    return _tar([(member, data) for member in members], draw)


def tar_links(data: bytes, draw: random.Random) -> bytes:
    """Links and devices in place of files."""
    members = []
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    for number, kind in enumerate(kinds):
        member = tarfile.TarInfo(f"{number}.jpg")
        member.type = kind
        member.linkname = draw.choice(("/etc/passwd", "../../../etc/passwd", "0.jpg", "1.jpg"))
        members.append((member, b""))
    return _tar([*members, (tarfile.TarInfo("good.jpg"), data)], draw)


def tar_lies(data: bytes, draw: random.Random) -> bytes:
    """A size in the header that the file does not have."""
    member = tarfile.TarInfo("a.jpg")
    member.size = draw.choice((0, 1, len(data) * 100, 8 << 30, 2**60))
    return member.tobuf(tarfile.GNU_FORMAT) + data + bytes(1024)


def gzip_bomb(_: bytes, draw: random.Random) -> bytes:
    member = tarfile.TarInfo("a.bmp")
    member.size = draw.choice((1, 20)) << 20
    return gzip.compress(member.tobuf() + bytes(member.size + 1024), 9)


def junk(data: bytes, draw: random.Random) -> bytes:
    head = draw.choice(
        (b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"7z\xbc\xaf")
    )
    return head + draw.randbytes(500) + data


def _zip(files: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # the same name twice is meant
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


def _tar(members: list[tuple[tarfile.TarInfo, bytes]], draw: random.Random) -> bytes:
    out = io.BytesIO()
    mode = draw.choice(("w", "w:gz", "w:bz2", "w:xz"))
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


ARCHIVES: tuple[Archive, ...] = (
    zip_names, zip_bomb, zip_of_many, zip_nested, zip_links, zip_wrong_sums, zip_overlapping,
    tar_names, tar_links, tar_lies, gzip_bomb, junk,
)  # fmt: skip
