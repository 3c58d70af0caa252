"""Who is let in, decided without a server."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from app.admission import SMOOTHING, Admission, Admitted
from app.errors import ShuttingDown
from engine.errors import Overloaded
from engine.passes.calls import Call


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admission(clock: Clock | None = None, **options: int) -> Admission:
    bounds = {"max_requests": 100, "max_bytes": 1000, **options}
    return Admission(**bounds, retry_after=lambda: 7, clock=clock or Clock())


def test_only_so_many_are_let_in_until_one_is_answered() -> None:
    gate = admission(max_requests=2)
    with gate.request(Call(9)):
        with gate.request(Call(9)):
            with pytest.raises(Overloaded, match=r"2 requests .* try again in 7 s") as caught:
                gate.request(Call(9)).__enter__()
            assert caught.value.retry_after_s == 7
        with gate.request(Call(9)):
            assert len(gate) == 2
    assert (len(gate), gate.refused) == (0, 1)


def test_bytes_are_given_back_whatever_happens() -> None:
    gate = admission()
    with gate.request(Call(9)) as first:
        first.grow(600)
        with pytest.raises(Overloaded), gate.request(Call(9)) as second:
            second.grow(300)
            second.grow(200)
        assert gate.bytes_held == 600
        with gate.request(Call(9)) as third:
            third.grow(400)
    assert gate.bytes_held == 0


def test_a_lone_request_may_hold_more_than_all_together() -> None:
    gate = admission()
    with gate.request(Call(9)) as lone:
        lone.grow(900)
        lone.grow(900)
        with pytest.raises(Overloaded), gate.request(Call(9)) as other:
            other.grow(1)


def test_while_it_stops_nobody_is_let_in_and_the_rest_is_ended_at_last() -> None:
    gate, call = admission(), Call(9)
    with gate.request(call):
        gate.drain()
        with pytest.raises(ShuttingDown), gate.request(Call(9)):
            pass
        call.check()
        gate.end_all()
        with pytest.raises(ShuttingDown):
            call.check()


def answer(gate: Admission, clock: Clock, seconds: float, *, ok: bool) -> None:
    """One that takes `seconds`."""
    with gate.request(Call(9999)) as one:
        one.begin()
        clock.now += seconds
        one.answered = ok


def busy(gate: Admission, stack: ExitStack, count: int = 1) -> list[Admitted]:
    made = [stack.enter_context(gate.request(Call(999))) for _ in range(count)]
    for one in made:
        one.begin()
    return made


def test_the_time_from_answer_to_answer_is_measured_while_there_is_work() -> None:
    clock = Clock()
    gate = admission(clock)
    with ExitStack() as stack:
        busy(gate, stack)
        for seconds in (1.0, 2.0, 4.0):
            answer(gate, clock, seconds, ok=True)
        assert gate.seconds_each == pytest.approx(3.0), "the first one has nothing before it"
        answer(gate, clock, 60.0, ok=False)
        assert gate.seconds_each == pytest.approx(3.0), "what failed was no work"
        for _ in range(400):
            answer(gate, clock, 0.5, ok=True)
        assert gate.seconds_each == pytest.approx(0.5, abs=0.01)
        before = gate.seconds_each
        answer(gate, clock, 10.0, ok=True)
        assert gate.seconds_each - before == pytest.approx(SMOOTHING * 9.5, rel=0.05)


def test_an_idle_time_is_not_taken_for_work() -> None:
    clock = Clock()
    gate = admission(clock)
    for _ in range(5):
        answer(gate, clock, 1.0, ok=True)
        clock.now += 100
    assert gate.seconds_each == 0


def test_the_time_after_a_failure_is_not_taken_for_work() -> None:
    clock = Clock()
    gate = admission(clock)
    with ExitStack() as stack:
        (failing,) = busy(gate, stack)
        answer(gate, clock, 0.1, ok=True)
        failing.answered = False
    clock.now += 3600
    answer(gate, clock, 0.1, ok=True)
    assert gate.seconds_each == 0
    clock.now += 3600
    with ExitStack() as stack:
        busy(gate, stack)
        answer(gate, clock, 0.1, ok=True)
        answer(gate, clock, 0.2, ok=True)
    assert gate.seconds_each == pytest.approx(0.2)


def test_a_time_that_was_much_too_long_is_forgotten_by_those_who_come_alone() -> None:
    clock = Clock()
    gate = admission(clock)
    with ExitStack() as stack:
        busy(gate, stack)
        answer(gate, clock, 1.0, ok=True)
        answer(gate, clock, 100.0, ok=True)
    assert gate.seconds_each == 100
    refused = 0
    for _ in range(100):
        # Two ask at the same time, again and again.
        with gate.request(Call(10)) as first:
            first.begin()
            try:
                with gate.request(Call(10)) as second:
                    second.begin()
                    clock.now += 0.1
                    second.answered = True
            except Overloaded:
                refused += 1
            clock.now += 0.1
            first.answered = True
    assert 0 < refused < 70
    assert gate.seconds_each < 1
    for _ in range(3):
        answer(gate, clock, 50.0, ok=True)
    assert gate.seconds_each < 1, "one that takes long alone says nothing of many"


def test_bulk_uploads_leave_room_for_everybody_else() -> None:
    gate = admission()
    with gate.request(Call(9), bulk=True) as first, gate.request(Call(9), bulk=True) as second:
        first.grow(250)
        second.grow(250)
        with (
            pytest.raises(Overloaded, match="bulk uploads"),
            gate.request(Call(9), bulk=True) as third,
        ):
            third.grow(250)
        with gate.request(Call(9)) as search:
            search.grow(500)
            with pytest.raises(Overloaded, match="uploads of"), gate.request(Call(9)) as other:
                other.grow(1)
    assert gate.bytes_held == 0
    with gate.request(Call(9), bulk=True) as lone:
        lone.grow(5000)
        with gate.request(Call(9)) as search:
            search.grow(500)
    with gate.request(Call(9), bulk=True) as next_one:
        next_one.grow(500)
    assert gate.bytes_held == 0


def test_who_would_be_too_late_is_refused_before_and_after_the_upload() -> None:
    gate = admission()
    gate.seconds_each = 1.0
    with ExitStack() as stack:
        with gate.request(Call(4)) as early:
            busy(gate, stack, 4)
            with pytest.raises(Overloaded, match=r"4 requests take 4\.0 s, beyond the deadline"):
                early.begin()
        with pytest.raises(Overloaded), gate.request(Call(4)):
            pass
        with gate.request(Call(9)) as patient:
            patient.begin()
    with gate.request(Call(0.01)) as alone:
        alone.begin()
    assert gate.refused == 2
