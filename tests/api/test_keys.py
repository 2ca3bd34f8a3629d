"""An Idempotency-Key is one operation's for ever, whether its request made the operation or joined it while it ran."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcpg.engine import requests
from mcpg.engine.accept import KeyRace
from mcpg.engine.core import Core
from mcpg.engine.operation import Operation
from mcpg.store import reads
from tests.api.test_provision import refused
from tests.conftest import Plane, StartPlane
from tests.engine.fakes import Scripted


async def begun(plane: Plane, method: str, path: str, key: str, **body: Any) -> str:
    """Ask, and no more than that: the operation's id, from the headers of its ladder."""
    more = {"json": body} if body else {}
    async with plane.client.stream(method, path, headers={"Idempotency-Key": key}, **more) as answer:
        assert answer.status_code == 200, await answer.aread()
        return str(answer.headers["x-operation-id"])


async def operations_of(plane: Plane) -> list[str]:
    return [each["id"] for each in (await plane.client.get("/v1/operations")).json()]


async def test_a_key_that_joined_a_running_operation_finds_it_after_its_end_too(start_plane: StartPlane) -> None:
    """Else the repeat of an answer that was lost would be a second operation: of a create an update, for nothing."""
    work = Scripted()
    work.hold = asyncio.Event()
    async with start_plane(given=work) as plane:
        asked = [await begun(plane, "POST", plane.gateways, key, name="edge-1") for key in ("k-1", "k-2", "k-2", "k-3")]
        assert len(set(asked)) == 1
        work.hold.set()
        await plane.ladder("GET", f"/v1/operations/{asked[0]}/events")
        uid = (await plane.operation(asked[0]))["instance_uid"]
        again = [await begun(plane, "POST", plane.gateways, key, name="edge-1") for key in ("k-3", "k-2", "k-1")]
        assert (set(again), await operations_of(plane)) == (set(asked), asked[:1])
        refusal = {"json": {"name": "edge-2"}, "headers": {"Idempotency-Key": "k-2"}}
        problem = await refused(plane, 422, "idempotency_key_reused", **refusal)
        assert problem["details"]["operation_id"] == asked[0]

        work.remove_hold, path = asyncio.Event(), f"{plane.gateways}/{uid}"
        gone = [await begun(plane, "DELETE", path, key) for key in ("d-1", "d-2")]
        work.remove_hold.set()
        assert (await plane.ladder("GET", f"/v1/operations/{gone[0]}/events"))[-1]["state"] == "deleted"
        assert [await begun(plane, "DELETE", path, key) for key in ("d-2", "d-1")] == gone
        assert await begun(plane, "POST", plane.gateways, "k-2", name="edge-1") == asked[0]
        assert sorted(await operations_of(plane)) == sorted({*asked, *gone})


async def test_a_key_joins_no_operation_that_ended_a_moment_earlier(
    start_plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was still running when the request looked: the request is one of its own then, and the key is that one's."""
    work = Scripted()
    work.hold = asyncio.Event()
    async with start_plane(given=work) as plane:
        first = await begun(plane, "POST", plane.gateways, "k-1", name="edge-1")
        join = requests.join
        looked: list[str] = []

        async def join_after_its_end(engine: Core, op: Operation, key: str | None) -> Operation:
            assert work.hold is not None
            looked.append(op.id)
            work.hold.set()
            await plane.ladder("GET", f"/v1/operations/{op.id}/events")
            return await join(engine, op, key)

        monkeypatch.setattr(requests, "join", join_after_its_end)
        second = await begun(plane, "POST", plane.gateways, "k-2", name="edge-1")
        assert (looked, second != first) == ([first], True)
        assert await begun(plane, "POST", plane.gateways, "k-2", name="edge-1") == second


async def test_one_key_is_never_of_two_operations(start_plane: StartPlane) -> None:
    """It made an operation elsewhere while it was about to join this one: it is that one's."""
    work = Scripted()
    work.hold = asyncio.Event()
    async with start_plane(given=work) as plane:
        one = await begun(plane, "POST", plane.gateways, "k-1", name="edge-1")
        other = await begun(plane, "POST", plane.gateways, "k-2", name="edge-2")
        row = await reads.find_operation(plane.db, one)
        assert row is not None
        with pytest.raises(KeyRace):
            await requests.join(plane.engine, Operation.of(row), "k-2")
        found = await reads.find_operation_by_key(plane.db, "default", "k-2")
        assert found is not None
        assert found["id"] == other
        work.hold.set()


async def test_a_key_that_joined_while_the_same_request_was_on_its_way_is_found_by_it(
    start_plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request, twice at once: one joins, the operation ends, and only then does the other look at the gateway."""
    work = Scripted()
    work.hold = asyncio.Event()
    async with start_plane(given=work) as plane:
        first = await begun(plane, "POST", plane.gateways, "k-1", name="edge-1")
        find = reads.find_live_name
        is_late = [True]

        async def find_later(*args: Any) -> dict[str, Any] | None:
            if is_late:
                is_late.clear()
                assert await begun(plane, "POST", plane.gateways, "k-2", name="edge-1") == first
                assert work.hold is not None
                work.hold.set()
                await plane.ladder("GET", f"/v1/operations/{first}/events")
            return await find(*args)

        monkeypatch.setattr(reads, "find_live_name", find_later)
        assert await begun(plane, "POST", plane.gateways, "k-2", name="edge-1") == first
        assert await operations_of(plane) == [first]
