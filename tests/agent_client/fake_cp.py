"""A small honest control plane: real grpc.aio on port 0, the rules of contract/agent.md §0 kept, no will of its own."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio

from mcpg.agent import credentials
from mcpg.agent.pb import agent_pb2 as pb
from mcpg.agent.pb import agent_pb2_grpc as pb_grpc
from tests.bounds import BOUND_S

T = TypeVar("T")

ECHO = """
governance: {audit: {enabled: false}}
mcp:
  capabilities:
    tools:
      - name: NAME
        description: Echo the arguments back
        input_schema: {type: object, properties: {text: {type: string}}}
        governance: {minimum_trust: unauthenticated}
        backend:
          kind: pipeline
          steps:
            - {id: out, kind: transform, expression: '{"echo": arguments, "from": "FROM"}'}
"""


def echo_config(name: str = "demo.echo", origin: str = "pushed") -> bytes:
    return ECHO.replace("NAME", name).replace("FROM", origin).encode()


async def soon(awaitable: Awaitable[T]) -> T:
    """The result, or a failure instead of a test that hangs."""
    async with asyncio.timeout(BOUND_S):
        return await awaitable


def jwt(ttl_s: float, **claims: Any) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part({'exp': int(time.time() + ttl_s), **claims})}.c2ln"


def stored(state: Path, *, ttl_s: float = 3600) -> str:
    """Writes credentials of an earlier run; returns their token."""
    token = jwt(ttl_s, n="earlier")
    creds = credentials.Credentials(
        instance_id="inst-1", instance_jwt=token, cp_endpoint="", issued_at="2026-01-01T00:00:00Z"
    )
    credentials.write(state, creds)
    return token


class FakeSession:
    """One Channel call, seen from the server."""

    def __init__(self, token: str, peer_agent: str) -> None:
        self.token = token
        self.peer_agent = peer_agent
        self.half_closed = asyncio.Event()
        self._heard: asyncio.Queue[pb.AgentMessage] = asyncio.Queue()
        self.to_say: asyncio.Queue[pb.ServerMessage | grpc.StatusCode] = asyncio.Queue()
        self.last_words = "ended"

    def say(self, **kind: Any) -> None:
        self.to_say.put_nowait(pb.ServerMessage(**kind))

    def push(self, config_hash: str, config: bytes) -> None:
        bundle = pb.ConfigBundle(schema_version=1, config_toml=config)
        self.say(config_update=pb.ConfigUpdate(config_hash=config_hash, bundle=bundle, mode=pb.HOT_RELOAD))

    def end(self, code: grpc.StatusCode, words: str = "ended") -> None:
        self.last_words = words
        self.to_say.put_nowait(code)

    async def hear(self, kind: str) -> Any:
        """The next message of this kind; others before it are let go."""

        async def next_one() -> Any:
            while True:
                message = await self._heard.get()
                if message.WhichOneof("kind") == kind:
                    return getattr(message, kind)

        return await soon(next_one())

    def heard(self, message: pb.AgentMessage) -> None:
        self._heard.put_nowait(message)


class FakeControlPlane(pb_grpc.AgentControlServicer):
    """`refuse_register` and `refuse_channel` are statuses for the next calls, one each."""

    def __init__(self) -> None:
        self.token_ttl_s: float = 3600
        self.registrations: asyncio.Queue[pb.RegisterRequest] = asyncio.Queue()
        self.register_metadata: dict[str, str] = {}
        self.sessions: asyncio.Queue[FakeSession] = asyncio.Queue()
        self.refuse_register: list[grpc.StatusCode] = []
        self.refuse_channel: list[grpc.StatusCode] = []
        self.registered = 0
        self.goodbyes: list[tuple[str, str, str]] = []  # instance id, reason, token
        self.answer_goodbyes = asyncio.Event()
        self.answer_goodbyes.set()
        self._server = grpc.aio.server(
            options=[
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        pb_grpc.add_AgentControlServicer_to_server(self, self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def session(self) -> FakeSession:
        return await soon(self.sessions.get())

    async def registration(self) -> pb.RegisterRequest:
        return await soon(self.registrations.get())

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.RegisterResponse:  # noqa: N802
        self.register_metadata = dict(context.invocation_metadata())
        self.registrations.put_nowait(request)
        if self.refuse_register:
            await context.abort(self.refuse_register.pop(0), "not \x1b[31mthis\x1b[0m token")
        self.registered += 1
        return pb.RegisterResponse(
            instance_id="inst-1",
            instance_jwt=jwt(self.token_ttl_s, n=self.registered),
            cp_endpoint="http://ignored.example:7844",
            payload_dek=b"k" * 32,
            payload_dek_version=1,
        )

    async def Channel(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        metadata = dict(context.invocation_metadata())
        session = FakeSession(metadata.get("mcpg-instance-token", ""), metadata.get("user-agent", ""))
        self.sessions.put_nowait(session)
        if self.refuse_channel:
            await context.abort(self.refuse_channel.pop(0), "refused")
        await context.send_initial_metadata(())

        async def hear() -> None:
            async for message in request_iterator:
                session.heard(message)
            session.half_closed.set()
            session.end(grpc.StatusCode.OK)

        hearing = asyncio.create_task(hear())
        try:
            while isinstance(said := await session.to_say.get(), pb.ServerMessage):
                await context.write(said)
            if said is not grpc.StatusCode.OK:
                await context.abort(said, session.last_words)
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    async def Deregister(self, request: pb.DeregisterRequest, context: Any) -> pb.DeregisterResponse:  # noqa: N802
        token = str(dict(context.invocation_metadata()).get("mcpg-instance-token", ""))
        self.goodbyes.append((request.instance_id, request.reason, token))
        await self.answer_goodbyes.wait()
        return pb.DeregisterResponse(acknowledged=True)
