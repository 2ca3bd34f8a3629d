"""An update goes replica by replica, forward and back: never fewer than all but one serve, and nobody is touched in vain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpg.engine import rolling
from mcpg.engine.operation import Operation
from mcpg.engine.ports import Exited
from mcpg.machines import provision
from mcpg.machines.table import Table
from mcpg.store import reads
from mcpg.store.journal import Fire
from tests.bounds import BOUND_S
from tests.conftest import Plane, StartPlane
from tests.engine.staged import Staged
from tests.engine.test_attempts import limits

OLD, NEW = "mcp: {capabilities: {}}\n", "governance: {audit: {enabled: false}}\n"


@pytest.fixture
def staged() -> Staged:
    return Staged()


@pytest.fixture
async def on(staged: Staged, start_plane: StartPlane) -> AsyncIterator[Plane]:
    async with start_plane(given=staged, local_gateways_max=3, confirm_timeout_s=BOUND_S) as plane:
        staged.plane = plane
        yield plane


async def created(on: Plane, staged: Staged, replicas: int = 3) -> str:
    """A gateway that serves; its uid."""
    events = await on.publish("edge-1", replicas=replicas, config_toml=OLD)
    assert events[-1]["state"] == "ready", events[-1]["message"]
    staged.log.clear()
    staged.orders.clear()
    return str(events[-1]["coords"]["instance_uid"])


async def places(plane: Plane) -> int:
    return int((await plane.client.get("/v1/clusters")).json()[0]["gateways_running"])


def is_new(text: str) -> bool:
    return "audit" in text


def story(events: list[dict[str, Any]]) -> list[str]:
    return [e["event"] for e in events]


async def agents(on: Plane) -> dict[int, dict[str, Any]]:
    return {a["replica"]: a for a in (await on.instances())[0]["agents"]}


async def moved(on: Plane, operation: str, event: str) -> Any:
    async def happened() -> Any:
        history = (await on.operation(operation))["history"]
        return next((line for line in history if line["event"] == event), None)

    return await on.until(happened, event)


async def begun(on: Plane, name: str = "edge-1", **body: Any) -> tuple[str, asyncio.Task[list[dict[str, Any]]]]:
    """A publish under way: its operation, and its ladder to come."""
    stream = asyncio.create_task(on.publish(name, **body))

    async def running() -> str:
        return str((await on.instances())[0]["operation_id"])

    return await on.until(running, "the operation runs"), stream


async def test_lesson_17_the_next_replica_is_touched_when_the_one_before_serves(on: Plane, staged: Staged) -> None:
    """Replacement before removal: order is a property of the machine, and of three replicas two serve at any moment."""
    uid = await created(on, staged)
    fewest = 3

    def watch(what: str, number: int) -> None:
        nonlocal fewest
        done = [n for n, text in staged.serving(uid).items() if is_new(text)]
        assert sorted(done) == list(range(1, number)), f"{what} {number} came when {done} had taken the new config"
        fewest = min(fewest, len(staged.serving(uid)) - 1)

    staged.watch = watch
    events = await on.publish("edge-1", config_toml=NEW)
    assert staged.log == [("sent", 1), ("sent", 2), ("sent", 3)]
    assert fewest == 2
    moves = ["request", "reserved", "applied", "next", "applied", "next", "applied", "confirmed"]
    assert story(events) == moves
    short = (await on.instances())[0]["assigned_hash"][:6]
    told = [(e["message"], e["data"]["replicas"]) for e in events if e["event"] == "applied"]
    assert told == [(f"replica {n} of 3: config {short} sent", [n]) for n in (1, 2, 3)]
    assert all(is_new(text) for text in staged.serving(uid).values())


async def test_lesson_16_a_roll_goes_on_by_the_word_of_the_replica_not_because_it_was_sent(
    on: Plane, staged: Staged
) -> None:
    """Asked and confirmed are two things: a replica that was sent its config and says nothing holds the others back."""
    await created(on, staged)
    staged.silent = {1}
    operation, stream = await begun(on, config_toml=NEW)
    await moved(on, operation, "applied")
    now = await agents(on)
    assert now[1]["assigned_hash"] != now[2]["assigned_hash"] == now[3]["assigned_hash"] == now[2]["active_hash"]
    assert (staged.log, (await on.operation(operation))["state"]) == ([("sent", 1)], "confirming")
    (row,) = await on.db.rows("SELECT rolling_from,rolled FROM instance")
    assert row == {"rolling_from": 1, "rolled": 1}
    staged.silent = set()
    await on.engine.agents.acked(now[1]["id"], now[1]["assigned_hash"], ok=True, words="")
    assert (await stream)[-1]["state"] == "ready"
    (row,) = await on.db.rows("SELECT rolling_from,rolled FROM instance")
    assert row == {"rolling_from": None, "rolled": 0}


async def test_lesson_14_a_roll_stops_where_somebody_who_served_does_not_any_more(on: Plane, staged: Staged) -> None:
    """A replica that is down by itself holds the roll until it is back: or none would be left."""
    await created(on, staged)

    def watch(what: str, number: int) -> None:
        if number == 1:
            staged.deaf = {3}

    staged.watch = watch
    operation, stream = await begun(on, config_toml=NEW)
    line = await moved(on, operation, "observed")
    assert line["reason"] == "the roll waits for replica 3, which served before: no answer"
    assert staged.log == [("sent", 1)]
    staged.deaf = set()
    on.engine.evidence(staged.orders[0].instance_id)
    events = await stream
    assert events[-1]["state"] == "ready"
    assert staged.log == [("sent", 1), ("sent", 2), ("sent", 3)]


async def test_an_end_that_another_control_plane_dealt_with_is_held_against_no_update(
    on: Plane, staged: Staged
) -> None:
    """Whoever watches sees each end, and only one of them brings the gateway back: who takes over later knows the old end."""
    await created(on, staged)
    staged.silent = {2}
    operation, stream = await begun(on, config_toml=NEW)

    async def second() -> bool:
        return staged.log == [("sent", 1), ("sent", 2)]

    await on.until(second, "the second replica is told")
    instance_id = staged.orders[0].instance_id
    on.engine.exits[instance_id] = {1: Exited(instance_id, 1, 17, "signal 9", "")}
    explained = (await on.client.get(f"/v1/operations/{operation}/explain")).json()
    assert "ended" not in str(explained["replicas"])
    on.engine.evidence(instance_id)
    staged.silent = set()
    now = await agents(on)
    await on.engine.agents.acked(now[2]["id"], now[2]["assigned_hash"], ok=True, words="")
    assert (await stream)[-1]["state"] == "ready"


async def test_a_replica_that_stays_down_ends_the_roll_at_its_deadline(staged: Staged, start_plane: StartPlane) -> None:
    allowed = limits(confirming=BOUND_S)

    def timeout(table: Table, state: str) -> float | None:
        return allowed(table, state)

    async with start_plane(given=staged, timeout=timeout) as plane:
        staged.plane = plane
        uid = await created(plane, staged)
        allowed = limits(confirming=1.0)

        def watch(what: str, number: int) -> None:
            staged.watch = lambda _, __: None
            staged.deaf = {3}

        staged.watch = watch
        operation, stream = await begun(plane, config_toml=NEW)
        await moved(plane, operation, "deadline")
        staged.deaf = set()
        events = await stream
        assert events[-1]["state"] == "failed"
        assert staged.log == [("sent", 1), ("sent", 1)]
        assert not any(is_new(text) for text in staged.serving(uid).values())


async def test_a_config_that_the_first_replica_refuses_reaches_no_other(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged)
    before = {n: a["active_hash"] for n, a in (await agents(on)).items()}
    staged.refuses = lambda _, text: is_new(text)
    events = await on.publish("edge-1", config_toml=NEW)
    assert (events[-1]["state"], events[-1]["code"]) == ("failed", "config_rejected")
    assert events[-1]["data"]["undone"][0] == "config version 1 put back on replica 1"
    assert staged.log == [("sent", 1), ("sent", 1)]
    assert {n: a["active_hash"] for n, a in (await agents(on)).items()} == before
    assert {n: a["assigned_hash"] for n, a in (await agents(on)).items()} == before
    assert len(staged.serving(uid)) == 3


async def test_a_refusal_half_way_is_taken_back_newest_first_and_one_at_a_time(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged)
    staged.refuses = lambda number, text: is_new(text) and number == 2
    new = []

    def watch(what: str, number: int) -> None:
        new.append([n for n, text in staged.serving(uid).items() if is_new(text)])

    staged.watch = watch
    events = await on.publish("edge-1", config_toml=NEW)
    assert events[-1]["state"] == "failed"
    assert staged.log == [("sent", 1), ("sent", 2), ("sent", 2), ("sent", 1)]
    assert new == [[], [1], [1], [1]]
    assert events[-1]["data"]["undone"][0] == "config version 1 put back on replicas 1 and 2"


async def test_a_cancel_half_way_goes_back_on_those_that_were_touched(on: Plane, staged: Staged) -> None:
    await created(on, staged)
    staged.silent = {2}
    operation, stream = await begun(on, config_toml=NEW)

    async def second() -> bool:
        return staged.log == [("sent", 1), ("sent", 2)]

    await on.until(second, "the second replica is told")
    staged.silent = set()
    await on.db.writer.fire(Fire(provision.MACHINE, operation, provision.Event.CANCEL, "somebody"))
    assert (await stream)[-1]["state"] == "cancelled"
    assert staged.log[2:] == [("sent", 2), ("sent", 1)]


async def test_what_was_down_before_does_not_hold_the_config_that_mends_it(on: Plane, staged: Staged) -> None:
    """A config that ends its gateways is mended by a publish, also where none of them runs."""
    uid = await created(on, staged)
    for number in (1, 2, 3):
        await staged._end(uid, number)
    staged.log.clear()
    events = await on.publish("edge-1", config_toml=NEW)
    assert events[-1]["state"] == "ready", events[-1]["message"]
    assert [what for what in staged.log if what[0] == "start"] == [("start", 1), ("start", 2), ("start", 3)]


async def test_scaling_up_and_down_touches_nobody_who_stays_and_keeps_its_room(on: Plane, staged: Staged) -> None:
    await created(on, staged, replicas=1)
    assert await places(on) == 1
    up = await on.publish("edge-1", replicas=3)
    assert (up[-1]["state"], await places(on)) == ("ready", 3)
    assert [event for event in story(up) if event != "observed"] == ["request", "reserved", "applied", "confirmed"]
    assert [what for what in staged.log if what[0] == "start"] == [("start", 2), ("start", 3)]
    assert ("sent", 1) not in staged.log
    staged.log.clear()
    down = await on.publish("edge-1", replicas=2)
    assert (down[-1]["state"], await places(on)) == ("ready", 2)
    assert staged.log == [("end", 3)]
    assert story(down) == ["request", "reserved", "applied", "next", "applied", "confirmed"]
    assert down[4]["message"] == "replica 3 stopped"
    assert down[-1]["message"].startswith("2 of 2 enrolled")


async def test_the_surplus_is_stopped_only_when_the_rest_is_seen_to_serve(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged)
    staged.deaf = {1}
    operation, stream = await begun(on, replicas=1)
    await moved(on, operation, "applied")
    assert len(staged.serving(uid)) == 3
    staged.deaf = set()
    on.engine.evidence(uid)
    assert (await stream)[-1]["state"] == "ready"
    assert list(staged.serving(uid)) == [1]


async def test_config_and_replicas_at_once_roll_what_is_there_then_add_or_remove(on: Plane, staged: Staged) -> None:
    await created(on, staged, replicas=1)
    up = await on.publish("edge-1", replicas=3, config_toml=NEW)
    assert up[-1]["state"] == "ready", up[-1]["message"]
    assert staged.log[0] == ("sent", 1)
    assert sorted(staged.log[1:]) == [("sent", 2), ("sent", 3), ("start", 2), ("start", 3)]
    staged.log.clear()
    down = await on.publish("edge-1", replicas=2, config_toml=OLD)
    assert (down[-1]["state"], staged.log) == ("ready", [("sent", 1), ("sent", 2), ("end", 3)])
    assert await places(on) == 2


async def test_a_scale_up_that_fails_removes_what_it_started(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged, replicas=1)
    staged.doomed = {3}
    events = await on.publish("edge-1", replicas=3)
    assert (events[-1]["state"], events[-1]["code"]) == ("failed", "gateway_exited")
    assert events[-1]["data"]["undone"] == ["replicas 2 and 3 removed", "2 places released"]
    assert (list(staged.serving(uid)), await places(on)) == ([1], 1)
    assert ("sent", 1) not in staged.log
    assert (await on.instances())[0]["replicas"] == 1


async def test_a_scale_down_taken_back_starts_what_it_had_stopped(on: Plane, staged: Staged) -> None:
    uid = await created(on, staged)
    staged.hold = asyncio.Event()
    operation, stream = await begun(on, replicas=1, size="m")

    async def stopped() -> bool:
        return ("end", 3) in staged.log or ("end", 2) in staged.log

    await on.until(stopped, "one of those that are too many is stopped")
    await on.db.writer.fire(Fire(provision.MACHINE, operation, provision.Event.CANCEL, "somebody"))
    staged.hold.set()
    assert (await stream)[-1]["state"] == "cancelled"
    assert sorted(staged.serving(uid)) == [1, 2, 3]
    assert ("sent", 1) not in staged.log
    assert await places(on) == 3


async def test_a_publish_that_changes_nothing_touches_nothing(on: Plane, staged: Staged) -> None:
    await created(on, staged)
    for body in ({}, {"config_toml": OLD}, {"image_tag": "other"}, {"custom_hostname": "x.example"}, {"size": "m"}):
        events = await on.publish("edge-1", **body)
        assert events[-1]["state"] == "ready"
        assert story(events) == ["request", "reserved", "applied", "confirmed"], body
    assert staged.log == []


async def test_an_agent_that_connects_in_a_roll_is_given_what_is_assigned_to_its_replica(
    on: Plane, staged: Staged
) -> None:
    uid = await created(on, staged)
    staged.silent = {1}
    operation, stream = await begun(on, config_toml=NEW)
    await moved(on, operation, "applied")
    agent = (await agents(on))[3]["id"]
    await staged._end(uid, 3)
    await staged._connect(uid, 3, agent)
    player = staged.players[uid][3]

    async def told() -> bool:
        return bool(player.told)

    await on.until(told, "the agent is sent its config")
    assert not is_new(player.told[0])
    instance = await reads.find_instance(on.db, uid)
    assert instance is not None
    configs = await reads.assigned_of(on.db, instance, [1, 2, 3])
    assert [is_new(configs[n]["rendered"]) for n in (1, 2, 3)] == [True, False, False]
    await on.db.writer.fire(Fire(provision.MACHINE, operation, provision.Event.CANCEL, "somebody"))
    staged.silent = set()
    assert (await stream)[-1]["state"] == "cancelled"


@pytest.mark.parametrize(
    ("old", "new", "changed", "steps"),
    [
        (3, 3, False, ["1,2,3"]),
        (3, 3, True, ["1", "2", "3"]),
        (1, 3, False, ["1,2,3"]),
        (1, 3, True, ["1", "2,3"]),
        (3, 1, False, ["1", "stop"]),
        (3, 2, True, ["1", "2", "stop"]),
        (1, 1, True, ["1"]),
    ],
)
def test_the_steps_of_an_update(old: int, new: int, changed: bool, steps: list[str]) -> None:
    def spec(replicas: int, digest: str) -> dict[str, Any]:
        return {"replicas": replicas, "config_hash": digest, "config_version": 1}

    op = Operation(
        "op-1", "provision", "update", "o", "w", "e", "n", "i", spec(new, "b" if changed else "a"), spec(old, "a"), "x",
        "h", "applying", 1,
    )  # fmt: skip
    assert ["stop" if s.stops else ",".join(map(str, sorted(s.touches))) for s in rolling.steps_of(op)] == steps
    for before, after in zip(rolling.steps_of(op), rolling.steps_of(op)[1:], strict=False):
        assert before.rolled <= after.rolled
