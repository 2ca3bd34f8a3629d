"""Holes that the model checker found, on the real engine: each test is the timeline of a counterexample (docs/checker.md)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mcpg.engine import rolling
from mcpg.engine.operation import Operation
from mcpg.errors import Conflict
from mcpg.store import reads, writes
from tests.conftest import StartPlane
from tests.engine.fakes import Scripted
from tests.engine.staged import Staged
from tests.engine.steering import begun, refused
from tests.engine.test_attempts import limits


async def test_a_delete_of_what_is_half_done_cannot_be_taken_back(start_plane: StartPlane) -> None:
    """World `create`: paused, deleted, the delete cancelled: a gateway that never was ready would live on for ever."""
    scripted = Scripted()
    scripted.hold, scripted.remove_hold = asyncio.Event(), asyncio.Event()
    async with start_plane(given=scripted, timeout=limits(applying=0.1)) as plane:
        create = await begun(plane, "paused", asyncio.create_task(plane.publish("edge-1")))
        [row] = (await plane.client.get("/v1/instances")).json()
        delete = await begun(plane, "deleting", asyncio.create_task(plane.delete(row["instance_uid"])))
        await refused(plane, delete.op, "cancel")
        scripted.remove_hold.set()
        assert (await delete.task)[-1]["state"] == "deleted"
        history = (await plane.client.get(f"/v1/operations/{delete.op}")).json()["history"]
        assert [line["dest"] for line in history] == ["requested", "deleting", "confirming", "deleted"]
        await create.task


async def test_an_engine_that_was_overtaken_starts_nothing(start_plane: StartPlane) -> None:
    """World `lease`: its order comes after the operation was cancelled and undone by another: nobody would stop it."""
    staged = Staged()
    async with start_plane(given=staged) as plane:
        staged.plane = plane
        end = (await plane.publish("edge-1", config_toml="mcp: {}"))[-1]
        uid, row = end["coords"]["instance_uid"], await reads.find_operation(plane.engine.db, end["operation_id"])
        assert row is not None
        late = replace(Operation.of(row), version=row["version"] - 1)
        with pytest.raises(Conflict):
            await rolling.converge(plane.engine, late, 2, "late")  # the second replica does not run
        assert list(staged.players[uid]) == [1]


async def test_an_engine_that_was_overtaken_changes_nothing_of_the_next_roll(start_plane: StartPlane) -> None:
    """World `lease-update`: taking back the first update, late, it would assign the old config under the second."""
    staged = Staged()
    async with start_plane(given=staged) as plane:
        staged.plane = plane
        uid = (await plane.publish("edge-1", config_toml="mcp: {}"))[-1]["coords"]["instance_uid"]
        before = await reads.find_instance(plane.engine.db, uid)
        with pytest.raises(Conflict):
            await plane.engine.db.writer.execute(writes.roll(uid, "op-over", 7))
        assert await reads.find_instance(plane.engine.db, uid) == before
