"""What our gateway serves: pushes, refusals in words, the last known good config, the local file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from mcp import Client

from mcpg import errors
from mcpg.agent import credentials, lkg
from mcpg.agent.gateway import run
from mcpg.agent.pb import agent_pb2 as pb
from mcpg.settings import Agent

from .conftest import ANYWHERE, ENROLMENT_URL, Start
from .fake_cp import FakeControlPlane, echo_config, soon, stored


async def tool_names(url: str) -> list[str]:
    async with Client(url) as client:
        return [tool.name for tool in (await client.list_tools()).tools]


async def test_a_bad_push_is_refused_in_words_and_the_old_tools_stay(start: Start, cp: FakeControlPlane) -> None:
    gateway = await start()
    session = await cp.session()
    session.push("good", echo_config())
    assert (await session.hear("config_ack")).applied_state == "active"

    http_backend = echo_config("demo.http").replace(b"kind: pipeline", b"kind: http")
    for config_hash, config, words in [
        ("bad-yaml", b"a: [", "hot-reload failed: failed to parse YAML config at line 1"),
        ("bad-utf8", b"\xff\xfe", "pushed config not utf8: "),
        (
            "bad-kind",
            http_backend,
            "hot-reload failed: mcp.capabilities.tools[0].backend: kind 'http' is not supported",
        ),
        ("empty", b"", "hot-reload failed: the update carries no whole config"),
    ]:
        session.push(config_hash, config)
        ack = await session.hear("config_ack")
        assert (ack.config_hash, ack.applied_state) == (config_hash, "error")
        assert ack.error.startswith(words)
    assert await tool_names(gateway.mcp_url) == ["demo.echo"]
    assert [await session.hear("status_report") for _ in range(2)][-1].config_hash == "good"


async def test_updates_are_applied_in_the_order_they_came(start: Start, cp: FakeControlPlane) -> None:
    gateway = await start()
    session = await cp.session()
    for number in range(5):
        session.push(f"h{number}", echo_config(f"tool.{number}"))
    acks = [await session.hear("config_ack") for _ in range(5)]
    assert [ack.config_hash for ack in acks] == [f"h{number}" for number in range(5)]
    assert await tool_names(gateway.mcp_url) == ["tool.4"]


async def test_enabled_plugins_and_deltas_are_refused_not_ignored(start: Start, cp: FakeControlPlane) -> None:
    await start()
    session = await cp.session()
    plugins = pb.PluginSet(entries=[pb.PluginEntry(id="dev.x", enabled=True)])
    bundle = pb.ConfigBundle(config_toml=echo_config(), plugin_set=plugins)
    session.say(config_update=pb.ConfigUpdate(config_hash="p", bundle=bundle))
    assert "plugins" in (await session.hear("config_ack")).error
    session.say(config_update=pb.ConfigUpdate(config_hash="d", delta=pb.ConfigDelta(ops=b"x")))
    assert (await session.hear("config_ack")).applied_state == "error"


async def test_a_push_never_moves_the_listener_and_says_so(start: Start, cp: FakeControlPlane) -> None:
    gateway = await start()
    session = await cp.session()
    session.push("h", b'gateway: {server: {bind_address: "127.0.0.1:1", mcp_path: /other}}\n' + echo_config())
    assert (await session.hear("config_ack")).applied_state == "active"
    assert await tool_names(gateway.mcp_url) == ["demo.echo"]
    report = [await session.hear("status_report") for _ in range(2)][-1]
    assert any("gateway.server" in warning for warning in report.warnings)


async def test_the_last_known_good_config_is_served_at_boot_without_a_control_plane(
    start: Start, cp: FakeControlPlane
) -> None:
    first = await start()
    session = await cp.session()
    session.push("good", echo_config())
    assert (await session.hear("config_ack")).applied_state == "active"
    session.push("bad", b"nonsense: true")
    assert (await session.hear("config_ack")).applied_state == "error"
    await first.end()
    await cp.stop()

    second = await start(url="")
    assert ("config_loaded", "good", "last known good") in [
        (name, fields.get("config_hash"), fields.get("source")) for name, fields in second.told
    ]
    assert await tool_names(second.mcp_url) == ["demo.echo"]
    await second.event("session_ended")


async def test_a_config_that_was_never_applied_is_never_stored(
    start: Start, cp: FakeControlPlane, tmp_path: Path
) -> None:
    await start()
    session = await cp.session()
    session.push("bad", b"nonsense: true")
    await session.hear("config_ack")
    assert lkg.read(credentials.agent_dir(tmp_path / "state")) is None


async def test_a_local_config_with_tools_wins_over_the_last_known_good(
    start: Start, cp: FakeControlPlane, tmp_path: Path
) -> None:
    stored(tmp_path / "state")
    bundle = pb.ConfigBundle(config_toml=echo_config("from.lkg"))
    lkg.write(credentials.agent_dir(tmp_path / "state"), "old", bundle)
    gateway = await start(config=ANYWHERE + echo_config("from.file").decode())
    assert await tool_names(gateway.mcp_url) == ["from.file"]


async def test_an_unusable_last_known_good_config_is_told_and_does_not_stop_the_boot(
    start: Start, cp: FakeControlPlane, tmp_path: Path
) -> None:
    directory = credentials.agent_dir(tmp_path / "state")
    stored(tmp_path / "state")
    (directory / lkg.FILE).write_bytes(b"\x01" + b"x" * 60)
    gateway = await start()
    assert "lkg_unusable" in [name for name, _ in gateway.told]
    await cp.session()


@pytest.mark.parametrize(("config", "error"), [("nonsense: 1", errors.BadConfig), (None, errors.Usage)])
async def test_a_local_config_that_cannot_be_served_ends_the_start(
    tmp_path: Path, config: str | None, error: type[errors.McpgError]
) -> None:
    path = tmp_path / "gateway.yaml"
    if config is not None:
        path.write_text(config)
    settings = Agent(state_dir=tmp_path / "state", enrollment_url=ENROLMENT_URL, config=str(path))
    with pytest.raises(error) as caught:
        await soon(run(settings, stop=asyncio.Event(), on_event=lambda _name, _fields: None))
    assert str(path) in caught.value.what
