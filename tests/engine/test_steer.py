"""What an operator does to an operation: cancel and resume in any state, each once, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpg.engine import steer
from mcpg.errors import PermanentError, Refused, TemporaryError
from mcpg.machines import TABLES, provision, recovery, teardown
from mcpg.machines.table import Owner, Table
from mcpg.store.journal import Also
from tests.conftest import Plane, StartPlane, parse_events
from tests.engine.fakes import Scripted
from tests.engine.steering import Tomorrow, begun, creating, places, refused
from tests.engine.test_attempts import limits

# ---- the matrix


def test_lesson_6_cancel_is_legal_in_every_state_that_is_not_final() -> None:
    """A cancel in the middle of provisioning left an instance busy for ever elsewhere: no state may refuse it."""
    for machine in (provision, recovery):
        open_states = [s.value for s in machine.State if s not in machine.MACHINE.final]
        refusing = [s for s in open_states if "cancel" not in machine.MACHINE.allowed(s)]
        assert refusing == [], machine.MACHINE.name
    table = teardown.MACHINE
    assert [s.value for s in teardown.State if "cancel" in table.allowed(s.value)] == ["requested", "draining"]


@pytest.mark.damages
@pytest.mark.parametrize("name", ["provision", "teardown", "recovery"])
@pytest.mark.parametrize("verb", ["resume", "retry", "cancel"])
async def test_lesson_6_whatever_may_arrive_in_a_state_is_accepted_or_refused_in_words(
    on: Plane, name: str, verb: str
) -> None:
    """The whole matrix of state and event: nothing is ignored in silence, and a refusal names the state and what can be."""
    table = TABLES[name]
    uid = (await on.publish("edge-1"))[-1]["coords"]["instance_uid"]
    for state in table.states:
        op = f"op-{name[:4]}-{verb}-{state.value}".replace("_", "-")
        await written(on, op, name, state.value, uid)
        answer = await on.client.post(f"/v1/operations/{op}/{verb}", json={})
        if answer.status_code == 200:
            assert verb in table.allowed(state.value) or state in table.failures or state.value == "paused", state
            continue
        told = answer.json()
        if told["code"] in ("busy", "name_taken", "not_found"):  # a request made anew, refused like any
            assert state in table.failures
            continue
        assert (answer.status_code, told["code"], told["details"]["state"]) == (409, "refused", state.value)
        assert verb not in told["details"]["allowed"]
        assert state.value in told["title"]
        assert told["detail"]
        assert told["hint"]


async def written(plane: Plane, op: str, machine: str, state: str, uid: str) -> None:
    """A row in *state* as an engine of long ago may have left it; nobody drives it."""
    rows = await plane.db.many("SELECT * FROM operation LIMIT 1")
    kind = {"provision": "update", "teardown": "delete", "recovery": "recover"}[machine]
    row = {**rows[0], "id": op, "machine": machine, "kind": kind, "state": state, "instance_id": uid, "version": 1,
           "previous": rows[0]["spec"], "idempotency_key": None, "finished_at": None}  # fmt: skip
    is_final = state in TABLES[machine].final_values
    row |= {"finished_at": 1 if is_final else None, "paused_in": "applying", "deadline_at": None}
    names = ",".join(row)
    await plane.db.writer.execute(
        Also(f"INSERT INTO operation({names}) VALUES({','.join('?' * len(row))})", tuple(row.values()))
    )


def test_every_state_that_an_operator_owns_can_be_left_by_one() -> None:
    for name in ("provision", "teardown", "recovery"):
        table = TABLES[name]
        for state, rest in table.rests.items():
            if isinstance(rest, Owner) and state is not table.initial:
                assert "resume" in table.allowed(state.value), (name, state)


# ---- cancel


async def test_a_create_that_is_cancelled_while_its_effect_runs_leaves_nothing(on: Plane, scripted: Scripted) -> None:
    scripted.hold = asyncio.Event()
    create = await creating(on, replicas=2)
    await scripted.entered.wait()
    assert await places(on) == 2
    answer = await on.steer(create.op, "cancel", "wrong name")
    assert answer["state"] in ("compensating", "cancelled")
    events = await create.task
    assert [(e["event"], e["state"]) for e in events[-2:]] == [("cancel", "compensating"), ("undone", "cancelled")]
    assert (events[-1]["code"], events[-1]["reason"]) == ("cancelled", "cancelled by local: wrong name")
    assert (events[-2]["actor"], events[-1]["actor"]) == ("local", "engine")
    assert (scripted.interrupted, scripted.running) == (1, {})
    assert (await places(on), await on.instances()) == (0, [])
    scripted.hold.set()
    assert (await on.publish("edge-1"))[-1]["state"] == "ready", "its name is free"


async def test_undo_comes_after_do_when_the_work_does_not_listen(on: Plane, scripted: Scripted) -> None:
    """Work that cannot be interrupted is waited for: else it would start something after everything was taken back."""
    scripted.hold, scripted.stubborn = asyncio.Event(), asyncio.Event()
    create = await creating(on)
    await scripted.entered.wait()
    await on.steer(create.op, "cancel")
    assert (await on.operation(create.op))["state"] == "compensating"
    assert scripted.story == ["apply begins"], "the undo waits"
    scripted.stubborn.set()
    assert (await create.task)[-1]["state"] == "cancelled"
    assert scripted.story == ["apply begins", "apply ends", "remove"]
    assert (scripted.running, await places(on)) == ({}, 0)


async def test_work_that_never_ends_after_it_was_interrupted_pauses_with_words(
    scripted: Scripted, start_plane: StartPlane
) -> None:
    scripted.hold, scripted.stubborn = asyncio.Event(), asyncio.Event()
    allowed = limits(compensating=0.1)

    def timeout(table: Table, state: str) -> float | None:
        return allowed(table, state)

    async with start_plane(given=scripted, timeout=timeout) as plane:
        create = await creating(plane)
        await scripted.entered.wait()
        await plane.steer(create.op, "cancel")
        paused = (await create.task)[-1]
        words = "compensate did not end in 0.1 s: work that was interrupted has not ended yet"
        assert (paused["_event"], paused["message"]) == ("paused", words)
        scripted.stubborn.set()
        allowed = limits()
        await plane.steer(create.op, "resume")
        assert (await plane.reaches(create.op, "cancelled"))["code"] == "cancelled"
        assert scripted.running == {}


async def test_a_cancel_while_an_attempt_is_put_off_does_not_wait_for_it(on: Plane, scripted: Scripted) -> None:
    on.engine.backoff = Tomorrow()
    scripted.problems = [TemporaryError("not yet")]
    create = await creating(on)

    async def put_off() -> bool:
        return (await on.operation(create.op))["attempt"] == 1

    await on.until(put_off, "the attempt is put off")
    await on.steer(create.op, "cancel")
    assert (await create.task)[-1]["state"] == "cancelled"
    assert (scripted.running, await places(on)) == ({}, 0)


async def test_a_cancel_while_it_is_confirmed_is_taken_back_too(scripted: Scripted, start_plane: StartPlane) -> None:
    scripted.observes = True
    async with start_plane(given=scripted) as plane:
        create = await creating(plane, "confirming")
        await plane.steer(create.op, "cancel")
        assert (await create.task)[-1]["state"] == "cancelled"
        assert (scripted.running, await places(plane)) == ({}, 0)


async def test_a_cancelled_update_has_its_spec_and_config_of_before(on: Plane, scripted: Scripted) -> None:
    await on.publish("edge-1", config_toml="mcp: {}")
    before = (await on.instances())[0]
    scripted.entered.clear()
    scripted.hold = asyncio.Event()
    update = await creating(on, replicas=2, config_toml="governance: {}")
    await scripted.entered.wait()
    assert (await on.instances())[0]["assigned_hash"] != before["assigned_hash"]
    hold, scripted.hold = scripted.hold, None
    await on.steer(update.op, "cancel")
    assert (await update.task)[-1]["state"] == "cancelled"
    after = (await on.instances())[0]
    for field in ("replicas", "assigned_hash", "state", "addressable"):
        assert after[field] == before[field], field
    assert (scripted.running, await places(on)) == ({before["id"]: 1}, 1)
    assert not hold.is_set()


async def test_a_rollback_that_is_cancelled_ends_cancelled(on: Plane, scripted: Scripted) -> None:
    """It was failing by itself: what was asked for is noted, and said at the end."""
    scripted.problems, scripted.remove_hold = [PermanentError("no")], asyncio.Event()
    create = await creating(on, "compensating")
    await on.steer(create.op, "cancel", "never mind")
    scripted.remove_hold.set()
    end = (await create.task)[-1]
    assert (end["state"], end["reason"]) == ("cancelled", "cancelled by local: never mind")
    assert scripted.running == {}


async def test_a_delete_is_cancelled_before_anything_was_stopped(scripted: Scripted, start_plane: StartPlane) -> None:
    async with start_plane(given=scripted) as plane:
        uid = (await plane.publish("edge-1"))[-1]["coords"]["instance_uid"]
        before = await plane.instances()
        drained = asyncio.Event()
        plane.engine.fleet = Held(plane.engine.fleet, drained)
        delete = await begun(plane, "draining", asyncio.create_task(plane.delete(uid)))
        plan = (await plane.client.get(f"/v1/operations/{delete.op}/cancel-plan")).json()
        assert (plan["state"], plan["steps"]) == ("cancelled", [])
        assert plan["words"] == "nothing was stopped yet: the gateway stays"
        await plane.steer(delete.op, "cancel")
        assert (await delete.task)[-1]["state"] == "cancelled"
        assert (await plane.instances(), scripted.removed) == (before, [])
        drained.set()
        assert (await plane.delete(uid))[-1]["state"] == "deleted"


class Held:
    """A fleet whose drain waits."""

    def __init__(self, real: Any, until: asyncio.Event) -> None:
        self._real, self._until = real, until

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def drain(self, instance_id: str) -> int:
        await self._until.wait()
        return int(await self._real.drain(instance_id))


async def test_a_delete_that_has_begun_to_stop_things_cannot_be_cancelled(on: Plane, scripted: Scripted) -> None:
    uid = (await on.publish("edge-1"))[-1]["coords"]["instance_uid"]
    scripted.remove_hold = asyncio.Event()
    delete = await begun(on, "deleting", asyncio.create_task(on.delete(uid)))
    told = await refused(on, delete.op, "cancel")
    assert told["title"] == f"operation {delete.op} (delete edge-1) cannot be cancelled: it is deleting"
    assert "what was deleted does not come back" in told["detail"]
    assert told["details"] == {"operation_id": delete.op, "state": "deleting", "allowed": []}
    scripted.remove_hold.set()
    assert (await delete.task)[-1]["state"] == "deleted"


# ---- two at once


@pytest.mark.parametrize("verb", ["resume", "cancel"])
async def test_of_two_at_once_one_wins_and_the_other_is_told_the_state(
    on: Plane, scripted: Scripted, verb: str
) -> None:
    scripted.problems = [PermanentError("no")]
    scripted.remove_problems = [PermanentError("it will not die")]
    scripted.remove_hold = None
    op = (await on.publish("edge-1"))[-1]["operation_id"]
    assert (await on.operation(op))["state"] == "paused"
    scripted.remove_hold = asyncio.Event()
    answers = await asyncio.gather(*(on.client.post(f"/v1/operations/{op}/{verb}", json={}) for _ in range(6)))
    assert sorted(a.status_code for a in answers) == [200, 409, 409, 409, 409, 409]
    for told in (a.json() for a in answers if a.status_code == 409):
        assert told["details"]["state"] == "compensating"
        assert told["detail"].rpartition("possible now: ")[2] == ("cancel" if verb == "resume" else "nothing")
    scripted.remove_hold.set()
    end = await on.reaches(op, "failed", "cancelled")
    assert [line["event"] for line in end["history"]].count(verb) == 1


@pytest.mark.parametrize("verb", ["resume", "cancel"])
async def test_of_many_that_decide_on_the_same_row_one_moves_it_and_the_others_decide_again(
    on: Plane, scripted: Scripted, verb: str
) -> None:
    """All read the row before any of them writes: the others see what became of it, and are told that."""
    scripted.problems = [PermanentError("no")]
    scripted.remove_problems = [PermanentError("it will not die")]
    op = (await on.publish("edge-1"))[-1]["operation_id"]
    scripted.remove_hold = asyncio.Event()
    do = {"resume": steer.resume, "cancel": steer.cancel}[verb]
    fates = await asyncio.gather(
        *(do(on.engine, op, actor=f"ada-{i}", reason="") for i in range(8)), return_exceptions=True
    )
    told = [fate for fate in fates if isinstance(fate, Refused)]
    assert (len(told), [fate for fate in fates if isinstance(fate, str)]) == (7, [op])
    assert {(t.code, t.details["state"]) for t in told} == {("refused", "compensating")}
    scripted.remove_hold.set()
    end = await on.reaches(op, "failed", "cancelled")
    assert [line["event"] for line in end["history"]].count(verb) == 1


async def until_id(lines: AsyncIterator[str], number: int) -> AsyncIterator[str]:
    """Those up to event *number* of a stream, or all of it."""
    async for line in lines:
        yield line
        if line == f"id: {number}":
            return


@pytest.mark.long
async def test_cancels_that_race_the_engine_all_come_to_an_end(start_plane: StartPlane) -> None:
    """Whatever the engine was doing at that moment: each create is ready or cancelled, and what was taken fits that."""
    scripted = Scripted()
    async with start_plane(given=scripted, local_gateways_max=100) as plane:

        async def one(i: int) -> tuple[str, int]:
            """Cancelled after so many lines of its ladder, and read to the end."""
            async with plane.client.stream("POST", plane.gateways, json={"name": f"edge-{i}"}) as ladder:
                lines = ladder.aiter_lines()
                seen = [line async for line in until_id(lines, 1 + i % 4)]
                op = ladder.headers["x-operation-id"]
                answer = await plane.client.post(f"/v1/operations/{op}/cancel", json={})
                seen += [line async for line in lines]
            return parse_events("\n".join(seen))[-1]["state"], answer.status_code

        ends = await asyncio.gather(*(one(i) for i in range(30)))
        assert {(state, code) for state, code in ends} <= {("cancelled", 200), ("ready", 409)}
        ready = sum(state == "ready" for state, _ in ends)
        assert (await places(plane), len(await plane.instances()), len(scripted.running)) == (ready, ready, ready)
