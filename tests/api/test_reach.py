"""Clusters that cannot start a gateway now: skipped with the reason, told with its age, and back by themselves."""

from __future__ import annotations

import re

from tests.api.clusters import cluster, get, without_heartbeat
from tests.conftest import Plane, StartPlane
from tests.engine.fakes import Scripted


async def test_a_cluster_that_cannot_start_gateways_is_skipped_with_the_reason_and_comes_back(
    start_plane: StartPlane,
) -> None:
    scripted = Scripted()
    async with start_plane(given=scripted) as plane:
        scripted.unreachable = "the disk is gone"
        await plane.engine.reach.look()
        lost = await cluster(plane, "local")
        assert (lost["reachable"], lost["reason"], lost["state"]) == (False, "the disk is gone", "registered")
        assert re.search(
            r"local: unreachable since \d+s: the disk is gone", (await plane.publish("edge-1"))[-1]["message"]
        )
        final = (await plane.publish("edge-2"))[-1]
        assert final["data"]["hint"] == (
            "what is wrong, and since when: mcpg-ctl cluster health, mcpg-ctl doctor; then ask again"
        )
        foreseen = await plane.client.post(f"{plane.gateways}/validate", json={"name": "edge-2"})
        assert (foreseen.status_code, foreseen.json()["hint"]) == (503, final["data"]["hint"])
        health = await get(plane, "/v1/clusters/health")
        assert (health["unreachable"], health["healthy"]) == (1, 0)
        assert [(a["kind"], a["severity"]) for a in health["attention"]] == [("unreachable", "warning")]
        scripted.unreachable = ""
        assert (await plane.publish("edge-1"))[-1]["state"] == "ready", "a refusal looks once more before it is given"
        assert (await cluster(plane, "local"))["reachable"] is True


async def test_looking_again_writes_nothing_while_nothing_changes(plane: Plane) -> None:
    await without_heartbeat(plane)
    before = plane.db.writer.commits
    for _ in range(5):
        await plane.engine.reach.look()
    assert plane.db.writer.commits == before
    seen = (await cluster(plane, "local"))["last_seen_at"]
    await plane.engine.reach.look()
    assert (await cluster(plane, "local"))["last_seen_at"] > seen, "the age of the evidence is this process's own"


async def test_a_restart_knows_when_a_cluster_was_last_seen(start_plane: StartPlane) -> None:
    async with start_plane() as plane:
        await plane.engine.reach.look()
        seen = (await cluster(plane, "local"))["last_seen_at"]
    scripted = Scripted()
    scripted.unreachable = "away"
    async with start_plane(given=scripted) as plane:
        assert (await cluster(plane, "local"))["last_seen_at"] == seen
