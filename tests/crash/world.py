"""
A control plane that is killed and started again: its place (state directory, ports, database), its lives, its client.

A real `mcpg-ctl serve` each time, forked by zygote.py. The client sends every request with an Idempotency-Key; a script of
requests that was cut short is simply run again, as a person or a pipeline would, and must find its own operations.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.bounds import BOUND_S
from tests.conftest import ROOT, parse_events, real
from tests.ports import free_port

PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # for no TLS: to read the CA certificates costs a client 20 ms
PLACE = "/v1/orgs/default/workspaces/default/environments/default"


class Zygote:
    """Forks programs; each is known by its pid and a future of its wait status. Independent of any event loop."""

    def __init__(self) -> None:
        argv = [sys.executable, "-m", "tests.crash.zygote"]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("MCPG_")}
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environ, bufsize=0
        )
        self._started: queue.SimpleQueue[tuple[int, Future[int]]] = queue.SimpleQueue()
        self._ended: dict[int, Future[int]] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "status" in said:
                self._ended.pop(said["pid"]).set_result(said["status"])
            else:
                future = self._ended[said["pid"]] = Future()
                self._started.put((said["pid"], future))

    def spawn(self, argv: list[str], environ: Mapping[str, str], log: Path, cwd: Path) -> tuple[int, Future[int]]:
        assert self._process.stdin is not None
        order = {"argv": argv, "env": dict(environ), "log": str(log), "cwd": str(cwd)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return self._started.get(timeout=BOUND_S)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(BOUND_S)
        self._listener.join(BOUND_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Died(Exception):
    """The control plane went away under the client."""


class Site:
    """One control plane's place. `acked` is what the client was told: operation ids by Idempotency-Key."""

    def __init__(self, zygote: Zygote, folder: Path, db_url: str = "", **settings: Any) -> None:
        self.folder, self.state, self.db_url = folder, folder / "state", db_url
        self.inspected_url = db_url  # where the database is looked at, should that be another way in
        self.http, self.grpc = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http}"
        self.log = folder / "serve.log"
        self.settings: dict[str, Any] = {"provisioner": "noop", **settings}
        self.gateways_dir = Path(self.settings.get("gateways_dir") or self.state / "gateways")
        self.acked: dict[str, str] = {}
        self.down: set[str] = set()  # marks of gateways that a test killed and nobody brings back
        self.pid = 0
        self._zygote = zygote
        self._ended: Future[int] | None = None

    # ---- lives

    async def start(self, fault: str = "") -> bool:
        """A new life, with *fault* armed; False when it died before it answered."""
        assert not self.is_running
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        environ |= {f"MCPG_CP_{name.upper()}": str(value) for name, value in self.settings.items()}
        environ["MCPG_CP_GATEWAY_BIN"] = str(real("mcpg"))
        if fault:
            environ["MCPG_FAULT"] = fault
        argv = ["serve", "--state-dir", str(self.state), "--bind-http", f"127.0.0.1:{self.http}"]
        argv += ["--bind-grpc", f"127.0.0.1:{self.grpc}", *(["--db-url", self.db_url] if self.db_url else [])]
        self.pid, self._ended = self._zygote.spawn(argv, environ, self.log, self.folder)
        async with asyncio.timeout(BOUND_S), httpx.AsyncClient(trust_env=False, verify=PLAIN) as client:
            while self.is_running:
                try:
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        return True
                except httpx.HTTPError:
                    await asyncio.sleep(0.01)
        return False

    @property
    def is_running(self) -> bool:
        return self._ended is not None and not self._ended.done()

    async def ended(self) -> int:
        """The signal that ended it (negative), or its exit code."""
        assert self._ended is not None
        async with asyncio.timeout(BOUND_S):
            return os.waitstatus_to_exitcode(await asyncio.wrap_future(self._ended))

    async def kill(self, number: int = signal.SIGKILL) -> int:
        if self.is_running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
        return await self.ended()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    # ---- the client

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Raises Died for whatever the transport says: nothing else stands between us and it."""
        async with httpx.AsyncClient(base_url=self.url, timeout=BOUND_S, trust_env=False, verify=PLAIN) as client:
            try:
                yield client
            except httpx.HTTPError as exc:
                raise Died(str(exc)) from exc

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """An ordinary request's JSON; the problem body of a refusal."""
        async with self.client() as client:
            return (await client.request(method, path, json=body)).json()

    async def ask(self, key: str, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """
        A request for an operation, followed to where it rests: its last event. The same key is the same operation, for
        ever: whoever was told an id once is told that one again. "" is no key.
        """
        headers = {"Idempotency-Key": key} if key else {}
        async with self.client() as client, client.stream(method, path, json=body, headers=headers) as answer:
            if answer.status_code != 200:
                return dict(json.loads(await answer.aread()))
            operation = str(answer.headers["x-operation-id"])
            assert not key or self.acked.setdefault(key, operation) == operation
            events = parse_events("".join([text async for text in answer.aiter_text()]))
        if not events:
            raise Died("the stream ended before it began")
        return events[-1]

    async def create(self, key: str, name: str, **body: Any) -> dict[str, Any]:
        """Create or update."""
        return await self.ask(key, "POST", f"{PLACE}/gateways", {"name": name, **body})

    async def delete(self, key: str, name: str) -> dict[str, Any]:
        """By name; a script that runs again finds by its key what it deleted, so the uid is remembered."""
        remembered = self.folder / f"uid-{name}"
        if not remembered.exists():
            for instance in await self.call("GET", "/v1/orgs/default/instances"):
                if instance["name"] == name:
                    remembered.write_text(instance["instance_uid"])
        return await self.ask(key, "DELETE", f"{PLACE}/gateways/{remembered.read_text()}")

    async def begin(self, key: str, name: str, *, delete: bool = False) -> str:
        """A create or delete that is not followed; its operation's id."""
        uid = self.folder / f"uid-{name}"
        if delete and not uid.exists():
            [instance] = await self.call("GET", "/v1/orgs/default/instances")
            uid.write_text(instance["instance_uid"])
        path = f"{PLACE}/gateways/{uid.read_text()}" if delete else f"{PLACE}/gateways"
        headers = {"Idempotency-Key": key}
        async with (
            self.client() as client,
            client.stream(
                *(("DELETE", path) if delete else ("POST", path)),
                headers=headers,
                json=None if delete else {"name": name},
            ) as answer,
        ):
            operation = str(answer.headers["x-operation-id"])
        assert self.acked.setdefault(key, operation) == operation
        return operation

    async def followed(self, operation: str) -> dict[str, Any]:
        """The last event of an operation, where it rests."""
        async with self.client() as client:
            events = parse_events((await client.get(f"/v1/operations/{operation}/events")).text)
        if not events or events[-1]["_event"] != "end":
            raise Died("the stream ended before the operation did")
        return events[-2] | events[-1]

    async def reaches(self, operation: str, state: str) -> dict[str, Any]:
        """The operation, once it has been in *state* or is over."""
        async with self.client() as client, client.stream("GET", f"/v1/operations/{operation}/events") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: ") and json.loads(line[6:]).get("state") == state:
                    break
        return dict(await self.call("GET", f"/v1/operations/{operation}"))

    async def settled(self) -> list[dict[str, Any]]:
        """Every operation at rest, with nobody asking for anything: each open one is followed to where it rests."""
        async with asyncio.timeout(BOUND_S):
            while True:
                open_ones = await self.call("GET", "/v1/operations?running=true&limit=1000")
                if all(op["state"] == "paused" for op in open_ones):
                    return list(await self.call("GET", "/v1/operations?limit=1000&history=true"))
                for op in open_ones:
                    async with self.client() as client:
                        answer = await client.get(f"/v1/operations/{op['id']}/events")
                        assert parse_events(answer.text)[-1]["_event"] == "end"


def killed_ones(directory: Path) -> list[int]:
    """End what a test left running below *directory*, by pid; their pids."""
    found = [pid for pid, _ in gateways(directory)]
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def gateways(directory: Path) -> list[tuple[int, str]]:
    """Every living process that a control plane started below *directory*: pid and mark (instance id/replica)."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environ = dict(
                part.split(b"=", 1) for part in (entry / "environ").read_bytes().split(b"\0") if b"=" in part
            )
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        where = environ.get(b"MCPG_STATE_DIR", b"").decode()
        if b"MCPG_CTL_REPLICA" in environ and where.startswith(f"{directory}/") and state not in "ZX":
            found.append((int(entry.name), environ[b"MCPG_CTL_REPLICA"].decode()))
    return found
