"""Which hosts are asked, and when, by a clock of the tests."""

from __future__ import annotations

from app.fetching.hosts import MAX_RESTING, PATIENCE_S, Hosts


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_silent_host_is_given_up_after_a_while_and_tried_once_in_that_time() -> None:
    clock = Clock()
    hosts = Hosts(clock)
    for _ in range(50):  # however often, all at once: it may only be starting anew
        hosts.noted("a", answers=False)
    assert not hosts.given_up("a")
    clock.now += PATIENCE_S
    hosts.noted("a", answers=False)
    assert hosts.given_up("a")
    assert not hosts.given_up("b")
    clock.now += PATIENCE_S
    assert [hosts.given_up("a") for _ in range(3)] == [False, True, True]
    hosts.noted("a", answers=False)
    assert hosts.given_up("a")


def test_one_answer_makes_up_for_all_silence() -> None:
    clock = Clock()
    hosts = Hosts(clock)
    hosts.noted("a", answers=False)
    clock.now += PATIENCE_S
    hosts.noted("a", answers=True)
    hosts.noted("a", answers=False)
    assert not hosts.given_up("a")
    clock.now += PATIENCE_S
    hosts.noted("a", answers=False)
    assert hosts.given_up("a")
    hosts.forgive()
    assert not hosts.given_up("a")


def test_hosts_that_have_rested_are_forgotten() -> None:
    clock = Clock()
    hosts = Hosts(clock)
    for number in range(5 * MAX_RESTING):
        hosts.pause(f"{number}.example", 1.0)
        clock.now += 1.0
    assert len(hosts._rest_until) <= MAX_RESTING
