"""The real gateway, the real tenant CLI and the official MCP client, and processes that end with the test, by pid."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from tests.bounds import BOUND_S
from tests.conftest import Plane, StartPlane, real, running


def tool(source: str, name: str = "demo.echo") -> str:
    """A config with one tool that needs no plugin and no network; it answers its arguments and *source*."""
    return f"""
governance: {{audit: {{enabled: false}}}}
mcp: {{capabilities: {{tools: [{{name: {name}, description: Echo the arguments back,
  input_schema: {{type: object, properties: {{text: {{type: string}}}}}},
  governance: {{minimum_trust: unauthenticated}},
  backend: {{kind: pipeline, steps: [{{id: out, kind: transform,
    expression: '{{"echo": arguments, "from": "{source}"}}'}}]}}}}]}}}}
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    """What a peer is started with: a home of its own, and nothing of the developer's."""
    home.mkdir(exist_ok=True)
    return {"PATH": "/usr/bin:/bin", "HOME": str(home), "HOSTNAME": "testhost", **more}


class Process:
    """A running program and what it said."""

    def __init__(self, argv: list[str], environ: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and wait; the exit code."""
        self.popen.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        return await asyncio.to_thread(self.popen.wait, BOUND_S)


Spawn = Callable[..., Process]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Starts programs; those that still run are killed with the test."""
    started: list[Process] = []

    def start(*argv: Any, environ: dict[str, str]) -> Process:
        log = tmp_path / f"process-{len(started)}.log"
        started.append(Process([str(a) for a in argv], environ, log))
        return started[-1]

    yield start
    for process in reversed(started):
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.wait()


@pytest.fixture
def start_local(tmp_path: Path) -> Iterator[StartPlane]:
    """A control plane that runs gateways, by default the real one, on this test's state directory."""

    def start(**settings: Any) -> Any:
        given = {"provisioner": "local", "gateway_bin": str(real("mcpg")), **settings}
        return running(tmp_path / "state", **given)

    yield start
    for pid in gateways_of(tmp_path):
        os.kill(pid, signal.SIGKILL)


def gateways_of(directory: Path) -> list[int]:
    """The living processes that a control plane started below *directory*."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if b"MCPG_CTL_REPLICA=" in environ and f"={directory}/".encode() in environ and state != "Z":
                found.append(int(entry.name))
    return found


def started_at(pid: int) -> str:
    """With the pid, names one process for all time."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


@asynccontextmanager
async def mcp_client(url: str) -> AsyncIterator[ClientSession]:
    """An initialized session of the official client."""
    async with (
        httpx2.AsyncClient(trust_env=False, timeout=BOUND_S) as http,
        streamable_http_client(url, http_client=http) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        yield session


async def echo(session: ClientSession, name: str = "demo.echo") -> str:
    """What the tool answers, as text."""
    result = await session.call_tool(name, {"text": "hello"})
    return "".join(getattr(part, "text", "") for part in result.content)


async def eventually(condition: Callable[[], Any], what: str) -> Any:
    """The first true answer of *condition*, which asks another process. Bounded."""
    try:
        async with asyncio.timeout(BOUND_S):
            while True:
                if found := await condition():
                    return found
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"waited {BOUND_S} s for: {what}")


async def only_instance(plane: Plane | httpx.AsyncClient) -> dict[str, Any]:
    client = plane.client if isinstance(plane, Plane) else plane
    answer = await client.get("/v1/orgs/default/instances")
    (instance,) = answer.raise_for_status().json()
    found: dict[str, Any] = instance
    return found


async def nothing_is_left(plane: Plane, tmp_path: Path) -> None:
    """No process, no place taken, no instance, no directory: as if it had never been asked for."""
    assert gateways_of(tmp_path) == []
    assert await plane.instances() == []
    (cluster,) = (await plane.client.get("/v1/clusters")).json()
    assert cluster["gateways_running"] == 0
    assert await plane.db.rows("SELECT * FROM reservation") == []
    home = tmp_path / "state/gateways"
    assert not home.exists() or list(home.iterdir()) == []


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """A program made of shell lines, to stand where a gateway should be."""

    def make(lines: str) -> str:
        path = tmp_path / "not-a-gateway"
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && {{ echo "fake 1.0"; exit 0; }}\n{lines}\n')
        path.chmod(0o755)
        return str(path)

    return make
