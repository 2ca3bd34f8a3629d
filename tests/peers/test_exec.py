"""`gateway --exec mcpg`: our agent with the real gateway as its data plane, as processes, at a real control plane."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from mcpg.agent.status import status as status_of
from tests.conftest import ROOT, Plane, StartPlane, real
from tests.peers.conftest import Spawn, echo, eventually, mcp_client, started_at, tool
from tests.peers.exec_agent import Agent, says
from tests.ports import free_port

pytestmark = pytest.mark.peer


@pytest.fixture
def agent(plane: Plane, spawn: Spawn, tmp_path: Path) -> Agent:
    return Agent(plane, spawn, tmp_path)


async def test_it_serves_what_is_pushed_and_refuses_in_the_gateway_s_words(agent: Agent) -> None:
    """One process through it all; what it refuses changes nothing, and its checker says where the fault is."""
    await agent.enrol()
    (pid,) = agent.data_planes()
    born = started_at(pid)
    taken = await agent.push(tool("first"))
    assert (taken["rejected_hash"], taken["config_error"]) == ("", "")
    async with mcp_client(agent.mcp_url) as session:
        assert '"from":"first"' in await echo(session)
        await agent.push(tool("second", "demo.again"))
        assert [each.name for each in (await session.list_tools()).tools] == ["demo.again"]
        active = (await agent.plane.instances())[0]["agents"][0]["active_hash"]

        refused = await agent.push("no_such_key: 1\n")
        assert refused["config_error"].startswith("hot-reload failed: failed to parse YAML config: ")
        assert "found `no_such_key`" in refused["config_error"]
        assert refused["active_hash"] == active
        assert '"from":"second"' in await echo(session, "demo.again")
    assert (agent.data_planes(), started_at(pid)) == ([pid], born)
    assert status_of(agent.state)["lkg"]["tools"] == ["demo.again"]


async def test_a_killed_data_plane_comes_back_with_its_config(agent: Agent) -> None:
    await agent.enrol()
    await agent.push(tool("kept"))
    url, (pid,) = agent.mcp_url, agent.data_planes()
    os.kill(pid, signal.SIGKILL)

    async def another() -> list[int] | None:
        return agent.data_planes() if len(agent.said("dataplane_started")) == 2 else None

    (after,) = await eventually(another, "another data plane")
    assert after != pid
    assert '"from":"kept"' in await says(url)
    assert agent.said("dataplane_ended")[0]["reason"] == "signal 9"
    running = status_of(agent.state)["agent"]["dataplane"]
    assert (running["pid"], running["restarts"], running["trouble"]) == (after, 1, "")


async def test_a_killed_agent_leaves_one_data_plane_and_so_does_its_successor(agent: Agent) -> None:
    """What it leaves serves on; the next agent ends that before it starts its own."""
    await agent.enrol()
    await agent.push(tool("kept"))
    url, before = agent.mcp_url, agent.data_planes()
    await agent.process.end(signal.SIGKILL)
    assert agent.data_planes() == before
    assert '"from":"kept"' in await says(url)
    left = status_of(agent.state)
    assert (left["agent"]["stale"], left["agent"]["dataplane"]["pid"]) == (True, before[0])
    assert left["problems"][0]["problem"].endswith(f"its data plane, pid {before[0]}, still serves")
    await agent.start()
    (after,) = agent.data_planes()
    assert [after] != before
    assert agent.said("dataplane_replaced") == [{**agent.said("dataplane_replaced")[0], "pid": before[0]}]
    assert agent.mcp_url == url
    assert '"from":"kept"' in await says(url)


async def test_an_agent_that_is_killed_while_it_starts_leaves_no_second_data_plane(agent: Agent) -> None:
    """Killed as soon as the boot file is there: somewhere between that, the start of the process and its record."""
    await agent.enrol()
    assert await agent.process.end() == 0
    boot_file = agent.state / "gateway-agent/dataplane/gateway.yaml"
    for _ in range(4):
        boot_file.unlink()
        agent.run()

        async def written() -> bool:
            return boot_file.exists()

        await eventually(written, "the boot file")
        await agent.process.end(signal.SIGKILL)
    await agent.start()
    assert len(agent.data_planes()) == 1
    assert agent.data_planes() == [agent.said("dataplane_started")[0]["pid"]]


async def test_the_remedy_for_a_killed_agent_is_the_command_it_was_run_by(
    agent: Agent, tmp_path: Path, spawn: Spawn
) -> None:
    """With its config, from another directory; an agent of the other kind ends what was left, and there is never a second."""
    local = tmp_path / "local config.yaml"
    local.write_text('gateway: {server: {bind_address: "127.0.0.1:0"}}\n')
    await agent.enrol(config=local)
    (left,) = agent.data_planes()
    await agent.process.end(signal.SIGKILL)
    fix = status_of(agent.state)["problems"][0]["fix"]
    options = {"exec": real("mcpg"), "config": local, "cp-grpc": f"http://{agent.plane.grpc}"}
    words = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    assert shlex.split(fix) == ["mcpg-ctl", "gateway", "--state-dir", str(agent.state), *words]

    agent.run(exec="", config=local)
    await agent.plane.until(lambda: _true(agent.said("session_opened")), "our own data plane serves")
    assert [each["pid"] for each in agent.said("dataplane_replaced")] == [left]
    assert agent.data_planes() == []


async def _true(found: list[Any]) -> bool:
    return bool(found)


async def test_what_crashes_again_and_again_is_braked_reported_and_comes_back(agent: Agent, tmp_path: Path) -> None:
    """The reports say degraded and why; the agent goes on, and a push that helps is taken at once."""
    down, program = tmp_path / "down", tmp_path / "mcpg"
    program.write_text(
        f'#!/bin/sh\n[ "$1" != --version ] && [ -e {down} ] && {{ echo "Error: no disk" >&2; exit 3; }}\n'
        f'exec {real("mcpg")} "$@"\n'
    )
    program.chmod(0o755)
    await agent.enrol(exec=program)
    down.touch()
    os.kill(agent.data_planes()[0], signal.SIGKILL)

    async def twice() -> bool:
        return len(agent.said("dataplane_ended")) >= 2

    await eventually(twice, "it has ended twice")
    assert agent.said("dataplane_ended")[1]["reason"] == "exit code 3: Error: no disk"
    status = status_of(agent.state)
    assert re.search(r"\b[2-9] times in a row \(exit code 3: Error: no disk\)", status["agent"]["dataplane"]["trouble"])
    assert status["problems"][0]["problem"] == status["agent"]["dataplane"]["trouble"]
    refused = await agent.push(tool("no help"))
    assert refused["config_error"] == "the data plane does not start with it: exit code 3: Error: no disk"
    down.unlink()
    taken = await agent.push(tool("cure"))
    assert taken["config_error"] == ""
    assert '"from":"cure"' in await says(agent.mcp_url)
    assert len(agent.data_planes()) == 1
    assert status_of(agent.state)["agent"]["dataplane"]["trouble"] == ""


async def test_without_a_control_plane_it_serves_its_last_good_config(
    start_plane: StartPlane, spawn: Spawn, tmp_path: Path
) -> None:
    """And stops cleanly, though nobody hears its goodbye."""
    async with start_plane() as plane:
        agent = Agent(plane, spawn, tmp_path)
        await agent.enrol()
        await agent.push(tool("kept"))
        assert await agent.process.end() == 0
    agent.run()

    async def listening() -> bool:
        return bool(agent.said("session_ended"))

    await eventually(listening, "it has tried to reach its control plane")
    assert agent.said("config_loaded")[0]["source"] == "last known good"
    assert '"from":"kept"' in await says(agent.mcp_url)
    assert await agent.process.end() == 0
    assert agent.said("deregister_failed")[0]["code"] == "UNAVAILABLE"
    assert agent.data_planes() == []


async def test_a_last_good_config_that_it_refuses_does_not_keep_it_down(agent: Agent, tmp_path: Path) -> None:
    from mcpg.agent import credentials, lkg
    from mcpg.agent.pb import agent_pb2 as pb

    await agent.enrol()
    assert await agent.process.end() == 0
    lkg.write(credentials.agent_dir(agent.state), "old", pb.ConfigBundle(config_toml=b"no_such_key: 1\n"))
    await agent.start()
    assert "found `no_such_key`" in agent.said("lkg_unusable")[0]["reason"]
    assert len(agent.data_planes()) == 1


Refusal = tuple[str, dict[str, Any], int, str]


def _refusals(tmp_path: Path) -> dict[str, Refusal]:
    return {
        "no such program": ("", {"exec": "/nowhere/mcpg"}, 2, "the gateway program /nowhere/mcpg cannot be run"),
        "ourselves": ("", {"exec": ROOT / ".venv/bin/mcpg-ctl"}, 2, "would start this agent again"),
        "a config it refuses": ("no_such_key: 1\n", {}, 1, "found `no_such_key`"),
        "a taken port": ("gateway: {server: {bind_address: '127.0.0.1:PORT'}}\n", {}, 1, "another process listens on"),
    }


@pytest.mark.parametrize("kind", list(_refusals(Path())))
async def test_what_cannot_start_says_why_and_leaves_nothing(agent: Agent, tmp_path: Path, kind: str) -> None:
    text, options, code, words = _refusals(tmp_path)[kind]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        local = tmp_path / "gateway.yaml"
        local.write_text(text.replace("PORT", str(other.getsockname()[1])) or "{}")
        url = tmp_path / "url"
        url.write_text("http://127.0.0.1:1/enroll/v1#token=ENROL-x")
        url.chmod(0o600)
        agent.run(config=local, enrollment_url_file=url, **options)
        assert await agent.process.ended() == code, agent.process.said
    assert words in agent.process.said
    assert "ENROL-x" not in agent.process.said
    assert agent.data_planes() == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0", "[::1]", "localhost"])
async def test_a_local_config_is_served_where_it_says(agent: Agent, tmp_path: Path, host: str) -> None:
    port = free_port()
    local = tmp_path / "gateway.yaml"
    where = f"{{bind_address: '{host}:{port}', mcp_path: /tools, health_path: /alive}}"
    local.write_text(f"gateway: {{server: {where}}}" + tool("file"))
    await agent.enrol(config=local)
    assert agent.said("listening")[0]["port"] == port
    assert '"from":"file"' in await says(f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/tools")


async def test_the_secrets_of_the_agent_stay_with_it(agent: Agent) -> None:
    """Neither the enrolment URL nor a credential is on a command line, in the log or in the child's environment."""
    await agent.enrol()
    creds = json.loads((agent.state / "gateway-agent/agent-creds.json").read_text())
    token = agent._url.read_text().partition("#token=")[2]
    (pid,) = agent.data_planes()
    seen = [Path(f"/proc/{agent.process.pid}/cmdline").read_bytes().decode(), agent.process.said]
    seen += [Path(f"/proc/{pid}/{name}").read_bytes().decode() for name in ("cmdline", "environ")]
    seen += [path.read_text() for path in (agent.state / "gateway-agent/dataplane").iterdir() if path.is_file()]
    seen += [(agent.state / "gateway-agent/running.json").read_text()]
    for text in seen:
        assert token not in text
        assert creds["instance_jwt"] not in text
    files = [path for path in (agent.state / "gateway-agent").rglob("*") if path.is_file()]
    assert [path for path in files if path.stat().st_mode & 0o077] == []
