from __future__ import annotations

import io
import random
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engine.errors import BadImage, EngineError, ImageTooLarge, InvalidOption, UnsupportedImage
from engine.images import (
    DecodedImage,
    decode,
    digest,
    encode_jpeg,
    encode_thumbnail,
)
from engine.types import Pixels
from tests.drawing import encode, photo, scene

pillow_heif.register_heif_opener()

ORIENTATION = 0x0112


def png_of(pixels: Pixels) -> bytes:
    return encode(Image.fromarray(pixels), "png")


def array(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def mean_difference(a: Pixels, b: Pixels) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def whole(data: bytes) -> DecodedImage:
    """Decoded at its own size."""
    return decode(data, max_side=4096)


def patches(width: int = 64, height: int = 32) -> NDArray[np.uint8]:
    """(height, width) grey steps that cover 0 to 255."""
    ramp = np.linspace(0, 255, width).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(ramp, (height, width)))


# Formats


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("PNG", {}, "PNG"),
        ("WEBP", {"lossless": True}, "WEBP"),
        ("TIFF", {}, "TIFF"),
        ("TIFF", {"compression": "tiff_lzw"}, "TIFF"),
        ("BMP", {}, "BMP"),
    ],
)
def test_a_lossless_file_gives_back_its_pixels(
    kind: str, options: dict[str, Any], name: str
) -> None:
    drawn = scene(1)
    decoded = whole(encode(drawn, kind, **options))
    assert np.array_equal(decoded.pixels, array(drawn))
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.width, decoded.height, decoded.format) == (160, 120, name)


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}, 2.0),
        ("WEBP", {"quality": 95}, 5.0),
        ("AVIF", {"quality": 95}, 4.0),
        ("HEIF", {"quality": 95}, 5.0),
        ("GIF", {}, 8.0),
    ],
)
def test_a_lossy_file_gives_nearly_its_pixels(
    kind: str, options: dict[str, Any], tolerance: float
) -> None:
    drawn = scene(1)
    decoded = whole(encode(drawn, kind, **options))
    assert mean_difference(decoded.pixels, array(drawn)) < tolerance
    assert (decoded.width, decoded.height, decoded.format) == (160, 120, kind)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("PNG", {}),
        ("MPO", {"quality": 95}),
    ],
)
def test_only_the_first_frame_is_read(kind: str, options: dict[str, Any]) -> None:
    red, blue = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
    data = encode(red, kind, save_all=True, append_images=[blue], **options)
    decoded = whole(data)
    assert decoded.pixels.shape == (30, 40, 3)
    assert mean_difference(decoded.pixels, array(red)) < 2


def test_a_multi_picture_jpeg_counts_as_a_jpeg() -> None:
    data = encode(scene(1), "MPO", save_all=True, append_images=[scene(2)], quality=95)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert whole(data).format == "JPEG"


@pytest.mark.parametrize(
    "data",
    [
        b"this is no picture at all, whatever its name says\n" * 20,
        b'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90"><rect/></svg>',
        encode(Image.new("RGB", (64, 64)), "PDF"),
        encode(Image.new("RGB", (64, 64)), "ICO"),
        encode(Image.new("RGB", (64, 64)), "PPM"),
        encode(Image.new("RGB", (64, 64)), "JPEG2000"),
        b"\0" * 1000,
        b"x",
    ],
    ids=["text", "svg", "pdf", "ico", "ppm", "jpeg2000", "zeros", "one byte"],
)
def test_what_is_no_accepted_format_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="accepted are JPEG, PNG, WEBP, AVIF"):
        whole(data)


# Modes


def test_grey_has_three_equal_channels() -> None:
    grey = patches()
    pixels = whole(encode(Image.fromarray(grey), "PNG")).pixels
    assert np.array_equal(pixels, np.stack([grey] * 3, axis=2))


def test_one_bit_is_black_and_white() -> None:
    bits = patches() > 100
    pixels = whole(encode(Image.fromarray(bits), "PNG")).pixels
    assert np.array_equal(pixels, np.where(bits, 255, 0)[..., None].repeat(3, axis=2))


def test_a_palette_is_looked_up() -> None:
    colours = np.array([[250, 3, 7], [9, 200, 30], [1, 2, 255]], np.uint8)
    indices = (patches() // 86).astype(np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.frombytes(indices.tobytes())
    image.putpalette(colours.tobytes())
    assert np.array_equal(whole(encode(image, "PNG")).pixels, colours[indices])


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_transparent_entries_of_a_palette_are_white(transparency: int | bytes) -> None:
    colours = np.array([[250, 3, 7], [9, 200, 30], [1, 2, 255]], np.uint8)
    indices = (patches() // 86).astype(np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.frombytes(indices.tobytes())
    image.putpalette(colours.tobytes())
    seen = colours.copy()
    seen[1] = 255
    data = encode(image, "PNG", transparency=transparency)
    assert np.array_equal(whole(data).pixels, seen[indices])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_white(kind: str) -> None:
    alpha = patches()
    colour = np.array([200, 40, 90])
    rgba = np.dstack([np.broadcast_to(colour, (*alpha.shape, 3)), alpha]).astype(np.uint8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    pixels = whole(encode(Image.fromarray(rgba), kind, **options)).pixels
    share = alpha[..., None] / 255
    expected = share * colour + (1 - share) * 255
    assert np.abs(pixels - expected).max() <= 1


def test_grey_with_alpha_is_laid_over_white() -> None:
    alpha = patches()
    la = np.dstack([np.full_like(alpha, 60), alpha])
    pixels = whole(encode(Image.fromarray(la, "LA"), "PNG")).pixels
    expected = 60 * (alpha / 255) + 255 * (1 - alpha / 255)
    assert np.abs(pixels - expected[..., None]).max() <= 1


def test_a_transparent_colour_is_white() -> None:
    image = Image.new("RGB", (32, 32), (10, 20, 30))
    image.paste((200, 0, 0), (0, 0, 16, 32))
    pixels = whole(encode(image, "PNG", transparency=(10, 20, 30))).pixels
    assert (pixels[:, :16] == (200, 0, 0)).all()
    assert (pixels[:, 16:] == 255).all()


@pytest.mark.parametrize(("kind", "tolerance"), [("TIFF", 1), ("JPEG", 8)])
def test_inks_absorb_light(kind: str, tolerance: int) -> None:
    ink = np.array([[0, 0, 0, 0], [255, 0, 0, 0], [0, 128, 0, 64], [30, 60, 90, 0], [0, 0, 0, 200]])
    cmyk = np.repeat(np.repeat(ink[None], 32, axis=0), 16, axis=1).astype(np.uint8)
    options = {"quality": 100} if kind == "JPEG" else {}
    pixels = whole(encode(Image.fromarray(cmyk, "CMYK"), kind, **options)).pixels
    light = (255 - cmyk[..., :3].astype(float)) * (255 - cmyk[..., 3:].astype(float)) / 255
    assert np.abs(pixels - light).max() <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    deep = np.linspace(0, 65535, 64).round().astype(np.uint16)
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(deep, (32, 64))))
    assert image.mode == "I;16"
    pixels = whole(encode(image, kind)).pixels
    expected = np.rint(deep * (255 / 65535))
    assert (pixels == expected[None, :, None]).all()


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_float_greys_reach_from_0_to_1_or_to_255(top: float) -> None:
    values = np.linspace(0, top, 64, dtype=np.float32)
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(values, (32, 64))))
    assert image.mode == "F"
    pixels = whole(encode(image, "TIFF")).pixels
    expected = np.rint(values.astype(float) * (255 / top))
    assert (pixels == expected[None, :, None]).all()


def test_float_greys_outside_their_range_are_cut_off() -> None:
    values = np.full((32, 64), 300.0, np.float32)
    values[:, :16], values[:, 16:32], values[:, 32:48] = -5, np.nan, np.inf
    pixels = whole(encode(Image.fromarray(values), "TIFF")).pixels
    assert (pixels[:, :32] == 0).all()
    assert (pixels[:, 32:] == 255).all()


# Orientation

# Which corner of the upright picture the stored first row and first column start from, and
# whether the stored rows are columns of the upright picture: the table of the EXIF standard.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: upright.transpose(1, 0, 2)[::-1],
    7: lambda upright: upright.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda upright: upright.transpose(1, 0, 2)[:, ::-1],
}


def stored(upright: Pixels, orientation: int, kind: str, **options: Any) -> bytes:
    """The file of a camera that was held as `orientation` says."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    return encode(image, kind, exif=exif.tobytes(), **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("max_side", [4096, 100])
def test_every_orientation_gives_the_same_pixels(
    orientation: int, kind: str, max_side: int
) -> None:
    upright = array(scene(3, (150, 110)))
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode(stored(upright, orientation, kind, **options), max_side=max_side)
    plain = decode(png_of(upright), max_side=max_side)
    assert np.array_equal(decoded.pixels, plain.pixels)
    assert (decoded.width, decoded.height) == (150, 110)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "HEIF"])
@pytest.mark.parametrize("max_side", [4096, 64])
def test_every_orientation_of_a_lossy_file_gives_nearly_the_same_pixels(
    orientation: int, kind: str, max_side: int
) -> None:
    upright = array(scene(3, (288, 208)))
    decoded = decode(stored(upright, orientation, kind, quality=95), max_side=max_side)
    plain = decode(png_of(upright), max_side=max_side)
    assert mean_difference(decoded.pixels, plain.pixels) < 5
    assert (decoded.width, decoded.height) == (288, 208)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_orientation_can_be_left_alone(orientation: int, kind: str) -> None:
    upright = array(scene(3, (150, 110)))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = stored(upright, orientation, kind, **options)
    as_stored = STORED[orientation](upright)
    height, width, _ = as_stored.shape
    decoded = decode(data, max_side=4096, upright=False)
    assert np.array_equal(decoded.pixels, as_stored)
    assert (decoded.width, decoded.height) == (width, height)
    part = decode(data, max_side=4096, box=(10, 30, 77, 95), upright=False)
    assert np.array_equal(part.pixels, as_stored[30:95, 10:77])


def test_the_orientation_of_a_large_jpeg_can_be_left_alone() -> None:
    upright = array(scene(3, (288, 208)))
    data = stored(upright, 6, "JPEG", quality=95)
    decoded = decode(data, max_side=64, upright=False)
    plain = decode(png_of(np.ascontiguousarray(STORED[6](upright))), max_side=64)
    assert mean_difference(decoded.pixels, plain.pixels) < 5
    assert (decoded.width, decoded.height) == (208, 288)


@pytest.mark.parametrize("kind", ["TIFF", "HEIF"])
def test_decoders_that_turn_the_image_themselves_do_so_always(kind: str) -> None:
    data = stored(array(scene(3, (150, 110))), 6, kind)
    decoded = decode(data, max_side=4096, upright=False)
    assert np.array_equal(decoded.pixels, whole(data).pixels)
    assert (decoded.width, decoded.height) == (150, 110)


@pytest.mark.parametrize("size", [(1600, 1599), (1599, 1600)])
def test_an_almost_square_photo_keeps_its_width_and_height(size: tuple[int, int]) -> None:
    decoded = decode(photo(1, size), max_side=100)
    assert (decoded.width, decoded.height) == size
    turned = decode(stored(array(scene(1, size)), 6, "JPEG"), max_side=100)
    assert (turned.width, turned.height) == size


def test_an_orientation_beside_an_entry_that_cannot_be_rewritten_is_applied() -> None:
    upright = array(scene(3, (150, 110)))
    # The width is given as the fraction 1/2, where only whole numbers can be written.
    entries = struct.pack(">HHHII", 2, 0x0100, 5, 1, 38) + struct.pack(
        ">HHIHH", ORIENTATION, 3, 1, 6, 0
    )
    exif = b"MM\0*\0\0\0\x08" + entries + struct.pack(">III", 0, 1, 2)
    image = Image.fromarray(np.ascontiguousarray(STORED[6](upright)))
    assert np.array_equal(whole(encode(image, "PNG", exif=exif)).pixels, upright)


@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_does_not_make_an_image_unusable() -> None:
    drawn = scene(1)
    data = encode(drawn, "JPEG", quality=95, exif=b"Exif\0\0nothing of the kind")
    assert mean_difference(whole(data).pixels, array(drawn)) < 6


# Size


@pytest.mark.parametrize("size", [(3000, 2000), (2001, 2999), (2400, 300)])
@pytest.mark.parametrize("max_side", [128, 500, 512])
def test_a_reduced_jpeg_is_close_to_the_resized_whole(size: tuple[int, int], max_side: int) -> None:
    drawn = scene(5, size)
    data = encode(drawn, "JPEG", quality=95)
    full = ImageOps.contain(
        Image.open(io.BytesIO(data)), (max_side, max_side), Image.Resampling.LANCZOS
    )
    decoded = decode(data, max_side=max_side)
    assert decoded.pixels.shape == array(full).shape
    assert mean_difference(decoded.pixels, array(full)) < 2
    assert (decoded.width, decoded.height) == size


def test_a_large_jpeg_is_not_decoded_at_its_full_size() -> None:
    data = photo(5, (4000, 4000))
    seen: list[tuple[int, int]] = []
    original = Image.Image.resize

    def resize(self: Image.Image, *args: Any, **options: Any) -> Image.Image:
        seen.append(self.size)
        return original(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", resize)
        decoded = decode(data, max_side=300)
    assert seen == [(500, 500)]  # an eighth: the smallest scale of the decoder that is enough
    assert decoded.pixels.shape == (300, 300, 3)


def test_a_thumbnail_inside_a_heic_file_is_not_taken_for_the_image() -> None:
    drawn = scene(5, (400, 300))
    plain = decode(encode(drawn, "HEIF", quality=90), max_side=100)
    with_thumbnail = encode(drawn, "HEIF", quality=90, thumbnails=[200])
    assert len(Image.open(io.BytesIO(with_thumbnail)).info["thumbnails"]) == 1
    assert np.array_equal(decode(with_thumbnail, max_side=100).pixels, plain.pixels)


@pytest.mark.parametrize("size", [(20, 17), (100, 40), (128, 128)])
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_small_images_keep_their_size(size: tuple[int, int], kind: str) -> None:
    decoded = decode(photo(1, size, kind), max_side=128)
    assert decoded.pixels.shape == (size[1], size[0], 3)


@pytest.mark.parametrize("size", [(129, 128), (400, 300), (300, 400), (2000, 20), (777, 778)])
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_the_longest_side_is_bounded_and_the_shape_kept(size: tuple[int, int], kind: str) -> None:
    height, width, _ = decode(photo(1, size, kind), max_side=128).pixels.shape
    assert max(width, height) == 128
    scale = 128 / max(size)
    assert abs(width - size[0] * scale) <= 0.5
    assert abs(height - size[1] * scale) <= 0.5


def bilevel_png(width: int, height: int) -> bytes:
    """A black 1-bit PNG, made row by row: a few kilobytes for a billion pixels."""
    row = b"\0" * (1 + (width + 7) // 8)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        parts += [struct.pack(">I", len(content)), name, content, checksum]
    return b"".join(parts)


def test_a_made_png_is_a_png() -> None:
    assert not whole(bilevel_png(40, 30)).pixels.any()


def test_a_pixel_bomb_is_refused_before_it_is_decoded() -> None:
    data = bilevel_png(30_000, 30_000)
    assert len(data) < 1 << 20
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(BadImage, match="30000 x 30000 = 900,000,000 pixels; at most 100,000"):
            decode(data, max_side=512)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Decoded, it would take seconds and, one byte a pixel, 900 MB.
    assert time.process_time() - started < 0.5
    assert peak < 4 << 20


def test_a_small_tiff_of_one_huge_tile_is_refused() -> None:
    content = zlib.compress(b"\0" * 1000, 9)
    entries = [(256, 64), (257, 64), (258, 8), (259, 8), (262, 1), (277, 1)]
    entries += [(322, 30_000), (323, 30_000), (324, 8 + 2 + 12 * 10 + 4), (325, len(content))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", 10) + directory + b"\0" * 4 + content
    with pytest.raises(BadImage, match="tiles of 900,000,000 pixels"):
        whole(data)


def test_the_pixel_limit_is_inclusive() -> None:
    data = photo(1, (100, 50), "png")
    assert decode(data, max_side=64, max_pixels=5000).width == 100
    with pytest.raises(BadImage, match="at most 4,999"):
        decode(data, max_side=64, max_pixels=4999)


def test_the_byte_limit_is_inclusive() -> None:
    data = photo(1)
    assert decode(data, max_side=64, max_bytes=len(data)).width == 160
    with pytest.raises(ImageTooLarge, match=f"{len(data):,} bytes; at most {len(data) - 1:,}"):
        decode(data, max_side=64, max_bytes=len(data) - 1)


@pytest.mark.parametrize("size", [(1, 1), (5000, 10), (15, 16), (16, 15)])
def test_an_image_with_a_side_under_16_pixels_is_refused_by_size(size: tuple[int, int]) -> None:
    with pytest.raises(BadImage, match=rf"{size[0]} x {size[1]} pixels; .* at least 16"):
        whole(encode(Image.new("RGB", size), "PNG"))


def test_16_pixels_are_enough() -> None:
    assert whole(photo(1, (16, 16), "png")).pixels.shape == (16, 16, 3)


# Damage


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(BadImage, match="empty"):
        whole(b"")


@pytest.mark.filterwarnings("ignore")  # Pillow warns of many kinds of damage
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "HEIF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_bad(kind: str, share: float) -> None:
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    data = encode(scene(1), kind, **options)
    with pytest.raises(BadImage, match="damaged"):
        whole(data[: int(len(data) * share)])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_a_signature_without_an_image_is_refused(kind: str) -> None:
    data = encode(scene(1), kind)
    with pytest.raises(BadImage, match="damaged"):
        whole(data[:8] + b"\xff" * 400)
    with pytest.raises(BadImage, match="damaged"):
        whole(data[:12])


def small_files() -> dict[str, bytes]:
    """One small file of each kind that has a decoder of its own."""
    drawn = scene(1, (48, 40))
    grey = np.asarray(drawn.convert("L"))
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F], exif[0x011A] = 6, "maker", 72.0
    files = {
        kind: encode(drawn, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")
    }
    files["MPO"] = encode(drawn, "MPO", save_all=True, append_images=[drawn])
    files["GIF"] = encode(drawn, "GIF", save_all=True, append_images=[scene(2, (48, 40))])
    files["BMP"] = encode(drawn, "BMP")
    files["palette"] = encode(drawn.quantize(16), "PNG", transparency=3)
    files["deep"] = encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    files["alpha"] = encode(drawn.convert("RGBA"), "WEBP", lossless=True)
    files["TIFF"] = encode(drawn, "TIFF", exif=exif)
    files["LZW"] = encode(drawn, "TIFF", compression="tiff_lzw")
    files["JPEG in TIFF"] = encode(drawn, "TIFF", compression="jpeg")
    files["float"] = encode(Image.fromarray(grey / np.float32(255)), "TIFF")
    return files


def damage(data: bytes, draw: random.Random) -> bytes:
    """Cut off, or with some bits and bytes changed; half of the changes are near the start."""
    if draw.random() < 0.25:
        return data[: draw.randrange(1, len(data))]
    damaged = bytearray(data)
    reach = len(data) if draw.random() < 0.5 else min(len(data), 200)
    for _ in range(draw.choice([1, 2, 5, 20])):
        at = draw.randrange(reach)
        damaged[at] = draw.choice([damaged[at] ^ (1 << draw.randrange(8)), draw.randrange(256)])
    return bytes(damaged)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of many kinds of damage
@pytest.mark.parametrize("kind", list(small_files()))
def test_damaged_files_raise_only_our_errors(kind: str) -> None:
    data, draw = small_files()[kind], random.Random(kind)
    refused = 0
    for _ in range(300):
        try:
            pixels = decode(damage(data, draw), max_side=32, max_pixels=1_000_000).pixels
        except EngineError as error:
            assert isinstance(error, BadImage | UnsupportedImage)
            refused += 1
        else:
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
            assert max(pixels.shape) <= 32
    assert refused > 30


# Boxes


def test_a_box_is_cut_out_of_the_upright_original() -> None:
    upright = array(scene(3, (150, 110)))
    for orientation in (1, 6):
        data = stored(upright, orientation, "PNG")
        decoded = decode(data, max_side=4096, box=(30, 20, 91, 70))
        assert np.array_equal(decoded.pixels, upright[20:70, 30:91])
        assert (decoded.width, decoded.height) == (150, 110)


def test_a_box_is_scaled_as_the_whole_image_would_be() -> None:
    drawn = scene(3, (800, 600))
    part = decode(encode(drawn, "PNG"), max_side=200, box=(400, 200, 800, 520))
    assert part.pixels.shape == (80, 100, 3)
    entire = decode(encode(drawn, "PNG"), max_side=200).pixels[50:130, 100:200]
    assert mean_difference(part.pixels[4:, 4:], entire[4:, 4:]) < 1  # but where the cut went


def test_a_box_of_a_large_jpeg_keeps_its_detail() -> None:
    drawn = scene(3, (1600, 1200))
    part = decode(encode(drawn, "JPEG", quality=95), max_side=1600, box=(100, 200, 400, 400))
    assert mean_difference(part.pixels, array(drawn)[200:400, 100:400]) < 5


def test_a_box_beyond_the_borders_ends_at_them() -> None:
    drawn = array(scene(3))
    decoded = decode(png_of(drawn), max_side=4096, box=(-50, 60.4, 40.6, 9999))
    assert np.array_equal(decoded.pixels, drawn[60:, :41])


@pytest.mark.parametrize(
    "box",
    [(200, 0, 300, 50), (-90, -90, -10, -10), (10, 10, 20, 90), (90, 90, 10, 10)],
    ids=["right of it", "left of it", "too thin", "upside down"],
)
def test_a_box_that_leaves_nothing_is_bad(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(BadImage, match=r"leaves less than 16 pixels .* of 160 x 120"):
        decode(photo(1), max_side=64, box=box)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_box_without_numbers_is_bad(value: float) -> None:
    with pytest.raises(BadImage):
        decode(photo(1), max_side=64, box=(0, 0, value, 50))


# Digests and encoders


def test_the_digest_is_sha_256_of_the_bytes() -> None:
    assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    data = photo(1)
    assert whole(data).digest == digest(data)


def test_a_thumbnail_is_a_small_jpeg() -> None:
    drawn = scene(1, (400, 300))
    small = Image.open(io.BytesIO(encode_thumbnail(array(drawn), side=100)))
    assert (small.format, small.size) == ("JPEG", (100, 75))
    assert mean_difference(array(small), array(drawn.resize((100, 75)))) < 8
    assert Image.open(io.BytesIO(encode_thumbnail(array(drawn), side=900))).size == (400, 300)
    with pytest.raises(InvalidOption, match="side is 0"):
        encode_thumbnail(array(drawn), side=0)


def test_encoded_pixels_come_back() -> None:
    drawn = array(scene(1))
    assert np.array_equal(whole(png_of(drawn)).pixels, drawn)
    assert mean_difference(whole(encode_jpeg(drawn, quality=95)).pixels, drawn) < 5


def test_a_jpeg_of_endless_scans_is_refused_and_an_odd_one_is_not() -> None:
    good = encode(scene(1), "jpg", progressive=True)
    last = good.rfind(b"\xff\xda")

    def of_scans(more: int) -> bytes:
        return good[:last] + good[last:-2] * (1 + more) + good[-2:]

    pixels = decode(good, max_side=512).pixels
    assert decode(of_scans(100), max_side=512).pixels.shape == pixels.shape
    with pytest.raises(BadImage, match="500 scans"):
        decode(of_scans(600), max_side=512)
    # Bytes that look like scans but are none: a film after the picture, a note before it.
    film = good + b"\xff\xda" * 5000
    np.testing.assert_array_equal(decode(film, max_side=512).pixels, pixels)
    note = b"\xff\xfe\xea\x62" + b"\xff\xda" * 30_000
    np.testing.assert_array_equal(decode(good[:2] + note + good[2:], max_side=512).pixels, pixels)
