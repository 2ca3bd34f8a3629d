"""
A control plane that says what a test tells it to say: a real Sanic server on port 0, and bodies made by mcpg/wire.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from sanic import Request, Sanic
from sanic.response import HTTPResponse, raw

from mcpg.errors import McpgError
from mcpg.wire.events import EndEvent, LadderEvent
from mcpg.wire.problem import problem

GATEWAYS = "/v1/orgs/acme/workspaces/prod/environments/us/gateways"
OPERATION = "op-7f2e"
UID = "019a3c1e-0000-7000-8000-0000009f3c2a"
AT = "2026-11-22T10:21:0{}.114Z"


class Asked(NamedTuple):
    """One request as it came: `path` still percent-encoded."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any


class Answer(NamedTuple):
    """What to say. `then` is how a stream goes on: end, cut (the connection) or hang; silent says nothing at all."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = MappingProxyType({})
    then: str = ""


def data(value: Any, **more: Any) -> Answer:
    return Answer(json.dumps(value).encode(), **more)


def refusal(error: McpgError, *, request_id: str = "req-1") -> Answer:
    body = problem(error, request_id=request_id)
    return Answer(body.model_dump_json().encode(), body.status, "application/problem+json")


def step(seq: int, phase: str, **more: Any) -> bytes:
    """One ladder event, framed as the server frames it."""
    fields = {"operation_id": OPERATION, "state": phase, "event": "e", "at": AT.format(seq), "offset_ms": seq * 500.0}
    event = LadderEvent(seq=seq, phase=phase, **(fields | more))
    return f"id: {seq}\nevent: {phase}\ndata: {event.model_dump_json()}\n\n".encode()


def end(seq: int, phase: str, **more: Any) -> bytes:
    event = EndEvent(operation_id=OPERATION, seq=seq, phase=phase, state=phase, **more)
    return f"event: end\ndata: {event.model_dump_json()}\n\n".encode()


def stream(*events: bytes, then: str = "end", operation_id: str = OPERATION) -> Answer:
    headers = {"x-operation-id": operation_id} if operation_id else {}
    return Answer(b"".join(events), 200, "text/event-stream; charset=utf-8", headers, then)


SILENT = Answer(b"", then="silent")
READY = step(
    3,
    "ready",
    message="config 9c41d2 active on 2",
    coords={"instance_uid": UID, "endpoints": ["http://127.0.0.1:41873/mcp", "http://edge-1.localhost:41873/mcp"]},
    offset_ms=2600.0,
)
HAPPY = (
    step(1, "allocating", message="create edge-1", offset_ms=4.0),
    step(2, "applying", message="us-east-shared-1 (17 of 50 gateways, 2 reserved)", offset_ms=87.0),
    READY,
)


async def _gone() -> None:
    """Until the connection is gone: Sanic then cancels the handler."""
    await asyncio.Event().wait()


class Fake:
    """Answers are queued by method and path; the last one of a queue is said again and again."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def says(self, method: str, path: str, *answers: Answer) -> None:
        self._answers[method, path] = list(answers)

    def reset(self) -> None:
        self.asked.clear()
        self._answers.clear()

    def paths(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked]

    async def handle(self, request: Request, path: str) -> HTTPResponse | None:
        path, _, query = request.raw_url.decode().partition("?")
        body = json.loads(request.body) if request.body else None
        self.asked.append(Asked(request.method, path, query, dict(request.headers), body))
        queue = self._answers.get((request.method, path), [])
        missing = Answer(b'{"code": "not_found", "title": "no such route"}', 404)
        answer = queue.pop(0) if len(queue) > 1 else queue[0] if queue else missing
        if answer.then == "silent":
            request.transport.abort()
            await _gone()
        if not answer.then:
            return raw(answer.body, answer.status, answer.headers, answer.content_type)
        response = await request.respond(status=answer.status, headers=answer.headers, content_type=answer.content_type)
        await response.send(answer.body)
        if answer.then == "hang":
            await _gone()
        if answer.then == "cut":
            request.transport.close()
            await _gone()
        await response.eof()
        return None

    async def serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = Sanic("FakeControlPlane", configure_logging=False)
        app.config.GRACEFUL_SHUTDOWN_TIMEOUT = 0.1
        app.add_route(self.handle, "/<path:path>", methods=["GET", "POST", "DELETE"])
        sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        server = await app.create_server(sock=sock, return_asyncio_server=True, access_log=False)
        assert server is not None
        await server.startup()
        await server.before_start()
        await server.start_serving()
        started.set()
        await self._stop.wait()
        server.close()
        await server.wait_closed()

    def stop(self) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The JSON object of an error; it is the last line on stderr."""
        found: dict[str, Any] = json.loads(self.err.splitlines()[-1])["error"]
        return found


Ctl = Callable[..., Ran]


def operation(**more: Any) -> dict[str, Any]:
    """An operation as GET …/operations/:id has it."""
    fields = {
        "id": OPERATION,
        "kind": "create",
        "machine": "provision",
        "org": "acme",
        "workspace": "prod",
        "environment": "us",
        "name": "edge-1",
        "instance_uid": UID,
        "state": "ready",
        "final_phase": "ready",
        "error": "",
        "code": "",
        "running": False,
        "cluster": "us-east-shared-1",
        "region": "us-east-1",
        "replicas": 2,
        "actor": "ada@acme.test",
        "started_at": "2026-11-22T10:21:07.114Z",
        "finished_at": "2026-11-22T10:21:09.688Z",
        "deadline_at": None,
        "duration_ms": 2574.0,
        "transitions": 5,
        "definition": "provision@b61f0c9a21de",
        "history": [],
    }
    return fields | more
