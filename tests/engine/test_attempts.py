"""Work that fails in a way that may pass is tried again: inside its deadline, with pauses that grow, and on the record."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mcpg.engine import driver
from mcpg.engine.attempts import FREE, MOST, Backoff
from mcpg.errors import PermanentError, TemporaryError
from mcpg.machines import TABLES
from mcpg.machines.table import Table, Wait, Work
from mcpg.store.journal import Timeout, table_timeout
from tests.conftest import StartPlane
from tests.engine.fakes import Scripted

AT_ONCE = Backoff(rng=lambda: 1.0)


def limits(**seconds: float) -> Timeout:
    """The definitions' deadlines, with these states' own."""

    def timeout(table: Table, state: str) -> float | None:
        return seconds.get(state, table_timeout(table, state))

    return timeout


def retries(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [line for line in found["history"] if line["event"] == "retry"]


@pytest.mark.parametrize("luck", [0.0, 0.5, 1.0])
def test_the_pause_doubles_is_capped_and_never_less_than_half(luck: float) -> None:
    backoff = Backoff(rng=lambda: luck)
    pauses = [backoff.pause_s(n, 1.0, None) for n in range(1, FREE + 1)]
    assert pauses == [min(30.0, 2.0 ** (n - 1)) * (0.5 + luck / 2) for n in range(1, FREE + 1)]


@pytest.mark.parametrize("delay", [0.0, 0.001, 1.0, 1e9, -3.0])
@pytest.mark.parametrize("timeout", [0.5, 30.0, 120.0, 86_400.0])
@pytest.mark.parametrize("luck", [0.0, 1.0])
def test_lesson_37_no_deadline_holds_more_attempts_than_a_page(delay: float, timeout: float, luck: float) -> None:
    """Histories that grow without bound kill what they tell of: however short the pauses asked for, lines are few."""
    backoff, left, lines = Backoff(rng=lambda: luck), timeout, 0
    while left > 0:
        lines += 1
        left -= backoff.pause_s(lines, delay, left)
        assert lines <= MOST


async def test_each_failed_attempt_is_a_line_that_says_why_and_when_the_next_one_is(start_plane: StartPlane) -> None:
    scripted = Scripted()
    scripted.problems = [TemporaryError("not yet", cause="it is busy", delay=0.01) for _ in range(3)]
    async with start_plane(given=scripted) as plane:
        plane.engine.backoff = AT_ONCE
        events = await plane.publish("edge-1")
        found = await plane.operation(events[-1]["operation_id"])
    told = [event["message"] for event in events if event["event"] == "retry"]
    assert told == [f"attempt {n + 1} in {0.01 * 2 ** (n - 1):.2f} s: not yet: it is busy" for n in (1, 2, 3)]
    assert [(r["source"], r["dest"], r["actor"], r["attempt"]) for r in retries(found)] == [
        ("applying", "applying", "engine", n) for n in (1, 2, 3)
    ]
    assert [r["data"] for r in retries(found)] == [
        {"attempt": n, "delay_s": 0.01 * 2 ** (n - 1), "words": "not yet: it is busy"} for n in (1, 2, 3)
    ]
    assert (found["state"], found["attempt"], found["next_attempt_at"]) == ("ready", 0, None)


async def test_lesson_36_one_time_out_does_not_abort(start_plane: StartPlane) -> None:
    """One 408 from outside aborted whole rollouts elsewhere: here what may pass is only ever tried again."""
    scripted = Scripted()
    scripted.problems = [TemporaryError("408 Request Timeout", delay=0.001)]
    async with start_plane(given=scripted) as plane:
        events = await plane.publish("edge-1")
    assert [e["event"] for e in events] == ["request", "reserved", "retry", "applied", "confirmed"]
    assert len({order.operation_id for order in scripted.orders}) == 1, "under one key: nothing is started twice"


async def test_lesson_37_a_state_that_fails_for_ever_pauses_with_a_short_history_and_can_be_ended(
    start_plane: StartPlane,
) -> None:
    """However often it fails, the history stays bounded and the operation can be taken back."""
    scripted = Scripted()
    scripted.problems = [TemporaryError("never", delay=0.0) for _ in range(10_000)]
    async with start_plane(given=scripted, apply_timeout_s=2.0) as plane:
        events = await plane.publish("edge-1")
        assert (events[-1]["_event"], events[-1]["code"]) == ("paused", "deadline")
        assert events[-1]["message"] == "apply did not end in 2 s: never"
        op = events[-1]["operation_id"]
        assert FREE < len(retries(await plane.operation(op))) <= MOST
        await plane.steer(op, "cancel")
        assert (await plane.reaches(op, "cancelled"))["transitions"] < MOST + 10
        assert await plane.instances() == []


async def test_the_deadline_stands_however_long_a_pause_is_asked_for(start_plane: StartPlane) -> None:
    scripted = Scripted()
    scripted.problems = [TemporaryError("come back tomorrow", delay=86_400)]
    async with start_plane(given=scripted, apply_timeout_s=2.0) as plane:
        events = await plane.publish("edge-1")
    assert [e["event"] for e in events[-2:]] == ["retry", "deadline"]
    assert re.match(r"no more attempts in the [012]\.\d s that are left: come back tomorrow$", events[-2]["message"])
    assert events[-1]["message"] == "apply did not end in 2 s: come back tomorrow"


async def test_a_put_off_outlives_a_restart_and_the_new_process_waits_for_the_rest_of_it(
    tmp_path: Path, start_plane: StartPlane
) -> None:
    """Not from zero: neither the pause nor the count of attempts begins anew."""
    scripted = Scripted()
    scripted.problems = [TemporaryError("not yet", delay=0.001), TemporaryError("not yet", delay=1200.0)]
    async with start_plane(tmp_path / "s", given=scripted, apply_timeout_s=3600) as first:
        first.engine.backoff = AT_ONCE
        create = asyncio.create_task(first.publish("edge-1"))

        async def put_off() -> str:
            rows = (await first.client.get("/v1/operations")).json()
            return rows[0]["id"] if rows and rows[0]["attempt"] == 2 else ""

        op = await first.until(put_off, "the second attempt failed")
        due = (await first.operation(op))["next_attempt_at"]
    await asyncio.gather(create, return_exceptions=True)
    async with start_plane(tmp_path / "s", given=scripted, apply_timeout_s=3600) as second:
        found = await second.operation(op)
        assert (found["attempt"], found["next_attempt_at"], len(scripted.orders)) == (2, due, 2)

        async def driven() -> Any:
            return op in second.engine._drivers and second.engine._drivers[op].op

        driver = await second.until(driven, "the new process took it")
        assert driver.due is not None
        left = driver.due - asyncio.get_running_loop().time()
        assert 0 < left <= 30.0, "what is left of it: the pause was capped"
        await second.steer(op, "retry")
        assert [line["attempt"] for line in retries(await second.reaches(op, "ready"))] == [1, 2, 0]


async def test_the_last_words_outlive_a_restart(
    tmp_path: Path, start_plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline passes while nobody runs: the next process still says what it was that failed."""
    scripted = Scripted()
    scripted.problems = [TemporaryError("the registry is down", delay=1200)]
    async with start_plane(tmp_path / "s", given=scripted, apply_timeout_s=3600) as first:
        create = asyncio.create_task(first.publish("edge-1"))

        async def put_off() -> str:
            rows = (await first.client.get("/v1/operations")).json()
            return rows[0]["id"] if rows and rows[0]["attempt"] == 1 else ""

        op = await first.until(put_off, "the first attempt failed")
        await first.edit("UPDATE operation SET deadline_at=1 WHERE id=?", op)
    await asyncio.gather(create, return_exceptions=True)
    scripted.hold = asyncio.Event()  # the one attempt that is made after a restart has no words of its own
    monkeypatch.setattr(driver, "FIRST_S", 0.05)
    async with start_plane(tmp_path / "s", given=scripted, apply_timeout_s=3600) as second:
        found = await second.reaches(op, "paused")
        assert found["error"].endswith(": the registry is down")
        assert (found["paused_in"], found["code"]) == ("applying", "deadline")


def test_lesson_20_every_phase_has_a_time_limit() -> None:
    """Time limits that come one by one over the years come too late: none is missing from the first day."""
    missing = [
        (name, state.value)
        for name, table in TABLES.items()
        for state, rest in table.rests.items()
        if isinstance(rest, Work | Wait) and rest.timeout_s is None and name not in ("enrolment", "cluster")
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("hangs", "state", "ends"),
    [("apply", "applying", "paused"), ("remove", "compensating", "paused"), ("delete", "deleting", "paused")],
)
async def test_lesson_20_work_that_hangs_is_bounded_in_every_phase(
    start_plane: StartPlane, hangs: str, state: str, ends: str
) -> None:
    """A kubelet that is dead never answers: no phase waits for it for ever, and each says how long it did."""
    scripted = Scripted()
    never = asyncio.Event()
    async with start_plane(given=scripted, timeout=limits(**{state: 0.1})) as plane:
        if hangs == "apply":
            scripted.hold = never
            events = await plane.publish("edge-1")
        elif hangs == "remove":
            scripted.problems, scripted.remove_hold = [PermanentError("no")], never
            events = await plane.publish("edge-1")
        else:
            uid = (await plane.publish("edge-1"))[-1]["coords"]["instance_uid"]
            scripted.remove_hold = never
            events = await plane.delete(uid)
        assert events[-1]["_event"] == ends
        found = await plane.operation(events[-1]["operation_id"])
        assert (found["paused_in"], "did not end in 0.1 s" in found["error"]) == (state, True)


async def test_lesson_20_a_gateway_that_cannot_be_reached_is_not_waited_for(start_plane: StartPlane) -> None:
    """The fast path: a drain of what has no channel open is over at once, and the delete goes on."""
    async with start_plane(given=Scripted(), timeout=limits(draining=3600.0, confirming=3600.0)) as plane:
        uid = (await plane.publish("edge-1"))[-1]["coords"]["instance_uid"]
        events = await plane.delete(uid)
    assert [(e["event"], e["message"]) for e in events if e["event"] == "drained"] == [
        ("drained", "endpoints hidden, 0 agents told")
    ]
    assert events[-1]["state"] == "deleted"


async def test_a_compensation_that_fails_for_a_while_is_tried_again_and_ends(start_plane: StartPlane) -> None:
    scripted = Scripted()
    scripted.problems = [PermanentError("the disk is on fire")]
    scripted.remove_problems = [TemporaryError("it does not end yet", delay=0.001) for _ in range(2)]
    async with start_plane(given=scripted) as plane:
        events = await plane.publish("edge-1")
    assert [e["event"] for e in events[-4:]] == ["fail", "retry", "retry", "undone"]
    assert (events[-1]["reason"], events[-1]["state"]) == ("the disk is on fire", "failed")


async def test_lesson_10_attempts_that_fail_do_not_go_round_in_circles(start_plane: StartPlane) -> None:
    """Two controllers that undo each other's work loop for ever: failing attempts stay in one state, and end it once."""
    scripted = Scripted()
    scripted.problems = [TemporaryError("no", delay=0.0) for _ in range(10_000)]
    async with start_plane(given=scripted, apply_timeout_s=0.2) as plane:
        events = await plane.publish("edge-1")
        found = await plane.operation(events[-1]["operation_id"])
    moves = [(a["dest"], b["dest"]) for a, b in pairwise(found["history"]) if a["dest"] != b["dest"]]
    assert moves == [("requested", "allocating"), ("allocating", "applying"), ("applying", "paused")]
    assert scripted.removed == [], "nothing was created and removed in turn"


async def test_resume_gives_a_fresh_deadline_and_goes_back_where_it_was(start_plane: StartPlane) -> None:
    scripted = Scripted()
    scripted.problems = [TemporaryError("no", delay=3600)]
    allowed = limits(applying=0.3)

    def timeout(table: Table, state: str) -> float | None:
        return allowed(table, state)

    async with start_plane(given=scripted, timeout=timeout) as plane:
        paused = (await plane.publish("edge-1"))[-1]
        allowed = limits()
        found = await plane.steer(paused["operation_id"], "resume", "the registry is back")
        assert (found["error"], found["code"], found["paused_in"]) == ("", "", "")
        end = await plane.reaches(paused["operation_id"], "ready")
    resumed = next(line for line in end["history"] if line["event"] == "resume")
    assert (resumed["source"], resumed["dest"], resumed["actor"]) == ("paused", "applying", "local")
    assert resumed["reason"] == "resumed by local: the registry is back"
