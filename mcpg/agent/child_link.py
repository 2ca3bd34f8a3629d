"""
The control plane of one gateway: what mcpg/agent/child.py pushes its configs through.

The real gateway takes a new config without a restart, keeps its MCP sessions and says in its own words what it refuses,
but only to a control plane. So the child is attached to this one, on a loopback port of the kernel's, and never to the
real one. Its token and its credentials are made anew with each start of the agent.
"""

# ruff: noqa: N802 - the protocol names the calls

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from mcpg.agent.pb import agent_pb2 as pb
from mcpg.agent.pb import agent_pb2_grpc as pb_grpc

LIFE_S: Final = 10 * 365 * 86400  # longer than any agent runs, so that the child never has to ask again
OPTIONS: Final = (
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),  # it pings every 20 s, also when idle
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)


class ChildLink(pb_grpc.AgentControlServicer):
    """Listens on `url` from `start` to `stop`. `warnings` is what the child last complained of."""

    def __init__(self) -> None:
        self.attached = asyncio.Event()
        self.warnings: list[str] = []
        self._token = secrets.token_urlsafe(24)
        self._jwt = _unsigned_jwt(self._token)
        self._server = grpc.aio.server(options=OPTIONS)
        self._outbox: asyncio.Queue[pb.ServerMessage] = asyncio.Queue()
        self._ack: asyncio.Future[pb.ConfigAck | None] | None = None
        self.url = ""

    async def start(self) -> None:
        pb_grpc.add_AgentControlServicer_to_server(self, self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    def block(self, state_dir: Path) -> dict[str, str]:
        """`gateway.control_plane` of the child's boot file; a secret is in it."""
        enrolment = f"{self.url}/enroll/v1#token={self._token}"
        return {"url": self.url, "enrollment_url": enrolment, "state_dir": str(state_dir)}

    async def push(self, update: pb.ConfigUpdate, timeout_s: float) -> pb.ConfigAck | None:
        """What the child says to *update*; None when it says nothing in *timeout_s* seconds, or its session ended."""
        self._ack = asyncio.get_running_loop().create_future()
        self._outbox.put_nowait(pb.ServerMessage(config_update=update))
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ack
        except TimeoutError:
            return None
        finally:
            self._ack = None

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.RegisterResponse:
        if not secrets.compare_digest(request.bootstrap_token.encode(), self._token.encode()):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this port is for one gateway only")
        return pb.RegisterResponse(instance_id="data-plane", instance_jwt=self._jwt)

    # grpc.aio takes a coroutine that writes to the context as well as a generator; the generated types know the latter
    async def Channel(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.AgentMessage], context: Any
    ) -> None:
        shown = str(dict(context.invocation_metadata() or ()).get("mcpg-instance-token", ""))
        if not secrets.compare_digest(shown.encode(), self._jwt.encode()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "these are not this agent's credentials")
        await context.send_initial_metadata(())
        self._outbox = asyncio.Queue()  # what an earlier session did not take is not for this one
        self.attached.set()
        writing = asyncio.create_task(self._write(context, self._outbox))
        try:
            async for message in request_iterator:
                self._heard(message)
        finally:
            self.attached.clear()
            self._answer(None)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, context: Any, outbox: asyncio.Queue[pb.ServerMessage]) -> None:
        while True:
            await context.write(await outbox.get())

    def _answer(self, ack: pb.ConfigAck | None) -> None:
        if self._ack is not None and not self._ack.done():
            self._ack.set_result(ack)

    def _heard(self, message: pb.AgentMessage) -> None:
        match message.WhichOneof("kind"):
            case "config_ack":
                self._answer(message.config_ack)
            case "status_report":
                self.warnings = list(message.status_report.warnings)


def _unsigned_jwt(secret: str) -> str:
    """The gateway reads nothing of it but `exp`; we compare it whole."""
    parts = ({"alg": "none"}, {"exp": int(time.time()) + LIFE_S, "jti": secret})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + ".x"
