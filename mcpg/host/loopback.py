"""Ports of 127.0.0.1 and one question to what listens there; asyncio streams, no HTTP library."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from typing import Final

ASK_TIMEOUT_S: Final = 2.0


def reserve(preferred: int = 0) -> socket.socket:
    """
    A bound socket that does not listen: *preferred* where it is free, else a port from the kernel.

    While it is held the kernel gives the port to nobody else, and the gateway can still bind and listen, because both
    sides set SO_REUSEADDR (tokio and asyncio do). Raises OSError when there is no free port at all.
    """
    for port in (preferred, 0) if preferred else (0,):
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", port))
        except OSError:
            held.close()
            if not port:
                raise
        else:
            return held
    raise AssertionError("the last port tried is the kernel's")


async def ask_health(port: int, path: str = "/health", host: str = "127.0.0.1") -> tuple[bool, str]:
    """GET *path*: whether the answer was a 2xx, and words like "GET /health 200". Never raises; at most 2 s."""
    asked = f"GET {path}"
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            line = await _first_line(host, port, path)
    except TimeoutError:
        return False, f"{asked}: no answer in {ASK_TIMEOUT_S:g} s"
    except (OSError, ValueError) as error:  # ValueError: a line longer than the stream's limit
        return False, f"{asked}: {error}"
    answer = re.match(rb"HTTP/1\.[01] (\d{3})\b", line)
    if answer is None:
        return False, f"{asked}: what answers does not speak HTTP"
    status = int(answer[1])
    return 200 <= status < 300, f"{asked} {status}"


async def _first_line(host: str, port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        return await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
