"""`mcpg-ctl gateway --exec mcpg` as a process, and a call of its MCP endpoint that can stop half-way."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx

from mcpg.engine import config
from mcpg.store import reads, writes
from tests.bounds import BOUND_S
from tests.conftest import ROOT, Plane, real
from tests.peers.conftest import Process, Spawn, echo, environment, mcp_client


class Agent:
    """`mcpg-ctl gateway --exec` on one state directory, started again and again; `events` is its log so far."""

    def __init__(self, plane: Plane, spawn: Spawn, tmp_path: Path) -> None:
        self.plane = plane
        self.state = tmp_path / "gw"
        self._spawn = spawn
        self._environ = environment(tmp_path / "home", PYTHONPATH=str(ROOT), MCPG_JSON_LOGS="1")
        self._url = tmp_path / "enrolment-url"
        self.process: Process

    async def enrol(self, **options: Any) -> dict[str, Any]:
        minted = await self.plane.client.post(self.plane.tokens, json={"one_shot": True, "ttl_ms": 600})
        self._url.write_text(minted.json()["enrollment_url"])
        self._url.chmod(0o600)
        return await self.start(enrollment_url_file=self._url, **options)

    def run(self, **options: Any) -> Process:
        given = {"exec": real("mcpg"), "cp_grpc": f"http://{self.plane.grpc}", **options}
        flags = [part for name, value in given.items() if value for part in (f"--{name.replace('_', '-')}", value)]
        self.process = self._spawn(
            sys.executable, "-m", "mcpg.cli.main", "gateway", "--state-dir", self.state, *flags, environ=self._environ
        )
        return self.process

    async def start(self, **options: Any) -> dict[str, Any]:
        """Starts it and waits until it is online; its instance."""
        self.run(**options)

        async def online() -> dict[str, Any] | None:
            assert self.process.popen.poll() is None, self.process.said
            (instance,) = await self.plane.instances() or [None]
            said = [each for each in self.events if each["event"] == "session_opened"]
            return instance if instance and instance["state"] == "online" and said else None

        return await self.plane.until(online, "the gateway is online")

    async def state_is(self, state: str) -> dict[str, Any]:
        async def reached() -> dict[str, Any] | None:
            (instance,) = await self.plane.instances()
            return instance if instance["state"] == state else None

        return await self.plane.until(reached, f"the instance is {state}")

    async def push(self, config_text: str) -> dict[str, Any]:
        """Assigns a config to the instance, as a publish does, and waits for the word of its one agent."""
        row = await reads.find_instance(self.plane.db, (await self.plane.instances())[0]["id"])
        version = (row["config_version"] or 0) + 1
        made, at = config.render(config_text), self.plane.engine.clock()
        await self.plane.db.writer.execute(
            writes.insert_config(row["id"], version, config_text, made.raw_sha256, made.text, made.sha256, "", at),
            writes.assign(row["id"], row["cluster_id"], {}, version, made.sha256),
            writes.forget_refusals(row["id"]),
        )
        assert await self.plane.control.sessions.push(row["id"]) == 1

        async def said() -> dict[str, Any] | None:
            (agent,) = (await self.plane.instances())[0]["agents"]
            return agent if made.sha256 in (agent["active_hash"], agent["rejected_hash"]) else None

        return await self.plane.until(said, "the gateway has said what it does with the config")

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.process.said.splitlines() if line.startswith("{")]

    def said(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]

    @property
    def mcp_url(self) -> str:
        return f"http://127.0.0.1:{self.said('listening')[-1]['port']}/mcp"

    def data_planes(self) -> list[int]:
        """The processes that were started as a data plane of this state directory and live."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_mine(pid)]

    def _is_mine(self, pid: int) -> bool:
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            dead = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return False
        return not dead and f"MCPG_CTL_REPLICA=data-plane={self.state}".encode() in environ


class Call:
    """A call of the MCP endpoint that has begun: its headers are sent, its body is not."""

    BODY = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'

    def __init__(self, url: str) -> None:
        self._url = httpx.URL(url)

    async def begin(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._url.host, self._url.port)
        head = (
            f"POST {self._url.path} HTTP/1.1\r\nhost: {self._url.host}\r\ncontent-type: application/json\r\n"
            f"accept: application/json, text/event-stream\r\nexpect: 100-continue\r\n"
            f"content-length: {len(self.BODY)}\r\n\r\n"
        )
        self._writer.write(head.encode())
        async with asyncio.timeout(BOUND_S):  # so it was taken up
            assert (await self._reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")

    async def finish(self) -> str:
        self._writer.write(self.BODY)
        async with asyncio.timeout(BOUND_S):
            answer = await self._reader.readuntil(b"\r\n\r\n")
        self.leave()
        return answer.decode()

    def leave(self) -> None:
        self._writer.close()


async def says(url: str, name: str = "demo.echo") -> str:
    async with mcp_client(url) as session:
        return await echo(session, name)
