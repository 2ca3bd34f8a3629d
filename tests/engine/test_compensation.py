"""What is taken back is derived from the journal, told before it runs, and what was told is what runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpg.engine.compensation import FORESEEN, RUN, plan, undo_key
from mcpg.engine.operation import Operation
from mcpg.errors import PermanentError, TemporaryError
from mcpg.machines import TABLES
from mcpg.machines.table import Table, Work
from mcpg.store import reads
from mcpg.store.journal import Line
from tests.conftest import Plane, StartPlane
from tests.engine.fakes import Scripted
from tests.engine.steering import creating
from tests.engine.test_attempts import limits


@pytest.fixture
async def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
async def on(scripted: Scripted, start_plane: StartPlane) -> AsyncIterator[Plane]:
    async with start_plane(given=scripted, local_gateways_max=9) as plane:
        yield plane


async def planned(plane: Plane, op: str) -> dict[str, Any]:
    answer = await plane.client.get(f"/v1/operations/{op}/cancel-plan")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def steps(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What the last line says was run, without what came of it."""
    return [{k: v for k, v in step.items() if k != "did"} for step in found["history"][-1]["data"]["steps"]]


def line(seq: int, source: str, event: str, dest: str, **data: Any) -> Line:
    return Line("provision", "op-1", seq, event, source, dest, "engine", "", {}, data, "", "", "", seq)


SPEC = {"replicas": 2, "cpu_millicores": 250, "memory_bytes": 1, "config_version": 3, "config_hash": "new"}
BEGUN = (line(1, "", "request", "requested"), line(2, "requested", "accept", "allocating"))
RESERVED = line(3, "allocating", "reserved", "applying", places=2, cluster="us-1")


def operation(previous: dict[str, Any] | None = None) -> Operation:
    return Operation(
        "op-1", "provision", "x", "o", "w", "e", "edge-1", "i", SPEC, previous, "a", "h", "compensating", 5
    )


def told(lines: tuple[Line, ...], previous: dict[str, Any] | None = None) -> list[tuple[str, int, str]]:
    return [(u.undo, u.from_seq, u.words) for u in plan(operation(previous), lines)]


def test_nothing_begun_is_nothing_taken_back() -> None:
    assert told(BEGUN[:1]) == []


def test_a_reservation_that_was_not_made_is_nothing_to_release() -> None:
    assert told(BEGUN) == [("release", 2, "nothing was reserved")]


def test_a_create_is_removed_then_released() -> None:
    gone = "stop edge-1 (2 replicas) and delete its files, credentials and tokens"
    assert told((*BEGUN, RESERVED)) == [("remove", 3, gone), ("release", 2, "release 2 places in us-1")]


def test_a_state_that_another_version_named_may_have_done_anything() -> None:
    """It is no mistake of ours to meet one: all that this version can take back follows from it, in the table's order."""
    hovered = (*BEGUN[:1], line(2, "requested", "accept", "hovering"))
    assert [(undo, seq) for undo, seq, _ in told(hovered)] == [("remove", 2), ("release", 2)]
    late = (*BEGUN, RESERVED, line(4, "applying", "applied", "hovering"))
    assert [(undo, seq) for undo, seq, _ in told(late)] == [("remove", 3), ("release", 2)]


def test_each_undo_once_however_often_its_state_was_entered() -> None:
    rolled = (
        *BEGUN, RESERVED, line(4, "applying", "retry", "applying"), line(5, "applying", "applied", "confirming"),
        line(6, "confirming", "next", "applying"), line(7, "applying", "deadline", "paused"),
        line(8, "paused", "resume", "applying"), line(9, "applying", "cancel", "compensating"),
    )  # fmt: skip
    assert [(undo, seq) for undo, seq, _ in told(rolled)] == [("remove", 3), ("release", 2)]


@pytest.mark.parametrize(
    ("before", "step", "words", "room"),
    [
        (1, 0, "put config version 2 back on 1 replica", "release 1 place in us-1"),
        (1, 1, "remove replica 2, then put config version 2 back on 1 replica", "release 1 place in us-1"),
        (2, 0, "put config version 2 back on replica 1", "keep the room in us-1"),
        (2, 1, "put config version 2 back on 2 replicas", "keep the room in us-1"),
        (
            4,
            2,
            "start replicas 3 and 4 again, then put config version 2 back on replicas 1 and 2",
            "keep the room in us-1",
        ),
    ],
)
def test_an_update_goes_back_from_where_it_is(before: int, step: int, words: str, room: str) -> None:
    old = {**SPEC, "replicas": before, "config_version": 2, "config_hash": "old"}
    op = operation(old)
    op.step = step
    steps = [(u.undo, u.words) for u in plan(op, (*BEGUN, RESERVED))]
    assert steps == [("remove", words), ("release", room)]


def test_an_adoption_that_fails_leaves_an_orphan() -> None:
    reserved = line(3, "allocating", "reserved", "applying", places=2, cluster="us-1", orphan_of="c", orphaned_at=1)
    words = [words for _, _, words in told((*BEGUN, reserved), SPEC)]
    assert words == ["leave every replica as it is", "release 2 places in us-1, and leave it an orphan again"]


def test_every_undo_that_a_table_names_is_known_here() -> None:
    named = {r.undo for t in TABLES.values() for r in t.rests.values() if isinstance(r, Work) and r.undo}
    assert named == set(FORESEEN) == set(RUN)


def test_the_key_of_a_compensation_is_new_after_each_resume() -> None:
    entered = [line(4, "applying", "fail", "compensating"), line(5, "compensating", "retry", "compensating")]
    assert undo_key(operation(), entered) == "op-1-undo-1"
    entered += [line(6, "compensating", "fail", "paused"), line(7, "paused", "resume", "compensating")]
    assert undo_key(operation(), entered) == "op-1-undo-2"


@pytest.mark.parametrize("state", ["applying", "confirming", "paused"])
@pytest.mark.parametrize("kind", ["create", "update"])
async def test_the_plan_of_a_cancel_is_exactly_what_runs(
    scripted: Scripted, start_plane: StartPlane, kind: str, state: str
) -> None:
    allowed = limits()

    def timeout(table: Table, state: str) -> float | None:
        return allowed(table, state)

    async with start_plane(given=scripted, timeout=timeout) as plane:
        if kind == "update":
            await plane.publish("edge-1", config_toml="mcp: {}")
        if state == "paused":
            allowed = limits(applying=0.2)
        scripted.entered.clear()
        if state == "confirming":
            scripted.observes = True
        else:
            scripted.hold = asyncio.Event()
        begun = await creating(plane, state, replicas=2, config_toml="governance: {}")
        before = (await plane.operation(begun.op))["transitions"]
        shown = await planned(plane, begun.op)
        assert (await plane.operation(begun.op))["transitions"] == before, "a plan changes nothing"
        scripted.hold, allowed = None, limits()
        await plane.steer(begun.op, "cancel")
        end = await plane.reaches(begun.op, "cancelled")
        assert shown["steps"] == steps(end)
        assert (shown["now"], shown["state"]) == (state, "compensating")
        assert [s["undo"] for s in shown["steps"]] == ["remove", "release"]
        assert all(step["did"] for step in end["history"][-1]["data"]["steps"])
        await begun.task


async def test_the_plan_of_what_cannot_be_cancelled_is_the_same_refusal(on: Plane) -> None:
    op = (await on.publish("edge-1"))[-1]["operation_id"]
    answer = await on.client.get(f"/v1/operations/{op}/cancel-plan")
    other = await on.client.post(f"/v1/operations/{op}/cancel")
    assert (answer.status_code, answer.json()["title"]) == (409, other.json()["title"])
    assert other.json()["title"].endswith("cannot be cancelled: it is ready")


async def test_a_plan_that_was_interrupted_by_a_restart_runs_whole(
    scripted: Scripted, start_plane: StartPlane, tmp_path: Any
) -> None:
    """Stopped in the middle of taking back: the next process derives the same list and runs all of it."""
    scripted.problems, scripted.remove_hold = [PermanentError("no")], asyncio.Event()
    async with start_plane(tmp_path / "s", given=scripted) as first:
        begun = await creating(first, "compensating")
        lines = await reads.history(first.db, begun.op)
        row = await reads.find_operation(first.db, begun.op)
        assert row is not None
        expected = [(u.undo, u.from_seq) for u in plan(Operation.of(row), lines)]
    await asyncio.gather(begun.task, return_exceptions=True)
    scripted.remove_hold = None
    async with start_plane(tmp_path / "s", given=scripted) as second:
        end = await second.reaches(begun.op, "failed")
        assert [(s["undo"], s["from_seq"]) for s in steps(end)] == expected
        assert (await second.instances(), scripted.running) == ([], {})


async def test_a_cause_outlives_attempts_a_pause_and_a_resume(on: Plane, scripted: Scripted) -> None:
    """What failed is what the operation says in the end, whatever happened while it was taken back."""
    scripted.problems = [PermanentError("the disk is on fire")]
    scripted.remove_problems = [TemporaryError("busy", delay=0.001), PermanentError("it will not die")]
    op = (await on.publish("edge-1"))[-1]["operation_id"]
    await on.steer(op, "resume", "unplugged it")
    end = await on.reaches(op, "failed")
    assert (end["error"], end["code"]) == ("the disk is on fire", "permanent")
