"""What a cached descriptor depends on: the way to describe, and the file."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

import engine
from engine.describer import Describer
from engine.images import Box
from engine.pooling import Pooling

DESCRIBING = (
    "images.py",
    "describer.py",
    "cooccurrence.py",
    "max_correlation.py",
    "evaluation/correlation.py",
    "postprocess*",
)
DESCRIBING_FOLDERS = ("backbones", "pooling", "postprocess")
DESCRIBING_PACKAGES = ("torch", "pillow")
"""What decides a descriptor besides its recipe. A change there empties nothing, but is not mixed
with what was computed before."""


def description_digest(describer: Describer, pooling: Pooling) -> str:
    """SHA-256 over all that decides the raw descriptor of a file, precision and code included."""
    recipe = describer.recipe.to_json()
    content = {
        name: recipe[name] for name in ("backbone", "layer", "weights_digest", "max_side", "scales")
    }
    content |= {
        "pooling": pooling.kind,
        "options": dict(pooling.options),
        "digest": pooling.digest(),
        "root": pooling.signed_root,
        "precision": describer.precision,
        "device": describer.device.type,
        "code": _code_digest(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def _code_digest() -> str:
    root = Path(engine.__file__).parent
    files = [file for pattern in DESCRIBING for file in root.glob(pattern) if file.is_file()]
    files += [file for folder in DESCRIBING_FOLDERS for file in (root / folder).glob("*.py")]
    content = hashlib.sha256()
    for file in sorted(files):
        content.update(file.name.encode())
        content.update(file.read_bytes())
    for package in DESCRIBING_PACKAGES:
        content.update(f"{package} {version(package)}".encode())
    return content.hexdigest()


def file_key(path: Path, box: Box | None, upright: bool) -> str:
    """SHA-256 over path, size and times of the last change, with what is done to the file.

    Two files that trade places may have the same size and time of writing, yet not the time at
    which their entries changed.

    Raises: OSError for a file that is not there.
    """
    state = path.stat()
    part = None if box is None else [float(value) for value in box]
    rest = f"|{state.st_size}|{state.st_mtime_ns}|{state.st_ctime_ns}|{part}|{upright}"
    # Bytes, as not every path is valid text.
    return hashlib.sha256(os.fsencode(path.resolve()) + rest.encode()).hexdigest()
