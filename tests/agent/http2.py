"""A connection that speaks just enough HTTP/2 to be impolite. Used by test_ten_rules.py."""

from __future__ import annotations

import asyncio
import struct

from tests.bounds import BOUND_S


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


class RawHttp2:
    """Just enough HTTP/2 to ping without a client library's manners."""

    PING, GOAWAY, HEADERS = 6, 7, 1

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))

    def open_channel(self, target: str, jwt: str) -> None:
        fields = {
            ":method": "POST", ":scheme": "http", ":path": "/mcpg.cp.v1.AgentControl/Channel", ":authority": target,
            "te": "trailers", "content-type": "application/grpc", "mcpg-instance-token": jwt,
        }  # fmt: skip
        block = b""
        for name, value in fields.items():  # literal without indexing, no Huffman; lengths as 7-bit-prefix integers
            block += b"\x00" + b"".join(_length(len(t)) + t for t in (name.encode(), value.encode()))
        self.writer.write(_frame(self.HEADERS, 4, 1, block))

    async def next(self) -> tuple[int, int, bytes]:
        """A frame's type, flags and body."""
        async with asyncio.timeout(BOUND_S):
            head = await self.reader.readexactly(9)
            return head[3], head[4], await self.reader.readexactly(int.from_bytes(head[:3], "big"))

    async def until(self, wanted: int, flags: int = 0) -> bytes:
        while True:
            kind, got, body = await self.next()
            assert kind != self.GOAWAY, f"the server hung up: {body[8:]!r}"
            if kind == wanted and got & flags == flags:
                return body

    async def ping(self, number: int) -> None:
        payload = number.to_bytes(8, "big")
        self.writer.write(_frame(self.PING, 0, 0, payload))
        while await self.until(self.PING, flags=1) != payload:
            pass


def _length(n: int) -> bytes:
    if n < 127:
        return bytes([n])
    n, out = n - 127, b"\x7f"
    while n >= 128:
        out, n = out + bytes([n % 128 + 128]), n // 128
    return out + bytes([n])
