"""An update that fails on the local provisioner: the gateway serves its old config again, also where it was down."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mcpg.provisioners import local
from tests.bounds import BOUND_S
from tests.conftest import StartPlane, real
from tests.peers.conftest import echo, gateways_of, mcp_client, nothing_is_left, only_instance, tool

pytestmark = pytest.mark.peer

BAD = "mcp: {capabilities: {tools: 5}}\n"


@pytest.mark.parametrize("settle_s", [0.0, BOUND_S], ids=["its end seen in the wait", "its end seen at its start"])
async def test_a_failed_update_of_a_dead_gateway_starts_it_with_its_old_config(
    start_local: StartPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settle_s: float
) -> None:
    """It is told in the same words, however long the gateway takes to find that it cannot run."""
    monkeypatch.setattr(local, "SETTLE_S", settle_s)
    binary = tmp_path / "mcpg"
    binary.symlink_to(real("mcpg"))
    async with start_local(gateway_bin=str(binary)) as plane:
        created = await plane.publish("edge-1", config_toml=tool("first"))
        (pid,) = gateways_of(tmp_path)
        binary.unlink()  # so that nothing brings it back before the update comes
        os.kill(pid, signal.SIGKILL)

        async def put_off() -> bool:
            return bool(await plane.db.rows("SELECT 1 FROM journal WHERE machine='recovery' AND event='retry'"))

        await plane.until(put_off, "the recovery waits for the binary")
        binary.symlink_to(real("mcpg"))
        failed = await plane.publish("edge-1", config_toml=BAD)
        assert failed[-1]["state"] == "failed", failed[-1]["message"]
        assert "did not stay up: exit code 1: " in failed[-1]["message"]
        assert failed[-1]["code"] == "gateway_exited"
        assert failed[-1]["data"]["undone"] == ["config version 1 put back on 1 replica"]
        assert len(gateways_of(tmp_path)) == 1

        async def serves() -> bool:
            return bool((await only_instance(plane))["state"] == "online")

        await plane.until(serves, "the instance is online")
        async with mcp_client(created[-1]["coords"]["endpoints"][0]) as session:
            assert '"from":"first"' in await echo(session)
        uid = (await only_instance(plane))["instance_uid"]
        assert (await plane.delete(uid))[-1]["_event"] == "deleted"
        await nothing_is_left(plane, tmp_path)


async def test_an_update_that_starts_nothing_needs_no_gateway_binary(start_local: StartPlane, tmp_path: Path) -> None:
    binary = tmp_path / "mcpg"
    binary.symlink_to(real("mcpg"))
    async with start_local(gateway_bin=str(binary)) as plane:
        await plane.publish("edge-1", config_toml=tool("first"))
        binary.unlink()
        updated = await plane.publish("edge-1", config_toml=tool("second"))
        assert updated[-1]["_event"] == "ready", updated[-1]["message"]
        refused = await plane.publish("edge-1", config_toml=BAD)
        assert refused[-1]["state"] == "failed", refused[-1]["message"]
        async with mcp_client(updated[-1]["coords"]["endpoints"][0]) as session:
            assert '"from":"second"' in await echo(session)
        uid = (await only_instance(plane))["instance_uid"]
        assert (await plane.delete(uid))[-1]["_event"] == "deleted"
