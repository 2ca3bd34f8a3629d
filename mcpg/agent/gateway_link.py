"""
The wire between our gateway and its control plane: one URL, one Register, one session at a time, one Deregister.

It knows gRPC and nothing of what the messages mean; mcpg/agent/gateway.py and identity.py hand in what to say and whom to tell.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

import grpc
import grpc.aio

from mcpg import __version__, errors
from mcpg.agent.backoff import CAP_S, FIRST_S, Backoff
from mcpg.agent.credentials import Credentials, is_token
from mcpg.agent.pb import agent_pb2 as pb
from mcpg.agent.pb import agent_pb2_grpc as pb_grpc

T = TypeVar("T")

TOKEN_KEY: Final = "mcpg-instance-token"  # noqa: S105 - the name of the metadata, not its value
DEFAULT_PORT: Final = 7844
# What our control plane says (sessions.py) where one identity is used twice; the codes stand for other things too.
ANOTHER: Final = ("the same gateway connected again", "another gateway with this identity is connected")
OPTIONS: Final = (
    # Every 20 s, as the real gateway does; a control plane must allow that anyway.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    # Back-off is ours alone: a shared subchannel would make a new attempt wait for an older one's.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy from the environment would be handed the instance token.
    ("grpc.enable_http_proxy", 0),
    ("grpc.primary_user_agent", f"mcpg-ctl/{__version__}"),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """
    Seconds. `headers_s` is for the control plane's first sign on a session, `close_s` for its last, `goodbye_s` for the
    answer to Deregister.
    """

    heartbeat_s: float = 30.0
    status_s: float = 60.0
    headers_s: float = 10.0
    register_s: float = 20.0
    close_s: float = 2.0
    goodbye_s: float = 2.0
    backoff_first_s: float = FIRST_S
    backoff_cap_s: float = CAP_S

    def backoff(self) -> Backoff:
        return Backoff(first_s=self.backoff_first_s, cap_s=self.backoff_cap_s)


class Ended(NamedTuple):
    """How a call ended; `reason` is the server's own words, so clean it before showing it."""

    code: grpc.StatusCode
    reason: str = ""

    @property
    def ok(self) -> bool:
        return self.code is grpc.StatusCode.OK

    @property
    def rejected(self) -> bool:
        """The one code that means the credentials are no good; all others mean: try again with the same."""
        return self.code is grpc.StatusCode.UNAUTHENTICATED

    @property
    def turned_away(self) -> bool:
        """Whether another session with the same credentials was preferred."""
        return any(self.reason.startswith(words) for words in ANOTHER)


class Line(NamedTuple):
    """One thing said again and again: every how many seconds, and the message for the n-th time (from 1)."""

    every_s: float
    message: Callable[[int], pb.AgentMessage]


Send = Callable[[pb.AgentMessage], Awaitable[None]]


class Link:
    """Calls to the control plane at *endpoint*, a URL. Raises errors.Usage where that is none."""

    def __init__(self, endpoint: str, timing: Timing) -> None:
        self.endpoint = endpoint
        self._target, self._tls = parse_endpoint(endpoint)
        self._timing = timing

    async def register(self, request: pb.RegisterRequest) -> pb.RegisterResponse | Ended:
        """One attempt."""
        try:
            # No stored certificate here: it may be the very thing that is no longer accepted.
            async with self._stub(None) as stub:
                answer: pb.RegisterResponse = await stub.Register(request, timeout=self._timing.register_s)
        except grpc.aio.AioRpcError as error:
            return Ended(error.code(), error.details() or "")
        if not answer.instance_id or not is_token(answer.instance_jwt):
            return Ended(grpc.StatusCode.INTERNAL, "the answer to Register has no instance id or no token")
        return answer

    async def deregister(self, creds: Credentials, reason: str) -> Ended:
        """Says goodbye, for *reason*; `goodbye_s` is all the time it gets, the way there included."""
        request = pb.DeregisterRequest(instance_id=creds.instance_id, reason=reason)
        try:
            async with asyncio.timeout(self._timing.goodbye_s), self._stub(creds) as stub:
                await stub.Deregister(request, metadata=((TOKEN_KEY, creds.instance_jwt),))
        except grpc.aio.AioRpcError as error:
            return Ended(error.code(), error.details() or "")
        except TimeoutError:
            return Ended(grpc.StatusCode.DEADLINE_EXCEEDED, "the control plane did not answer in time")
        return Ended(grpc.StatusCode.OK)

    async def session(
        self,
        creds: Credentials,
        stop: asyncio.Event,
        *,
        on_open: Callable[[], None],
        on_message: Callable[[pb.ServerMessage, Send], Awaitable[None]],
        lines: list[Line],
    ) -> Ended:
        """
        One session, until it ends or *stop* is set; then it is half-closed and the server has `close_s` to end it.

        *on_message* is awaited for one message after another.
        """
        async with self._stub(creds) as stub:
            call = stub.Channel(metadata=((TOKEN_KEY, creds.instance_jwt),))
            status = _Status(call)
            try:
                if await unless(stop, self._opened(call)):
                    on_open()
                    await _Session(call, on_message).run(lines, stop, self._timing.close_s)
            except grpc.aio.AioRpcError as error:
                return await status.of(error)
            except TimeoutError:
                return Ended(grpc.StatusCode.DEADLINE_EXCEEDED, "no sign of the control plane in time")
            finally:
                call.cancel()
        return Ended(grpc.StatusCode.OK)

    async def _opened(self, call: Any) -> bool:
        async with asyncio.timeout(self._timing.headers_s):
            await call.initial_metadata()
        if call.done() and await call.code() is not grpc.StatusCode.OK:
            await call.read()  # raises what the call ended with
        return True

    @contextlib.asynccontextmanager
    async def _stub(self, creds: Credentials | None) -> AsyncIterator[Any]:
        if self._tls:
            # What Register gave replaces the system's authorities, as in the real gateway.
            mutual = creds is not None and creds.client_cert_pem and creds.client_key_pem and creds.ca_chain_pem
            tls = grpc.ssl_channel_credentials(
                root_certificates=creds.ca_chain_pem.encode() if creds and mutual else None,
                private_key=creds.client_key_pem.encode() if creds and mutual else None,
                certificate_chain=creds.client_cert_pem.encode() if creds and mutual else None,
            )
            channel = grpc.aio.secure_channel(self._target, tls, options=OPTIONS)
        else:
            channel = grpc.aio.insecure_channel(self._target, options=OPTIONS)
        async with channel:
            yield pb_grpc.AgentControlStub(channel)


class _Status:
    """
    What the server ended a call with.

    A write that fails because the call is ending overwrites the server's status with INTERNAL (grpc issue 36066), and
    with it the one word that says the credentials are refused. So every status is looked at as it is set.
    """

    OVERWRITTEN: Final = "Internal error from Core"

    def __init__(self, call: Any) -> None:
        self._ended: Ended | None = None
        self._known = asyncio.Event()
        call.add_done_callback(self._look)

    async def of(self, error: Any) -> Ended:
        """How the call ended, when *error* came out of it."""
        told = Ended(error.code(), error.details() or "")
        if told.reason == self.OVERWRITTEN:
            # The server's may be known already, or be on its way, or never come, if there never was one.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._known.wait()
        return self._ended or told

    def _look(self, call: Any) -> None:
        code, details = _at_once(call.code()), _at_once(call.details()) or ""
        if self._ended is None and code is not None and details != self.OVERWRITTEN:
            self._ended = Ended(code, details)
            self._known.set()


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T | None:
    """What *coroutine* returns without waiting; a status that is set is there at once, one tick later it may not be."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    coroutine.close()
    return None


class _Session:
    """One open call."""

    def __init__(self, call: Any, on_message: Callable[[pb.ServerMessage, Send], Awaitable[None]]) -> None:
        self._call = call
        self._on_message = on_message
        self._writing = asyncio.Lock()

    async def run(self, lines: list[Line], stop: asyncio.Event, close_s: float) -> None:
        reading = asyncio.create_task(self._read())
        stopping = asyncio.create_task(stop.wait())
        speaking = [asyncio.create_task(self._say(line, stop)) for line in lines]
        try:
            await asyncio.wait({reading, stopping, *speaking}, return_when=asyncio.FIRST_COMPLETED)
            async with asyncio.timeout(close_s if stop.is_set() else None):
                # The speakers see stop by themselves: cancelling one inside a write would cancel the whole call.
                await asyncio.gather(*(task for task in speaking if stop.is_set() or task.done()))
                if stop.is_set():
                    await self._call.done_writing()
                await reading
        finally:
            for task in (reading, stopping, *speaking):
                task.cancel()
            await asyncio.gather(reading, stopping, *speaking, return_exceptions=True)

    async def send(self, message: pb.AgentMessage) -> None:
        async with self._writing:  # gRPC takes one write at a time
            try:
                await self._call.write(message)
            except asyncio.InvalidStateError:
                return  # the call is over, and whoever reads it gets its status

    async def _say(self, line: Line, stop: asyncio.Event) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            await self.send(line.message(count))
            await pause(line.every_s, stop)

    async def _read(self) -> None:
        while (message := await self._call.read()) is not grpc.aio.EOF:
            await self._on_message(message, self.send)


def parse_endpoint(url: str) -> tuple[str, bool]:
    """gRPC target and whether it is TLS, of an http(s) URL; port 7844 where it has none. Raises errors.Usage."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        host, port, parts = None, 0, urlsplit("")
    if parts.scheme not in {"http", "https"} or not host or parts.path not in {"", "/"} or parts.query:
        # The URL itself stays out of it: people put passwords into URLs.
        raise errors.Usage(
            "the gRPC URL of the control plane is not usable",
            cause="it must be http://HOST:PORT or https://HOST:PORT",
            hint="--cp-grpc http://127.0.0.1:7844",
        )
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}", parts.scheme == "https"


async def pause(seconds: float, stop: asyncio.Event) -> None:
    """Waits, at most until *stop*."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What *work* gives, or None where *stop* came first; the work is then cancelled."""
    task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        stopping.cancel()
        await asyncio.gather(task, stopping, return_exceptions=True)
