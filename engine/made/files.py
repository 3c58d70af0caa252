"""Drawn pixels as files of many formats: good ones, to be damaged by tests."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image

from engine.types import Pixels

Encode = Callable[[Image.Image], bytes]


def formats() -> dict[str, Encode]:
    """How to write each kind of file that this installation can write, by a name for it."""
    kinds: dict[str, Encode] = {
        "jpeg": _saved("JPEG", quality=80),
        "jpeg progressive": _saved("JPEG", progressive=True),
        "jpeg grey": _saved("JPEG", "L"),
        "jpeg cmyk": _saved("JPEG", "CMYK"),
        "png": _saved("PNG"),
        "png alpha": _saved("PNG", "RGBA"),
        "png palette": _saved("PNG", "P"),
        "png 16 bit": _saved("PNG", "I;16"),
        "png 1 bit": _saved("PNG", "1"),
        "apng": _saved("PNG", frames=6),
        "webp": _saved("WEBP", quality=70),
        "webp lossless": _saved("WEBP", lossless=True),
        "webp animated": _saved("WEBP", frames=6),
        "gif": _saved("GIF", "P"),
        "gif animated": _saved("GIF", "P", frames=12),
        "avif": _saved("AVIF"),
        "tiff": _saved("TIFF"),
        "tiff lzw": _saved("TIFF", compression="tiff_lzw"),
        "tiff deflate": _saved("TIFF", compression="tiff_adobe_deflate"),
        "tiff jpeg": _saved("TIFF", compression="jpeg"),
        "tiff float": _saved("TIFF", "F"),
        "tiff pages": _saved("TIFF", frames=4),
        "bmp": _saved("BMP"),
        "mpo": _saved("MPO", frames=2),
        # Not taken by the service.
        "ico": _saved("ICO"),
        "ppm": _saved("PPM"),
        "tga": _saved("TGA"),
        "pcx": _saved("PCX"),
        "jpeg 2000": _saved("JPEG2000"),
        "dds": _saved("DDS"),
    }
    try:
        import pillow_heif
    except ImportError:
        return kinds
    pillow_heif.register_heif_opener()
    return {**kinds, "heic": _saved("HEIF")}


def encoded(pixels: Pixels) -> dict[str, bytes]:
    """(H, W, 3) pixels as a file of every format."""
    image = Image.fromarray(pixels)
    return {name: encode(image) for name, encode in formats().items()}


def _saved(kind: str, mode: str = "RGB", *, frames: int = 1, **options: object) -> Encode:
    def encode(image: Image.Image) -> bytes:
        out = io.BytesIO()
        shown = image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
        if frames > 1:
            others = [shown.rotate(7 * number) for number in range(1, frames)]
            shown.save(out, kind, save_all=True, append_images=others, **options)
        else:
            shown.save(out, kind, **options)
        return out.getvalue()

    return encode
