"""The stream is the journal: framing, resuming, keeping alive, and clients that go away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from mcpg.api import stream
from mcpg.store import reads
from mcpg.store.database import Database
from mcpg.store.journal import Line
from tests.conftest import Plane, StartPlane, parse_events
from tests.engine.fakes import Scripted


async def events_of(plane: Plane, operation: str, last: str | None = None) -> list[dict[str, Any]]:
    headers = {} if last is None else {"Last-Event-ID": last}
    answer = await plane.client.get(f"/v1/orgs/default/operations/{operation}/events", headers=headers)
    assert answer.status_code == 200, answer.text
    return parse_events(answer.text)


async def test_frames_are_what_the_strictest_parser_takes(plane: Plane) -> None:
    """LF only, exactly one space after a colon, one data line an event, a blank line after each."""
    answer = await plane.client.post(plane.gateways, json={"name": "edge-1"})
    assert "\r" not in answer.text
    for block in answer.text.removesuffix("\n\n").split("\n\n"):
        lines = block.split("\n")
        assert [line.split(":")[0] for line in lines] == ["id", "event", "data"]
        assert all(line.split(":", 1)[1][0] == " " and line.split(":", 1)[1][1] != " " for line in lines)
        json.loads(lines[2].removeprefix("data: "))


async def test_an_operations_events_are_every_line_and_then_the_end(plane: Plane) -> None:
    operation = (await plane.publish("edge-1"))[-1]["operation_id"]
    events = await events_of(plane, operation)
    assert [e["_id"] for e in events] == ["1", "2", "3", "4", "5", None]
    assert (events[-1]["_event"], events[-1]["ok"], events[-1]["seq"]) == ("end", True, 5)


@pytest.mark.parametrize("last", [0, 1, 2, 3, 4, 5, 99])
async def test_a_viewer_resumes_after_the_last_event_it_has(plane: Plane, last: int) -> None:
    operation = (await plane.publish("edge-1"))[-1]["operation_id"]
    events = await events_of(plane, operation, str(last))
    assert [e["seq"] for e in events[:-1]] == list(range(last + 1, 6))
    assert events[-1]["_event"] == "end"


@pytest.mark.parametrize("last", ["-1", "x", "1.5", "9" * 30, "٣"])
async def test_a_last_event_id_that_is_none_is_refused(plane: Plane, last: str) -> None:
    operation = (await plane.publish("edge-1"))[-1]["operation_id"]
    answer = await plane.client.get(
        f"/v1/orgs/default/operations/{operation}/events", headers={"Last-Event-ID": last.encode()}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


async def test_a_failure_ends_not_ok_with_its_code(plane: Plane) -> None:
    operation = (await plane.publish("edge-1", region="mars-1"))[-1]["operation_id"]
    end = (await events_of(plane, operation))[-1]
    assert (end["ok"], end["code"]) == (False, "no_capacity")


async def test_another_orgs_operation_is_not_there(plane: Plane) -> None:
    operation = (await plane.publish("edge-1"))[-1]["operation_id"]
    answer = await plane.client.get(f"/v1/orgs/other/operations/{operation}")
    assert answer.status_code == 404


async def test_everybody_who_watches_sees_the_same_and_nothing_twice(start_plane: StartPlane) -> None:
    """Viewers that come before, during and after read one journal."""
    scripted = Scripted()
    scripted.hold = asyncio.Event()
    async with start_plane(given=scripted) as plane:
        create = asyncio.create_task(plane.publish("edge-1"))
        await scripted.entered.wait()
        operation = scripted.orders[0].operation_id
        watchers = [asyncio.create_task(events_of(plane, operation, str(n % 3))) for n in range(20)]
        await asyncio.sleep(0)
        scripted.hold.set()
        await create
        after = await events_of(plane, operation)
        for n, watcher in enumerate(watchers):
            assert [e["seq"] for e in await watcher] == [e["seq"] for e in after][n % 3 :]


async def test_a_line_that_is_read_and_heard_is_sent_once(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed between subscribing and reading arrives both ways."""
    operation = (await plane.publish("edge-1"))[-1]["operation_id"]
    real = reads.history

    async def read_and_heard(db: Database, subject: str, after: int = 0) -> list[Line]:
        lines = await real(db, subject, after)
        for line in lines:
            plane.engine.bus.publish(line)
        return lines[:2]

    monkeypatch.setattr(reads, "history", read_and_heard)
    seen = [line.seq async for line in stream.follow(plane.db, plane.engine.bus, operation) if line is not None]
    assert seen == [1, 2, 3, 4, 5]


async def test_who_catches_up_lets_everybody_else_have_a_turn(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ten lines, whether or not anything waits for the client: else its buffers are filled in one go."""
    await asyncio.gather(*(plane.publish(f"edge-{n}") for n in range(10)))
    lines = await reads.operation_lines(plane.db, 0, stream.PAGE)
    assert len(lines) == 50
    turns = 0

    async def read_before(db: Database, after: int, limit: int) -> list[Any]:
        return lines

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(reads, "operation_lines", read_before)
    other = asyncio.create_task(others())
    after, pieces = await stream._page(plane.db, 0)
    other.cancel()
    assert (after, [piece.count("id: ") for piece in pieces]) == (lines[-1][0], [10, 10, 10, 10, 10])
    assert turns >= 5


async def test_a_client_that_goes_away_does_not_stop_the_operation(start_plane: StartPlane) -> None:
    scripted = Scripted()
    scripted.hold = asyncio.Event()
    async with start_plane(given=scripted) as plane:
        async with plane.client.stream("POST", plane.gateways, json={"name": "edge-1"}) as answer:
            operation = answer.headers["x-operation-id"]
            await answer.aiter_lines().__anext__()
        scripted.hold.set()

        async def ready() -> bool:
            return (await plane.operation(operation))["state"] == "ready"

        await plane.until(ready, "ready")


async def test_a_hundred_clients_that_vanish_leave_a_server_that_works(plane: Plane) -> None:
    """Sanic cancels a handler when its client goes: at any point of a transaction, nothing may stay locked."""
    host, port = plane.url.removeprefix("http://").split(":")

    async def vanish(i: int) -> None:
        _, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps({"name": f"edge-{i}"})
        writer.write(
            f"POST {plane.gateways} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        await writer.drain()
        for _ in range(i % 10):
            await asyncio.sleep(0)
        writer.transport.abort()

    await asyncio.gather(*(vanish(i) for i in range(100)))
    events = await plane.publish("last-one")
    assert events[-1]["state"] in ("ready", "failed")


async def test_a_stream_that_waits_is_kept_alive(start_plane: StartPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.01)
    scripted = Scripted()
    scripted.hold = asyncio.Event()
    async with (
        start_plane(given=scripted) as plane,
        plane.client.stream("POST", plane.gateways, json={"name": "edge-1"}) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith(": keep-alive"):
                scripted.hold.set()
            if line.startswith("event: ready"):
                break


def test_the_keep_alive_is_every_fifteen_seconds() -> None:
    assert stream.KEEP_ALIVE_S == 15


async def test_a_server_that_stops_ends_its_streams_at_once(start_plane: StartPlane) -> None:
    scripted = Scripted()
    scripted.hold = asyncio.Event()
    async with start_plane(given=scripted) as plane:
        create = asyncio.create_task(plane.publish("edge-1"))
        await scripted.entered.wait()
    with pytest.raises(httpx.HTTPError):
        await create


async def test_deleting_what_is_being_created_is_refused_and_names_what_runs(start_plane: StartPlane) -> None:
    """One operation at a time runs on a gateway; the create goes on, and the delete works when it is over."""
    scripted = Scripted()
    scripted.hold = asyncio.Event()
    async with start_plane(given=scripted) as plane:
        create = asyncio.create_task(plane.publish("edge-1"))
        await scripted.entered.wait()
        uid = scripted.orders[0].instance_id
        answer = await plane.client.delete(f"{plane.gateways}/{uid}")
        assert (answer.status_code, answer.json()["code"]) == (409, "busy")
        assert scripted.orders[0].operation_id in answer.json()["title"]
        scripted.hold.set()
        assert (await create)[-1]["state"] == "ready"
        assert (await plane.delete(uid))[-1]["state"] == "deleted"
