"""What an operator does to a recovery: cancel leaves the gateway down wherever it is, resume starts it once more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import Plane, StartPlane
from tests.engine.staged import Staged
from tests.engine.test_supervision import QUICK, SLOW_SOAK, created, quiet, rests_in, starts


@pytest.fixture
def staged() -> Staged:
    return Staged()


@pytest.fixture
async def on(staged: Staged, start_plane: StartPlane) -> AsyncIterator[Plane]:
    async with start_plane(given=staged, **QUICK) as plane:
        staged.plane = plane
        yield plane


@pytest.mark.parametrize("state", ["waiting", "restarting", "confirming", "watching", "paused"])
async def test_lesson_6_a_recovery_is_cancelled_wherever_it_is(
    staged: Staged, start_plane: StartPlane, state: str
) -> None:
    """A cancel in the middle of anything ends it, frees the gateway for the next operation, and starts nothing more."""
    slow = {"waiting": {"recovery_pause_s": 600}}.get(state, {})
    async with start_plane(given=staged, **{**SLOW_SOAK, **slow}) as plane:
        staged.plane = plane
        uid = await created(plane, staged)
        if state in ("waiting", "paused"):
            staged.doomed = {1}
        if state == "confirming":
            staged.silent = {1}
        if state == "restarting":
            staged.hold_start = asyncio.Event()
        await staged.dies(uid, 1)
        if state == "waiting":  # after the second end: the first start is made at once

            async def started() -> bool:
                return starts(staged) == 1

            await plane.until(started, "it was started once")
        operation = await rests_in(plane, state)
        plan = (await plane.client.get(f"/v1/operations/{operation['id']}/cancel-plan")).json()
        assert (plan["state"], plan["steps"]) == ("cancelled", [])
        begun = starts(staged)
        found = await plane.steer(operation["id"], "cancel", "leave it")
        assert (found["state"], found["error"]) == ("cancelled", "cancelled by local: leave it")
        await quiet(plane)
        staged.doomed, staged.silent, staged.hold_start = set(), set(), None
        assert starts(staged) == begun, "nothing is started after it"
        end = (await plane.publish("edge-1", config_toml="governance: {audit: {enabled: false}}"))[-1]
        assert end["state"] == "ready", "the gateway is free"


async def test_a_recovery_that_was_braked_is_resumed(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged)
    staged.doomed = {1}
    await staged.dies(uid, 1)
    operation = await rests_in(on, "paused")
    assert "it ended 5 times" in operation["error"]
    staged.doomed = set()
    await on.steer(operation["id"], "resume", "mended it")
    assert (await rests_in(on, "recovered"))["error"] == ""


async def test_a_recovery_that_was_cancelled_is_retried(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged)
    staged.doomed = {1}
    await staged.dies(uid, 1)
    operation = await rests_in(on, "paused")
    await on.steer(operation["id"], "cancel")
    offered = (await on.client.get(f"/v1/operations/{operation['id']}/explain")).json()["next"]
    assert offered[-1] == f"mcpg-ctl operation retry {operation['id']}"
    staged.doomed = set()
    new = await on.steer(operation["id"], "retry", "look again")
    assert (new["kind"], new["retry_of"]) == ("recover", operation["id"])
    assert new["history"][0]["reason"].endswith("; asked for anew by local: look again")
    assert (await rests_in(on, "recovered"))["id"] == new["id"]


async def test_a_cancel_of_the_watch_ends_the_watch_and_no_more(staged: Staged, start_plane: StartPlane) -> None:
    """Everything serves then: the next end is brought back, and counts on where the watch was."""
    async with start_plane(given=staged, **SLOW_SOAK) as plane:
        staged.plane = plane
        uid = await created(plane, staged, replicas=2)
        await staged.dies(uid, 1)
        watched = await rests_in(plane, "watching")
        plan = (await plane.client.get(f"/v1/operations/{watched['id']}/cancel-plan")).json()
        assert plan["words"].startswith(
            "every replica serves: it is not watched any longer, and is brought back as before"
        )
        await plane.steer(watched["id"], "cancel")
        assert (await plane.client.get("/v1/stranded")).json() == []
        offered = (await plane.client.get(f"/v1/operations/{watched['id']}/explain")).json()["next"]
        assert offered == [f"mcpg-ctl operation {verb} {watched['id']}" for verb in ("show", "replay")]
        await staged.dies(uid, 2)
        again = await rests_in(plane, "watching", 1)
        assert again["id"] != watched["id"]
        assert again["history"][-1]["facts"]["ends"] == 2
        assert sorted(staged.serving(uid)) == [1, 2]


async def test_what_is_not_brought_back_is_shown_until_it_is_asked_for(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged, replicas=2)
    staged.doomed = {1}
    await staged.dies(uid, 1)
    operation = await rests_in(on, "paused")
    assert (await on.client.get("/v1/stranded")).json() == []
    await on.steer(operation["id"], "cancel", "too loud")
    [found] = (await on.client.get("/v1/stranded")).json()
    assert (found["kind"], found["since"]) == ("gateway", (await on.operation(operation["id"]))["finished_at"])
    assert found["message"] == (
        f"edge-1 is not supervised: its recovery {operation['id']} was cancelled by local: too loud; a replica of it is down"
    )
    assert found["hint"] == f"mcpg-ctl operation retry {operation['id']}"
    assert (found["brief"], await told(on, uid)) == ("not supervised", [found] * 4)
    staged.doomed = set()
    await on.steer(operation["id"], "retry")
    await rests_in(on, "recovered")
    assert (await on.client.get("/v1/stranded")).json() == []
    assert await told(on, uid) == [None] * 4


async def told(plane: Plane, uid: str) -> list[Any]:
    """What every way to ask for the gateway says of who looks after it."""
    listed = [(await plane.client.get(f"/v1/{path}instances")).json() for path in ("", "orgs/default/")]
    shown = [(await plane.client.get(f"/v1/{path}instances/{uid}")).json() for path in ("", "orgs/default/")]
    return [found["stranded"] for found in (*(one for [one] in listed), *shown)]
