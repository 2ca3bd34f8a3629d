"""What an operator does to a recovery: cancel leaves the gateway down wherever it is, resume starts it once more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

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
    staged.doomed = set()
    new = await on.steer(operation["id"], "retry", "look again")
    assert (new["kind"], new["retry_of"]) == ("recover", operation["id"])
    assert new["history"][0]["reason"].endswith("; asked for anew by local: look again")
    assert (await rests_in(on, "recovered"))["id"] == new["id"]
