"""Plain data out of pickle files, without running anything that a file asks for.

A pickle is a program for a stack machine, and may name any function to call. This reader follows
only the opcodes that build lists, dictionaries, text and numbers; for the few calls by which
NumPy arrays are stored there are functions here that do nothing else. Python's own `Unpickler`,
however it is restricted, can be brought down by a file of a few kilobytes: by hashing deeply
nested tuples, or by a memo entry with a huge number.
"""

from __future__ import annotations

import codecs
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.errors import InvalidOption
from engine.evaluation.datasets.base import read_bytes
from engine.evaluation.datasets.pickled_numpy import (
    FUNCTIONS,
    Refused,
    StoredArray,
    StoredDtype,
    StoredFunction,
)

MAX_VALUES = 10_000_000
"""Opcodes, and numbers in arrays: each may become an object far larger than its code."""

_MAX_DEPTH = 16
_MAX_INT_BYTES = 16

_DAMAGE = (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError, struct.error)
"""What the reader raises on files that are no pickles, or cut off."""


def read_pickle(file: Path) -> object:
    """What a pickle of protocol 0 to 5 holds, as lists, dictionaries with text keys and scalars.

    Tuples and NumPy arrays become lists, NumPy scalars numbers. Text of Python 2 is taken for
    Latin-1. Nothing is imported or called on behalf of the file.

    Raises: InvalidOption naming the file, and the function if it wants one called.
    """
    data = read_bytes(file)
    try:
        return _Reader(data).read()
    except Refused as error:
        raise InvalidOption(f"{file} is refused: {error}") from error
    except _DAMAGE as error:
        raise InvalidOption(f"{file} is no pickle or a damaged one: {error!r:.200}") from error


# How the arguments of opcodes are written.


def _integer(data: bytes) -> int:
    if len(data) > _MAX_INT_BYTES:
        raise Refused(f"it has a number of {len(data):,} bytes")
    return int.from_bytes(data, "little", signed=True)


def _integer_line(line: bytes) -> int:
    if len(line) > 3 * _MAX_INT_BYTES:
        raise Refused(f"it has a number of {len(line):,} digits")
    booleans = {b"00": False, b"01": True}
    return booleans[line] if line in booleans else int(line.removesuffix(b"L"))


def _quoted_line(line: bytes) -> str:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise Refused("it has text without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _latin1(data: bytes) -> str:
    return data.decode("latin-1")


_CONSTANTS: Mapping[bytes, object] = {
    pickle.NONE: None,
    pickle.NEWTRUE: True,
    pickle.NEWFALSE: False,
}
_PACKED: Mapping[bytes, str] = {
    pickle.BININT: "<i",
    pickle.BININT1: "<B",
    pickle.BININT2: "<H",
    pickle.BINFLOAT: ">d",
}
_LINES: Mapping[bytes, Callable[[bytes], object]] = {
    pickle.INT: _integer_line,
    pickle.LONG: _integer_line,
    pickle.FLOAT: float,
    pickle.STRING: _quoted_line,
    pickle.UNICODE: lambda line: line.decode("raw-unicode-escape"),
}
_SIZED: Mapping[bytes, tuple[str, Callable[[bytes], object]]] = {
    pickle.LONG1: ("<B", _integer),
    pickle.LONG4: ("<i", _integer),
    pickle.BINUNICODE: ("<I", _utf8),
    pickle.SHORT_BINUNICODE: ("<B", _utf8),
    pickle.BINUNICODE8: ("<Q", _utf8),
    pickle.BINSTRING: ("<i", _latin1),
    pickle.SHORT_BINSTRING: ("<B", _latin1),
    pickle.BINBYTES: ("<I", bytes),
    pickle.SHORT_BINBYTES: ("<B", bytes),
    pickle.BINBYTES8: ("<Q", bytes),
    pickle.BYTEARRAY8: ("<Q", bytes),
}
_GETS: Mapping[bytes, str] = {pickle.BINGET: "<B", pickle.LONG_BINGET: "<I"}
_PUTS: Mapping[bytes, str] = {pickle.BINPUT: "<B", pickle.LONG_BINPUT: "<I"}
_TUPLES: Mapping[bytes, int] = {
    pickle.EMPTY_TUPLE: 0,
    pickle.TUPLE1: 1,
    pickle.TUPLE2: 2,
    pickle.TUPLE3: 3,
}


class _Reader:
    """The stack machine: a stack, marks in it, and the memo of what is used more than once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}
        self._uncopied = len(data)

    def read(self) -> object:
        for _ in range(MAX_VALUES):
            opcode = self._take(1)
            if opcode == pickle.STOP:
                return _Plain().of(self._stack.pop())
            if not self._push_value(opcode):
                self._act(opcode)
        raise _too_many_values()

    def _push_value(self, opcode: bytes) -> bool:
        """Push what needs nothing from the stack; False if `opcode` is of another sort."""
        if opcode in _CONSTANTS:
            value = _CONSTANTS[opcode]
        elif opcode in _PACKED:
            value = self._unpack(_PACKED[opcode])
        elif opcode in _SIZED:
            size, decode = _SIZED[opcode]
            value = decode(self._take(self._unpack(size)))
        elif opcode in _GETS:
            value = self._memo[self._unpack(_GETS[opcode])]
        elif opcode in _LINES:
            value = _LINES[opcode](self._line())
        elif opcode == pickle.GET:
            value = self._memo[int(self._line())]
        else:
            return False
        self._stack.append(value)
        return True

    def _act(self, opcode: bytes) -> None:
        stack = self._stack
        if opcode in _PUTS:
            self._memo[self._unpack(_PUTS[opcode])] = stack[-1]
            return
        if opcode in _TUPLES:
            start = len(stack) - _TUPLES[opcode]
            stack.append(tuple(self._pop_from(start)))
            return
        match opcode:
            case pickle.MEMOIZE:
                self._memo[len(self._memo)] = stack[-1]
            case pickle.PUT:
                self._memo[int(self._line())] = stack[-1]
            case pickle.MARK:
                self._marks.append(len(stack))
            case pickle.POP_MARK:
                self._pop_mark()
            case pickle.POP:
                stack.pop()
            case pickle.DUP:
                stack.append(stack[-1])
            case pickle.EMPTY_LIST:
                stack.append([])
            case pickle.EMPTY_DICT:
                stack.append({})
            case pickle.LIST:
                stack.append(self._pop_mark())
            case pickle.TUPLE:
                stack.append(tuple(self._pop_mark()))
            case pickle.DICT:
                entries = self._pop_mark()
                stack.append({})
                self._set_items(entries)
            case pickle.APPEND:
                self._extend(self._pop_from(len(stack) - 1))
            case pickle.APPENDS:
                self._extend(self._pop_mark())
            case pickle.SETITEM:
                self._set_items(self._pop_from(len(stack) - 2))
            case pickle.SETITEMS:
                self._set_items(self._pop_mark())
            case pickle.GLOBAL:
                module = self._line().decode()
                stack.append(_function(module, self._line().decode()))
            case pickle.STACK_GLOBAL:
                module_name, name = self._pop_from(len(stack) - 2)
                stack.append(_function(module_name, name))
            case pickle.INST:
                module = self._line().decode()
                raise _forbidden(module, self._line().decode())
            case pickle.REDUCE:
                self._call()
            case pickle.BUILD:
                self._build()
            case pickle.PROTO | pickle.FRAME:
                self._unpack("<B" if opcode == pickle.PROTO else "<Q")
            case _:
                at = f"{opcode!r} at byte {self._position - 1:,}"
                raise Refused(f"it has the opcode {at}, which no plain data needs")

    def _call(self) -> None:
        function, arguments = self._pop_from(len(self._stack) - 2)
        if not isinstance(function, StoredFunction) or not isinstance(arguments, tuple):
            raise Refused("it wants to call what is no function")
        self._charge(arguments)
        self._stack.append(function.call(*arguments))

    def _build(self) -> None:
        target, state = self._pop_from(len(self._stack) - 2)
        if not isinstance(target, StoredDtype | StoredArray) or not isinstance(state, tuple):
            raise Refused("it wants to set the state of an object")
        self._charge(state)
        target.fill(state)
        self._stack.append(target)

    def _charge(self, values: tuple[object, ...]) -> None:
        """Text that is turned into bytes is a copy; of one text there could be a million."""
        self._uncopied -= max((len(v) for v in values if isinstance(v, str)), default=0)
        if self._uncopied < 0:
            raise Refused("it uses the same long text over and over")

    def _extend(self, values: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise Refused("it wants to append to what is no list")
        target.extend(values)

    def _set_items(self, entries: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise Refused("it wants to set entries of what is no dictionary")
        for key, value in zip(entries[::2], entries[1::2], strict=True):
            # Text only: the hash of deeply nested tuples overflows the stack of the process.
            if not isinstance(key, str):
                raise Refused(f"it has a dictionary key of type {type(key).__name__}; use text")
            target[key] = value

    def _pop_mark(self) -> list[object]:
        return self._pop_from(self._marks.pop())

    def _pop_from(self, start: int) -> list[object]:
        if not 0 <= start <= len(self._stack):
            raise IndexError("nothing left on the stack")
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if count < 0 or end > len(self._data):
            raise Refused(f"it is cut off at byte {self._position:,}")
        data = self._data[self._position : end]
        self._position = end
        return data

    def _unpack(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> bytes:
        end = self._data.find(b"\n", self._position)
        if end < 0:
            raise Refused(f"it is cut off at byte {self._position:,}")
        line = self._data[self._position : end]
        self._position = end + 1
        return line


def _function(module: object, name: object) -> StoredFunction:
    if not isinstance(module, str) or not isinstance(name, str):
        raise Refused("it names a function by what is no text")
    if (module, name) not in FUNCTIONS:
        raise _forbidden(module, name)
    return FUNCTIONS[module, name]


def _forbidden(module: str, name: str) -> Refused:
    return Refused(
        f"it wants to use {f'{module}.{name}'!r:.200}; a ground truth holds only lists, text, "
        "numbers and NumPy arrays (nothing of the file was run)"
    )


def _too_many_values() -> Refused:
    return Refused(f"it has more than {MAX_VALUES:,} values; a ground truth has fewer")


class _Plain:
    """Turns tuples and NumPy arrays into lists; what is used twice is converted once."""

    def __init__(self) -> None:
        self._done: dict[int, object] = {}
        self._unused = MAX_VALUES

    def of(self, value: object, depth: int = _MAX_DEPTH) -> object:
        if depth == 0:
            raise Refused(f"it is nested more than {_MAX_DEPTH} deep, or holds itself")
        if isinstance(value, StoredDtype | StoredFunction):
            raise Refused("it holds a NumPy type where a value is expected")
        if isinstance(value, dict | list | tuple | StoredArray):
            if id(value) not in self._done:
                self._done[id(value)] = self._converted(value, depth)
            return self._done[id(value)]
        return value

    def _converted(
        self, value: dict[str, object] | list[object] | tuple[object, ...] | StoredArray, depth: int
    ) -> object:
        if isinstance(value, StoredArray):
            self._unused -= value.size
            if self._unused < 0:
                raise _too_many_values()
            return value.content()
        if isinstance(value, dict):
            return {key: self.of(entry, depth - 1) for key, entry in value.items()}
        return [self.of(entry, depth - 1) for entry in value]
