"""A control plane that was away does not hold its absence against a gateway: silence is counted from when it listens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mcpg.engine import driver
from mcpg.engine.evidence import PATIENCE_S, patience_s
from mcpg.store import reads
from mcpg.store.journal import Also
from tests.conftest import Plane, StartPlane
from tests.engine.staged import Staged


async def left_in_confirming(plane: Plane, staged: Staged) -> dict[str, Any]:
    """A create that waits for its gateway when the control plane goes away, and whose time passes meanwhile."""
    staged.plane, staged.silent = plane, {1}
    stream = asyncio.create_task(plane.publish("edge-1", config_toml="mcp: {}"))

    async def waits() -> dict[str, Any] | None:
        found = (await plane.client.get("/v1/operations")).json()
        return found[0] if found and found[0]["state"] == "confirming" and ("sent", 1) in staged.log else None

    operation = dict(await plane.until(waits, "it waits for its gateway"))
    stream.cancel()
    await asyncio.gather(stream, return_exceptions=True)
    return operation


async def its_time_passes(plane: Plane, operation: str) -> None:
    passed = plane.engine.clock() - 1_000_000
    await plane.db.writer.execute(Also("UPDATE operation SET deadline_at=? WHERE id=?", (passed, operation)))


async def rests(plane: Plane, operation: str, state: str) -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        found = (await plane.client.get(f"/v1/operations/{operation}")).raise_for_status().json()
        return found if found["state"] == state else None

    return dict(await plane.until(there, f"it is {state}"))


async def test_a_gateway_that_comes_back_after_an_outage_past_the_deadline_is_ready(
    tmp_path: Path, start_plane: StartPlane
) -> None:
    staged = Staged()
    async with start_plane(tmp_path / "s", given=staged) as first:
        operation = await left_in_confirming(first, staged)
        await its_time_passes(first, operation["id"])
    staged.silent = set()
    async with start_plane(tmp_path / "s", given=staged) as second:
        staged.plane = second
        [agent] = await reads.agents(second.db, operation["instance_uid"])
        await staged._connect(operation["instance_uid"], 1, agent["id"])
        over = await rests(second, operation["id"], "ready")
        assert over["error"] == ""


async def test_one_that_does_not_come_back_in_that_time_is_late(
    tmp_path: Path, start_plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged, asked = Staged(), []

    def short(waited: float) -> float:
        asked.append(waited)
        return 0.1

    async with start_plane(tmp_path / "s", given=staged) as first:
        operation = await left_in_confirming(first, staged)
        await its_time_passes(first, operation["id"])
    monkeypatch.setattr(driver, "patience_s", short)
    async with start_plane(tmp_path / "s", given=staged) as second:
        staged.plane = second
        over = await rests(second, operation["id"], "failed")
        assert over["code"] == "deadline"
        [waited] = asked
        assert waited >= 61  # its 60 s, and the one it is late by


@pytest.mark.damages  # a row's end is told by one clock, its last line by another
async def test_who_stood_still_past_the_deadline_listens_before_it_calls_a_gateway_late(
    start_plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped (SIGSTOP, a paused container) and let go on: the same process, and nobody listened meanwhile either."""
    staged, loop = Staged(), asyncio.get_running_loop()
    async with start_plane(given=staged) as plane:
        operation = await left_in_confirming(plane, staged)
        time, clock = loop.time, plane.engine.clock
        monkeypatch.setattr(plane.engine, "clock", lambda: clock() + 100_000_000)
        monkeypatch.setattr(loop, "time", lambda: time() + 100.0)
        plane.engine.evidence(operation["instance_uid"])
        [agent] = await reads.agents(plane.db, operation["instance_uid"])
        staged.silent = set()
        instance = await reads.find_instance(plane.db, operation["instance_uid"])
        assert instance is not None
        await plane.engine.agents.acked(agent["id"], instance["assigned_hash"], ok=True, words="")
        over = await rests(plane, operation["id"], "ready")
        assert over["error"] == ""


@pytest.mark.parametrize("jitter", [(0.75, 1.25), (1.0, 1.0), (1.25, 1.25)])
def test_the_patience_is_what_a_gateway_needs_to_come_back(jitter: tuple[float, float]) -> None:
    """However long it was alone: its pauses are 1, 2, 4, … 60 s, jittered by a quarter; short ones before a long one."""
    before, last = jitter
    at = 0.0
    for attempt in range(20):
        pause = min(60.0, 2.0**attempt)
        assert at + pause * last <= at + patience_s(at)
        at += pause * before
    assert patience_s(0.0) <= 3
    assert patience_s(1e9) == PATIENCE_S
