from __future__ import annotations

import pytest

from mcpg.agent.backoff import HEALTHY_S, Backoff


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def backoff(clock: Clock, rng: float = 0.5) -> Backoff:
    return Backoff(clock=clock, rng=lambda: rng)


def test_it_doubles_from_one_second_to_sixty() -> None:
    tried = backoff(Clock())
    assert [tried.closed(ok=False) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(("rng", "factor"), [(0.0, 0.75), (0.5, 1.0), (1.0, 1.25)])
def test_jitter_is_a_quarter_each_way(rng: float, factor: float) -> None:
    assert backoff(Clock(), rng).closed(ok=False) == pytest.approx(factor)


def test_ok_starts_over_and_still_waits() -> None:
    tried = backoff(Clock())
    for _ in range(5):
        tried.closed(ok=False)
    assert [tried.closed(ok=True), tried.closed(ok=True)] == [1, 1]


@pytest.mark.parametrize(("open_s", "expected"), [(HEALTHY_S, 1), (HEALTHY_S - 1, 8)])
def test_a_session_that_lasted_starts_over_although_it_died(open_s: float, expected: float) -> None:
    clock = Clock()
    tried = backoff(clock)
    for _ in range(3):
        tried.closed(ok=False)
    tried.opened()
    clock.now += open_s
    assert tried.closed(ok=False) == expected


def test_a_refused_attempt_long_after_a_session_does_not_count_as_lasting() -> None:
    clock = Clock()
    tried = backoff(clock)
    tried.opened()
    tried.closed(ok=False)
    clock.now += 10 * HEALTHY_S
    assert [tried.closed(ok=False), tried.closed(ok=False)] == [2, 4]
