"""A cancel against real gateways: whatever was being started when it came, no process and no file of it is left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import Plane, StartPlane
from tests.peers.conftest import echo, gateways_of, mcp_client, nothing_is_left, only_instance, tool

pytestmark = pytest.mark.peer


async def begun(plane: Plane, name: str, *events: str) -> str:
    """The id of the gateway's newest operation, once its last line is one of *events*."""

    async def there() -> str:
        rows = (await plane.client.get(f"/v1/operations?name={name}&history=true&running=true")).json()
        return rows[0]["id"] if rows and rows[0]["history"][-1]["event"] in events else ""

    return str(await plane.until(there, f"{name} is at {events}"))


@pytest.mark.parametrize("event", ["reserved", "applied"])
async def test_creates_that_are_cancelled_leave_no_process(start_local: StartPlane, tmp_path: Path, event: str) -> None:
    """Several at once, so that the cancels meet launches at every point of theirs."""
    async with start_local() as plane:

        async def one(i: int) -> str:
            create = asyncio.create_task(plane.publish(f"edge-{i}", config_toml=tool("first"), replicas=2))
            op = await begun(plane, f"edge-{i}", event, "applied", "observed")
            for _ in range(i * 40):
                await asyncio.sleep(0)
            answer = await plane.client.post(f"/v1/operations/{op}/cancel", json={})
            assert answer.status_code == 200 or answer.json()["details"]["state"] == "ready"
            return str((await create)[-1]["state"])

        ends = await asyncio.gather(*(one(i) for i in range(4)))
        assert set(ends) <= {"cancelled", "ready"}
        assert "cancelled" in ends
        for instance in (await plane.client.get("/v1/orgs/default/instances")).json():
            assert (await plane.delete(instance["instance_uid"]))[-1]["_event"] == "deleted"
        await nothing_is_left(plane, tmp_path)


async def test_an_update_that_is_cancelled_serves_what_it_served(start_local: StartPlane, tmp_path: Path) -> None:
    async with start_local() as plane:
        created = await plane.publish("edge-1", config_toml=tool("first"))
        update = asyncio.create_task(plane.publish("edge-1", config_toml=tool("second"), replicas=2))
        op = await begun(plane, "edge-1", "reserved", "applied", "observed", "next")
        plan = (await plane.client.get(f"/v1/operations/{op}/cancel-plan")).json()
        assert [step["undo"] for step in plan["steps"]] == ["remove", "release"]
        await plane.steer(op, "cancel", "not that one")
        end = (await update)[-1]
        assert (end["state"], end["reason"]) == ("cancelled", "cancelled by local: not that one")
        assert len(gateways_of(tmp_path)) == 1

        async def back() -> bool:
            found = await only_instance(plane)
            agents = [a for a in found["agents"] if a["state"] == "online"]
            return [a["active_hash"] for a in agents] == [found["assigned_hash"]]

        await plane.until(back, "the old config is active again")
        async with mcp_client(created[-1]["coords"]["endpoints"][0]) as session:
            assert '"from":"first"' in await echo(session)
        assert (await plane.delete((await only_instance(plane))["instance_uid"]))[-1]["_event"] == "deleted"
        await nothing_is_left(plane, tmp_path)
