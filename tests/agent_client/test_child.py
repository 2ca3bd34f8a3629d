"""The supervised data plane as the control plane hears of it: the real gateway, a fake control plane."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from mcpg.agent import child, credentials
from mcpg.agent.inventory import listener_of, offered
from mcpg.errors import BadConfig
from tests.conftest import real

from .conftest import Start
from .fake_cp import FakeControlPlane, FakeSession, echo_config, soon

pytestmark = pytest.mark.peer

OPEN = ""  # a local config that leaves the port to the kernel


async def until(session: FakeSession, kind: str, wanted: Callable[[Any], bool]) -> Any:
    while not wanted(heard := await session.hear(kind)):
        pass
    return heard


async def test_the_endpoint_it_registers_is_the_data_plane_s(start: Start, cp: FakeControlPlane) -> None:
    gateway = await start(exec=str(real("mcpg")), config=OPEN)
    (endpoint,) = (await cp.registration()).addressable_endpoints
    assert (endpoint.scheme, endpoint.host, endpoint.port, endpoint.path_prefix) == (
        "http",
        "127.0.0.1",
        gateway.port,
        "/mcp",
    )
    session = await cp.session()
    session.push("h1", echo_config())
    assert (await session.hear("config_ack")).applied_state == "active"
    async with Client(gateway.mcp_url) as client:
        result = await client.call_tool("demo.echo", {"text": "hello"})
    assert '"from":"pushed"' in result.content[0].text
    assert (await until(session, "status_report", lambda report: report.config_hash)).config_hash == "h1"


async def test_what_the_gateway_would_take_for_nothing_is_refused_by_us(start: Start, cp: FakeControlPlane) -> None:
    """It acknowledges an empty config as active and changes nothing."""
    await start(exec=str(real("mcpg")), config=OPEN)
    session = await cp.session()
    for config_hash, config, words in [
        ("empty", b"", "hot-reload failed: the update carries no whole config, so nothing was changed"),
        ("bytes", b"\xff", "pushed config not utf8: invalid start byte at byte 0"),
        ("list", b"[]", "hot-reload failed: the config does not parse: as YAML it is a list, not a mapping"),
    ]:
        session.push(config_hash, config)
        ack = await session.hear("config_ack")
        assert (ack.config_hash, ack.applied_state, ack.error) == (config_hash, "error", words)


async def test_while_it_is_down_it_is_degraded_and_says_why_and_does_not_give_up(
    start: Start, cp: FakeControlPlane, tmp_path: Path
) -> None:
    down, program = tmp_path / "down", tmp_path / "mcpg"
    program.write_text(
        f'#!/bin/sh\n[ "$1" != --version ] && [ -e {down} ] && {{ echo "Error: no disk" >&2; exit 3; }}\n'
        f'exec {real("mcpg")} "$@"\n'
    )
    program.chmod(0o755)
    gateway = await start(exec=str(program), config=OPEN)
    session = await cp.session()
    assert (await session.hear("heartbeat")).health == "ok"
    started = await soon(_first(gateway, "dataplane_started"))
    down.touch()
    os.kill(started["pid"], signal.SIGKILL)
    ends = [await gateway.event("dataplane_ended") for _ in range(child.BRAKE + 1)]
    assert [each["times"] for each in ends] == [1, 2, 3, 4, 5, 6]
    assert [each["reason"] for each in ends[:2]] == ["signal 9", "exit code 3: Error: no disk"]
    beat = await until(session, "heartbeat", lambda beat: beat.health != "ok")
    assert beat.health == "degraded"
    (warning,) = (await until(session, "status_report", lambda report: "exit code" in str(report.warnings))).warnings
    assert "(exit code 3: Error: no disk); it is started again in" in warning
    down.unlink()
    await gateway.event("dataplane_started")
    await until(session, "heartbeat", lambda beat: beat.health == "ok")
    await until(session, "status_report", lambda report: not report.warnings)


async def _first(gateway: Any, wanted: str) -> dict[str, Any]:
    fields: dict[str, Any] = next(fields for name, fields in gateway.told if name == wanted)
    return fields


async def test_a_port_that_was_taken_meanwhile_is_not_waited_for(
    start: Start, cp: FakeControlPlane, tmp_path: Path
) -> None:
    """Where the config leaves the port open, the one it had is preferred and no more."""
    first = await start(exec=str(real("mcpg")), config=OPEN)
    await cp.session()
    await first.end()
    port = credentials.agent_dir(tmp_path / "state") / "dataplane/port"
    assert port.read_text() == str(first.port)
    port.write_text(cp.url.rpartition(":")[2])
    second = await start(exec=str(real("mcpg")), config=OPEN)
    assert second.port != int(cp.url.rpartition(":")[2])
    assert port.read_text() == str(second.port)


@pytest.mark.parametrize("bind", ["8787", "host:", "host:x", "host:99999", ":1"])
def test_where_nobody_can_listen(bind: str) -> None:
    with pytest.raises(BadConfig, match="must be HOST:PORT"):
        listener_of(f"gateway: {{server: {{bind_address: '{bind}'}}}}")


def test_names_of_what_is_named_wrongly_are_left_out() -> None:
    text = "mcp: {capabilities: {tools: [{name: a}, 3, {description: x}], resources: [{uri: 'file:///x'}], prompts: 7}}"
    assert offered(text) == {"tools": ["a"], "resources": ["file:///x"]}
    assert offered("governance: {}") is None
