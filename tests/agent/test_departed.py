"""What enrolled itself: deleted once it has departed, refused until then; and what its credentials are worth afterwards."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import httpx
import pytest

from mcpg.agent.pb import agent_pb2 as pb
from tests.agent.conftest import Gateway, mint, settled, status_of, the_agent
from tests.conftest import Plane, StartPlane

Make = Callable[..., Gateway]
CODE = grpc.StatusCode
REAP = "/v1/orgs/default/instances/gw-1/reap"


async def ask(plane: Plane, how: str) -> httpx.Response:
    path = REAP if how == "reap" else f"{plane.gateways}/gw-1"
    return await plane.client.request("POST" if how == "reap" else "DELETE", path)


async def departed(plane: Plane, gateway: Make, token: str) -> Gateway:
    """gw-1, which enrolled itself, was online and said goodbye."""
    one = gateway()
    await one.register(token)
    stream = await one.connect()
    await settled(plane, one.agent_id, "online")
    await one.call("Deregister", pb.DeregisterRequest(reason="moving house"))
    await stream.half_close()
    await stream.end()
    await settled(plane, one.agent_id, "departed")
    return one


@pytest.mark.parametrize("how", ["delete", "reap"])
@pytest.mark.parametrize("provisioner", ["noop", "none"])
async def test_a_departed_gateway_is_torn_down_and_nothing_it_has_is_worth_anything(
    start_plane: StartPlane, dial: Make, how: str, provisioner: str
) -> None:
    async with start_plane(provisioner=provisioner) as plane:
        token = await mint(plane)
        one = await departed(plane, lambda: dial(plane.grpc), token)
        method, path = ("POST", REAP) if how == "reap" else ("DELETE", f"{plane.gateways}/gw-1")
        ladder = await plane.ladder(method, path)
        done = await plane.operation(ladder[-1]["operation_id"])
        assert (done["name"], [(t["dest"], t["reason"]) for t in done["history"]]) == (
            "gw-1",
            [
                ("requested", ""),
                ("draining", ""),
                ("deleting", "endpoints hidden, 0 agents told"),
                ("confirming", "it enrolled itself and has departed: nothing to stop"),
                ("deleted", "no agent connected, its credentials are worth nothing"),
            ],
        )
        assert await plane.instances() == []
        assert await status_of(one.call("Heartbeat", pb.HeartbeatRequest())) == CODE.UNAUTHENTICATED
        assert await status_of(one.register(token)) == CODE.PERMISSION_DENIED
        (minted,) = (await plane.client.get(plane.tokens)).json()
        assert minted["state"] == "revoked"
        assert (await the_agent(plane, one.agent_id))["state"] == "departed"


@pytest.mark.parametrize("how", ["delete", "reap"])
async def test_until_it_has_departed_it_is_refused_with_the_way_on(plane: Plane, gateway: Make, how: str) -> None:
    one = gateway()
    await one.register(await mint(plane))
    enrolling = await ask(plane, how)
    await one.connect()
    await settled(plane, one.agent_id, "online")
    online = await ask(plane, how)
    assert [(a.status_code, a.json()["title"]) for a in (enrolling, online)] == [
        (409, "gw-1 has not departed: it is enrolling"),
        (409, "gw-1 has not departed: it is online"),
    ]
    said = online.json()
    assert said["detail"].startswith("it enrolled itself: only who started it can stop it; stopped, it departs when")
    assert said["hint"] == (
        "stop it where it runs and see it depart: mcpg-ctl instance show gw-1      then: mcpg-ctl provision delete"
        " --org default --workspace default --env default --instance-uid gw-1"
    )
    assert [i["state"] for i in await plane.instances()] == ["online"]


async def test_a_token_that_others_may_use_outlives_one_of_its_gateways(plane: Plane, gateway: Make) -> None:
    """Who was deleted is nobody to it any more: with a use left it enrols anew, as anybody would."""
    token = await mint(plane, one_shot=False, max_uses=3)
    one = await departed(plane, gateway, token)
    await gateway().register(token, uid="gw-2")
    assert (await plane.delete("gw-1"))[-1]["state"] == "deleted"
    (minted,) = (await plane.client.get(plane.tokens)).json()
    assert (minted["state"], minted["use_count"]) == ("minted", 2)
    again = gateway()
    await again.register(token)
    assert again.agent_id != one.agent_id
    assert len(await plane.instances()) == 2
