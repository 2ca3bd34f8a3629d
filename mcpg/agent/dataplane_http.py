"""
A small HTTP/1.1 server on asyncio streams: enough for an MCP endpoint and a health path, and bounded everywhere.

What it does not do it refuses with a status: chunked requests 501, headers over the limit 431, bodies over the limit
413, more connections than the limit 503. A client that is slow in sending or in reading is cut off. Framing that two
readers could read differently (two lengths, a length and an encoding, folded headers) is 400. Called by
mcpg/agent/dataplane.py, which hands in the one function that answers requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from mcpg import errors

logger = logging.getLogger(__name__)

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,20}) (/[\x21-\x7e]*) HTTP/1\.([01])")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, seconds, counts: `request_s` for one whole request, `idle_s` between two, `linger_s` after a refusal."""

    header_bytes: int = 16 * 1024
    body_bytes: int = 1024 * 1024
    connections: int = 256
    request_s: float = 15.0
    idle_s: float = 60.0
    linger_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """`headers` has lower-case names; `path` is without the query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response]


class _RequestError(Exception):
    """A request that ends its connection with this status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


class HttpServer:
    """Listens from `start` to `stop`; `handler` must not block, it runs in the event loop."""

    def __init__(self, handler: Handler, limits: Limits | None = None) -> None:
        self._handler = handler
        self._limits = limits or Limits()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def active_connections(self) -> int:
        return len(self._connections)

    async def start(self, host: str, port: int) -> int:
        """Listens on *host*:*port* (0: any free one) and returns the port. Raises errors.Failed where it cannot."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=self._limits.header_bytes)
        except OSError as error:
            raise errors.Failed(
                f"cannot listen on {host}:{port}",
                cause=error.strerror or str(error),
                hint="set gateway.server.bind_address in the local config to a free address",
            ) from None
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def quiet(self) -> None:
        """Waits until no request is being read or answered."""
        await self._quiet.wait()

    async def stop(self) -> None:
        """Stops listening and cuts what is open; answers are computed at once, so only idle or slow clients are cut."""
        if self._server is None:
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:  # asyncio starts this as a task; the type does not know
            return
        self._connections.add(task)
        try:
            await self._talk(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # gone, or too slow: there is nobody to tell
        except asyncio.CancelledError:
            pass  # cut by stop, which alone waits for this; asyncio 3.11 logs a cancelled handler as an error
        finally:
            self._connections.discard(task)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) > self._limits.connections:
            await self._refuse(reader, writer, _RequestError(503, "too many connections"))
            return
        while True:
            async with asyncio.timeout(self._limits.idle_s):
                first = await reader.read(1)
            if not first:
                return
            with self._counted():
                if not await self._exchange(first, reader, writer):
                    return

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._busy += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._quiet.set()

    async def _exchange(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request, of which *first* was read, and its answer; whether the connection may have another."""
        try:
            async with asyncio.timeout(self._limits.request_s):
                request = await self._read(first, reader, writer)
        except _RequestError as refusal:
            await self._refuse(reader, writer, refusal)
            return False
        except TimeoutError:
            await self._refuse(reader, writer, _RequestError(408, "the request took too long"))
            return False
        await self._answer(writer, self._handled(request), keep_alive=request.keep_alive)
        return request.keep_alive

    async def _read(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
        try:
            head = first + await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise _RequestError(431, f"headers over {self._limits.header_bytes} bytes") from None
        line, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        start = _REQUEST_LINE.fullmatch(line)
        if not start:
            raise _RequestError(400, "not a request line of HTTP/1.1")
        headers = _headers(fields)
        length = self._length(headers)
        if length and headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(length)
        connection = headers.get("connection", "").lower()
        return Request(
            method=start[1].decode(),
            path=start[2].decode().partition("?")[0],
            headers=headers,
            body=body,
            keep_alive="close" not in connection and (start[3] == b"1" or "keep-alive" in connection),
        )

    def _length(self, headers: Mapping[str, str]) -> int:
        if "transfer-encoding" in headers:
            raise _RequestError(501, "send the body with a Content-Length")
        text = headers.get("content-length", "0")
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise _RequestError(400, "Content-Length is not a number")
        if int(text) > self._limits.body_bytes:
            raise _RequestError(413, f"body over {self._limits.body_bytes} bytes")
        return int(text)

    def _handled(self, request: Request) -> Response:
        try:
            return self._handler(request)
        except Exception:
            # One request's bug ends as its 500, with a traceback in the log, and not with the connection.
            logger.exception("%s %s failed", request.method, request.path)
            return Response(500, b"internal error\n", {"content-type": "text/plain"})

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, refusal: _RequestError) -> None:
        response = Response(refusal.status, refusal.why.encode() + b"\n", {"content-type": "text/plain"})
        await self._answer(writer, response, keep_alive=False)
        # Closing over unread bytes makes the kernel reset the connection, and the client may never see the answer.
        writer.write_eof()
        async with asyncio.timeout(self._limits.linger_s):
            while await reader.read(64 * 1024):
                pass

    async def _answer(self, writer: asyncio.StreamWriter, response: Response, *, keep_alive: bool) -> None:
        lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        # 204 has no body and must not say how long it is (RFC 9110 §8.6).
        lines += [f"content-length: {len(response.body)}"] if response.status != HTTPStatus.NO_CONTENT else []
        lines += [f"connection: {'keep-alive' if keep_alive else 'close'}", "", ""]
        writer.write("\r\n".join(lines).encode("latin-1") + response.body)
        async with asyncio.timeout(self._limits.request_s):
            await writer.drain()


def _headers(fields: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in fields:
        name, colon, value = line.partition(b":")
        # A line that starts with a space is an old folded header; its name is then no token, so it ends here too.
        if not colon or not _TOKEN.fullmatch(name):
            raise _RequestError(400, "a header line is not NAME: VALUE")
        text = value.strip(b" \t").decode("latin-1")
        if any(sign < " " and sign != "\t" for sign in text):
            raise _RequestError(400, "a header has a control character")
        key = name.decode().lower()
        # Two of one name are joined, as HTTP says; two lengths make no number and end as 400.
        headers[key] = text if key not in headers else f"{headers[key]}, {text}"
    return headers
