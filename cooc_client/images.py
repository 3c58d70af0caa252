"""Images as a caller names them, and as they are sent."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

File: TypeAlias = bytes | str | Path | BinaryIO
"""The bytes of an image file, its path, or an open file."""


@dataclass(frozen=True)
class Stored:
    """An image that the service has, by its id."""

    id: str


@dataclass(frozen=True)
class Region:
    """A box on the upright image, from its top left corner: pixels, or parts of its sides."""

    x: float
    y: float
    width: float
    height: float
    unit: Literal["px", "norm"] = "px"


@dataclass(frozen=True)
class Example:
    """An image of a query of several, or a region of one."""

    image: File | Stored
    region: Region | None = None


def read(file: File) -> bytes:
    """The bytes of a file. Raises OSError."""
    if isinstance(file, bytes):
        return file
    if isinstance(file, str | Path):
        return Path(file).read_bytes()
    return file.read()


def source(image: File | Stored | Example) -> dict[str, Any]:
    """An image as JSON has it."""
    if isinstance(image, Example):
        region = {} if image.region is None else {"region": asdict(image.region)}
        return {**source(image.image), **region}
    if isinstance(image, Stored):
        return {"id": image.id}
    return {"image_base64": base64.b64encode(read(image)).decode()}
