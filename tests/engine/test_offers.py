"""What an explanation or a refusal offers can be done; what it counts is what the journal holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpg.errors import TemporaryError
from tests.conftest import Plane, StartPlane
from tests.engine.fakes import Scripted
from tests.engine.test_steer import Tomorrow, creating, refused


@pytest.fixture
async def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
async def on(scripted: Scripted, start_plane: StartPlane) -> AsyncIterator[Plane]:
    async with start_plane(given=scripted, apply_timeout_s=3600) as plane:
        yield plane


async def explained(plane: Plane, operation: str) -> dict[str, Any]:
    return dict((await plane.client.get(f"/v1/operations/{operation}/explain")).raise_for_status().json())


async def test_what_is_cancelled_already_is_not_offered_a_cancel(on: Plane, scripted: Scripted) -> None:
    scripted.hold, scripted.remove_hold = asyncio.Event(), asyncio.Event()
    create = await creating(on)
    await scripted.entered.wait()
    before = await explained(on, create.op)
    await on.steer(create.op, "cancel")
    await on.reaches(create.op, "compensating")
    after = await explained(on, create.op)
    for found, wanted in ((before, True), (after, False)):
        plan = await on.client.get(f"/v1/operations/{create.op}/cancel-plan")
        assert ("cancel" in {move["event"] for move in found["moves"]}) is wanted
        assert (f"mcpg-ctl operation cancel {create.op} --plan" in found["next"]) is wanted
    assert plan.status_code == 409
    scripted.hold.set()
    scripted.remove_hold.set()
    await create.task


async def test_an_attempt_that_is_under_way_is_not_offered_a_retry(on: Plane, scripted: Scripted) -> None:
    """It failed before, and is at it again: there is nothing to hurry."""
    scripted.problems = [TemporaryError("not yet", delay=0.001)]
    scripted.hold = first = asyncio.Event()
    create = await creating(on)
    await scripted.entered.wait()
    scripted.hold = second = asyncio.Event()
    scripted.entered.clear()
    first.set()
    await scripted.entered.wait()
    told = await refused(on, create.op, "retry")
    assert told["details"]["allowed"] == ["cancel"]
    assert "retry" not in told["hint"]
    assert told["detail"].startswith("no attempt is put off: it is at work")
    second.set()
    assert (await create.task)[-1]["state"] == "ready"


async def test_attempts_are_counted_in_the_journal_also_after_a_retry_by_hand(on: Plane, scripted: Scripted) -> None:
    on.engine.backoff = Tomorrow()
    scripted.problems = [TemporaryError(f"not yet {n}") for n in range(3)]
    create = await creating(on)

    async def failed(times: int) -> bool:
        found = await on.operation(create.op)
        return [line["attempt"] > 0 for line in found["history"] if line["event"] == "retry"].count(True) == times

    for times in (1, 2):
        await on.until(lambda times=times: failed(times), f"{times} attempts failed")
        await on.steer(create.op, "retry")
    await on.until(lambda: failed(3), "three attempts failed")
    found = await explained(on, create.op)
    assert found["attempts"] == 3
    assert found["last_failure"].endswith("not yet 2")
    await on.steer(create.op, "cancel")
    await create.task
    left = await explained(on, create.op)
    assert (left["attempts"], left["last_failure"]) == (0, ""), "those of a state that was left are over"
