"""What goes wrong around an operation: clients that leave, disks that fill, clocks that jump, operators that delete."""

from __future__ import annotations

import asyncio
import json

import pytest

from mcpg.engine import driver
from mcpg.engine.driver import Driver
from mcpg.engine.operation import Operation
from mcpg.engine.ports import Exited
from mcpg.errors import PermanentError
from mcpg.store import reads
from tests.conftest import Plane, StartPlane
from tests.engine.fakes import Scripted


async def test_an_operation_is_driven_whoever_left_before_it_was_accepted(start_plane: StartPlane) -> None:
    """The client is gone within milliseconds of its POST; what was written down is still done."""
    async with start_plane(local_gateways_max=500) as plane:
        host, port = plane.url.removeprefix("http://").split(":")

        async def leave(i: int) -> None:
            _, writer = await asyncio.open_connection(host, int(port))
            body = json.dumps({"name": f"edge-{i}"})
            head = f"POST {plane.gateways} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write((head + body).encode())
            await writer.drain()
            for _ in range(i % 40):
                await asyncio.sleep(0)
            writer.transport.abort()

        await asyncio.gather(*(leave(i) for i in range(200)))
        await plane.publish("last-one")

        async def all_final() -> bool:
            return await reads.open_operations(plane.db) == []

        await plane.until(all_final, "every accepted operation ends")
        assert {o["state"] for o in await reads.operations(plane.db, "default", 1000)} == {"ready"}


async def test_a_look_that_fails_is_tried_again_and_ends_ready(
    start_plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk while the evidence is gathered: no driver is lost, and the operation ends when there is room again."""
    scripted, real, left = Scripted(), driver.look, [2]

    async def fails_twice(*args: object) -> object:
        if left[0]:
            left[0] -= 1
            raise OSError(28, "No space left on device")
        return await real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(driver, "look", fails_twice)
    async with start_plane(given=scripted) as plane:
        assert (await plane.publish("edge-1"))[-1]["state"] == "ready"


async def test_a_look_that_keeps_failing_ends_at_the_deadline(
    start_plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*args: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(driver, "look", fails)
    async with start_plane(given=Scripted(), confirm_timeout_s=1.0) as plane:
        events = await plane.publish("edge-1")
        assert (events[-1]["state"], events[-1]["code"]) == ("failed", "deadline")
        assert "No space left" in events[-1]["reason"]


async def test_a_mistake_in_the_driver_is_not_the_end_of_the_operation(
    start_plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something nobody foresaw, outside every effect: it is logged, and the row is taken up again."""
    real, left = Driver._raise, [1]

    async def fails_once(self: Driver, *args: object) -> None:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("nobody foresaw this")
        await real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Driver, "_raise", fails_once)
    async with start_plane(given=Scripted()) as plane:
        assert (await plane.publish("edge-1"))[-1]["state"] == "ready"


async def test_a_clock_that_is_set_back_does_not_make_a_state_last_longer(start_plane: StartPlane) -> None:
    """A row that is taken up with a deadline far ahead of our clock still gets no more than its definition allows."""
    async with start_plane(given=Scripted(), apply_timeout_s=700) as plane:
        row = {"deadline_at": plane.engine.clock() + 3_600_000_000, "state": "applying"}
        op = Operation("op-1", "provision", "create", "o", "w", "e", "n", "i", {}, None, "a", "h", version=3, **row)
        one = Driver(plane.engine, op, lambda _: None)
        one.set_clock()
        left = one.left()
        assert left is not None
        assert 400 < left <= 700


async def test_a_state_that_is_entered_does_not_ask_the_wall_clock(start_plane: StartPlane) -> None:
    scripted = Scripted()
    scripted.hold = asyncio.Event()
    async with start_plane(given=scripted, apply_timeout_s=0.1) as plane:
        plane.engine.clock = lambda: 0
        assert (await plane.publish("edge-1"))[-1]["code"] == "deadline"


async def test_an_effect_that_times_out_by_itself_is_not_mistaken_for_the_deadline(start_plane: StartPlane) -> None:
    """ETIMEDOUT is a TimeoutError too: the operation fails in its words, not in ours."""
    scripted = Scripted()
    scripted.problems = [TimeoutError("the disk timed out")]
    async with start_plane(given=scripted) as plane:
        events = await plane.publish("edge-1")
        assert events[-1]["reason"] == "TimeoutError: the disk timed out"
        assert "fail" in [e["event"] for e in events]


async def test_the_end_of_a_deleted_gateway_is_forgotten(start_plane: StartPlane) -> None:
    scripted = Scripted()
    async with start_plane(given=scripted) as plane:
        uid = (await plane.publish("edge-1"))[-1]["coords"]["instance_uid"]
        scripted.on_exit(Exited(uid, 1, 1001, "signal 9", ""))
        assert uid in plane.engine.exits
        await plane.delete(uid)
        assert plane.engine.exits == {}


async def paused(plane: Plane, scripted: Scripted) -> str:
    """An update that failed and could not be taken back; the instance's uid."""
    uid = (await plane.publish("edge-1"))[-1]["coords"]["instance_uid"]
    scripted.problems = [PermanentError("no"), PermanentError("no")]
    events = await plane.publish("edge-1", replicas=2)
    assert events[-1]["_event"] == "paused"
    return str(uid)


async def test_a_gateway_whose_update_paused_can_be_deleted(start_plane: StartPlane) -> None:
    """Paused is no dead end: the delete supersedes it, and takes back everything."""
    scripted = Scripted()
    async with start_plane(given=scripted) as plane:
        uid = await paused(plane, scripted)
        assert (await plane.delete(uid))[-1]["state"] == "deleted"
        states = {o["kind"]: o["state"] for o in (await plane.client.get("/v1/orgs/default/operations")).json()}
        assert states == {"create": "ready", "update": "failed", "delete": "deleted"}
        assert (await plane.client.get("/v1/clusters")).json()[0]["gateways_running"] == 0


async def test_a_delete_that_paused_goes_on_when_it_is_asked_for_again(start_plane: StartPlane) -> None:
    scripted = Scripted()
    async with start_plane(given=scripted) as plane:
        uid = (await plane.publish("edge-1"))[-1]["coords"]["instance_uid"]
        scripted.remove_problems = [PermanentError("it will not die")]
        first = await plane.delete(uid)
        assert first[-1]["_event"] == "paused"
        second = await plane.delete(uid)
        assert second[-1]["state"] == "deleted"
        assert second[0]["operation_id"] == first[0]["operation_id"]


async def test_a_publish_without_replicas_keeps_those_there_are(start_plane: StartPlane) -> None:
    scripted = Scripted()
    async with start_plane(given=scripted) as plane:
        await plane.publish("edge-1", replicas=3)
        await plane.publish("edge-1", config_toml="mcp: {}")
        assert (await plane.instances())[0]["replicas"] == 3
