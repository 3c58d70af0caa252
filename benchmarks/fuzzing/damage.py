"""Damage that does not know what it damages: bytes cut off, flipped, repeated, mixed."""

from __future__ import annotations

import random
from collections.abc import Callable

Damage = Callable[[bytes, bytes, random.Random], bytes]
"""A file, another file, and chance; gives a damaged file."""


def cut(data: bytes, _: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def cut_head(data: bytes, _: bytes, draw: random.Random) -> bytes:
    return data[draw.randrange(len(data)) :]


def flip_bits(data: bytes, _: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(data)
    for _n in range(draw.choice((1, 3, 10, 100))):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def damage_head(data: bytes, _: bytes, draw: random.Random) -> bytes:
    """In the first bytes, where sizes and types are."""
    damaged = bytearray(data)
    for _n in range(draw.choice((1, 2, 5, 20))):
        damaged[draw.randrange(min(len(damaged), 200))] = draw.choice((0, 1, 127, 128, 255))
    return bytes(damaged)


def overwrite(data: bytes, _: bytes, draw: random.Random) -> bytes:
    begin = draw.randrange(len(data))
    length = draw.randrange(1, 500)
    filler = draw.choice((b"\0", b"\xff", b"A")) * length
    return data[:begin] + filler + data[begin + length :]


def leave_out(data: bytes, _: bytes, draw: random.Random) -> bytes:
    begin = draw.randrange(len(data))
    return data[:begin] + data[begin + draw.randrange(1, 500) :]


def repeat(data: bytes, _: bytes, draw: random.Random) -> bytes:
    begin = draw.randrange(len(data))
    part = data[begin : begin + draw.randrange(1, 500)]
    return data[:begin] + part * draw.choice((2, 10, 500)) + data[begin:]


def splice(data: bytes, other: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))] + other[draw.randrange(len(other)) :]


def insert_junk(data: bytes, _: bytes, draw: random.Random) -> bytes:
    begin = draw.randrange(len(data))
    return data[:begin] + draw.randbytes(draw.randrange(1, 2000)) + data[begin:]


def append_other(data: bytes, other: bytes, _: random.Random) -> bytes:
    """A polyglot: one file to those who read from the front, another to those who do not."""
    return data + other


def shuffle_blocks(data: bytes, _: bytes, draw: random.Random) -> bytes:
    size = draw.choice((16, 64, 512))
    blocks = [data[begin : begin + size] for begin in range(0, len(data), size)]
    draw.shuffle(blocks)
    return data[:size] + b"".join(blocks)


def pad(data: bytes, _: bytes, draw: random.Random) -> bytes:
    return data + bytes(draw.choice((1, 1000, 1_000_000)))


def keep(data: bytes, _: bytes, __: random.Random) -> bytes:
    """Good files must not be taken for bad ones either."""
    return data


DAMAGES: tuple[Damage, ...] = (
    cut, cut_head, flip_bits, damage_head, damage_head, overwrite, leave_out, repeat, splice,
    insert_junk, append_other, shuffle_blocks, pad, keep,
)  # fmt: skip
