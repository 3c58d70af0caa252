"""One field of the metadata of many images, as arrays that a filter is tested on at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.filters import MISSING, Between, Exists, OneOf, as_double
from engine.types import Rows

Mask = NDArray[np.bool_]
Places = slice | NDArray[np.intp]
"""Positions of a column, ascending."""

_MISSING, _NULL, _FALSE, _TRUE, _FIRST_STRING = 0, 1, 2, 3, 4
_NUMBER, _OTHER, _FIRST_LIST = -1, -2, -3
"""Codes of a value. Strings have those from 4 up, lists those from -3 down."""
_CONSTANTS = {None: _NULL, False: _FALSE, True: _TRUE}
_FEW = 4
"""So many values are compared one by one; more of them through a table."""
_EVERYWHERE = slice(None)


class Growing:
    """An array of one dimension to which values are added, in constant time on average."""

    def __init__(self, dtype: type[np.generic], fill: float = 0) -> None:
        self._fill = fill
        self._buffer: NDArray[Any] = np.full(16, fill, dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def values(self) -> NDArray[Any]:
        """Valid until the next change of the length."""
        return self._buffer[: self._count]

    @property
    def bytes(self) -> int:
        return self._buffer.nbytes

    def resize(self, count: int) -> None:
        """Make it longer, by the fill value."""
        if count > len(self._buffer):
            grown = np.full(max(count, 5 * len(self._buffer) // 4), self._fill, self._buffer.dtype)
            grown[: self._count] = self.values
            self._buffer = grown
        self._count = max(count, self._count)

    def append(self, value: Any) -> None:
        self.resize(self._count + 1)
        self._buffer[self._count - 1] = value

    def extend(self, values: NDArray[Any]) -> None:
        start = self._count
        self.resize(start + len(values))
        self._buffer[start : self._count] = values


class _Strings(dict[str, int]):
    """Codes by string, from `_FIRST_STRING` up in the order of their coming."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.prefixes = Growing(np.uint64)
        self.bytes = 0

    def codes(self, texts: Sequence[str]) -> list[int]:
        """The code of each string; new ones are given the next."""
        known = list(map(self.get, texts))
        if None in known:
            pairs = zip(texts, known, strict=True)
            new = list(dict.fromkeys(text for text, code in pairs if code is None))
            start = _FIRST_STRING + len(self)
            self.update(zip(new, range(start, start + len(new)), strict=True))
            self.texts += new
            self.prefixes.extend(_prefixes(new))
            # The string and its code as objects; tables and arrays are counted apart.
            self.bytes += sum(map(sys.getsizeof, new)) + len(new) * sys.getsizeof(start)
        return [self[text] for text in texts]

    def within(self, where: Between) -> Mask:
        """By code, whether the string lies within the bounds."""
        prefixes: NDArray[np.uint64] = self.prefixes.values
        inside = np.ones(len(prefixes), np.bool_)
        equal = np.zeros(len(prefixes), np.bool_)
        for name, bound in where.bounds.items():
            (edge,) = _prefixes([bound])
            inside &= prefixes > edge if name in ("gt", "gte") else prefixes < edge
            equal |= prefixes == edge
        # Only strings that begin like a bound have to be compared as a whole.
        for place in np.flatnonzero(equal).tolist():
            inside[place] = where.accepts(self.texts[place])
        return np.concatenate([np.zeros(_FIRST_STRING, np.bool_), inside])


def _prefixes(texts: Sequence[str]) -> NDArray[np.uint64]:
    """The first eight bytes of each in UTF-8, whose order is that of the code points."""
    begin = [text[:8].encode("utf-8", "surrogatepass")[:8] for text in texts]
    return np.array(begin, "S8").view(">u8").astype(np.uint64)


class _Values:
    """Single values: a code each, and the number where it is one."""

    def __init__(self, strings: _Strings) -> None:
        self._strings = strings
        self.codes = Growing(np.int32, _MISSING)
        # Only where there is a number at all.
        self._numbers: Growing | None = None

    @property
    def bytes(self) -> int:
        return self.codes.bytes + (self._numbers.bytes if self._numbers else 0)

    def resize(self, count: int) -> None:
        self.codes.resize(count)
        if self._numbers:
            self._numbers.resize(count)

    def set(self, places: Places, codes: NDArray[np.int32], numbers: NDArray[np.float64]) -> None:
        if self._numbers is None and not np.isnan(numbers).all():
            self._numbers = Growing(np.float64, np.nan)
            self._numbers.resize(len(self.codes))
        self.codes.values[places] = codes
        if self._numbers:
            self._numbers.values[places] = numbers

    def one_of(self, where: OneOf, at: Places) -> Mask:
        codes: NDArray[np.int32] = self.codes.values[at]
        known = (self._strings.get(text) for text in where.strings)
        wanted = [code for code in known if code is not None]
        wanted += [_CONSTANTS[constant] for constant in where.constants]
        found = np.zeros(len(codes), np.bool_)
        if len(wanted) <= _FEW:
            for code in wanted:
                found |= codes == code
        else:
            table = np.zeros(_FIRST_STRING + len(self._strings), np.bool_)
            table[wanted] = True
            found = _by_code(table, codes)
        if self._numbers and where.numbers:
            found |= _are_in(self._numbers.values[at], where.numbers)
        return found

    def between(self, where: Between, at: Places) -> Mask:
        if where.of_strings:
            return _by_code(self._strings.within(where), self.codes.values[at])
        if self._numbers is None:
            return np.zeros(len(self.codes.values[at]), np.bool_)
        numbers: NDArray[np.float64] = self._numbers.values[at]
        tests = {"gt": np.greater, "gte": np.greater_equal, "lt": np.less, "lte": np.less_equal}
        found: Mask = np.ones(len(numbers), np.bool_)
        for name, bound in where.bounds.items():
            found &= tests[name](numbers, as_double(bound))
        return found


def _by_code(table: Mask, codes: NDArray[np.int32]) -> Mask:
    """Entry of each code; negative ones take that of a missing value, which is False."""
    found: Mask = table.take(codes, mode="clip")
    return found


def _are_in(numbers: NDArray[np.float64], wanted: frozenset[float]) -> Mask:
    if len(wanted) <= _FEW:
        found = np.zeros(len(numbers), np.bool_)
        for number in wanted:
            found |= numbers == number
        return found
    ordered = np.sort(np.fromiter(wanted, np.float64, len(wanted)))
    places = np.searchsorted(ordered, numbers)
    same: Mask = ordered.take(places, mode="clip") == numbers
    return same


class TypedColumn:
    """The values of one field at positions 0, 1, ...; missing until they are set.

    Strings, truth values and null are codes of a dictionary, numbers doubles. A list is a run of
    entries, values like the others, each with the position of its list. Not for several threads.
    """

    def __init__(self) -> None:
        self._strings = _Strings()
        self._own = _Values(self._strings)
        self._entries = _Values(self._strings)
        self._entry_places = Growing(np.int32)
        # List number n has the entries from ends[n] to ends[n + 1].
        self._ends = Growing(np.int64)
        self._ends.append(0)

    def __len__(self) -> int:
        return len(self._own.codes)

    @property
    def bytes(self) -> int:
        """Memory of the arrays, and of the dictionary by what Python says of its objects."""
        strings = self._strings
        tables = sys.getsizeof(strings) + sys.getsizeof(strings.texts) + strings.prefixes.bytes
        lists = self._entries.bytes + self._entry_places.bytes + self._ends.bytes
        return self._own.bytes + lists + tables + strings.bytes

    def resize(self, count: int) -> None:
        """Make room for `count` positions."""
        self._own.resize(count)

    def put(self, places: Rows, values: Sequence[Any]) -> None:
        """Set the values, MISSING among them, at `places`, each of which is given once.

        Raises: IndexError for a place beyond the length.
        """
        old: NDArray[np.int32] = self._own.codes.values[places]
        for number in (_FIRST_LIST - old[old <= _FIRST_LIST]).tolist():
            self._forget_list(number)
        codes, numbers = self._encoded(values)
        lists = [number for number, value in enumerate(values) if isinstance(value, list)]
        if lists:
            codes[lists] = self._add_lists(places[lists], [values[number] for number in lists])
        self._own.set(places, codes, numbers)

    def _encoded(self, values: Sequence[Any]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Codes and numbers of values, for which lists are objects."""
        kinds = set(map(type, values))
        numbers = np.full(len(values), np.nan)
        if kinds == {str}:
            return np.array(self._strings.codes(values), np.int32), numbers
        if kinds <= {int, float}:
            numbers[:] = [as_double(value) for value in values]
            return np.full(len(values), _NUMBER, np.int32), numbers
        codes = np.full(len(values), _OTHER, np.int32)
        strings: list[int] = []
        for position, value in enumerate(values):
            if isinstance(value, str):
                strings.append(position)
            elif value is MISSING:
                codes[position] = _MISSING
            elif value is None or isinstance(value, bool):
                codes[position] = _CONSTANTS[value]
            elif isinstance(value, int | float):
                codes[position], numbers[position] = _NUMBER, as_double(value)
        codes[strings] = self._strings.codes([values[position] for position in strings])
        return codes, numbers

    def _add_lists(self, places: Rows, lists: Sequence[list[Any]]) -> NDArray[np.int64]:
        """The codes of new lists, one at each of `places`."""
        lengths = [len(elements) for elements in lists]
        codes, numbers = self._encoded([element for elements in lists for element in elements])
        start, first = len(self._entry_places), len(self._ends) - 1
        self._entry_places.extend(np.repeat(places, lengths))
        self._entries.resize(start + len(codes))
        self._entries.set(slice(start, start + len(codes)), codes, numbers)
        self._ends.extend(start + np.cumsum(lengths))
        return _FIRST_LIST - np.arange(first, first + len(lists))

    def _forget_list(self, number: int) -> None:
        start, end = self._ends.values[number : number + 2].tolist()
        nothing = np.full(end - start, np.nan)
        self._entries.set(slice(start, end), np.zeros(end - start, np.int32), nothing)

    def matches(self, where: OneOf | Between | Exists, at: Places = _EVERYWHERE) -> Mask:
        """Whether the value at each of the positions `at` passes a condition."""
        if isinstance(where, Exists):
            present: Mask = self._own.codes.values[at] != _MISSING
            return present
        if isinstance(where, OneOf):
            found = self._own.one_of(where, at)
            entries = self._entries.one_of(where, _EVERYWHERE)
        else:
            found = self._own.between(where, at)
            entries = self._entries.between(where, _EVERYWHERE)
        if entries.any():
            lists = np.zeros(len(self), np.bool_)
            lists[self._entry_places.values[entries]] = True
            found |= lists[at]
        return found
