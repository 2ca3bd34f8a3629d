"""
Waits for the browser to come back: a listener on this machine's loopback that takes one redirect of the issuer.

login.py opens it before the browser is sent away. Where the browser is on another machine, the address it was sent to
can be pasted on the terminal instead.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import sys
from collections.abc import Callable
from html import escape
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from mcpg.errors import Failed

PATH = "/callback"
_HEAD_S = 10.0  # a browser opens connections in reserve and says nothing on them
_PAGE = '<!doctype html><html lang="en"><meta charset="utf-8"><title>mcpg-ctl</title><h1>{}</h1><p>{}</p></html>\n'
_STATUS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed"}


class Expected(NamedTuple):
    """What the redirect must carry: our `state`, and, if it names one, the `issuer` we sent the browser to."""

    state: str
    issuer: str


def listen() -> tuple[socket.socket, str]:
    """A listener on a port that the kernel chose, and the redirect URI that leads to it."""
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}{PATH}"


def code(listener: socket.socket, expected: Expected, seconds: float, *, begin: Callable[[], None], paste: bool) -> str:
    """
    The authorization code. *begin* is called when we are ready for it, Ctrl-C included.

    Raises Failed for a refusal or an answer to something else, TimeoutError.
    """
    return asyncio.run(_first(listener, expected, seconds, begin, paste))


async def _first(
    listener: socket.socket, expected: Expected, seconds: float, begin: Callable[[], None], paste: bool
) -> str:
    back = _Return(expected)
    server = await asyncio.start_server(back.serve, sock=listener)
    if paste:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), back.typed)
    try:
        async with asyncio.timeout(seconds):
            begin()
            return await back.code
    finally:
        server.close()  # and not wait for it: connections in reserve would keep us


class _Return:
    """The first answer to our question, from whichever side it comes."""

    def __init__(self, expected: Expected) -> None:
        self.code: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._expected = expected

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, one page."""
        try:
            async with asyncio.timeout(_HEAD_S):
                method, path, query = _request(await reader.readuntil(b"\r\n\r\n"))
            if path != PATH or method != "GET":
                status = 404 if path != PATH else 405
                return writer.write(_page(status, "Not here", "This is where a sign-in ends, and nothing else."))
            answer = read(query, self._expected)
            if isinstance(answer, Failed):
                writer.write(_page(200, "Not signed in", answer.cause))
            else:
                writer.write(_page(200, "Back to the terminal", "mcpg-ctl goes on there; this page can be closed."))
            await writer.drain()
            self._settle(answer)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return None  # not a browser with an answer
        finally:
            writer.close()

    def typed(self) -> None:
        """A line on the terminal: the address that the browser could not reach."""
        line = sys.stdin.readline()
        if not line:  # Ctrl-D: nothing will be pasted
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            return
        query = urlsplit(line.strip()).query
        if "state=" in query:
            self._settle(read(query, self._expected))
        elif line.strip():
            sys.stderr.write("that is not the address the browser was sent to; it has code= and state= in it\n")

    def _settle(self, answer: str | Failed) -> None:
        if self.code.done():
            return
        if isinstance(answer, Failed):
            self.code.set_exception(answer)
        else:
            self.code.set_result(answer)


def read(query: str, expected: Expected) -> str | Failed:
    """The code in the redirect's query, or why there is none."""
    again = "run mcpg-ctl login again"
    given = {name: values[0] for name, values in parse_qs(query).items()}
    if not hmac.compare_digest(given.get("state", "").encode(), expected.state.encode()):
        why = "its state is not the one we sent: it belongs to another sign-in, or somebody made it up"
        return Failed("the answer of the browser is not to our question", cause=why, hint=again)
    if "error" in given:
        why = ": ".join(given[name] for name in ("error", "error_description") if name in given)
        return Failed(f"{expected.issuer} did not sign you in", cause=why, hint=f"as somebody else: {again}")
    if given.get("iss", expected.issuer) != expected.issuer:
        return Failed("the answer of the browser is not our issuer's", cause=f"it is from {given['iss']}", hint=again)
    if not given.get("code"):
        return Failed(f"{expected.issuer} did not sign you in", cause="it sent no code", hint=again)
    return given["code"]


def _request(head: bytes) -> tuple[str, str, str]:
    """Method, path and query. Raises ValueError for what is no request."""
    method, target, _ = head.partition(b"\r\n")[0].decode("ascii").split(" ")
    path, _, query = target.partition("?")
    return method, path, query


def _page(status: int, title: str, text: str) -> bytes:
    body = _PAGE.format(escape(title), escape(text)).encode("utf-8", "replace")
    fields = (
        f"HTTP/1.1 {status} {_STATUS[status]}",
        "content-type: text/html; charset=utf-8",
        f"content-length: {len(body)}",
        "content-security-policy: default-src 'none'",
        "cache-control: no-store",
        "referrer-policy: no-referrer",
        "connection: close",
    )
    return "\r\n".join((*fields, "", "")).encode() + body
