"""From the bytes of a file to upright RGB pixels. With `engine.made` the only user of Pillow."""

from __future__ import annotations

import hashlib
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from engine.errors import BadImage, EngineError, ImageTooLarge, InvalidOption, UnsupportedImage
from engine.jpeg_scans import MAX_SCANS, has_too_many_scans
from engine.types import Pixels

# Limits are ours, checked in `decode` before any pixel is decoded; Pillow's own limit would only
# warn, and for images that some users are right to allow.
Image.MAX_IMAGE_PIXELS = None

# What Pillow says of damaged files helps nobody here, and each new warning would be kept for ever.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP")
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .avif .gif .tif .tiff .bmp .heic .heif".split()
)
"""Of files that are taken for images where nothing names them."""

MIN_SIDE = 16
"""Pixels. Below this nothing is left of an image after a trunk of stride 16 or 32."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the upright original (of the stored one, if that is asked
for)."""

Cut = Callable[[int, int], Box]
"""The box in an image of that width and height, for boxes that depend on them."""

_DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What Pillow, its plugins and the libraries under them raise on damaged files."""

_ORIENTATION, _TILE_WIDTH, _TILE_LENGTH = 0x0112, 322, 323
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by EXIF orientation."""

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


@dataclass(frozen=True)
class DecodedImage:
    """Upright RGB pixels, resized, with what is known of the file they came from.

    `width` and `height` are those of the upright original, before resizing. `data` are the bytes of
    the file, for those who keep them.
    """

    pixels: Pixels
    width: int
    height: int
    format: str
    digest: str
    data: bytes | None = None


def digest(data: bytes) -> str:
    """SHA-256 of the encoded bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def decode(
    data: bytes,
    *,
    max_side: int,
    box: Box | Cut | None = None,
    max_pixels: int = 100_000_000,
    max_bytes: int = 64 << 20,
    upright: bool = True,
) -> DecodedImage:
    """Decode an image file; the longest side becomes at most `max_side`, never upsampled.

    JPEGs are decoded at a reduced DCT scale where that suffices (`draft`), EXIF orientation is
    applied, transparency is laid over white, only the first frame of an animation is read.
    With a `box` that part is cut out first and scaled as the whole image would have been.
    Without `upright` pixels, size and box are those that are stored, as published ground truths
    mean them (but in TIFF and HEIC files, whose decoders always apply the orientation).

    Raises:
        ImageTooLarge: more than `max_bytes` bytes.
        UnsupportedImage: not an image, or a format outside `FORMATS` (and HEIC, with its extra).
        BadImage: empty, damaged, more than `max_pixels` pixels, a side under `MIN_SIDE`, a JPEG
            of more than `MAX_SCANS` scans, or a box outside the image.
    """
    if not data:
        raise BadImage("the file is empty (0 bytes)")
    if len(data) > max_bytes:
        raise ImageTooLarge(
            f"the image has {len(data):,} bytes; at most {max_bytes:,} are accepted"
        )
    image = _open(data)
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(
            f"the image is {width} x {height} = {width * height:,} pixels; "
            f"at most {max_pixels:,} are accepted: send a smaller version"
        )
    if _tile_pixels(image) > max_pixels:
        raise BadImage(
            f"the TIFF image has tiles of {_tile_pixels(image):,} pixels; "
            f"at most {max_pixels:,} are accepted: save it with smaller tiles"
        )
    if min(width, height) < MIN_SIDE:
        raise BadImage(
            f"the image is {width} x {height} pixels; each side needs at least {MIN_SIDE}"
        )
    format_name = "JPEG" if image.format == "MPO" else image.format or "?"
    if format_name == "JPEG" and has_too_many_scans(data):
        raise BadImage(f"the JPEG image has more than {MAX_SCANS} scans: save it anew")
    try:
        # Before any load: lets the JPEG decoder skip detail that resizing would throw away.
        # Not for HEIC, where it would take a thumbnail from the file instead of the image.
        if box is None and format_name == "JPEG":
            image.draft("RGB", (max_side, max_side))
        image.load()
        # Transposed before resizing, so that all eight orientations give the same pixels.
        orientation = _orientation(image) if upright else 1
        turned = _upright(image, orientation)
        if orientation >= 5:
            width, height = height, width
        if box is None:
            # From the size in the file: that of a reduced JPEG is rounded up.
            shown, size = turned, _fitted((width, height), max_side)
        else:
            shown = _cut(turned, box(*turned.size) if callable(box) else box)
            size = _fitted(shown.size, _scaled(max_side, shown, turned))
        pixels = np.asarray(_resize(_to_rgb(shown), size))
    except _DECODER_ERRORS as error:
        raise BadImage(f"the {format_name} image is damaged: {error}") from error
    except MemoryError as error:
        raise BadImage(f"the {format_name} image cannot be decoded: {error!r}") from error
    return DecodedImage(pixels, width, height, format_name, digest(data))


def check_decodable(data: bytes) -> None:
    """Decode an image file of any size. Raises BadImage or UnsupportedImage."""
    image = _open(data)
    try:
        image.load()
    except _DECODER_ERRORS as error:
        raise BadImage(f"the {image.format} image is damaged: {error}") from error


def pixels_of(data: bytes) -> int:
    """Pixels that an image file says it has, without decoding it; 0 if it cannot be read."""
    try:
        width, height = _open(data).size
    except EngineError:
        return 0
    return width * height


def encode_thumbnail(pixels: Pixels, *, side: int = 256) -> bytes:
    """A JPEG of `pixels` whose longest side is at most `side`."""
    if side < 1:
        raise InvalidOption(f"thumbnail side is {side}; it must be at least 1")
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    _resize(image, _fitted(image.size, side)).save(out, "JPEG", quality=85)
    return out.getvalue()


def encode_jpeg(pixels: Pixels, *, quality: int = 90) -> bytes:
    """A JPEG of `pixels` at their own size."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


def _open(data: bytes) -> Image.Image:
    formats = list(FORMATS)
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        _register_heif()
        formats.append("HEIF")
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        if any(_begins_as(data, name) for name in formats):
            raise BadImage("the image header is damaged or cut off") from error
        raise UnsupportedImage(
            f"not an image of a known format; accepted are {', '.join(FORMATS)} and HEIC"
        ) from error
    # A header that names a known format but is damaged.
    except _DECODER_ERRORS as error:
        raise BadImage(f"the image header is damaged: {error}") from error


def _begins_as(data: bytes, format_name: str) -> bool:
    _, accepts = Image.OPEN[format_name]
    return accepts is not None and bool(accepts(data[:16]))


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise UnsupportedImage(
            "this is a HEIC image; reading it needs the extra `heic`: pip install '.[heic]'"
        ) from error
    pillow_heif.register_heif_opener()


def _tile_pixels(image: Image.Image) -> int:
    """Pixels of one tile of a TIFF, else 0. It is decoded whole, however small the image."""
    tags = getattr(image, "tag_v2", {})
    try:
        return int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))
    except _DECODER_ERRORS:
        return 0  # damaged tags: the decoder refuses them


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image, 1 to 8; 1 where there is none or its EXIF is damaged."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except _DECODER_ERRORS:
        return 1
    return orientation if orientation in _TRANSPOSES else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    # Not ImageOps.exif_transpose: it also writes the EXIF anew and fails on entries it cannot.
    return image.transpose(_TRANSPOSES[orientation]) if orientation > 1 else image


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode; 16-bit and float greys are scaled, alpha is laid over white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _grey8(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _grey8(image: Image.Image) -> Image.Image:
    with np.errstate(invalid="ignore"):  # numbers of a damaged file that are none
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
    # Float images are in [0, 1] or [0, 255] by convention, integer ones have 16 bits.
    if image.mode == "F":
        scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
    else:
        scale = 255.0 / 65535.0
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))


def _cut(image: Image.Image, box: Box) -> Image.Image:
    left, top, right, bottom = (round(value) for value in box)
    left, top = max(0, left), max(0, top)
    right, bottom = min(image.width, right), min(image.height, bottom)
    if min(right - left, bottom - top) < MIN_SIDE:
        raise BadImage(
            f"the box {box} leaves less than {MIN_SIDE} pixels a side "
            f"of an image of {image.width} x {image.height}"
        )
    return image.crop((left, top, right, bottom))


def _scaled(max_side: int, part: Image.Image, whole: Image.Image) -> int:
    """The longest side of a part, at the scale that the whole image gets."""
    return max(MIN_SIDE, round(max_side * max(part.size) / max(whole.size)))


def _fitted(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """`size`, scaled down so that its longest side is at most `max_side`."""
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
