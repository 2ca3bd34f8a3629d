"""The real gateway with our control plane: attach, serve, follow, end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from mcpg.store import reads
from tests.bounds import BOUND_S
from tests.conftest import ROOT, Plane, StartPlane, real
from tests.peers.conftest import (
    Spawn,
    echo,
    environment,
    eventually,
    gateways_of,
    mcp_client,
    nothing_is_left,
    only_instance,
    started_at,
    tool,
)
from tests.ports import free_port

pytestmark = pytest.mark.peer


async def online(plane: Plane) -> dict[str, Any] | None:
    found = await plane.instances()
    return found[0] if found and found[0]["state"] == "online" else None


async def test_enrol_by_url(plane: Plane, spawn: Spawn, tmp_path: Path) -> None:
    """A gateway that somebody starts with our enrolment URL is online as an instance of its own and serves its file."""
    minted = await plane.client.post(plane.tokens, json={"one_shot": True, "ttl_ms": 600})
    port = free_port()
    config = tmp_path / "gateway.yaml"
    server = f"gateway: {{server: {{bind_address: '127.0.0.1:{port}', mcp_path: /mcp, health_path: /health}}}}"
    config.write_text(server + tool("file"))
    gateway = spawn(
        real("mcpg"), "--enroll", minted.json()["enrollment_url"], "--cp-grpc", plane.control.started.grpc_url,
        environ=environment(tmp_path / "home", MCPG_CONFIG=str(config), MCPG_STATE_DIR=str(tmp_path / "gw")),
    )  # fmt: skip
    instance = await plane.until(lambda: online(plane), "the gateway is online")
    assert (instance["managed"], instance["discovered_via"]) == (False, "self_registration")
    assert instance["instance_uid"].startswith("testhost-")
    assert instance["version"] == "0.1.0-beta.48"
    async with mcp_client(f"http://127.0.0.1:{port}/mcp") as session:
        assert '"from":"file"' in await echo(session)
    await gateway.end()

    async def hung_up() -> bool:
        return not (await only_instance(plane))["agents"][0]["connected"]

    await plane.until(hung_up, "its channel is closed")


async def test_a_published_config_is_served_and_changed_in_place(start_local: StartPlane, tmp_path: Path) -> None:
    """What is published answers the official MCP client; an update is seen in an open session, in the same process."""
    async with start_local() as plane:
        created = await plane.publish("edge-1", config_toml=tool("first"))
        ready = created[-1]
        assert ready["_event"] == "ready"
        url = ready["coords"]["endpoints"][0]
        (pid,) = gateways_of(tmp_path)
        born = started_at(pid)
        async with mcp_client(url) as session:
            assert [t.name for t in (await session.list_tools()).tools] == ["demo.echo"]
            assert '"from":"first"' in await echo(session)
            updated = await plane.publish("edge-1", config_toml=tool("second", "demo.again"))
            assert updated[-1]["_event"] == "ready"
            assert updated[-1]["coords"]["endpoints"][0] == url
            assert [t.name for t in (await session.list_tools()).tools] == ["demo.again"]
            assert '"from":"second"' in await echo(session, "demo.again")
        assert (gateways_of(tmp_path), started_at(pid)) == ([pid], born)

        refused = await plane.publish("edge-1", config_toml="no_such_key: 1\n")
        assert refused[-1]["_event"] == "failed"
        assert "failed to parse YAML config" in refused[-1]["reason"]
        async with mcp_client(url) as session:
            assert '"from":"second"' in await echo(session, "demo.again")
        uid = (await only_instance(plane))["instance_uid"]
        assert (await plane.delete(uid))[-1]["_event"] == "deleted"
        await nothing_is_left(plane, tmp_path)


async def test_a_killed_gateway_departs_and_says_why(start_local: StartPlane, tmp_path: Path) -> None:
    """A gateway that is killed departs at once with the reason in its history, before it is brought back."""
    binary = tmp_path / "mcpg"
    binary.symlink_to(real("mcpg"))
    async with start_local(gateway_bin=str(binary)) as plane:
        await plane.publish("edge-1", config_toml=tool("first"))
        (pid,) = gateways_of(tmp_path)
        binary.unlink()  # so that it is not back before we have looked
        os.kill(pid, signal.SIGKILL)

        async def departed() -> Any:
            found = await only_instance(plane)
            return found if found["state"] == "departed" else None

        instance = await plane.until(departed, "the instance has departed")
        assert instance["reason"].startswith(f"process {pid} ended, signal 9")
        path = f"/v1/orgs/default/instances/{instance['instance_uid']}/history"
        (agent,) = (await plane.client.get(path)).json()
        assert [h["event"] for h in agent["history"]][:3] == ["register", "channel_opened", "exited"]
        assert agent["history"][2]["reason"].startswith(f"process {pid} ended, signal 9")
        assert (await plane.delete(instance["instance_uid"]))[-1]["_event"] == "deleted"
        await nothing_is_left(plane, tmp_path)


async def test_a_killed_gateway_is_published_again(start_local: StartPlane, tmp_path: Path) -> None:
    """Publishing a gateway whose process had died starts it again: that end belongs to the past."""
    binary = tmp_path / "mcpg"
    binary.symlink_to(real("mcpg"))
    async with start_local(gateway_bin=str(binary)) as plane:
        await plane.publish("edge-1", config_toml=tool("first"))
        (pid,) = gateways_of(tmp_path)
        binary.unlink()  # so that nothing brings it back before the publish comes
        os.kill(pid, signal.SIGKILL)

        async def departed() -> bool:
            return bool((await only_instance(plane))["state"] == "departed")

        await plane.until(departed, "the instance has departed")
        binary.symlink_to(real("mcpg"))
        again = await plane.publish("edge-1", config_toml=tool("second"))
        assert again[-1]["_event"] == "ready", again[-1]["reason"]
        async with mcp_client(again[-1]["coords"]["endpoints"][0]) as session:
            assert '"from":"second"' in await echo(session)


FAILURES: dict[str, tuple[str | None, str, float]] = {
    "missing": (None, "there is no such file", BOUND_S),
    "crashing": ("echo 'thread main panicked at no config' >&2; exit 3", "did not stay up: exit code 3", BOUND_S),
    "never enrolling": ("exec sleep 3600", "0 of 1 enrolled", 1.0),
}


@pytest.mark.parametrize("kind", FAILURES)
async def test_a_gateway_that_does_not_come_up(
    start_local: StartPlane, tmp_path: Path, script: Callable[[str], str], kind: str
) -> None:
    """A create that fails says why and leaves nothing: no process, place, instance or directory; its name is free."""
    lines, words, confirm_s = FAILURES[kind]
    binary = str(tmp_path / "nowhere/mcpg") if lines is None else script(lines)
    async with start_local(gateway_bin=binary, confirm_timeout_s=confirm_s) as plane:
        for _ in range(2):  # the second time the name is free again
            events = await plane.publish("edge-1", config_toml=tool("never"))
            assert events[-1]["_event"] == "failed"
            assert words in events[-1]["reason"]
            await nothing_is_left(plane, tmp_path)
        assert await reads.find_live_name(plane.db, "edge-1") is None


async def test_mcpg_cp_starts_our_server(spawn: Spawn, tmp_path: Path) -> None:
    """`mcpg --cp` finds our `mcpg-control-plane` on PATH, starts it, enrols with it and is online there."""
    http, grpc, own = free_port(), free_port(), free_port()
    config = tmp_path / "gateway.yaml"
    server = f"gateway: {{server: {{bind_address: '127.0.0.1:{own}', mcp_path: /mcp, health_path: /health}}}}"
    config.write_text(server + tool("file"))
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "mcpg-control-plane").symlink_to(ROOT / ".venv/bin/mcpg-control-plane")
    environ = environment(tmp_path / "home", MCPG_CONFIG=str(config), MCPG_STATE_DIR=str(tmp_path / "state"))
    environ["PATH"] = f"{bin_dir}:{environ['PATH']}"
    gateway = spawn(
        real("mcpg"), "--cp", "--cp-bind-http", f"127.0.0.1:{http}", "--cp-bind-grpc", f"127.0.0.1:{grpc}",
        environ=environ,
    )  # fmt: skip
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http}", timeout=BOUND_S, trust_env=False) as client:

        async def attached() -> dict[str, Any] | None:
            assert gateway.popen.poll() is None, gateway.said
            try:
                found = (await client.get("/v1/orgs/default/instances")).json()
            except httpx.HTTPError:
                return None
            return found[0] if found and found[0]["state"] == "online" else None

        instance = await eventually(attached, "the gateway is online with its own control plane")
        meta = (await client.get("/v1/meta")).json()
    assert instance["discovered_via"] == "self_registration"
    assert (meta["product"], meta["state_dir"]) == ("mcpg-control-plane", str(tmp_path / "state"))
    async with mcp_client(f"http://127.0.0.1:{own}/mcp") as session:
        assert '"from":"file"' in await echo(session)
    try:
        await gateway.end()
        await eventually(lambda: _is_gone(meta["pid"]), "the control plane it started is gone too")
    finally:
        if Path(f"/proc/{meta['pid']}/stat").exists():
            os.kill(meta["pid"], signal.SIGKILL)


async def _is_gone(pid: int) -> bool:
    await asyncio.sleep(0)
    return not Path(f"/proc/{pid}/stat").exists()
