"""
What the matrix does while it kills: a script of requests for each scenario, and which fault points it reaches.

A script is run until the control plane dies, and again, from its beginning, once it has come back: every request has its
key, so what was done is found and what was not is done. Each ends with assertions on the ladder's last events.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from mcpg.machines import recovery
from tests.agent.conftest import Gateway
from tests.conftest import ROOT
from tests.crash.world import PLACE, Died, Site, gateways

ECHO = (ROOT / "examples/echo.yaml").read_text()
OTHER = ECHO + "# the same, said again\n"
BROKEN = "gateway: {no_such_key: 1}"
Script = Callable[[Site], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    """
    `points` are those that are proved here (it may reach more). `fault` is armed beside the point: it brings about what
    the point waits for, and is armed in the first life only.
    """

    script: Script
    points: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    at: dict[str, int] = field(default_factory=dict)  # which time a point is reached, where it is not the first


def both(kind: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{kind}:{moment}:{name}" for name in names for moment in ("before", "after"))


def around(*names: str) -> tuple[str, ...]:
    """`replica:launch` is the points before and after it."""
    return tuple(
        f"{name.partition(':')[0]}:{when}:{name.partition(':')[2]}" for name in names for when in ("before", "after")
    )


def ends(event: dict[str, Any], state: str) -> None:
    assert event.get("state") == state, event


# ---- scripts


async def create(site: Site) -> None:
    ends(await site.create("create", "edge-1", config_toml=ECHO, replicas=2), "ready")


async def create_and_delete(site: Site) -> None:
    ends(await site.create("create", "edge-1", config_toml=ECHO, replicas=2), "ready")
    ends(await site.delete("delete", "edge-1"), "deleted")


async def update(site: Site) -> None:
    ends(await site.create("create", "edge-1", config_toml=ECHO), "ready")
    ends(await site.create("update", "edge-1", config_toml=OTHER), "ready")


async def scale_down(site: Site) -> None:
    ends(await site.create("create", "edge-1", config_toml=ECHO, replicas=2), "ready")
    ends(await site.create("scale", "edge-1", replicas=1), "ready")


async def no_room(site: Site) -> None:
    ends(await site.create("create", "edge-1", replicas=1), "failed")


async def failing(site: Site) -> None:
    ends(await site.create("create", "edge-1", config_toml=BROKEN), "failed")


async def rejected(site: Site) -> None:
    ends(await site.create("create", "edge-1", config_toml=ECHO), "ready")
    ends(await site.create("update", "edge-1", config_toml=BROKEN), "failed")


async def unanswered(site: Site) -> None:
    ends(await site.create("create", "edge-1", config_toml=ECHO), "failed")


async def superseded(site: Site) -> None:
    event = await site.create("create", "edge-1", config_toml=ECHO)
    assert event["state"] in {"paused", "failed"}, event
    ends(await site.delete("delete", "edge-1"), "deleted")


async def stubborn(site: Site) -> None:
    """A delete that fails once and is asked for again."""
    ends(await site.create("create", "edge-1"), "ready")
    event = await site.delete("delete", "edge-1")
    if event["state"] == "paused":
        event = await site.delete("", "edge-1")
    ends(event, "deleted")


async def undrained(site: Site) -> None:
    ends(await site.create("create", "edge-1"), "ready")
    ends(await site.delete("delete", "edge-1"), "deleted")


async def killed_gateway(site: Site) -> None:
    """Its process is killed; that this is seen is a line of its agent."""
    ends(await site.create("create", "edge-1", config_toml=ECHO), "ready")
    for pid, mark in gateways(site.folder):
        site.down.add(mark)
        os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        while (await site.call("GET", "/v1/orgs/default/instances"))[0]["state"] != "departed":
            await asyncio.sleep(0.02)


async def goodbye(site: Site) -> None:
    """A gateway that enrolled itself says goodbye."""
    minted = await site.call("POST", f"{PLACE}/enrollment-tokens", {"one_shot": True, "ttl_ms": 600})
    gateway = Gateway(f"127.0.0.1:{site.grpc}")
    try:
        await gateway.register(minted["token"])
        stream = await gateway.connect()
        await stream.beat()
        from mcpg.agent.pb import agent_pb2 as pb

        await gateway.call("Deregister", pb.DeregisterRequest(reason="bye"))
    except grpc.aio.AioRpcError as exc:
        raise Died(str(exc)) from exc
    finally:
        await gateway.channel.close()


async def clusters(site: Site) -> None:
    """Registered, drained, undrained, decommissioned; another by force."""
    body = {"name": "spare", "region": "eu", "gateways_max": 4}
    there = {c["name"]: c for c in await site.call("GET", "/v1/clusters?all=true")}
    for name, query in (("spare", ""), ("worse", "?force=true")):
        if there.get(name, {}).get("state") == "decommissioned":
            continue
        if name not in there:
            await site.call("POST", "/v1/admin/clusters", body | {"name": name})
        if not query:
            await site.call("POST", f"/v1/admin/clusters/{name}/drain")
            await site.call("POST", f"/v1/admin/clusters/{name}/undrain")
        await site.call("DELETE", f"/v1/admin/clusters/{name}{query}")
    left = [c["state"] for c in await site.call("GET", "/v1/clusters?all=true") if c["name"] in {"spare", "worse"}]
    assert left == ["decommissioned"] * 2, left


# ---- which points where

LOCAL = {"provisioner": "local"}

SCENARIOS: dict[str, Scenario] = {
    "create": Scenario(
        create,
        (
            *both("commit", "provision.request", "provision.accept", "provision.reserved", "provision.applied"),
            *both("commit", "provision.observed", "provision.confirmed", "enrolment.register"),
            *both("commit", "enrolment.channel_opened"),
            *both("effect", "reserve", "apply"),
            *around("token:mint", "agent:register", "session:open", "config:push", "config:ack"),
            *around("replica:boot-file", "replica:launch", "replica:keep"),
            "replica:between:launch",
        ),
        LOCAL,
    ),
    "start": Scenario(
        create,
        (*around("start:adopt"), "start:after:takeover", *both("commit", "cluster.register", "statements")),
    ),
    "update": Scenario(update, (), LOCAL),
    "scale down": Scenario(scale_down, (), LOCAL),
    "delete": Scenario(
        create_and_delete,
        (
            *both("commit", "teardown.request", "teardown.accept", "teardown.drained", "teardown.removed"),
            *both("commit", "teardown.gone", "enrolment.removed"),
            *both("effect", "drain", "remove"),
            *around("replica:stop", "files:delete"),
            "replica:between:stop",
        ),
        LOCAL,
    ),
    "no room": Scenario(no_room, both("commit", "provision.no_capacity"), {"local_gateways_max": 0}),
    "failing create": Scenario(
        failing,
        (
            *both("commit", "provision.fail", "provision.undone"),
            *both("effect", "compensate"),
            *both("undo", "release", "remove"),
        ),
        LOCAL,
    ),
    "rejected update": Scenario(rejected, both("commit", "provision.rejected"), LOCAL),
    "unanswered": Scenario(
        unanswered,
        both("commit", "provision.deadline"),
        LOCAL | {"confirm_timeout_s": 0.3},
        fault="session:before:open:0:again",
    ),
    "superseded": Scenario(
        superseded,
        both("commit", "provision.superseded"),
        fault="effect:before:compensate:1:error,effect:before:apply:1:error",
    ),
    "stubborn delete": Scenario(
        stubborn, both("commit", "teardown.fail", "teardown.resume"), fault="effect:before:remove:1:error"
    ),
    "killed gateway": Scenario(
        killed_gateway,
        (*both("commit", "enrolment.exited"), *around("replica:report"), "replica:between:report"),
        LOCAL,
    ),
    "goodbye": Scenario(goodbye, both("commit", "enrolment.deregistered")),
    "clusters": Scenario(
        clusters,
        both("commit", "cluster.drain", "cluster.undrain", "cluster.decommission", "cluster.force_decommission"),
    ),
}

CLOCK = "only a clock raises it, after minutes of silence that no test waits for"
NOBODY = "no request raises it yet"
NOT_REACHED: dict[str, str] = {
    **dict.fromkeys(both("commit", "enrolment.missed", "enrolment.expired", "enrolment.heartbeat"), CLOCK),
    **dict.fromkeys(both("commit", "enrolment.quarantine", "enrolment.revive"), NOBODY),
    **dict.fromkeys(both("commit", "provision.retry", "teardown.retry", "provision.next"), NOBODY),
    **dict.fromkeys(both("commit", "provision.cancel", "provision.resume", "teardown.cancel"), NOBODY),
    **dict.fromkeys(both("commit", "teardown.deadline"), CLOCK),
    **dict.fromkeys(both("commit", *(f"recovery.{event.value}" for event in recovery.Event)), NOBODY),
    **dict.fromkeys(both("effect", "restart"), NOBODY),
}
