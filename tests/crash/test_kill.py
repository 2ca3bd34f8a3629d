"""kill -9 of the control plane at any line of any ladder: the restart converges, and nothing is done twice or lost."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bounds import BOUND_S
from tests.conftest import ROOT, parse_events, real
from tests.ports import free_port

pytestmark = pytest.mark.peer
BASE = "/v1/orgs/default/workspaces/default/environments/default/gateways"
ECHO = (ROOT / "examples/echo.yaml").read_text()


class Served:
    """`mcpg-ctl serve` as a process of its own, on ports that stay the same over its restarts."""

    def __init__(self, folder: Path, *, gateway: Path | None = None, **environ: str) -> None:
        self.gateway = gateway or real("mcpg")
        self.environ = environ
        self.state = folder / "state"
        self.http, self.grpc = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http}"
        self.log = folder / "serve.log"
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("MCPG_")}
        env |= {"MCPG_CP_GATEWAY_BIN": str(self.gateway), "HOME": str(self.state.parent), **self.environ}
        argv = [sys.executable, "-m", "mcpg.cli.main", "serve", "--state-dir", str(self.state)]
        argv += ["--bind-http", f"127.0.0.1:{self.http}", "--bind-grpc", f"127.0.0.1:{self.grpc}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, env=env, stdout=log, stderr=log)
        async with asyncio.timeout(BOUND_S), httpx.AsyncClient(timeout=BOUND_S, trust_env=False) as client:
            while True:
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                try:
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        return
                except httpx.HTTPError:
                    await asyncio.sleep(0.05)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(BOUND_S)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    server = Served(tmp_path)
    await server.start()
    yield server
    if server.process is not None and server.process.poll() is None:
        server.kill()


@asynccontextmanager
async def api(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.url, timeout=BOUND_S, trust_env=False) as client:
        yield client


async def killed_at(served: Served, seq: int, method: str, path: str, body: dict[str, Any] | None) -> str:
    """Follow a ladder and kill the server the moment line *seq* arrives; the operation's id."""
    async with api(served) as client:
        try:
            async with client.stream(method, path, json=body) as answer:
                assert answer.status_code == 200, await answer.aread()
                operation = str(answer.headers["x-operation-id"])
                async for line in answer.aiter_lines():
                    if line.startswith("id: ") and int(line[4:]) >= seq:
                        served.kill()
                        break
        except httpx.HTTPError:
            pass
    if served.process is not None and served.process.poll() is None:
        served.kill()
    return operation


async def settled(client: httpx.AsyncClient, operation: str) -> dict[str, Any]:
    """The operation at its end, told by its own event stream."""
    answer = await client.get(f"/v1/orgs/default/operations/{operation}/events")
    assert parse_events(answer.text)[-1]["_event"] == "end"
    return dict((await client.get(f"/v1/orgs/default/operations/{operation}")).json())


def replicas_running(served: Served) -> list[int]:
    """Pids of every gateway that was started for this state directory, by the mark in its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            marked = b"MCPG_CTL_REPLICA=" in (entry / "environ").read_bytes()
            mine = os.readlink(entry / "cwd").startswith(str(served.state))
            zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if marked and mine and not zombie:
            found.append(int(entry.name))
    return found


def chain_holds(history: list[dict[str, Any]]) -> bool:
    return [t["seq"] for t in history] == list(range(1, len(history) + 1)) and all(
        b["prev_hash"] == a["hash"] and b["source"] == a["dest"] for a, b in itertools.pairwise(history)
    )


@pytest.mark.parametrize("seq", [1, 3, 4, 5, 6])
async def test_a_create_killed_at_any_line_becomes_ready_with_exactly_one_process(served: Served, seq: int) -> None:
    operation = await killed_at(served, seq, "POST", BASE, {"name": "edge-1", "config_toml": ECHO})
    await served.start()
    async with api(served) as client:
        end = await settled(client, operation)
        assert (end["state"], end["error"]) == ("ready", "")
        assert chain_holds(end["history"])
        assert len(replicas_running(served)) == 1
        assert (await client.get("/v1/clusters")).json()[0]["gateways_running"] == 1
        instance = (await client.get("/v1/orgs/default/instances")).json()[0]
        gateway = instance["addressable"][0].removesuffix("/mcp")
        async with httpx.AsyncClient(timeout=BOUND_S, trust_env=False) as direct:
            assert (await direct.get(f"{gateway}/health")).status_code == 200


@pytest.mark.parametrize("seq", [1, 3, 4, 5])
async def test_a_delete_killed_at_any_line_ends_deleted_and_leaves_nothing(served: Served, seq: int) -> None:
    async with api(served) as client:
        created = parse_events((await client.post(BASE, json={"name": "edge-1", "config_toml": ECHO})).text)
    uid = created[-1]["coords"]["instance_uid"]
    operation = await killed_at(served, seq, "DELETE", f"{BASE}/{uid}", None)
    await served.start()
    async with api(served) as client:
        end = await settled(client, operation)
        assert end["state"] == "deleted"
        assert chain_holds(end["history"])
        assert replicas_running(served) == []
        assert (await client.get("/v1/clusters")).json()[0]["gateways_running"] == 0
        assert (await client.get("/v1/orgs/default/instances")).json() == []
        assert list((served.state / "gateways").iterdir()) == []


async def test_a_failing_create_killed_in_its_compensation_still_ends_failed_and_clean(served: Served) -> None:
    broken = {"name": "edge-1", "config_toml": "gateway: {no_such_key: 1}"}
    operation = await killed_at(served, 4, "POST", BASE, broken)
    await served.start()
    async with api(served) as client:
        end = await settled(client, operation)
        assert end["state"] == "failed"
        assert "no_such_key" in end["error"]
        assert replicas_running(served) == []
        assert (await client.get("/v1/clusters")).json()[0]["gateways_running"] == 0


async def test_a_key_is_remembered_over_a_crash(served: Served) -> None:
    """The client whose ladder broke sends its request again, with its key, and finds the same operation."""
    body, headers = {"name": "edge-1", "config_toml": ECHO}, {"Idempotency-Key": "again"}
    async with api(served) as client:
        try:
            async with client.stream("POST", BASE, json=body, headers=headers) as answer:
                operation = answer.headers["x-operation-id"]
                served.kill()
                await answer.aread()
        except httpx.HTTPError:
            pass
    await served.start()
    async with api(served) as client:
        answer = await client.post(BASE, json=body, headers=headers)
        assert answer.headers["x-operation-id"] == operation
        assert parse_events(answer.text)[-1]["_event"] == "ready"
        assert len((await client.get("/v1/orgs/default/operations")).json()) == 1


async def test_sigterm_ends_with_zero_and_leaves_no_card(served: Served) -> None:
    assert served.terminate() == 0
    assert not (served.state / "server.json").exists()


async def test_a_crash_leaves_a_card_that_nobody_believes(served: Served) -> None:
    """server.json of a killed server names a process that is not there; the next start replaces it."""
    served.kill()
    old = json.loads((served.state / "server.json").read_text())
    await served.start()
    assert json.loads((served.state / "server.json").read_text())["replica"] != old["replica"]


CHANGED = ECHO.replace('"from": "edge"', '"from": "changed"')


@pytest.mark.parametrize("seq", [4, 5, 6, 7, 9])
async def test_a_roll_killed_at_any_line_goes_on_where_it_was(served: Served, seq: int) -> None:
    """No replica is told twice over, none is left out, and no process is started."""
    async with api(served) as client:
        created = parse_events(
            (await client.post(BASE, json={"name": "edge-1", "config_toml": ECHO, "replicas": 3})).text
        )
        assert created[-1]["_event"] == "ready", created[-1]["message"]
    pids = sorted(replicas_running(served))
    operation = await killed_at(served, seq, "POST", BASE, {"name": "edge-1", "config_toml": CHANGED})
    await served.start()
    async with api(served) as client:
        end = await settled(client, operation)
        assert (end["state"], end["error"]) == ("ready", ""), end
        assert chain_holds(end["history"])
        assert [t["data"]["replicas"] for t in end["history"] if t["event"] == "applied"] == [[1], [2], [3]]
        assert [t["data"]["step"] for t in end["history"] if t["event"] == "next"] == [1, 2]
        assert sorted(replicas_running(served)) == pids
        (instance,) = (await client.get("/v1/orgs/default/instances")).json()
        assert {a["active_hash"] for a in instance["agents"]} == {instance["assigned_hash"]}
        assert {a["assigned_hash"] for a in instance["agents"]} == {instance["assigned_hash"]}


@pytest.mark.parametrize("seq", [2, 3, 4, 5])
async def test_a_recovery_killed_at_any_line_ends_with_exactly_one_process(tmp_path: Path, seq: int) -> None:
    served = Served(tmp_path, MCPG_CP_RECOVERY_SOAK_S="1")
    await served.start()
    try:
        async with api(served) as client:
            await client.post(BASE, json={"name": "edge-1", "config_toml": ECHO})
            (pid,) = replicas_running(served)
            os.kill(pid, signal.SIGKILL)
            operation = await begun(client)
            try:
                async with client.stream("GET", f"/v1/operations/{operation}/events") as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("id: ") and int(line[4:]) >= seq:
                            served.kill()
                            break
            except httpx.HTTPError:
                pass
        await served.start()
        async with api(served) as client:
            end = await settled(client, operation)
            assert end["state"] == "recovered", end
            assert chain_holds(end["history"])
            assert len(replicas_running(served)) == 1
            assert len((await client.get("/v1/operations?kind=recover")).json()) == 1
            (instance,) = (await client.get("/v1/orgs/default/instances")).json()
            assert (instance["state"], instance["operation_id"]) == ("online", "")
    finally:
        if served.process is not None and served.process.poll() is None:
            served.kill()


async def begun(client: httpx.AsyncClient) -> str:
    """The recovery that the engine began. Bounded."""
    async with asyncio.timeout(BOUND_S):
        while True:
            if found := (await client.get("/v1/operations?kind=recover")).json():
                return str(found[0]["id"])
            await asyncio.sleep(0.02)


async def test_a_gateway_that_ended_with_its_control_plane_is_brought_back_at_the_start(served: Served) -> None:
    """The end was seen by nobody, or by one that was killed before it wrote it down."""
    async with api(served) as client:
        await client.post(BASE, json={"name": "edge-1", "config_toml": ECHO})
    (pid,) = replicas_running(served)
    served.kill()
    os.kill(pid, signal.SIGKILL)
    await served.start()
    async with api(served) as client:
        operation = await begun(client)
        async with asyncio.timeout(BOUND_S):
            while (await client.get(f"/v1/operations/{operation}")).json()["state"] != "watching":
                await asyncio.sleep(0.05)
    (again,) = replicas_running(served)
    assert again != pid
