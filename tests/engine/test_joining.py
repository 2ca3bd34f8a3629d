"""A request that is under way already is joined, as long as it will do what was asked; at once or a moment later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mcpg.engine.core import Scope
from mcpg.engine.requests import Publish, delete, publish
from mcpg.errors import Busy, PermanentError
from tests.conftest import Plane, StartPlane
from tests.engine.fakes import Scripted
from tests.engine.test_steer import creating

SCOPE = Scope("default", "default", "default")


@pytest.fixture
async def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
async def on(scripted: Scripted, start_plane: StartPlane) -> AsyncIterator[Plane]:
    async with start_plane(given=scripted, apply_timeout_s=3600) as plane:
        yield plane


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_create_does_not_join_one_that_is_taken_back(
    on: Plane, scripted: Scripted, *, is_cancelled: bool
) -> None:
    """It would be told of somebody else's end, and nothing would be created."""
    scripted.hold, scripted.remove_hold = asyncio.Event(), asyncio.Event()
    create = await creating(on)
    await scripted.entered.wait()
    if is_cancelled:
        await on.steer(create.op, "cancel")
    else:
        scripted.problems = [PermanentError("no")]
        scripted.hold.set()
    await on.reaches(create.op, "compensating")
    with pytest.raises(Busy) as told:
        await publish(on.engine, SCOPE, Publish("edge-1"), actor="ada", key="another")
    assert told.value.cause == "what it did is being taken back"
    assert told.value.details["operation_id"] == create.op
    scripted.hold.set()
    scripted.remove_hold.set()
    await create.task
    again = (await on.publish("edge-1"))[-1]
    assert again["state"] == "ready"
    assert again["operation_id"] != create.op


async def test_a_create_joins_one_that_is_under_way(on: Plane, scripted: Scripted) -> None:
    scripted.hold = asyncio.Event()
    create = await creating(on)
    joined = await publish(on.engine, SCOPE, Publish("edge-1"), actor="ada", key="another")
    assert joined.id == create.op
    scripted.hold.set()
    assert (await create.task)[-1]["state"] == "ready"


async def test_several_deletes_at_once_of_one_that_paused_all_go_on_with_it(on: Plane, scripted: Scripted) -> None:
    """All read the row before any of them writes: the others look again, and find their own request under way."""
    uid = (await on.publish("edge-1"))[-1]["coords"]["instance_uid"]
    scripted.remove_problems = [PermanentError("it will not die")]
    paused = (await on.delete(uid))[-1]
    assert paused["_event"] == "paused"
    scripted.remove_hold = asyncio.Event()
    asked = (delete(on.engine, SCOPE, uid, actor=f"ada-{i}", key=None) for i in range(6))
    fates = await asyncio.gather(*asked, return_exceptions=True)
    assert {getattr(fate, "id", fate) for fate in fates} == {paused["operation_id"]}
    scripted.remove_hold.set()
    over = await on.reaches(paused["operation_id"], "deleted")
    assert [line["event"] for line in over["history"]].count("resume") == 1
