"""What filters mean, a second time and slowly, and random metadata and filters to compare with."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

Document = dict[str, Any]
Where = dict[str, Any]

# --- meaning ------------------------------------------------------------------------------


def passes(where: Where, document: Document) -> bool:
    """Whether a document passes a filter, straight from the JSON of both."""
    if "and" in where:
        return all(passes(part, document) for part in where["and"])
    if "or" in where:
        return any(passes(part, document) for part in where["or"])
    if "not" in where:
        return not passes(where["not"], document)
    if "field" not in where:
        return all(passes({"field": key, "eq": value}, document) for key, value in where.items())
    there, value = _walk(where["field"], document)
    if "exists" in where:
        return there is where["exists"]
    if "ne" in where:
        return not passes({"field": where["field"], "eq": where["ne"]}, document)
    if not there:
        return False
    candidates = value if isinstance(value, list) else [value]
    if "eq" in where:
        return any(_same(candidate, where["eq"]) for candidate in candidates)
    if "in" in where:
        return any(_same(candidate, wanted) for candidate in candidates for wanted in where["in"])
    return any(_within(candidate, where) for candidate in candidates)


def _walk(field: str | list[str], document: Document) -> tuple[bool, Any]:
    value: Any = document
    for key in field.split(".") if isinstance(field, str) else field:
        if type(value) is not dict or key not in value:
            return False, None
        value = value[key]
    return True, value


def _kind(value: Any) -> str:
    if type(value) in (int, float):
        return "number"
    return {bool: "truth", str: "string", type(None): "null"}.get(type(value), "other")


def _order(value: Any) -> Any:
    """Something that is ordered as values of one kind are."""
    if _kind(value) == "string":
        return [ord(character) for character in value]
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _same(one: Any, other: Any) -> bool:
    kind = _kind(one)
    if kind != _kind(other) or kind == "other":
        return False
    if kind in ("number", "string"):
        return bool(_order(one) == _order(other))
    return one is other


def _within(value: Any, where: Where) -> bool:
    for name in ("gt", "gte", "lt", "lte"):
        if name not in where:
            continue
        bound = where[name]
        if _kind(value) != _kind(bound):
            return False
        left, right = _order(value), _order(bound)
        holds = {"gt": left > right, "gte": left >= right, "lt": left < right, "lte": left <= right}
        if not holds[name]:
            return False
    return True


# --- random ones --------------------------------------------------------------------------

NUMBERS = [0, 1, 2, -1, 1.0, 2.5, -0.0, 1e308, 2**53, 2**53 + 1, 2021]
STRINGS = ["", "1", "a", "b", "true", "é", "e\u0301", "\uffff", "\U00010000", "a\0", "\0"]
# Alike in their first eight bytes, and cut there within a character.
STRINGS += [
    "aaaaaaaa",
    "aaaaaaaab",
    "aaaaaaaac",
    "aaaaaaaé",
    "aaaaaaaê",
    "2024-01-02",
    "2024-01-03",
]
CONSTANTS = [None, True, False]

# Mostly few and confusable ones, so that filters often find something.
HOT = [1, 1.0, True, False, None, "1", "a"]
scalars = st.sampled_from([*NUMBERS, *STRINGS, *CONSTANTS, *(6 * HOT)])
stored_scalars = st.sampled_from(
    [*NUMBERS, *STRINGS, *CONSTANTS, *(6 * HOT), 10**400, -(10**400), 1e-300]
)
objects = st.dictionaries(st.sampled_from(["a", "b"]), stored_scalars, max_size=2)
lists = st.lists(st.one_of(stored_scalars, objects, st.just([1, "a"])), max_size=4)
documents = st.dictionaries(
    st.sampled_from(["a", "a", "a", "b", "a.b", ""]),
    st.one_of(stored_scalars, stored_scalars, lists, lists, objects, st.just({"b": [1, "a"]})),
    max_size=3,
)
fields = st.sampled_from(
    [*(6 * ["a"]), "b", "b", "a.b", "a.b", "c", ["a.b"], ["a", "b"], [""], ["a", "b", "a"]]
)


def _bounds(values: list[Any]) -> st.SearchStrategy[Where]:
    lower = st.one_of(st.none(), st.tuples(st.sampled_from(["gt", "gte"]), st.sampled_from(values)))
    upper = st.one_of(st.none(), st.tuples(st.sampled_from(["lt", "lte"]), st.sampled_from(values)))
    pairs = st.tuples(lower, upper).map(lambda both: dict(filter(None, both)))
    return pairs.filter(bool)


tests = st.one_of(
    st.builds(lambda value: {"eq": value}, scalars),
    st.builds(lambda value: {"ne": value}, scalars),
    st.builds(lambda values: {"in": values}, st.lists(scalars, max_size=8)),
    st.sampled_from([{"exists": True}, {"exists": False}]),
    _bounds(NUMBERS),
    _bounds(STRINGS),
)
conditions = st.builds(lambda field, test: {"field": field, **test}, fields, tests)
shorthands = st.dictionaries(st.sampled_from(["a", "b", "a.b"]), scalars, min_size=1, max_size=2)
filters: st.SearchStrategy[Where] = st.recursive(
    st.one_of(conditions, conditions, shorthands),
    lambda inner: st.one_of(
        st.builds(lambda parts: {"and": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"or": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=5,
)
