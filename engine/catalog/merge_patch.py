"""JSON merge patch, RFC 7396."""

from __future__ import annotations

from engine.types import Json


def merge_patch(target: Json, change: Json) -> Json:
    """`target` with the entries of `change` set, and removed where they are null.

    Objects are merged, everything else, lists too, is replaced. Neither argument is changed.
    """
    merged = dict(target)
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            inner = merged.get(key)
            # Into nothing as well: what is null within the change must not be kept.
            merged[key] = merge_patch(inner if isinstance(inner, dict) else {}, value)
        else:
            merged[key] = value
    return merged
