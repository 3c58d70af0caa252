"""A bulk add that is killed, as its benchmark does it, in small."""

from __future__ import annotations

import random

from benchmarks.bulk_kills import _moments, run


def test_a_bulk_add_that_is_killed_has_every_photo_exactly_once() -> None:
    figures = run(60, 1, seed=3)
    assert figures["problems"] == []
    assert figures["state"] == "succeeded"
    assert figures["progress"]["added"] == figures["progress"]["total"] == 60
    assert 0 < figures["killed_at"][0] < 60
    assert len(figures["start_s"]) == 2


def test_kills_are_spread_over_the_whole_job() -> None:
    for seed in range(50):
        moments = [moment for moment, _ in _moments(2000, 3, random.Random(seed))]
        assert moments == sorted(moments)
        assert 0 < moments[0] < moments[-1] < 1800
