"""How `gateway --exec mcpg` ends: it drains, departs at once, and comes back as the same instance."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.conftest import Plane
from tests.peers.conftest import Spawn, eventually, tool
from tests.peers.exec_agent import Agent, Call, says

pytestmark = pytest.mark.peer


@pytest.fixture
def agent(plane: Plane, spawn: Spawn, tmp_path: Path) -> Agent:
    return Agent(plane, spawn, tmp_path)


async def test_sigterm_departs_at_once_and_the_next_start_is_the_same_instance(agent: Agent) -> None:
    """It comes back without a URL, with its last good config, on its old port."""
    before = await agent.enrol()
    await agent.push(tool("kept"))
    url = agent.mcp_url
    assert await agent.process.end() == 0, agent.process.said
    departed = (await agent.plane.instances())[0]
    assert (departed["state"], departed["reason"]) == ("departed", "graceful_shutdown")
    assert agent.data_planes() == []
    assert [each["event"] for each in agent.events[-3:]] == ["draining", "deregistered", "stopped"]

    after = await agent.start()
    assert (after["id"], after["instance_uid"]) == (before["id"], before["instance_uid"])
    assert agent.mcp_url == url
    assert '"from":"kept"' in await says(url)
    path = f"/v1/orgs/default/instances/{after['instance_uid']}/history"
    (told,) = (await agent.plane.client.get(path)).json()
    assert [each["event"] for each in told["history"]] == [
        "register", "channel_opened", "deregistered", "channel_opened",
    ]  # fmt: skip


async def draining(agent: Agent) -> None:
    async def said() -> bool:
        return bool(agent.said("draining"))

    await eventually(said, "it drains")


async def test_a_call_that_runs_is_answered_before_it_goes(agent: Agent) -> None:
    """Until then the control plane sees it online."""
    await agent.enrol()
    await agent.push(tool("first"))
    call = Call(agent.mcp_url)
    await call.begin()
    agent.process.popen.send_signal(signal.SIGTERM)
    await draining(agent)
    assert (await agent.plane.instances())[0]["state"] == "online"
    assert (await call.finish()).startswith("HTTP/1.1 ")
    assert await agent.process.ended() == 0
    assert (await agent.plane.instances())[0]["state"] == "departed"


async def test_a_call_that_does_not_end_is_waited_for_no_longer_than_was_said(agent: Agent) -> None:
    await agent.enrol(drain_timeout_s="0.2")
    await agent.push(tool("first"))
    call = Call(agent.mcp_url)
    await call.begin()
    assert await agent.process.end() == 0
    call.leave()
    assert (await agent.plane.instances())[0]["reason"] == "graceful_shutdown"
    assert agent.data_planes() == []


async def test_a_second_signal_ends_agent_and_data_plane_at_once(agent: Agent) -> None:
    await agent.enrol(drain_timeout_s="60")
    call = Call(agent.mcp_url)
    await call.begin()
    agent.process.popen.send_signal(signal.SIGTERM)
    await draining(agent)
    assert await agent.process.end(signal.SIGTERM) == 130
    call.leave()
    assert agent.data_planes() == []
    assert (await agent.plane.instances())[0]["state"] == "online"
