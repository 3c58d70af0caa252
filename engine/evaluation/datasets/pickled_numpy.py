"""Stand-ins for the few calls by which NumPy arrays and numbers are stored in a pickle.

NumPy's own functions are not called: what they are given is the choice of whoever wrote the file,
and a made-up state of a dtype is enough to let raw bytes pass for pointers.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.datasets.base import shown

_PLAIN_TYPE = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9][0-9]{0,5}")


class Refused(ValueError):
    """A pickle holds what a ground truth does not need."""


@dataclass(frozen=True)
class StoredFunction:
    """What a pickle may call; `call` is all that is ever run for it."""

    call: Callable[..., object]


@dataclass
class StoredDtype:
    """`numpy.dtype`: a kind and size such as `i8`; the byte order comes with the state."""

    code: str
    order: str = "="

    def fill(self, state: tuple[object, ...]) -> None:
        # Version, byte order, then what only types with parts have.
        if len(state) < 5 or state[1] not in ("<", ">", "|", "=") or state[2:5] != (None,) * 3:
            raise Refused(f"it has NumPy values of a type with parts, {self.code!r}")
        self.order = str(state[1])


@dataclass
class StoredArray:
    """`numpy.ndarray`, or a number if it has no dimension; the values come with the state."""

    values: NDArray[Any] | None = None

    def fill(self, state: tuple[object, ...]) -> None:
        if len(state) != 5:
            raise Refused("it has a NumPy array of an unknown form")
        _, shape, dtype, by_columns, raw = state
        self.values = _view(dtype, shape, raw, by_columns=bool(by_columns))

    @property
    def size(self) -> int:
        return 0 if self.values is None else self.values.size

    def content(self) -> object:
        """Nested lists, or a number."""
        if self.values is None:
            raise Refused("it has a NumPy array without values")
        # An empty one of shape (10**9, 0) would be a billion lists.
        return self.values.tolist() if self.values.size else []


def _view(dtype: object, shape: object, raw: object, *, by_columns: bool) -> NDArray[Any]:
    if isinstance(raw, str):  # the bytes of Python 2
        raw = raw.encode("latin-1")
    if not isinstance(dtype, StoredDtype) or not isinstance(raw, bytes):
        raise Refused("it has a NumPy array of an unknown form")
    kind = np.dtype(dtype.order + dtype.code)
    if not isinstance(shape, tuple) or len(shape) > 2:
        raise Refused("it has a NumPy array of more than two dimensions")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise Refused(f"it has a NumPy array of the shape {shown(list(shape))}")
    if math.prod(shape) * kind.itemsize != len(raw):
        raise Refused(f"it has a NumPy array of the shape {shape} in {len(raw):,} bytes")
    if not raw:
        return np.empty(0, kind)
    # NumPy would fail, and not with an error that says so.
    if kind.kind == "U" and np.frombuffer(raw, f"{kind.byteorder}u4").max() > sys.maxunicode:
        raise Refused("it has a NumPy array of text that is none")
    return np.frombuffer(raw, kind).reshape(shape, order="F" if by_columns else "C")


def _dtype(code: object, *_: object) -> StoredDtype:
    if not isinstance(code, str) or not _PLAIN_TYPE.fullmatch(code):
        raise Refused(f"it has NumPy values of the type {shown(code)}; use numbers and text")
    return StoredDtype(code)


def _reconstruct(kind: object, *_: object) -> StoredArray:
    if kind != FUNCTIONS["numpy", "ndarray"]:
        raise Refused("it has a NumPy array of an unknown class")
    return StoredArray()


def _frombuffer(
    raw: object, dtype: object, shape: object, order: object, axes: object = None
) -> StoredArray:
    if order not in ("C", "F") or axes is not None:
        raise Refused("it has a NumPy array with exchanged axes")
    return StoredArray(_view(dtype, shape, raw, by_columns=order == "F"))


def _scalar(dtype: object, raw: object) -> StoredArray:
    return StoredArray(_view(dtype, (), raw, by_columns=False))


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused(f"it has text in the encoding {shown(encoding)}")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    return b""


def _ndarray(*_: object) -> object:
    raise Refused("it wants to make a NumPy array without values")


FUNCTIONS: Mapping[tuple[str, str], StoredFunction] = {
    (module, name): StoredFunction(call)
    for modules, name, call in (
        (("numpy",), "dtype", _dtype),
        (("numpy",), "ndarray", _ndarray),
        (("numpy.core.multiarray", "numpy._core.multiarray"), "_reconstruct", _reconstruct),
        (("numpy.core.multiarray", "numpy._core.multiarray"), "scalar", _scalar),
        (("numpy.core.numeric", "numpy._core.numeric"), "_frombuffer", _frombuffer),
        # How Python 3 writes bytes so that Python 2 can read them, and empty ones.
        (("_codecs",), "encode", _encode),
        (("__builtin__", "builtins"), "bytes", _no_bytes),
    )
    for module in modules
}
"""By module and name; NumPy 2 has moved `core` to `_core`."""
