"""The MCP endpoint: the official client, raw HTTP, and clients that mean harm."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from mcp import Client, MCPError

from mcpg.agent import dataplane
from mcpg.agent.dataplane import DataPlane
from mcpg.agent.dataplane_config import compile_config
from mcpg.agent.dataplane_http import Limits

from .fake_cp import echo_config, soon

LISTEN = b'gateway: {server: {bind_address: "127.0.0.1:0"}}\n'
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
Serve = Callable[..., Awaitable[DataPlane]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    running: list[DataPlane] = []

    async def start(config: bytes = echo_config(), **limits: Any) -> DataPlane:
        plane = DataPlane(compile_config(LISTEN + config), Limits(**limits))
        await plane.start()
        running.append(plane)
        return plane

    yield start
    for plane in running:
        await soon(plane.stop())


def mcp_url(plane: DataPlane) -> str:
    return f"http://127.0.0.1:{plane.listener.port}/mcp"


async def raw(plane: DataPlane, sent: bytes) -> bytes:
    """Everything that comes back on one connection; our side stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.listener.port)
    try:
        writer.write(sent)
        return await soon(reader.read())
    finally:
        writer.close()
        await writer.wait_closed()


class Peer:
    """Raw JSON-RPC over one keep-alive connection."""

    def __init__(self, plane: DataPlane, http: httpx.AsyncClient) -> None:
        self.url = mcp_url(plane)
        self.http = http
        self.headers: dict[str, str] = {}

    async def post(self, message: Any, **headers: str) -> httpx.Response:
        return await self.http.post(self.url, json=message, headers={**self.headers, **headers})

    async def initialize(self) -> httpx.Response:
        answer = await self.post(INITIALIZE)
        self.headers = {"mcp-session-id": answer.headers["mcp-session-id"]}
        return answer


@pytest.fixture
async def peer(serve: Serve) -> AsyncIterator[Peer]:
    async with httpx.AsyncClient() as http:
        yield Peer(await serve(), http)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_lists_and_calls(serve: Serve, mode: str) -> None:
    plane = await serve()
    async with Client(mcp_url(plane), mode=mode) as client:
        tools = (await client.list_tools()).tools
        assert [(tool.name, tool.description) for tool in tools] == [("demo.echo", "Echo the arguments back")]
        assert tools[0].input_schema["properties"] == {"text": {"type": "string"}}
        result = await client.call_tool("demo.echo", {"text": "é\u2028"})
        assert result.is_error is False
        assert result.structured_content == {"echo": {"text": "é\u2028"}, "from": "pushed"}
        assert json.loads(result.content[0].text) == result.structured_content
        with pytest.raises(MCPError, match="no tool 'nope'"):
            await client.call_tool("nope", {})


async def test_a_new_config_is_seen_by_an_open_session(serve: Serve) -> None:
    plane = await serve()
    async with Client(mcp_url(plane), mode="legacy") as client:
        await client.list_tools()
        plane.apply(compile_config(echo_config("other.tool")))
        assert [tool.name for tool in (await client.list_tools()).tools] == ["other.tool"]


async def test_a_result_that_is_no_object_is_text_only_and_a_missing_member_is_a_tool_error(serve: Serve) -> None:
    plane = await serve(echo_config().replace(b'{"echo": arguments, "from": "pushed"}', b"arguments.text"))
    async with Client(mcp_url(plane), mode="legacy") as client:
        result = await client.call_tool("demo.echo", {"text": [1]})
        assert (result.content[0].text, result.structured_content) == ("[1]", None)
        failed = await client.call_tool("demo.echo", {})
        assert failed.is_error is True
        assert failed.content[0].text == 'arguments["text"] does not exist'


async def test_the_life_of_a_session(peer: Peer) -> None:
    answer = await peer.initialize()
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"]["protocolVersion"] == "2025-06-18"
    assert (await peer.post({"jsonrpc": "2.0", "method": "notifications/initialized"})).status_code == 202
    assert (await peer.post({"jsonrpc": "2.0", "id": "p", "method": "ping"})).json() == {
        "jsonrpc": "2.0",
        "id": "p",
        "result": {},
    }
    assert (await peer.http.get(peer.url, headers=peer.headers)).status_code == 405
    assert (await peer.http.delete(peer.url, headers=peer.headers)).status_code == 204
    assert (await peer.http.delete(peer.url, headers=peer.headers)).status_code == 404
    assert (await peer.http.delete(peer.url)).status_code == 400
    assert (await peer.post({"jsonrpc": "2.0", "id": 2, "method": "ping"})).status_code == 404


async def test_an_unknown_revision_is_answered_with_ours(peer: Peer) -> None:
    asked = {**INITIALIZE, "params": {**INITIALIZE["params"], "protocolVersion": "1999-01-01"}}
    assert (await peer.post(asked)).json()["result"]["protocolVersion"] == "2025-11-25"
    await peer.initialize()
    later = await peer.post({"jsonrpc": "2.0", "id": 2, "method": "ping"}, **{"mcp-protocol-version": "1999-01-01"})
    assert (later.status_code, later.json()["error"]["code"]) == (400, dataplane.UNSUPPORTED_VERSION)


async def test_health_and_other_paths(serve: Serve) -> None:
    plane = await serve()
    base = f"http://127.0.0.1:{plane.listener.port}"
    async with httpx.AsyncClient() as http:
        health = await http.get(f"{base}/health?x=1")
        assert (health.status_code, health.json()) == (200, {"status": "ok"})
        assert (await http.post(f"{base}/health")).status_code == 405
        assert (await http.get(f"{base}/other")).status_code == 404
        assert plane.active_connections == 1


@pytest.mark.parametrize(
    ("message", "status", "code"),
    [
        ([{"jsonrpc": "2.0", "id": 1, "method": "ping"}], 400, dataplane.INVALID_REQUEST),
        ([], 400, dataplane.INVALID_REQUEST),
        ("ping", 400, dataplane.INVALID_REQUEST),
        ({"id": 1, "method": "ping"}, 400, dataplane.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": None, "method": "ping"}, 400, dataplane.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": True, "method": "ping"}, 400, dataplane.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": [1], "method": "ping"}, 400, dataplane.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1, "method": 5}, 400, dataplane.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1}, 400, dataplane.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1, "method": "no/such"}, 200, dataplane.METHOD_NOT_FOUND),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]}, 200, dataplane.INVALID_PARAMS),
        ({"jsonrpc": "2.0", "id": 1, "method": "initialize"}, 200, dataplane.INVALID_PARAMS),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"cursor": "x"}}, 200, dataplane.INVALID_PARAMS),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": []}}, 200, dataplane.INVALID_PARAMS),
        (
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "demo.echo", "arguments": [1]}},
            200,
            dataplane.INVALID_PARAMS,
        ),
    ],
)
async def test_messages_that_are_wrong(peer: Peer, message: Any, status: int, code: int) -> None:
    await peer.initialize()
    answer = await peer.post(message)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a": NaN}', b'{"a": 1e999}', b"[" * 100_000, b"9" * 10_000])
async def test_a_body_that_is_no_json(peer: Peer, body: bytes) -> None:
    answer = await peer.http.post(peer.url, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, dataplane.PARSE_ERROR)


async def test_deep_arguments_are_answered_and_the_gateway_lives(peer: Peer) -> None:
    await peer.initialize()
    headers = {**peer.headers, "content-type": "application/json"}
    before, after = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"demo.echo","arguments":{"x":',
        b"}}}",
    )
    codes = set()
    # Somewhere on the way up it can still be read and no longer be written, a few levels deeper, in the answer.
    for depth in range(880, 1000):
        body = before + b"[" * depth + b"]" * depth + after
        answer = await peer.http.post(peer.url, content=body, headers=headers)
        codes.add((answer.status_code, answer.json().get("error", {}).get("code")))
    assert codes == {(200, None), (200, dataplane.INTERNAL_ERROR), (400, dataplane.PARSE_ERROR)}


async def test_a_lone_surrogate_is_echoed_as_it_came(peer: Peer) -> None:
    await peer.initialize()
    body = rb'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"demo.echo","arguments":{"x":"\ud800"}}}'
    answer = await peer.http.post(peer.url, content=body, headers={**peer.headers, "content-type": "application/json"})
    assert answer.status_code == 200
    assert b'"x": "\\ud800"' in answer.content


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"accept": "text/html"}, 406),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[bad"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
        ({"accept": "application/json, text/event-stream"}, 200),
    ],
)
async def test_headers_decide_who_is_served(peer: Peer, headers: dict[str, str], status: int) -> None:
    assert (await peer.post(INITIALIZE, **headers)).status_code == status


async def test_the_longest_unused_session_makes_room(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataplane, "MAX_SESSIONS", 2)
    plane = await serve()
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    async with httpx.AsyncClient() as http:
        first, second, third = Peer(plane, http), Peer(plane, http), Peer(plane, http)
        await first.initialize()
        await second.initialize()
        await first.post(ping)
        await third.initialize()
        assert [(await one.post(ping)).status_code for one in (first, second, third)] == [200, 404, 200]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health HTTP/1.1\r\nx: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 5_000 + b"\r\n", 431),
        (b"POST /mcp HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", 413),
        (b"POST /mcp HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST /mcp HTTP/1.1\r\ncontent-length: +1\r\n\r\n", 400),
        (b"POST /mcp HTTP/1.1\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (b"POST /mcp HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST /mcp HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /mcp HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 501),
        (b"GET /health HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nname : x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nx: a\rb\r\n\r\n", 400),
        (b"GET http://h/health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/2.0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", 200),
    ],
)
async def test_requests_off_the_wire(serve: Serve, sent: bytes, status: int) -> None:
    answer = await raw(await serve(linger_s=0.2), sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in answer


async def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    sent = b"GET /health HTTP/1.1\r\n\r\nGET /no HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\nConnection: close\r\n\r\n"
    answer = await raw(await serve(), sent)
    assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [b"200", b"404", b"200"]


async def test_expect_continue_is_answered_before_the_body(serve: Serve) -> None:
    sent = b"POST /mcp HTTP/1.1\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"
    answer = await raw(await serve(), sent)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 415 ")


@pytest.mark.parametrize("sent", [b"GET /heal", b"POST /mcp HTTP/1.1\r\ncontent-length: 10\r\n\r\n{"])
async def test_a_client_that_is_slow_to_ask_is_cut_off(serve: Serve, sent: bytes) -> None:
    answer = await raw(await serve(request_s=0.05, linger_s=0.05), sent)
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_an_idle_connection_is_closed_without_a_word(serve: Serve) -> None:
    assert await raw(await serve(idle_s=0.05), b"") == b""


async def test_one_connection_too_many_is_refused(serve: Serve) -> None:
    plane = await serve(connections=1, linger_s=0.2)
    _, first = await asyncio.open_connection("127.0.0.1", plane.listener.port)
    first.write(b"GET /hea")
    answer = await raw(plane, b"GET /health HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503 ")
    first.close()
    await first.wait_closed()


async def test_stop_does_not_wait_for_clients(serve: Serve) -> None:
    plane = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.listener.port)
    writer.write(b"GET /health HTTP/1.1\r\n\r\nGET /hea")
    await soon(reader.readuntil(b'{"status": "ok"}'))
    await soon(plane.stop())
    assert await soon(reader.read()) == b""
    writer.close()
    await writer.wait_closed()


async def test_a_taken_address_is_a_clear_error(serve: Serve) -> None:
    from mcpg import errors

    plane = await serve()
    taken = f'gateway: {{server: {{bind_address: "127.0.0.1:{plane.listener.port}"}}}}'.encode()
    with pytest.raises(errors.Failed, match=r"cannot listen on 127\.0\.0\.1") as caught:
        await DataPlane(compile_config(taken)).start()
    assert "gateway.server.bind_address" in caught.value.hint
