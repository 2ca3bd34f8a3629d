"""The engine drives an operation to where it rests, whatever its effects do, and whoever was killed on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcpg.engine import driver
from mcpg.engine.ports import Exited
from mcpg.errors import PermanentError, TemporaryError
from mcpg.store.journal import Also
from tests.conftest import Plane, StartPlane
from tests.engine.fakes import Scripted


@pytest.fixture
async def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
async def on(scripted: Scripted, start_plane: StartPlane) -> AsyncIterator[Plane]:
    async with start_plane(given=scripted, local_gateways_max=3) as plane:
        yield plane


async def places(plane: Plane) -> int:
    return int((await plane.client.get("/v1/clusters")).json()[0]["gateways_running"])


def story(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(e["event"], e["state"]) for e in events]


async def test_a_create_is_four_moves_and_takes_its_room(on: Plane, scripted: Scripted) -> None:
    events = await on.publish("edge-1", replicas=2)
    assert story(events) == [
        ("request", "requested"),
        ("reserved", "applying"),
        ("applied", "confirming"),
        ("confirmed", "ready"),
    ]
    assert await places(on) == 2
    assert [(o.replicas, o.name) for o in scripted.orders] == [(2, "edge-1")]


async def test_a_temporary_error_is_tried_again_within_the_deadline(on: Plane, scripted: Scripted) -> None:
    scripted.problems = [TemporaryError("not yet", delay=0.01), TemporaryError("not yet", delay=0.01)]
    events = await on.publish("edge-1")
    assert events[-1]["state"] == "ready"
    assert len(scripted.orders) == 3


async def test_a_permanent_error_ends_failed_in_its_own_words_and_leaves_nothing(on: Plane, scripted: Scripted) -> None:
    scripted.problems = [PermanentError("the disk is on fire", cause="really")]
    events = await on.publish("edge-1")
    assert story(events)[-2:] == [("fail", "compensating"), ("undone", "failed")]
    assert events[-1]["reason"] == "the disk is on fire: really"
    assert (await places(on), await on.instances(), scripted.running) == (0, [], {})


async def test_an_unforeseen_exception_is_an_event_with_its_words(on: Plane, scripted: Scripted) -> None:
    scripted.problems = [ZeroDivisionError("by zero")]
    events = await on.publish("edge-1")
    assert events[-1]["reason"] == "ZeroDivisionError: by zero"


async def test_work_that_does_not_end_in_time_is_interrupted_and_pauses(
    scripted: Scripted, start_plane: StartPlane
) -> None:
    scripted.hold = asyncio.Event()
    async with start_plane(given=scripted, apply_timeout_s=1.0) as plane:
        events = await plane.publish("edge-1")
        assert story(events)[-2:] == [("reserved", "applying"), ("deadline", "paused")]
        assert (events[-1]["message"], events[-1]["code"]) == ("apply did not end in 1 s", "deadline")
        found = await plane.operation(events[-1]["operation_id"])
        assert (found["paused_in"], found["error"], found["running"]) == ("applying", events[-1]["message"], True)
        assert (scripted.interrupted, await places(plane)) == (1, 1)


async def test_compensation_undoes_what_the_journal_says_was_begun_newest_first(on: Plane, scripted: Scripted) -> None:
    scripted.problems = [PermanentError("no")]
    events = await on.publish("edge-1")
    assert events[-1]["data"]["undone"] == ["removed", "1 place released"]


async def test_a_compensation_that_fails_pauses_and_says_why(on: Plane, scripted: Scripted) -> None:
    scripted.problems = [PermanentError("no")]
    scripted.remove_problems = [PermanentError("cannot remove")]
    events = await on.publish("edge-1")
    assert events[-1]["_event"] == "paused"
    assert events[-1]["message"] == "cannot remove"
    assert await places(on) == 1, "room that may still be in use is not given away"


async def test_no_room_fails_at_once_and_names_the_numbers(on: Plane, scripted: Scripted) -> None:
    await on.publish("edge-1", replicas=2)
    events = await on.publish("edge-2", replicas=2)
    assert (events[-1]["event"], events[-1]["code"]) == ("no_capacity", "no_capacity")
    assert "local: gateways 2/3 and 2 are needed" in events[-1]["message"]
    assert len(scripted.orders) == 1
    assert await places(on) == 2


async def test_sixteen_creates_at_once_never_take_more_than_there_is(on: Plane) -> None:
    ends = await asyncio.gather(*(on.publish(f"edge-{i}") for i in range(16)))
    assert sorted(e[-1]["state"] for e in ends) == ["failed"] * 13 + ["ready"] * 3
    assert await places(on) == 3


async def test_a_failed_name_is_free_again(on: Plane, scripted: Scripted) -> None:
    scripted.problems = [PermanentError("no")]
    await on.publish("edge-1")
    assert (await on.publish("edge-1"))[-1]["state"] == "ready"


async def test_an_update_that_fails_goes_back_to_the_previous_spec(on: Plane, scripted: Scripted) -> None:
    await on.publish("edge-1", config_toml="mcp: {}")
    before = (await on.instances())[0]
    scripted.problems = [PermanentError("no")]
    events = await on.publish("edge-1", replicas=2, config_toml="governance: {}")
    assert events[-1]["state"] == "failed"
    after = (await on.instances())[0]
    assert (after["replicas"], after["assigned_hash"]) == (before["replicas"], before["assigned_hash"])
    assert scripted.running[before["id"]] == 1
    assert await places(on) == 1


async def test_what_a_compensation_orders_has_a_key_of_its_own_and_a_new_one_after_a_resume(
    on: Plane, scripted: Scripted
) -> None:
    """Under the operation's own key a provisioner refuses to start again what that operation started and ended."""
    await on.publish("edge-1", config_toml="mcp: {}")
    scripted.problems = [PermanentError("no"), TemporaryError("not now", delay=0.001), PermanentError("nor back")]
    paused = (await on.publish("edge-1", config_toml="governance: {}"))[-1]
    assert paused["state"] == "paused"
    op = paused["operation_id"]
    await on.steer(op, "resume")

    async def ended() -> bool:
        return bool((await on.operation(op))["state"] == "failed")

    await on.until(ended, "it is taken back")
    keys = [op, f"{op}-undo-1", f"{op}-undo-1", f"{op}-undo-2"]
    assert [order.operation_id for order in scripted.orders[1:]] == keys


async def test_scaling_down_gives_the_room_back(on: Plane) -> None:
    await on.publish("edge-1", replicas=3)
    await on.publish("edge-1", replicas=1)
    assert await places(on) == 1


async def test_a_delete_gives_everything_back(on: Plane, scripted: Scripted) -> None:
    ready = await on.publish("edge-1", replicas=2)
    events = await on.delete(ready[-1]["coords"]["instance_uid"])
    assert [e["state"] for e in events] == ["requested", "deleting", "confirming", "deleted"]
    assert (await places(on), await on.instances(), scripted.running) == (0, [], {})


async def test_a_delete_that_cannot_stop_the_gateway_pauses_and_keeps_its_room(on: Plane, scripted: Scripted) -> None:
    ready = await on.publish("edge-1")
    scripted.remove_problems = [PermanentError("it will not die")]
    events = await on.delete(ready[-1]["coords"]["instance_uid"])
    assert (events[-1]["_event"], events[-1]["message"]) == ("paused", "it will not die")
    assert await places(on) == 1


async def test_a_gateway_that_ends_while_it_is_confirmed_fails_the_operation(
    scripted: Scripted, start_plane: StartPlane
) -> None:
    scripted.observes = True
    async with start_plane(given=scripted) as plane:
        create = asyncio.create_task(plane.publish("edge-1"))
        await scripted.entered.wait()
        scripted.on_exit(Exited(scripted.orders[0].instance_id, 1, 1001, "exit code 3", "no such config"))
        events = await create
        assert events[-1]["state"] == "failed"
        assert events[-1]["reason"] == "replica 1 (pid 1001) did not stay up: exit code 3: no such config"
        assert events[-1]["code"] == "gateway_exited"


async def test_a_restart_takes_up_every_operation_where_it_was(
    tmp_path: Path, scripted: Scripted, start_plane: StartPlane
) -> None:
    """The first process stops in the middle of an apply; the second one repeats it with the same operation id."""
    scripted.hold = asyncio.Event()
    async with start_plane(tmp_path / "s", given=scripted) as first:
        stream = asyncio.create_task(first.publish("edge-1"))
        await scripted.entered.wait()
        operation = scripted.orders[0].operation_id
    await asyncio.gather(stream, return_exceptions=True)
    scripted.hold = None
    async with start_plane(tmp_path / "s", given=scripted) as second:

        async def ready() -> bool:
            return (await second.operation(operation))["state"] == "ready"

        await second.until(ready, "the operation is ready")
        assert {o.operation_id for o in scripted.orders} == {operation}
        lines = (await second.operation(operation))["history"]
        assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))


async def left_behind(tmp_path: Path, scripted: Scripted, start_plane: StartPlane) -> str:
    """An operation whose control plane went away in the midst of its work, and whose deadline has passed since."""
    scripted.hold = asyncio.Event()
    async with start_plane(tmp_path / "s", given=scripted, apply_timeout_s=3600) as first:
        stream = asyncio.create_task(first.publish("edge-1"))
        await scripted.entered.wait()
        operation = scripted.orders[0].operation_id
        await first.db.writer.execute(Also("UPDATE operation SET deadline_at=1 WHERE id=?", (operation,)))
    await asyncio.gather(stream, return_exceptions=True)
    return operation


async def comes_to(plane: Plane, operation: str, state: str) -> list[dict[str, Any]]:
    """Its history, once it is in *state*."""

    async def there() -> bool:
        return bool((await plane.operation(operation))["state"] == state)

    await plane.until(there, f"the operation is {state}")
    history: list[dict[str, Any]] = (await plane.operation(operation))["history"]
    return history


async def test_a_deadline_that_passed_while_nobody_ran_is_still_kept(
    tmp_path: Path, scripted: Scripted, start_plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absolute deadlines are stored: a restart gives an operation one attempt, and never a fresh clock."""
    monkeypatch.setattr(driver, "FIRST_S", 1.0)
    operation = await left_behind(tmp_path, scripted, start_plane)
    async with start_plane(tmp_path / "s", given=scripted, apply_timeout_s=3600) as second:
        lines = await comes_to(second, operation, "paused")
        assert [line["event"] for line in lines[3:]] == ["deadline"]
        assert (len(scripted.orders), scripted.interrupted) == (2, 2)


async def test_downtime_past_the_deadline_costs_nothing_that_was_done(
    tmp_path: Path, scripted: Scripted, start_plane: StartPlane
) -> None:
    """The one attempt finds what runs, under the same id."""
    operation = await left_behind(tmp_path, scripted, start_plane)
    scripted.hold = None
    async with start_plane(tmp_path / "s", given=scripted, apply_timeout_s=3600) as second:
        lines = await comes_to(second, operation, "ready")
        assert [line["event"] for line in lines[3:]] == ["applied", "confirmed"]
        assert [order.operation_id for order in scripted.orders] == [operation, operation]


async def test_an_attempt_past_the_deadline_that_fails_is_the_last(
    tmp_path: Path, scripted: Scripted, start_plane: StartPlane
) -> None:
    """Also when it says that it may pass: the deadline counts at once, and says why."""
    operation = await left_behind(tmp_path, scripted, start_plane)
    scripted.hold = None
    scripted.problems = [TemporaryError("not yet", delay=0.001)]
    async with start_plane(tmp_path / "s", given=scripted, apply_timeout_s=30) as second:
        lines = await comes_to(second, operation, "paused")
        assert [line["event"] for line in lines[3:]] == ["retry", "deadline"]
        assert lines[-2]["reason"] == "no more attempts in the 0.0 s that are left: not yet"
        assert lines[-1]["reason"] == "apply did not end in 30 s: not yet"
        assert len(scripted.orders) == 2


async def test_an_idle_engine_runs_nothing(on: Plane) -> None:
    await on.publish("edge-1")
    assert not on.engine._drivers


async def test_how_an_operation_ended_stands_in_the_log(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mcpg.engine")
    ready = (await plane.publish("edge-1"))[-1]
    failed = (await plane.publish("edge-2", region="mars-1"))[-1]
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("op-")]
    assert [words[:60].partition(",")[0] for words in said] == [
        f"{ready['operation_id']} create edge-1: ready", f"{failed['operation_id']} create edge-2: failed",
    ]  # fmt: skip
    assert said[1].endswith(failed["message"])
