"""Things that lie about: objects too, but never one that is looked for."""

from __future__ import annotations

from functools import lru_cache

from engine.made.chance import Chance
from engine.made.design import Picture
from engine.made.objects import drawn_object
from engine.made.words import OBJECTS

INSTANCES = 100_000
"""Instances have numbers below; those from here on are clutter."""

SECTION = 1_000
"""So many instances in a row lie among the same things, and no others do."""

POOL = 100
"""Things of a section. Few, so that queries share some with pictures that are no match."""

assert INSTANCES + INSTANCES // SECTION * POOL < OBJECTS


def section_of(instance: int) -> int:
    return instance // SECTION


def clutter_object(chance: Chance, seed: int, section: int, side: int) -> Picture:
    """One of the things of a section, `side` pixels long (512 at most)."""
    number = INSTANCES + section * POOL + chance.whole(0, POOL - 1)
    return _thing(seed, number, min(side, 512))


@lru_cache(maxsize=POOL)
def _thing(seed: int, number: int, side: int) -> Picture:
    # A cache of its own, for a whole pool, which instances do not drive out.
    return drawn_object(seed, number, side)
