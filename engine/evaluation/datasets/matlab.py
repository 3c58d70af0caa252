"""Ground truth in MATLAB files (version 5 to 7.2), in the form of the pickled one."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import InvalidOption
from engine.evaluation.datasets.base import read_bytes

_VARIABLES = ("imlist", "qimlist", "gnd")

_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    zlib.error,
)
"""What SciPy raises on damaged files, besides errors of its own."""


def read_matlab(file: Path) -> dict[str, object]:
    """`imlist`, `qimlist` and `gnd` of a MATLAB file: lists of names, list of dictionaries.

    MATLAB knows only matrices. Cells and matrices become flat lists, a text in a cell text; the
    fields of `gnd` stay lists however few values they have. Indices are left as they are, from 1.
    SciPy trusts the sizes in files that are not compressed: a damaged one can end the process.

    Raises: InvalidOption naming the file, or the extra that is needed.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise InvalidOption(
            f"reading {file} needs the extra `mat`: pip install '.[mat]'"
        ) from error
    data = read_bytes(file)
    try:
        content = loadmat(io.BytesIO(data), variable_names=list(_VARIABLES))
        return {name: _plain(content[name]) for name in _VARIABLES if name in content}
    except NotImplementedError as error:
        raise InvalidOption(
            f"{file} is a MATLAB file of version 7.3; save it with -v7 (or use the .pkl file)"
        ) from error
    except (MatReadError, *_DAMAGE) as error:
        raise InvalidOption(f"{file} is no MATLAB file or a damaged one: {error!r:.200}") from error


def _plain(value: NDArray[Any]) -> list[object]:
    if value.dtype.names:
        return [
            {name: _plain(np.atleast_1d(entry[name])) for name in value.dtype.names}
            for entry in value.ravel()
        ]
    if value.dtype == object:
        return [_cell(entry) for entry in value.ravel()]
    if value.dtype.kind == "U":  # rows of text, filled up with blanks
        return [str(row).rstrip() for row in value.ravel()]
    return list(value.ravel().tolist())


def _cell(entry: object) -> object:
    """Content of a cell: text as text, a number as a number, anything else as a list."""
    if not isinstance(entry, np.ndarray):
        return entry
    content = _plain(entry)
    return content[0] if len(content) == 1 else content
