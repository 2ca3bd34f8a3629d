"""A gateway that ends by itself is brought back, once whoever sees it; one that ends over and over is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcpg.engine import rollcall, supervision
from mcpg.engine.ports import Answer, Exited
from mcpg.machines import recovery
from mcpg.machines.recovery import BRAKE, Event
from mcpg.store import writes
from mcpg.store.journal import Also, Fire
from tests.bounds import BOUND_S
from tests.conftest import Plane, StartPlane
from tests.engine.staged import Staged

QUICK = {"recovery_soak_s": 0.2, "recovery_pause_s": 0.02}
SLOW_SOAK = {"recovery_soak_s": 600, "recovery_pause_s": 0.02}


@pytest.fixture
def staged() -> Staged:
    return Staged()


@pytest.fixture
async def on(staged: Staged, start_plane: StartPlane) -> AsyncIterator[Plane]:
    async with start_plane(given=staged, **QUICK) as plane:
        staged.plane = plane
        yield plane


async def created(on: Plane, staged: Staged, replicas: int = 1) -> str:
    events = await on.publish("edge-1", replicas=replicas, config_toml="mcp: {}")
    assert events[-1]["state"] == "ready", events[-1]["message"]
    staged.log.clear()
    return str(events[-1]["coords"]["instance_uid"])


async def recoveries(on: Plane) -> list[dict[str, Any]]:
    """With their histories, the oldest first."""
    answer = await on.client.get("/v1/operations?kind=recover&history=true")
    return list(reversed(answer.raise_for_status().json()))


async def rests_in(on: Plane, state: str, which: int = -1) -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        found = await recoveries(on)
        return found[which] if found and len(found) > which and found[which]["state"] == state else None

    return dict(await on.until(there, f"the recovery is {state}"))


def story(operation: dict[str, Any]) -> list[str]:
    return [line["event"] for line in operation["history"]]


def starts(staged: Staged) -> int:
    return sum(what == "start" for what, _ in staged.log)


async def quiet(on: Plane) -> None:
    """Whoever looks after a gateway has done so."""
    async with asyncio.timeout(BOUND_S):
        while looking := [t for t in on.engine._side if getattr(t.get_coro(), "__name__", "") == "look_after"]:
            await asyncio.wait(looking)


async def left_down(on: Plane, operation: str, uid: str) -> None:
    sets = {"finished_at": on.engine.clock(), "error": "cancelled", "code": "cancelled"}
    fire = Fire(recovery.MACHINE, operation, Event.CANCEL, "somebody", reason="leave it", sets=sets)
    await on.db.writer.submit([fire, writes.end_operation(uid)])


async def test_a_gateway_that_ends_is_brought_back_and_the_journal_says_how(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged)
    await staged.dies(uid, 1)
    operation = await rests_in(on, "recovered")
    assert story(operation) == ["request", "accept", "due", "applied", "confirmed", "held"]
    assert (operation["kind"], operation["actor"], operation["name"]) == ("recover", "engine", "edge-1")
    assert operation["history"][0]["reason"] == "replica 1 (pid 1001) ended, signal 9"
    assert operation["history"][4]["message"] == "1 of 1 serve (GET /health: 200)"
    assert starts(staged) == 1
    (instance,) = await on.instances()
    assert (instance["state"], instance["operation_id"]) == ("online", "")


async def test_two_that_see_one_end_make_one_recovery(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged)
    await staged._end(uid, 1)
    await asyncio.gather(
        *(supervision.look_after(on.engine, uid) for _ in range(8)), *(supervision.sweep(on.engine) for _ in range(8))
    )
    await rests_in(on, "recovered")
    await supervision.sweep(on.engine)
    assert (len(await recoveries(on)), starts(staged)) == (1, 1)


async def test_lesson_10_a_gateway_that_ends_over_and_over_is_braked(on: Plane, staged: Staged) -> None:
    """Ending and starting fight no endless fight: the ends are counted in the journal, and the last is left at that."""
    uid = await created(on, staged)
    staged.doomed = {1}
    await staged.dies(uid, 1)
    operation = await rests_in(on, "paused")
    assert starts(staged) == BRAKE - 1
    last = operation["history"][-1]
    assert last["facts"]["ends"] == BRAKE
    assert operation["deadline_at"] is None, "it waits for an operator, however long"
    assert (await on.db.rows("SELECT deadline_at FROM operation WHERE id=?", operation["id"]))[0]["deadline_at"] is None
    stale = Also("UPDATE operation SET deadline_at=1 WHERE id=?", (operation["id"],))  # as earlier versions wrote it
    await on.db.writer.execute(stale)
    assert (await on.operation(operation["id"]))["deadline_at"] is None
    assert last["message"].startswith(
        f"it ended {BRAKE} times (an end counts until it is up for 2 s in one go); the last: replica 1 (pid"
    )
    assert "exit code 3: doomed" in last["message"]
    assert last["data"]["hint"].startswith(f"mcpg-ctl operation resume {operation['id']}")
    await supervision.sweep(on.engine)
    await quiet(on)
    assert (starts(staged), len(await recoveries(on)), on.engine._drivers) == (BRAKE - 1, 1, {})
    notes = (await on.client.get("/v1/clusters/health")).json()["attention"]
    assert [n["kind"] for n in notes] == ["operation_paused"]


async def test_an_end_while_it_is_watched_counts(staged: Staged, start_plane: StartPlane) -> None:
    async with start_plane(given=staged, **SLOW_SOAK) as plane:
        staged.plane = plane
        uid = await created(plane, staged)
        await staged.dies(uid, 1)
        for ends in range(2, BRAKE + 1):
            operation = await rests_in(plane, "watching")
            assert supervision.recovery.MACHINE.name == operation["machine"]
            await staged.dies(uid, 1)

            async def counted(ends: int = ends) -> bool:
                lines = (await recoveries(plane))[0]["history"]
                return sum(line["event"] == "ended" for line in lines) == ends - 1

            await plane.until(counted, "the end is counted")
        await rests_in(plane, "paused")
        assert starts(staged) == BRAKE - 1


async def test_ends_count_on_when_the_last_recovery_was_a_moment_ago(
    on: Plane, staged: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stays up just long enough each time does not escape for ever."""
    monkeypatch.setattr(supervision, "REMEMBERED_SOAKS", BOUND_S / QUICK["recovery_soak_s"])
    uid = await created(on, staged)
    for number in range(BRAKE - 1):
        await staged.dies(uid, 1)
        await rests_in(on, "recovered", number)
    await staged.dies(uid, 1)
    operation = await rests_in(on, "paused", BRAKE - 1)
    assert story(operation) == ["request", "accept"]
    assert starts(staged) == BRAKE - 1
    why = (operation["error"], operation["code"], operation["paused_in"])
    assert why == (operation["history"][-1]["reason"], "gateway_exited", "requested")


async def test_ends_of_long_ago_are_forgotten(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged)
    await staged.dies(uid, 1)
    first = await rests_in(on, "recovered")
    long_ago = on.engine.clock() - int(supervision.REMEMBERED_SOAKS * QUICK["recovery_soak_s"] * 1e6) - 1
    await on.db.writer.execute(Also("UPDATE operation SET finished_at=? WHERE id=?", (long_ago, first["id"])))
    await staged.dies(uid, 1)
    second = await rests_in(on, "recovered", 1)
    assert second["history"][0]["data"]["ends"] == 1


async def test_a_resume_tries_again_with_a_fresh_count(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged)
    staged.doomed = {1}
    await staged.dies(uid, 1)
    operation = await rests_in(on, "paused")
    staged.doomed = set()
    await on.db.writer.fire(Fire(recovery.MACHINE, operation["id"], Event.RESUME, "somebody", facts=recovery.Seen()))
    again = await rests_in(on, "recovered")
    assert again["history"][-1]["facts"]["ends"] == 0
    assert starts(staged) == BRAKE


async def test_a_recovery_that_is_cancelled_leaves_the_gateway_down_until_it_is_published(
    on: Plane, staged: Staged
) -> None:
    uid = await created(on, staged, replicas=2)
    staged.doomed = {1}
    await staged.dies(uid, 1)
    operation = await rests_in(on, "paused")
    await left_down(on, operation["id"], uid)
    staged.doomed = set()
    await staged.dies(uid, 2)
    await supervision.sweep(on.engine)
    await quiet(on)
    assert (len(await recoveries(on)), list(staged.serving(uid))) == (1, [])
    assert (await on.publish("edge-1"))[-1]["state"] == "ready"
    assert sorted(staged.serving(uid)) == [1, 2]
    await staged.dies(uid, 2)
    await rests_in(on, "recovered", 1)


@pytest.mark.parametrize("state", ["waiting", "restarting", "confirming", "watching", "paused"])
@pytest.mark.parametrize("what", ["publish", "delete"])
async def test_a_publish_and_a_delete_take_over_from_a_recovery_wherever_it_is(
    staged: Staged, start_plane: StartPlane, state: str, what: str
) -> None:
    """Never busy: in one transaction the recovery gives way, and nothing that it was doing is done afterwards."""
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
        operation = await rests_in(plane, state)
        staged.doomed, staged.silent = set(), set()
        if what == "publish":
            task = asyncio.create_task(plane.publish("edge-1", config_toml="governance: {audit: {enabled: false}}"))
        else:
            task = asyncio.create_task(plane.delete(uid))
        over = await rests_in(plane, "superseded")
        if staged.hold_start is not None:
            staged.hold_start.set()
        end = (await task)[-1]
        assert end["state"] == ("ready" if what == "publish" else "deleted"), end["message"]
        assert over["history"][-1]["reason"] == f"operation {end['operation_id']} takes over"
        assert (over["id"], over["finished_at"] is not None) == (operation["id"], True)
        await quiet(plane)
        assert list(staged.serving(uid)) == ([1] if what == "publish" else [])


async def test_while_an_operation_runs_an_end_belongs_to_it(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged)
    staged.silent = {1}
    stream = asyncio.create_task(on.publish("edge-1", config_toml="governance: {audit: {enabled: false}}"))

    async def sent() -> bool:
        return ("sent", 1) in staged.log

    await on.until(sent, "the update has begun")
    staged.silent = set()
    await staged.dies(uid, 1)
    events = await stream
    assert (events[-1]["state"], events[-1]["code"]) == ("failed", "gateway_exited")
    await quiet(on)
    assert await recoveries(on) == []
    assert list(staged.serving(uid)) == [1]


async def test_what_an_operation_leaves_down_is_brought_back_after_it(on: Plane, staged: Staged) -> None:
    """A replica that ends while a roll that fails has not come to it is started on the way back, or right after."""
    uid = await created(on, staged, replicas=2)
    staged.silent = {1}
    stream = asyncio.create_task(on.publish("edge-1", config_toml="governance: {audit: {enabled: false}}"))

    async def sent() -> bool:
        return ("sent", 1) in staged.log

    await on.until(sent, "the update has begun")
    await staged.dies(uid, 2)
    staged.silent = set()
    await staged.dies(uid, 1)
    assert (await stream)[-1]["state"] == "failed"
    await quiet(on)
    assert sorted(staged.serving(uid)) == [1, 2]


async def test_an_orphan_is_left_alone(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged)
    cluster = (await on.client.get("/v1/clusters")).json()[0]["id"]
    gone = await on.client.delete(f"/v1/admin/clusters/{cluster}?force=true")
    assert gone.status_code == 200, gone.text
    await staged.dies(uid, 1)
    await supervision.sweep(on.engine)
    await quiet(on)
    assert await recoveries(on) == []


async def test_what_ended_while_no_control_plane_ran_is_found_at_the_start(
    tmp_path: Path, staged: Staged, start_plane: StartPlane
) -> None:
    """Also when nobody reports its end: what should run and does not is down."""
    async with start_plane(tmp_path / "s", given=staged, **QUICK) as first:
        staged.plane = first
        uid = await created(first, staged)
    staged.players[uid].clear()
    async with start_plane(tmp_path / "s", given=staged, **QUICK) as second:
        staged.plane = second
        operation = await rests_in(second, "recovered")
        assert operation["history"][0]["reason"] == "replica 1 does not run"
        assert list(staged.serving(uid)) == [1]


async def test_an_end_that_nobody_saw_while_it_was_watched_is_found_at_the_start(
    tmp_path: Path, staged: Staged, start_plane: StartPlane
) -> None:
    """`recovered` needs evidence: that it runs, not that nobody said otherwise."""
    async with start_plane(tmp_path / "s", given=staged, **SLOW_SOAK) as first:
        staged.plane = first
        uid = await created(first, staged)
        await staged.dies(uid, 1)
        await rests_in(first, "watching")
    staged.players[uid].clear()
    async with start_plane(tmp_path / "s", given=staged, **QUICK) as second:
        staged.plane = second
        operation = await rests_in(second, "recovered")
        assert story(operation)[4:] == ["confirmed", "ended", "due", "applied", "confirmed", "held"]
    assert starts(staged) == 2


async def test_recovered_needs_an_answer_at_the_end_of_the_watch(
    on: Plane, staged: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stands still is there and serves nobody. One answer that fails is not the end of it."""
    monkeypatch.setattr(rollcall, "PROBE_AGAIN_S", (0.0, 0.0))
    real, asked = staged.probe, 0

    async def probe(instance_id: str) -> tuple[Answer, ...]:
        nonlocal asked
        asked += 1
        staged.deaf = {1} if 2 <= asked <= 4 or asked == 6 else set()  # 1 and 5 confirm it, 7 is after one that fails
        return await real(instance_id)

    uid = await created(on, staged)
    monkeypatch.setattr(staged, "probe", probe)
    await staged.dies(uid, 1)
    operation = await rests_in(on, "recovered")
    assert story(operation)[3:] == ["applied", "confirmed", "ended", "due", "applied", "confirmed", "held"]
    assert operation["history"][5]["reason"] == "replica 1 runs and does not serve: no answer"
    assert operation["history"][-1]["facts"]["ends"] == 2
    assert (asked, starts(staged)) == (7, 1)


def test_the_pause_grows_and_ends_at_a_minute() -> None:
    assert supervision.pause_s(1) == 0.0
    for ends, about in ((2, 1.0), (3, 2.0), (4, 4.0)):
        assert 0.75 * about <= supervision.pause_s(ends) <= 1.25 * about
    assert supervision.pause_s(1000) == recovery.LONGEST_PAUSE_S


async def test_a_delete_that_took_over_from_a_recovery_and_is_cancelled_leaves_the_gateway_to_a_recovery(
    staged: Staged, start_plane: StartPlane
) -> None:
    """The checker's world `overtaken`: its restart was cut short, the delete was taken back; somebody must bring it back."""
    async with start_plane(given=staged, **SLOW_SOAK) as plane:
        staged.plane = plane
        uid = await created(plane, staged)
        staged.hold_start = asyncio.Event()
        await staged.dies(uid, 1)
        await rests_in(plane, "restarting")
        plane.engine.fleet = held = HeldDrain(plane.engine.fleet)
        stream = asyncio.create_task(plane.delete(uid))
        await asyncio.wait_for(held.entered.wait(), BOUND_S)
        [delete] = (await plane.client.get("/v1/operations?kind=delete")).json()
        (await plane.client.post(f"/v1/operations/{delete['id']}/cancel", json={})).raise_for_status()
        assert (await stream)[-1]["state"] == "cancelled"
        held.go.set()
        staged.hold_start.set()
        await rests_in(plane, "watching", 1)
        assert list(staged.serving(uid)) == [1]


class HeldDrain:
    """The fleet, whose drain waits until it may go on."""

    def __init__(self, fleet: Any) -> None:
        self._fleet, self.entered, self.go = fleet, asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fleet, name)

    async def drain(self, instance_id: str) -> int:
        self.entered.set()
        await self.go.wait()
        return int(await self._fleet.drain(instance_id))


def test_a_process_that_ended_while_nobody_watched_has_no_pid_zero() -> None:
    assert (
        supervision._end(1, Exited("i", 1, 0, "signal 9", "")) == "replica 1 (pid not known any more) ended, signal 9"
    )
    assert supervision._end(1, Exited("i", 1, 7, "signal 9", "")) == "replica 1 (pid 7) ended, signal 9"
