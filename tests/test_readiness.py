"""How often the index is looked at for those who ask whether it can be used."""

from __future__ import annotations

import pytest

from app.readiness import FRESH_S, Readiness
from engine.errors import CorruptIndex


def test_the_index_is_looked_at_once_for_all_who_ask_within_a_second() -> None:
    now = 10.0
    looked: list[float] = []
    readiness = Readiness(lambda: looked.append(now), clock=lambda: now)
    for _ in range(5):
        readiness.check()
    now += FRESH_S / 2
    readiness.check()
    assert looked == [10.0]
    now += FRESH_S / 2
    readiness.check()
    assert looked == [10.0, 10.0 + FRESH_S]


def test_what_is_wrong_is_told_to_all_until_it_is_mended() -> None:
    now, wrong = 0.0, True

    def look() -> None:
        if wrong:
            raise CorruptIndex("3 images are stored, but 2 indexed")

    readiness = Readiness(look, clock=lambda: now)
    for _ in range(3):
        with pytest.raises(CorruptIndex, match="but 2 indexed"):
            readiness.check()
    wrong, now = False, FRESH_S
    readiness.check()
