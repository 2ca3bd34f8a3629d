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

from tests.agent.conftest import Gateway
from tests.bounds import BOUND_S
from tests.conftest import ROOT
from tests.crash.world import PLACE, Died, Site, gateways

ECHO = (ROOT / "examples/echo.yaml").read_text()
OTHER = ECHO.replace("Echo the arguments back", "Say the arguments again")
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
    ends(await site.create("create", "edge-1", config_toml=ECHO, replicas=2), "ready")
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
    """No channel opens in time. Killed before that is written, who comes back listens first, and may hear the gateway then."""
    event = await site.create("create", "edge-1", config_toml=ECHO)
    assert event["state"] in {"failed", "ready"}, event


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


async def cancelled(site: Site) -> None:
    """Cancelled while it is tried again and again; it may be ready before that, where nothing hinders it."""
    operation = await site.begin("create", "edge-1")
    await site.call("POST", f"/v1/operations/{operation}/cancel")
    event = await site.create("create", "edge-1")
    assert event["state"] in {"cancelled", "ready"}, event


async def delete_cancelled(site: Site) -> None:
    ends(await site.create("create", "edge-1"), "ready")
    operation = await site.begin("delete", "edge-1", delete=True)
    await site.call("POST", f"/v1/operations/{operation}/cancel")
    event = await site.delete("delete", "edge-1")
    assert event["state"] in {"cancelled", "deleted"}, event


async def resumed(site: Site) -> None:
    """What paused is resumed, and succeeds once nothing hinders it."""
    event = await site.create("create", "edge-1")
    if event["state"] == "paused":
        await site.call("POST", f"/v1/operations/{event['operation_id']}/resume")
        event = await site.create("create", "edge-1")
    ends(event, "ready")


async def recovery_of(site: Site, *, kill: bool = True) -> str:
    """A gateway that is killed, once, however often this is called; the id of its recovery."""
    ends(await site.create("create", "edge-1", config_toml=ECHO), "ready")
    if kill and not site.down:
        for pid, mark in gateways(site.folder):
            site.down.add(mark)
            os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(BOUND_S):
        while not (found := await site.call("GET", "/v1/operations?kind=recover")):
            await asyncio.sleep(0.02)
    return str(found[0]["id"])


async def killed_gateway(site: Site) -> None:
    """Its process is killed; it departs and is brought back."""
    operation = await recovery_of(site)
    ends(await site.followed(operation), "recovered")
    site.down.clear()


async def killed_again(site: Site) -> None:
    """Killed once more while it is being watched."""
    operation = await recovery_of(site)
    if (await site.reaches(operation, "watching"))["state"] == "watching":
        for pid, _ in gateways(site.folder):
            os.kill(pid, signal.SIGKILL)
    ends(await site.followed(operation), "recovered")


async def recovery_resumed(site: Site) -> None:
    """Its start fails over and over, until it is left alone; resumed where nothing hinders it any more."""
    operation = await recovery_of(site)
    event = await site.followed(operation)
    if event["state"] == "paused":
        await site.call("POST", f"/v1/operations/{operation}/resume")
        event = await site.followed(operation)
    ends(event, "recovered")


async def recovery_cancelled(site: Site) -> None:
    operation = await recovery_of(site)
    await site.call("POST", f"/v1/operations/{operation}/cancel")
    event = await site.followed(operation)
    assert event["state"] in {"cancelled", "recovered"}, event


async def recovery_superseded(site: Site) -> None:
    """Somebody publishes the gateway while it is being brought back."""
    operation = await recovery_of(site)
    event = await site.create("update", "edge-1", config_toml=OTHER)
    if event.get("code") == "busy":  # not while it starts: asked again when that is over
        await site.followed(operation)
        event = await site.create("update", "edge-1", config_toml=OTHER)
    assert event["state"] == "ready", event
    site.down.clear()


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
SOON = LOCAL | {"recovery_soak_s": 0.2, "recovery_pause_s": 0.1}

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
            "file:between:write",
        ),
        LOCAL,
    ),
    "start": Scenario(
        create,
        (*around("start:adopt"), "start:after:takeover", *both("commit", "cluster.register", "statements")),
    ),
    "update": Scenario(update, both("commit", "provision.next"), LOCAL),
    "scale down": Scenario(scale_down, ("replica:after:stop", "files:before:delete"), LOCAL),
    "retry": Scenario(create, both("commit", "provision.retry"), fault="effect:before:apply:1:again"),
    "cancel": Scenario(cancelled, both("commit", "provision.cancel"), fault="effect:before:apply:1+:again"),
    "resume": Scenario(
        resumed, both("commit", "provision.resume"), {"apply_timeout_s": 2.0}, fault="effect:before:apply:1+:again"
    ),
    "retry of a delete": Scenario(undrained, both("commit", "teardown.retry"), fault="effect:before:remove:1:again"),
    "cancel of a delete": Scenario(
        delete_cancelled, both("commit", "teardown.cancel"), fault="effect:before:drain:1+:again"
    ),
    "drain in vain": Scenario(undrained, both("commit", "teardown.deadline"), fault="effect:before:drain:1+:again"),
    "delete": Scenario(
        create_and_delete,
        (
            *both("commit", "teardown.request", "teardown.accept", "teardown.drained", "teardown.removed"),
            *both("commit", "teardown.gone", "enrolment.removed"),
            *both("effect", "drain", "remove"),
            "replica:before:stop",
            "replica:between:stop",
            "files:after:delete",
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
        fault="session:before:open:1+:again",
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
        (
            *both("commit", "enrolment.exited", "recovery.request", "recovery.accept", "recovery.due"),
            *both("commit", "recovery.applied", "recovery.confirmed", "recovery.held"),
            *both("effect", "restart"),
            *around("replica:report"),
            "replica:between:report",
        ),
        SOON,
    ),
    "killed again": Scenario(killed_again, both("commit", "recovery.ended"), SOON | {"recovery_soak_s": 6.0}),
    "failing recovery": Scenario(
        killed_gateway, both("commit", "recovery.fail"), SOON, fault="effect:before:restart:1:error"
    ),
    "retry of a recovery": Scenario(
        killed_gateway, both("commit", "recovery.retry"), SOON, fault="effect:before:restart:1:again"
    ),
    "late recovery": Scenario(
        killed_gateway,
        both("commit", "recovery.deadline"),
        SOON | {"confirm_timeout_s": 10.0},
        fault="session:before:open:2+:again",
    ),
    "resume of a recovery": Scenario(
        recovery_resumed, both("commit", "recovery.resume"), SOON, fault="replica:before:launch:2+:error"
    ),
    "cancel of a recovery": Scenario(
        recovery_cancelled, both("commit", "recovery.cancel"), SOON, fault="effect:before:restart:1+:again"
    ),
    "publish over a recovery": Scenario(
        recovery_superseded, both("commit", "recovery.supersede"), SOON, fault="effect:before:restart:1+:again"
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
    **dict.fromkeys(both("commit", "recovery.observed"), NOBODY),
}
