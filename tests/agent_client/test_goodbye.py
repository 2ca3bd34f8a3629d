"""How our gateway ends: it drains, says goodbye, and stays who it is; or at once, when it is told twice."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from mcpg.agent import credentials

from .conftest import ANYWHERE, ENROLMENT_URL, QUICK, RunningGateway, Start
from .fake_cp import FakeControlPlane, soon
from .test_gateway_process import gateway as process

INITIALIZE = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
).encode()


class Caller:
    """A connection to the MCP endpoint that can stop in the middle of a request."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def begin(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"POST /mcp HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {len(INITIALIZE)}\r\n\r\n"
        self._writer.write(head.encode() + INITIALIZE[:10])
        await self._writer.drain()

    async def finish(self) -> str:
        """Status line and headers of the answer."""
        self._writer.write(INITIALIZE[10:])
        head = await soon(self._reader.readuntil(b"\r\n\r\n"))
        self.leave()
        return head.decode()

    def leave(self) -> None:
        self._writer.close()


async def answered(gateway: RunningGateway) -> str:
    caller = Caller(gateway.port)
    await caller.begin()
    return await caller.finish()


async def test_it_half_closes_says_goodbye_and_keeps_its_identity(
    start: Start, cp: FakeControlPlane, tmp_path: Path
) -> None:
    gateway = await start()
    session = await cp.session()
    await gateway.event("session_opened")
    await gateway.end()
    await soon(session.half_closed.wait())
    assert cp.goodbyes == [("inst-1", "graceful_shutdown", session.token)]
    creds = credentials.read(tmp_path / "state")
    assert creds is not None
    assert creds.instance_jwt == session.token
    await start(url="")
    assert (await cp.session()).token == session.token


async def test_while_it_drains_running_requests_finish_and_no_session_begins(
    start: Start, cp: FakeControlPlane
) -> None:
    """The session with the control plane is open until the last request is answered."""
    gateway = await start()
    session = await cp.session()
    await session.hear("heartbeat")
    running = Caller(gateway.port)
    await running.begin()
    assert (await answered(gateway)).startswith("HTTP/1.1 200 ")
    gateway.stop.set()
    await gateway.event("draining")
    refused = await answered(gateway)
    assert refused.startswith("HTTP/1.1 503 ")
    assert "\r\nretry-after: 5\r\n" in refused
    await session.hear("heartbeat")
    assert (session.half_closed.is_set(), cp.goodbyes) == (False, [])
    await running.finish()
    await soon(gateway.task)
    assert len(cp.goodbyes) == 1


async def test_the_drain_is_bounded(start: Start, cp: FakeControlPlane) -> None:
    gateway = await start(drain_timeout_s=0.05)
    await cp.session()
    running = Caller(gateway.port)
    await running.begin()
    await gateway.end()
    running.leave()
    assert len(cp.goodbyes) == 1


async def test_a_control_plane_that_does_not_answer_the_goodbye_holds_nobody_up(
    start: Start, cp: FakeControlPlane
) -> None:
    cp.answer_goodbyes.clear()
    gateway = await start(timing=replace(QUICK, goodbye_s=0.05))
    await cp.session()
    await gateway.end()
    assert dict(gateway.told)["deregister_failed"]["code"] == "DEADLINE_EXCEEDED"


async def test_one_that_is_gone_holds_nobody_up_either(start: Start, cp: FakeControlPlane) -> None:
    gateway = await start(timing=replace(QUICK, goodbye_s=0.5))
    await cp.session()
    await cp.stop()
    await gateway.end()
    assert "deregister_failed" in dict(gateway.told)


async def test_who_never_enrolled_says_no_goodbye(start: Start, cp: FakeControlPlane) -> None:
    await cp.stop()
    gateway = await start()
    await gateway.event("register_failed")
    await gateway.end()
    assert [name for name, _ in gateway.told if name.startswith("deregister")] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(tmp_path: Path, cp: FakeControlPlane, number: int) -> None:
    local = tmp_path / "gateway.yaml"
    local.write_text(ANYWHERE)
    state = tmp_path / "state"
    running = await process(
        state, MCPG_ENROLLMENT_URL=ENROLMENT_URL, MCPG_CP_GRPC=cp.url, MCPG_CONFIG=str(local), MCPG_JSON_LOGS="1"
    )
    assert running.stderr is not None
    session = await cp.session()
    await session.hear("heartbeat")
    told: list[str] = []
    while "listening" not in told:
        line = json.loads(await soon(running.stderr.readline()))
        told.append(line["event"])
        port = line.get("port")
    caller = Caller(port)
    await caller.begin()
    running.send_signal(number)
    while "draining" not in told:
        told.append(json.loads(await soon(running.stderr.readline()))["event"])
    running.send_signal(number)
    _, said = await soon(running.communicate())
    caller.leave()
    assert (running.returncode, cp.goodbyes) == (130, [])
    assert [json.loads(line)["event"] for line in said.splitlines()] == ["stopped"]
    assert not (state / "gateway-agent/running.json").exists()
