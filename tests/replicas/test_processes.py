"""Control planes as processes of their own on one PostgreSQL: killed, frozen and stopped, the others finish their work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import postgres as postgresql
from tests.bounds import BOUND_S
from tests.conftest import ROOT, parse_events, real
from tests.crash.test_kill import BASE, Served, chain_holds, replicas_running
from tests.ports import free_port

pytestmark = pytest.mark.peer
ECHO = (ROOT / "examples/echo.yaml").read_text()


class Process(Served):
    """`mcpg-ctl serve` as one replica of several: its own state directory, one database, one directory of gateways."""

    def __init__(self, folder: Path, name: str, db_url: str, *flags: str) -> None:
        self.folder = folder
        self.state = folder / name
        self.http, self.grpc = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http}"
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._argv = [
            sys.executable,
            "-m",
            "mcpg.cli.main",
            "serve",
            "--state-dir",
            str(self.state),
            "--db-url",
            db_url,
        ]
        self._argv += ["--bind-http", f"127.0.0.1:{self.http}", "--bind-grpc", f"127.0.0.1:{self.grpc}", *flags]

    async def start(self) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("MCPG_")}
        env |= {"MCPG_CP_GATEWAY_BIN": str(real("mcpg")), "HOME": str(self.folder)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._argv, env=env, stdout=log, stderr=log)
        await self.ready()

    async def ready(self) -> None:
        assert self.process is not None
        async with asyncio.timeout(BOUND_S), self.client() as client:
            while True:
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                try:
                    if (await client.get("/readyz")).status_code == 200:
                        return
                except httpx.HTTPError:
                    await asyncio.sleep(0.05)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=BOUND_S, trust_env=False)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def at_line(self, seq: int, then: Callable[[], None], path: str, body: dict[str, Any]) -> str:
        """Publish, and do *then* the moment line *seq* of its ladder arrives; the operation's id."""
        operation = ""
        try:
            async with self.client() as client, client.stream("POST", path, json=body) as answer:
                assert answer.status_code == 200, await answer.aread()
                operation = str(answer.headers["x-operation-id"])
                async for line in answer.aiter_lines():
                    if line.startswith("id: ") and int(line[4:]) >= seq:
                        then()
                        break
        except httpx.HTTPError:
            pass
        assert operation
        return operation

    async def ended(self, operation: str) -> dict[str, Any]:
        """The operation once it rests, told by this replica's stream of it."""
        async with asyncio.timeout(BOUND_S), self.client() as client:
            answer = await client.get(f"/v1/operations/{operation}/events")
            assert parse_events(answer.text)[-1]["_event"] == "end"
            return dict((await client.get(f"/v1/operations/{operation}")).json())


@pytest.fixture
async def pair(tmp_path: Path, postgres: postgresql.Server) -> AsyncIterator[Callable[..., Any]]:
    """`await pair(*flags)`: two replicas that run."""
    url, made = postgres.fresh(), []

    async def start(*flags: str) -> list[Process]:
        shared = ("--gateways-dir", str(tmp_path / "gateways"), *flags)
        made.extend(Process(tmp_path, name, url, *shared) for name in ("a", "b"))
        await asyncio.gather(*(one.start() for one in made))
        return made

    yield start
    for one in made:
        if one.process is not None and one.process.poll() is None:
            one.send(signal.SIGCONT)
            one.kill()
    postgres.drop(url)


def gateways(one: Process) -> list[int]:
    """Pids of the gateways of either replica."""
    everything = Served.__new__(Served)
    everything.state = one.folder
    return replicas_running(everything)


@pytest.mark.parametrize("seq", [1, 3, 4, 5])
async def test_a_create_whose_replica_is_killed_is_finished_by_another_with_one_process(
    pair: Callable[..., Any], seq: int
) -> None:
    """At any line of its ladder; nothing is created twice, and the room is taken once."""
    a, b = await pair()
    operation = await a.at_line(seq, a.kill, BASE, {"name": "edge-1", "config_toml": ECHO})
    end = await b.ended(operation)
    assert (end["state"], end["error"]) == ("ready", "")
    assert chain_holds(end["history"])
    assert len(gateways(b)) == 1
    async with b.client() as client:
        assert (await client.get("/v1/clusters")).json()[0]["gateways_running"] == 1


@pytest.mark.parametrize("seq", [1, 2, 3, 4])
async def test_a_ladder_without_effects_whose_replica_is_killed_is_finished_by_another(
    pair: Callable[..., Any], seq: int
) -> None:
    a, b = await pair("--provisioner", "noop")
    operation = await a.at_line(seq, a.kill, BASE, {"name": "edge-1"})
    end = await b.ended(operation)
    assert (end["state"], [t["event"] for t in end["history"]]) == (
        "ready", ["request", "accept", "reserved", "applied", "confirmed"],
    )  # fmt: skip


async def test_a_delete_whose_replica_is_killed_is_finished_by_another(pair: Callable[..., Any]) -> None:
    a, b = await pair()
    made = await b.at_line(1, lambda: None, BASE, {"name": "edge-1", "config_toml": ECHO})
    uid = (await b.ended(made))["instance_uid"]
    async with a.client() as client, client.stream("DELETE", f"{BASE}/{uid}") as answer:
        operation = str(answer.headers["x-operation-id"])
        a.kill()
    end = await b.ended(operation)
    assert end["state"] == "deleted"
    assert gateways(b) == []


@pytest.mark.parametrize("seq", [3, 4])
async def test_a_replica_that_stood_still_beyond_its_lease_writes_nothing_and_starts_nothing(
    pair: Callable[..., Any], seq: int
) -> None:
    """SIGSTOP, the other takes over and finishes, SIGCONT: the old one finds that it was left behind."""
    a, b = await pair()
    operation = await a.at_line(seq, lambda: a.send(signal.SIGSTOP), BASE, {"name": "edge-1", "config_toml": ECHO})
    end = await b.ended(operation)
    assert end["state"] == "ready"
    running = gateways(b)
    a.send(signal.SIGCONT)
    await a.ready()
    async with a.client() as client:  # and it works on as one of two
        answer = await client.post(BASE, json={"name": "edge-2", "config_toml": ECHO})
        assert parse_events(answer.text)[-1]["state"] == "ready"
        again = (await client.get(f"/v1/operations/{operation}")).json()
        agents = [agent for each in (await client.get("/v1/instances")).json() for agent in each["agents"]]
    assert again["history"] == end["history"]
    assert [agent["state"] for agent in agents] == ["online", "online"], "an end that it slept through is no news"
    assert len(running) == 1
    assert len(gateways(b)) == 2
    assert set(running) < set(gateways(b))


async def test_a_replica_that_is_stopped_as_planned_hands_over_at_once(pair: Callable[..., Any]) -> None:
    a, b = await pair()
    operation = await a.at_line(3, lambda: a.send(signal.SIGTERM), BASE, {"name": "edge-1", "config_toml": ECHO})
    end = await b.ended(operation)
    assert end["state"] == "ready"
    assert len(gateways(b)) == 1
    assert a.process is not None
    assert await asyncio.to_thread(a.process.wait, BOUND_S) == 0
    async with b.client() as client:
        known = {each["http_url"]: each["state"] for each in (await client.get("/v1/replicas")).json()}
    assert known == {a.url: "left", b.url: "living"}, "it gave back what it drove: nobody waited for a lease to end"
