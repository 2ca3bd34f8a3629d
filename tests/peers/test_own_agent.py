"""Our own agent where the real gateway is not: managed by the local provisioner, which stops it as quickly."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Plane, StartPlane
from tests.peers.conftest import echo, gateways_of, mcp_client, nothing_is_left, only_instance, tool

pytestmark = pytest.mark.peer

OWN = str(ROOT / ".venv/bin/mcpg-ctl")


async def history(plane: Plane, uid: str) -> list[dict[str, Any]]:
    (agent,) = (await plane.client.get(f"/v1/orgs/default/instances/{uid}/history")).json()
    told: list[dict[str, Any]] = agent["history"]
    return told


async def test_it_is_updated_and_deleted_without_a_kill_and_without_departing(
    start_local: StartPlane, tmp_path: Path
) -> None:
    """Its goodbye is no news to who stops it; it ends on SIGTERM, long before SIGKILL."""
    async with start_local(gateway_bin=OWN) as plane:
        created = await plane.publish("edge-1", config_toml=tool("first"))
        assert created[-1]["_event"] == "ready", created[-1]["reason"]
        (pid,) = gateways_of(tmp_path)
        updated = await plane.publish("edge-1", config_toml=tool("second"))
        assert updated[-1]["_event"] == "ready"
        async with mcp_client(updated[-1]["coords"]["endpoints"][0]) as session:
            assert '"from": "second"' in await echo(session)
        assert gateways_of(tmp_path) == [pid]
        uid = (await only_instance(plane))["instance_uid"]
        assert [each["event"] for each in await history(plane, uid)] == ["register", "channel_opened"]
        deleted = await plane.delete(uid)
        assert deleted[-1]["_event"] == "deleted"
        said = str(deleted)
        assert "SIGKILL" not in said
        assert "deregistered" not in said
        await nothing_is_left(plane, tmp_path)


async def test_one_that_somebody_else_ends_departs_with_how_it_ended(start_local: StartPlane, tmp_path: Path) -> None:
    binary = tmp_path / "mcpg-ctl"
    binary.symlink_to(OWN)
    async with start_local(gateway_bin=str(binary)) as plane:
        await plane.publish("edge-1", config_toml=tool("first"))
        (pid,) = gateways_of(tmp_path)
        binary.unlink()  # so that it is not back before we have looked
        os.kill(pid, signal.SIGTERM)

        async def departed() -> dict[str, Any] | None:
            instance = await only_instance(plane)
            return instance if instance["state"] == "departed" else None

        instance = await plane.until(departed, "the instance has departed")
        assert instance["reason"].startswith(f"process {pid} ended, exit code 0")
        told = await history(plane, instance["instance_uid"])
        assert [each["event"] for each in told] == ["register", "channel_opened", "exited"]
