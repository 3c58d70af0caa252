"""What is known of the images of Oxford5k and Paris6k, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

City = Literal["oxford", "paris"]

_OXFORD = re.compile(
    r"(all_souls|ashmolean|balliol|bodleian|christ_church|cornmarket|hertford|jesus|keble"
    r"|magdalen|new|oriel|oxford|pitt_rivers|radcliffe_camera|trinity|worcester)_\d{6}"
)

CORRUPT = frozenset(
    f"paris_{name}"
    for name in """
    louvre_000136 louvre_000146 moulinrouge_000422 museedorsay_001059 notredame_000188
    pantheon_000284 pantheon_000960 pantheon_000974 pompidou_000195 pompidou_000196
    pompidou_000201 pompidou_000467 pompidou_000640 sacrecoeur_000299 sacrecoeur_000330
    sacrecoeur_000353 triomphe_000662 triomphe_000833 triomphe_000863 triomphe_000867
    """.split()
)
"""The 20 files of the Paris archives that are no images; every evaluation leaves them out."""


def city(names: Iterable[str]) -> City | None:
    """The city whose landmarks all `names` are of; None if there is none."""
    listed = list(names)
    if listed and all(name.startswith("paris_") for name in listed):
        return "paris"
    if listed and all(_OXFORD.fullmatch(name) for name in listed):
        return "oxford"
    return None
