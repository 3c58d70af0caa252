from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings

from engine.errors import InvalidFilter, InvalidOption
from engine.filters import (
    MAX_DEPTH,
    MAX_FIELDS,
    MAX_NODES,
    MAX_SET,
    And,
    Between,
    Exists,
    Not,
    OneOf,
    Or,
    fields,
    filter_json,
    matches,
    parse_filter,
)
from tests.filter_cases import Document, Where, documents, filters, passes


def holds(where: Any, **metadata: Any) -> bool:
    return matches(parse_filter(where), metadata)


def refusal(where: Any, at: str = "") -> InvalidFilter:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(where, at=at)
    return caught.value


# --- what filters mean --------------------------------------------------------------------


def test_types_are_strict() -> None:
    values: list[Any] = [None, True, False, 0, 1, "", "0", "1", "true", "null"]
    for wanted in values:
        for stored in values:
            for where in ({"field": "a", "eq": wanted}, {"field": "a", "in": [wanted, "else"]}):
                alike = type(wanted) is type(stored) and wanted == stored
                assert holds(where, a=stored) is alike, (wanted, stored)


def test_numbers_are_compared_as_doubles() -> None:
    assert holds({"a": 2}, a=2.0) and holds({"a": 2.0}, a=2)
    assert holds({"a": 2**53}, a=2**53 + 1)  # the same double
    assert not holds({"a": 2**53}, a=2**53 + 2)
    assert holds({"field": "a", "gt": 1e308}, a=10**400)
    assert not holds({"field": "a", "lt": 0}, a=-0.0)


def test_strings_are_ordered_by_code_points() -> None:
    # In UTF-16, which other programs compare, the second one comes first.
    assert holds({"field": "a", "gt": "\uffff"}, a="\U00010000")
    assert holds({"field": "a", "gte": "2024-01", "lt": "2024-02"}, a="2024-01-31")
    assert not holds({"field": "a", "gt": "Z"}, a="Y")
    assert holds({"field": "a", "gt": "Z"}, a="a")


def test_bounds_hold_only_for_their_own_type() -> None:
    others: list[Any] = [None, True, {"b": 5}, {"b": "x"}, [], [[5]], [["x"]]]
    for value in [*others, "5"]:
        assert not holds({"field": "a", "gte": 0}, a=value), value
    for value in [*others, 5]:
        assert not holds({"field": "a", "gte": ""}, a=value), value


def test_a_list_has_what_one_of_its_elements_has() -> None:
    assert holds({"field": "tags", "eq": "b"}, tags=["a", "b"])
    assert holds({"field": "tags", "in": ["x", "b"]}, tags=["a", "b"])
    assert not holds({"field": "tags", "eq": "b"}, tags=[])
    # Both bounds for the same element: 0 and 9 do not make up for each other.
    assert not holds({"field": "n", "gt": 1, "lt": 5}, n=[0, 9])
    assert holds({"field": "n", "gt": 1, "lt": 5}, n=[0, 9, 3])
    both = {"and": [{"field": "n", "gt": 1}, {"field": "n", "lt": 5}]}
    assert holds(both, n=[0, 9])


def test_ne_and_not_are_the_plain_opposite() -> None:
    for where in ({"field": "a", "ne": "x"}, {"not": {"field": "a", "eq": "x"}}):
        assert holds(where)
        assert holds(where, a=None)
        assert holds(where, a=["y"])
        assert not holds(where, a="x")
        assert not holds(where, a=["y", "x"])
    stored = {"and": [{"field": "a", "exists": True}, {"field": "a", "ne": "x"}]}
    assert holds(stored, a="y") and not holds(stored)


def test_a_field_exists_whatever_it_holds() -> None:
    values: list[Any] = [None, [], {}, False, ""]
    for value in values:
        assert holds({"field": "a", "exists": True}, a=value)
        assert not holds({"field": "a", "exists": False}, a=value)
    assert holds({"field": "a", "exists": False}, b=1)
    assert not holds({"field": "a.b", "exists": True}, a=[{"b": 1}])


def test_paths_lead_into_objects_and_lists_of_keys_name_keys_with_dots() -> None:
    metadata = {"a": {"b": {"c": 1}}, "a.b": 2, "": {"": 3}}
    assert holds({"field": "a.b.c", "eq": 1}, **metadata)
    assert holds({"a.b.c": 1}, **metadata)
    assert holds({"field": ["a.b"], "eq": 2}, **metadata)
    assert holds({"field": ["", ""], "eq": 3}, **metadata)
    assert not holds({"field": "a.b", "eq": 2}, **metadata)
    assert not holds({"field": "a.b.c.d", "exists": True}, **metadata)
    assert not holds({"field": "a.b", "eq": 1}, a="b")


def test_an_object_without_words_of_the_language_is_equalities() -> None:
    where = {"album": "2024", "year": 2021, "draft": None}
    assert holds(where, album="2024", year=2021.0, draft=None, more=1)
    assert not holds(where, album="2024", year=2021)
    assert holds({"or": [{"album": "x"}, {"not": {"year": 1}}]}, album="y")


@settings(max_examples=500, deadline=None, database=None)
@given(filters, documents)
def test_any_filter_means_what_the_slow_evaluator_says(where: Where, document: Document) -> None:
    assert matches(parse_filter(where), document) is passes(where, document)


@settings(max_examples=300, deadline=None, database=None)
@given(filters)
def test_a_filter_comes_back_from_its_json(where: Where) -> None:
    read = parse_filter(where)
    written = json.loads(json.dumps(filter_json(read)))
    # As text, since 1 is True to Python.
    assert repr(parse_filter(written)) == repr(read)


def test_filters_can_be_made_in_python() -> None:
    where = And(
        (
            OneOf(("album",), ("2024", "2023")),
            Or((Between(("meta", "year"), gte=2020), Not(Exists(("meta",))))),
        )
    )
    assert matches(where, {"album": "2023", "meta": {"year": 2021}})
    assert not matches(where, {"album": "2023", "meta": {}})
    assert fields(where) == {("album",), ("meta", "year"), ("meta",)}
    assert parse_filter(filter_json(where)) == where
    wrong: list[Any] = [{}, {"gt": 1, "lt": "b"}]
    for bounds in wrong:
        with pytest.raises(ValueError, match="give numbers or strings"):
            Between(("a",), **bounds)


# --- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "pointer", "words"),
    [
        (["a"], "", "a filter is a JSON object, not a list"),
        ({}, "", "leave the filter out"),
        ({"and": []}, "/and", "one filter or more"),
        ({"or": {"a": 1}}, "/or", "takes a list"),
        ({"and": [{"a": 1}, 5]}, "/and/1", "not a number"),
        ({"not": [{"a": 1}]}, "/not", "not a list"),
        ({"and": [{"a": 1}], "b": 2}, "", "`and` cannot stand beside other entries"),
        ({"eq": 5}, "", "needs the long form"),
        ({"field": "a"}, "", "says nothing of its field"),
        ({"field": "a", "equals": 1}, "/equals", "known are eq, ne, in"),
        ({"field": "a", "eq": 1, "ne": 2}, "", "use `and`"),
        ({"field": "a", "eq": 1, "gt": 2}, "", "only bounds go together"),
        ({"field": "a", "eq": [1]}, "/eq", "use `in`"),
        ({"field": "a", "eq": {"b": 1}}, "/eq", "`a.b` for entries"),
        ({"album": ["x"]}, "/album", "use `in`"),
        ({"a/b~c": {}}, "/a~1b~0c", "not an object"),
        ({"field": "a", "in": "abc"}, "/in", "takes a list of values, not a string"),
        ({"field": "a", "in": [1, [2]]}, "/in/1", "not a list"),
        ({"field": "a", "exists": 1}, "/exists", "true or false, not a number"),
        ({"field": "a", "gt": True}, "/gt", "not a truth value; use `eq`"),
        ({"field": "a", "gt": None}, "/gt", "not null"),
        ({"field": "a", "gt": 1, "gte": 0}, "", "both `gt` and `gte`"),
        ({"field": "a", "gt": 1, "lt": "z"}, "", "nothing is within both"),
        ({"field": "a", "lt": float("inf")}, "/lt", "a smaller one"),
        ({"field": "a", "eq": float("nan")}, "/eq", "not a number"),
        ({"field": "a", "in": [1, 10**400]}, "/in/1", "a smaller one"),
        ({"field": "a..b", "eq": 1}, "/field", "give the keys as a list"),
        ({"": 1}, "/", "give the keys as a list"),
        ({"field": [], "eq": 1}, "/field", "a list of keys"),
        ({"field": ["a", 1], "eq": 1}, "/field", "a list of keys"),
        ({"field": 7, "eq": 1}, "/field", "not a number"),
        ({"field": ".".join("a" * 17), "eq": 1}, "/field", "has 17 keys; at most 16"),
        ({"field": "a", "\ud800" * 200: 1}, "/" + "?" * 77 + "...", "unknown test"),
    ],
)
def test_a_wrong_filter_is_refused_naming_place_and_remedy(
    where: Any, pointer: str, words: str
) -> None:
    error = refusal(where)
    assert error.pointer == pointer
    assert words in error.detail
    assert isinstance(error, InvalidOption)
    assert (pointer or "its top") in error.message and error.detail in error.message
    assert refusal(where, at="/filter").pointer == "/filter" + pointer
    error.message.encode()  # an answer can contain it


def nested(depth: int) -> Any:
    where: Any = {"a": 1}
    for _ in range(depth - 1):
        where = {"not": where}
    return where


def test_bounds_on_the_size_of_a_filter() -> None:
    parse_filter(nested(MAX_DEPTH))
    assert re.search(r"nested more than 16 deep", refusal(nested(MAX_DEPTH + 1)).detail)
    assert refusal(nested(5000)).pointer == "/not" * MAX_DEPTH
    parse_filter({"or": [{"a": n} for n in range(MAX_NODES - 1)]})
    assert "256" in refusal({"or": [{"a": n} for n in range(MAX_NODES)]}).detail
    assert "256" in refusal({"or": [{"and": [{"a": n}, {"a": n}]} for n in range(100)]}).detail
    assert "256" in refusal({"a" * (n + 1): n for n in range(MAX_NODES + 1)}).detail
    parse_filter({"field": "a", "in": list(range(MAX_SET))})
    large = refusal({"field": "a", "in": list(range(MAX_SET + 1))})
    assert (large.pointer, large.detail) == ("/in", "has 10,001 values; at most 10,000")
    parse_filter({"a" * (n + 1): n for n in range(MAX_FIELDS)})
    many = refusal({"and": [{"a" * (n + 1): n} for n in range(MAX_FIELDS + 1)]})
    assert "looks at 33 fields; at most 32" in many.detail
