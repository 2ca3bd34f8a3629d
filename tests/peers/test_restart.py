"""The control plane as a process that is killed and comes back, while its gateway serves on."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bounds import BOUND_S
from tests.conftest import ROOT, Plane, StartPlane, parse_events, real
from tests.peers.conftest import (
    Process,
    Spawn,
    echo,
    environment,
    eventually,
    gateways_of,
    mcp_client,
    only_instance,
    started_at,
    tool,
)
from tests.ports import free_port

pytestmark = pytest.mark.peer

# By itself the gateway lets anonymous callers make 600 calls a minute.
UNLIMITED = "gateway: {server: {anonymous_rate_limit_per_min: 1000000, anonymous_rate_limit_burst: 1000000}}\n"


class Polled:
    """Calls the tool over and over, in one session and in new ones, and keeps what did not work."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers = 0
        self.failures: list[str] = []
        self._stop = asyncio.Event()

    async def run(self) -> None:
        async with mcp_client(self.url) as session:
            while not self._stop.is_set():
                try:
                    assert '"from":"first"' in await echo(session)
                    if self.answers % 20 == 0:
                        async with mcp_client(self.url) as another:
                            await another.list_tools()
                    self.answers += 1
                except Exception as exc:
                    self.failures.append(repr(exc))
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def meanwhile(self) -> AsyncIterator[Polled]:
        task = asyncio.create_task(self.run())
        try:
            yield self
        finally:
            self._stop.set()
            async with asyncio.timeout(BOUND_S):
                await task


async def ready(client: httpx.AsyncClient, server: Process) -> None:
    async def answers() -> bool:
        assert server.popen.poll() is None, server.said
        try:
            return (await client.get("/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    await eventually(answers, "the control plane is ready")


async def test_a_gateway_outlives_its_control_plane(start_local: StartPlane, spawn: Spawn, tmp_path: Path) -> None:
    """After SIGKILL and after SIGTERM a control plane comes back to the same gateway, which served all the while."""
    http, grpc = free_port(), free_port()

    def serve() -> Process:
        return spawn(
            sys.executable, "-m", "mcpg.cli.main", "serve", "--state-dir", tmp_path / "state",
            "--bind-http", f"127.0.0.1:{http}", "--bind-grpc", f"127.0.0.1:{grpc}", "--gateway-bin", real("mcpg"),
            environ=environment(tmp_path / "home", PYTHONPATH=str(ROOT)),
        )  # fmt: skip

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http}", trust_env=False, timeout=BOUND_S) as client:

        async def connected() -> dict[str, Any] | None:
            instance = await only_instance(client)
            return instance if instance["state"] == "online" and instance["agents"][0]["connected"] else None

        server = serve()
        await ready(client, server)
        answer = await client.post(Plane.gateways, json={"name": "edge-1", "config_toml": UNLIMITED + tool("first")})
        created = parse_events(answer.text)
        assert created[-1]["_event"] == "ready", server.said
        (pid,) = gateways_of(tmp_path)
        born = started_at(pid)

        async with Polled(created[-1]["coords"]["endpoints"][0]).meanwhile() as polled:
            for number in (signal.SIGKILL, signal.SIGTERM):
                code = await server.end(number)
                assert code == (-9 if number == signal.SIGKILL else 0), server.said
                before = polled.answers
                await eventually(lambda: _more(polled, before), "answers while no control plane runs")  # noqa: B023
                server = serve()
                await ready(client, server)
                instance = await eventually(connected, "the gateway is back")
                assert (gateways_of(tmp_path), started_at(pid)) == ([pid], born)
                before = polled.answers
                await eventually(lambda: _more(polled, before), "answers afterwards")  # noqa: B023
            assert polled.failures == []

        history = (await client.get(f"/v1/orgs/default/instances/{instance['instance_uid']}/history")).json()
        assert [h["event"] for h in history[0]["history"]] == ["register", "channel_opened"]
        with sqlite3.connect(f"file:{tmp_path}/state/cp-state.db?mode=ro", uri=True) as db:
            enrolled = db.execute("SELECT generation FROM agent").fetchall()
        db.close()
        assert enrolled == [(1,)]  # its first credentials were good throughout
        deleted = parse_events((await client.delete(f"{Plane.gateways}/{instance['instance_uid']}")).text)
        assert deleted[-1]["_event"] == "deleted"
        assert gateways_of(tmp_path) == []
        assert await server.end() == 0


async def _more(polled: Polled, before: int) -> bool:
    await asyncio.sleep(0)
    return polled.answers > before + 3
