"""A real gateway whose cluster is taken away: it serves on, is adopted as it is, and is torn down when somebody says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartPlane
from tests.peers.conftest import echo, gateways_of, mcp_client, only_instance, started_at, tool

pytestmark = pytest.mark.peer


async def test_an_orphan_serves_on_and_is_adopted_in_the_same_process(start_local: StartPlane, tmp_path: Path) -> None:
    async with start_local() as plane:
        ready = (await plane.publish("edge-1", config_toml=tool("first")))[-1]
        uid, url = ready["coords"]["instance_uid"], ready["coords"]["endpoints"][0]
        (pid,) = gateways_of(tmp_path)
        born = started_at(pid)
        async with mcp_client(url) as session:
            assert (await plane.client.delete("/v1/admin/clusters/local?force=true")).status_code == 200
            assert '"from":"first"' in await echo(session)
            assert (await only_instance(plane))["orphaned_at"]
            body = {"name": "here", "region": "local", "gateways_max": 2}
            assert (await plane.client.post("/v1/admin/clusters", json=body)).status_code == 201
            adopted = await plane.ladder("POST", f"/v1/orgs/default/instances/{uid}/adopt")
            assert adopted[-1]["_event"] == "ready", adopted[-1]["reason"]
            assert '"from":"first"' in await echo(session)
        instance = await only_instance(plane)
        assert (instance["state"], instance["cluster"], instance["orphaned_at"]) == ("online", "here", None)
        assert (gateways_of(tmp_path), started_at(pid)) == ([pid], born)
        await plane.client.delete("/v1/admin/clusters/here?force=true")
        reaped = await plane.ladder("POST", f"/v1/orgs/default/instances/{uid}/reap")
        assert (reaped[-1]["state"], gateways_of(tmp_path)) == ("deleted", [])
