"""A filter on metadata: as JSON, as values, and what it means for one image.

A condition names a field and tests it: `{"field": "album", "eq": "2024"}`, with `ne`, `in` (a
list), `exists` (true or false), or bounds, of which two may be given at once: `gt` or `gte`, and
`lt` or `lte`. Conditions are joined by `{"and": [...]}`, `{"or": [...]}` and `{"not": {...}}`. An
object that uses none of these words is short for equalities that all have to hold:
`{"album": "2024", "year": 2021}`.

- `"a.b"` is the entry `b` of the object under `a`. A list of keys, `["a.b", "c"]`, says the same
  for keys that contain a dot. Paths lead into objects, not into lists.
- Types are strict: `true` is not `1`, `"1"` is not `1`. Numbers are compared as doubles (RFC 8259,
  section 6), so `2` is `2.0`; strings by code points. A bound holds only for its own type.
- A list has what one of its elements has; both bounds must hold for the same one. An object, and a
  list within a list, equals nothing.
- `ne` and `not` are the plain opposite: they also match where the field is missing, and a list
  only if none of its elements matches. `exists` is true for every field that is there, `null` and
  an empty list included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engine.errors import InvalidFilter

MAX_DEPTH = 16
MAX_NODES = 256
MAX_FIELDS = 32
MAX_SET = 10_000
MAX_KEYS = 16
"""Keys of one path."""

Scalar = str | float | int | bool | None
Path = tuple[str, ...]
MISSING: Any = object()
"""What `lookup` finds where there is nothing: JSON has no such value."""

_BOUNDS = ("gt", "gte", "lt", "lte")
_TESTS = ("eq", "ne", "in", "exists", *_BOUNDS)
_RESERVED = frozenset(("field", "and", "or", "not", *_TESTS))


@dataclass(frozen=True)
class OneOf:
    """The field has one of the values."""

    field: Path
    values: tuple[Scalar, ...]

    # By type, as Python takes True for 1.
    @cached_property
    def strings(self) -> frozenset[str]:
        return frozenset(value for value in self.values if isinstance(value, str))

    @cached_property
    def numbers(self) -> frozenset[float]:
        return frozenset(as_double(value) for value in self.values if is_number(value))

    @cached_property
    def constants(self) -> frozenset[bool | None]:
        return frozenset(v for v in self.values if v is None or isinstance(v, bool))

    def accepts(self, value: object) -> bool:
        if isinstance(value, str):
            return value in self.strings
        if is_number(value):
            return as_double(value) in self.numbers
        return (value is None or isinstance(value, bool)) and value in self.constants


@dataclass(frozen=True)
class Between:
    """The field lies within bounds, all of them numbers or all strings."""

    field: Path
    gt: float | str | None = None
    gte: float | str | None = None
    lt: float | str | None = None
    lte: float | str | None = None

    def __post_init__(self) -> None:
        kinds = {isinstance(bound, str) for bound in self.bounds.values()}
        if len(kinds) != 1:
            raise ValueError(f"the bounds are {self.bounds}; give numbers or strings, not both")

    @cached_property
    def bounds(self) -> dict[str, Any]:
        """Those that are given, by their names."""
        given = {name: getattr(self, name) for name in _BOUNDS}
        return {name: bound for name, bound in given.items() if bound is not None}

    @property
    def of_strings(self) -> bool:
        return any(isinstance(bound, str) for bound in self.bounds.values())

    def accepts(self, value: Any) -> bool:
        if self.of_strings:
            return isinstance(value, str) and self._holds(value)
        return is_number(value) and self._holds(as_double(value))

    def _holds(self, value: Any) -> bool:
        return all(
            (name == "gt" and value > bound)
            or (name == "gte" and value >= bound)
            or (name == "lt" and value < bound)
            or (name == "lte" and value <= bound)
            for name, bound in self.bounds.items()
        )


@dataclass(frozen=True)
class Exists:
    """The field is there, whatever it holds."""

    field: Path


@dataclass(frozen=True)
class And:
    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Or:
    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    part: Filter


Filter = OneOf | Between | Exists | And | Or | Not


# --- meaning ------------------------------------------------------------------------------


def matches(where: Filter, metadata: Mapping[str, Any]) -> bool:
    """Whether an image of this metadata passes the filter."""
    if isinstance(where, And):
        return all(matches(part, metadata) for part in where.parts)
    if isinstance(where, Or):
        return any(matches(part, metadata) for part in where.parts)
    if isinstance(where, Not):
        return not matches(where.part, metadata)
    value = lookup(metadata, where.field)
    if isinstance(where, Exists):
        return value is not MISSING
    return any(map(where.accepts, value if isinstance(value, list) else (value,)))


def lookup(metadata: Mapping[str, Any], path: Path) -> Any:
    """The value under `path`, or MISSING."""
    value: Any = metadata
    for key in path:
        if not isinstance(value, dict):
            return MISSING
        value = value.get(key, MISSING)
    return value


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_double(value: Any) -> float:
    """The double nearest to a number: infinite where an integer is beyond all of them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def fields(where: Filter) -> frozenset[Path]:
    """The paths that the filter looks at."""
    return frozenset(_fields(where))


def _fields(where: Filter) -> Iterator[Path]:
    if isinstance(where, And | Or):
        for part in where.parts:
            yield from _fields(part)
    elif isinstance(where, Not):
        yield from _fields(where.part)
    else:
        yield where.field


# --- from and to JSON ---------------------------------------------------------------------


def parse_filter(value: object, *, at: str = "") -> Filter:
    """A filter from JSON.

    Args:
        at: JSON pointer of the filter within what the caller was given, for messages.

    Raises: InvalidFilter, naming the place and the remedy.
    """
    where = _Parser().parse(value, at, 1)
    if len(fields(where)) > MAX_FIELDS:
        raise InvalidFilter(
            f"the filter looks at {len(fields(where))} fields; at most {MAX_FIELDS}", pointer=at
        )
    return where


def filter_json(where: Filter) -> dict[str, Any]:
    """The JSON of a filter; `parse_filter` gives the filter back."""
    if isinstance(where, And):
        return {"and": [filter_json(part) for part in where.parts]}
    if isinstance(where, Or):
        return {"or": [filter_json(part) for part in where.parts]}
    if isinstance(where, Not):
        return {"not": filter_json(where.part)}
    dotted = all(key and "." not in key for key in where.field)
    field: dict[str, Any] = {"field": ".".join(where.field) if dotted else list(where.field)}
    if isinstance(where, Exists):
        return {**field, "exists": True}
    if isinstance(where, Between):
        return {**field, **where.bounds}
    if len(where.values) == 1:
        return {**field, "eq": where.values[0]}
    return {**field, "in": list(where.values)}


class _Parser:
    """Counts the nodes of one filter while it is read."""

    def __init__(self) -> None:
        self._nodes = 0

    def parse(self, value: object, at: str, depth: int) -> Filter:
        if not isinstance(value, dict):
            raise _invalid(at, f"a filter is a JSON object, not {_name(value)}")
        if depth > MAX_DEPTH:
            raise _invalid(at, f"nested more than {MAX_DEPTH} deep; join conditions in one list")
        if not value:
            raise _invalid(at, "an empty object says nothing; leave the filter out")
        self._count(at)
        if "field" in value:
            return self._condition(value, at)
        if not _RESERVED & value.keys():
            equalities = tuple(
                OneOf(_path(key, _below(at, key)), (_scalar(wanted, _below(at, key)),))
                for key, wanted in value.items()
            )
            for _ in equalities[1:]:
                self._count(at)
            return equalities[0] if len(equalities) == 1 else And(equalities)
        return self._joined(value, at, depth)

    def _count(self, at: str) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _invalid(at, f"more than {MAX_NODES} conditions; use `in` for a set of values")

    def _joined(self, value: dict[str, Any], at: str, depth: int) -> Filter:
        if len(value) > 1 or not {"and", "or", "not"} & value.keys():
            word = min(_RESERVED & value.keys())
            raise _invalid(
                at,
                f"`{word}` cannot stand beside other entries or without a `field`; a condition is "
                f'{{"field": ..., "eq": ...}}, others are joined as {{"and": [...]}}, {{"or": '
                f'[...]}} or {{"not": {{...}}}}, and a field called `{word}` needs the long form',
            )
        ((word, parts),) = value.items()
        below = _below(at, word)
        if word == "not":
            return Not(self.parse(parts, below, depth + 1))
        if not isinstance(parts, list) or not parts:
            raise _invalid(below, f"`{word}` takes a list of one filter or more")
        read = tuple(
            self.parse(part, _below(below, str(number)), depth + 1)
            for number, part in enumerate(parts)
        )
        return And(read) if word == "and" else Or(read)

    def _condition(self, value: dict[str, Any], at: str) -> Filter:
        field = _path(value["field"], _below(at, "field"))
        tests = {name: test for name, test in value.items() if name != "field"}
        for name in tests:
            if name not in _TESTS:
                raise _invalid(_below(at, name), f"unknown test; known are {', '.join(_TESTS)}")
        if not tests:
            raise _invalid(at, f"says nothing of its field; give one of {', '.join(_TESTS)}")
        if tests.keys() <= set(_BOUNDS):
            return _between(field, tests, at)
        if len(tests) > 1:
            raise _invalid(
                at, f"{' and '.join(tests)} in one condition; only bounds go together, use `and`"
            )
        ((name, test),) = tests.items()
        below = _below(at, name)
        if name == "exists":
            if not isinstance(test, bool):
                raise _invalid(below, f"`exists` is true or false, not {_name(test)}")
            return Exists(field) if test else Not(Exists(field))
        if name == "in":
            return OneOf(field, _set(test, below))
        equal = OneOf(field, (_scalar(test, below),))
        return equal if name == "eq" else Not(equal)


def _path(value: object, at: str) -> Path:
    if isinstance(value, str):
        keys = value.split(".")
        if not all(keys):
            raise _invalid(
                at, f"{_shown(value)!r} has an empty key; give the keys as a list if that is meant"
            )
    elif isinstance(value, list) and value and all(isinstance(key, str) for key in value):
        keys = value
    else:
        raise _invalid(at, f"a field is `key`, `key.key` or a list of keys, not {_name(value)}")
    if len(keys) > MAX_KEYS:
        raise _invalid(at, f"has {len(keys)} keys; at most {MAX_KEYS}")
    return tuple(keys)


def _set(value: object, at: str) -> tuple[Scalar, ...]:
    if not isinstance(value, list):
        raise _invalid(at, f"`in` takes a list of values, not {_name(value)}")
    if len(value) > MAX_SET:
        raise _invalid(at, f"has {len(value):,} values; at most {MAX_SET:,}")
    return tuple(_scalar(item, _below(at, str(number))) for number, item in enumerate(value))


def _between(field: Path, bounds: Mapping[str, Any], at: str) -> Between:
    for name, bound in bounds.items():
        if not isinstance(bound, str) and not is_number(bound):
            raise _invalid(
                _below(at, name), f"a bound is a number or a string, not {_name(bound)}; use `eq`"
            )
        _scalar(bound, _below(at, name))
    for one, other in (("gt", "gte"), ("lt", "lte")):
        if one in bounds and other in bounds:
            raise _invalid(at, f"has both `{one}` and `{other}`; give one of them")
    if len({isinstance(bound, str) for bound in bounds.values()}) > 1:
        raise _invalid(at, "one bound is a number and one a string; nothing is within both")
    return Between(field, **bounds)


def _scalar(value: Any, at: str) -> Scalar:
    if is_number(value):
        if not math.isfinite(as_double(value)):
            raise _invalid(at, "not a number that a double can hold; use a smaller one")
    elif value is not None and not isinstance(value, str | bool):
        raise _invalid(
            at,
            f"fields are compared with a string, a number, true, false or null, not {_name(value)}"
            "; use `in` for several values and `a.b` for entries of an object",
        )
    scalar: Scalar = value
    return scalar


_JSON_NAMES = {"dict": "an object", "list": "a list", "str": "a string", "bool": "a truth value"}


def _name(value: object) -> str:
    if value is None:
        return "null"
    return "a number" if is_number(value) else _JSON_NAMES.get(type(value).__name__, "that")


def _below(at: str, key: str) -> str:
    """The JSON pointer of an entry (RFC 6901)."""
    return f"{at}/{_shown(key).replace('~', '~0').replace('/', '~1')}"


def _shown(key: str) -> str:
    """Short, and without half characters, which no answer could contain."""
    short = key if len(key) <= 80 else key[:77] + "..."
    return short.encode("utf-8", "replace").decode()


def _invalid(at: str, detail: str) -> InvalidFilter:
    return InvalidFilter(detail, pointer=at)
