"""
The data plane of our own gateway: an MCP endpoint (Streamable HTTP, answers as JSON) and a health path.

It serves the tools of one compiled config. `apply` swaps the whole config in one assignment, so a call sees the old one
or the new one and never a mixture, and open MCP sessions live on. Built and fed by mcpg/agent/plane.py; what a config
may say is in mcpg/agent/dataplane_config.py.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from mcpg import __version__
from mcpg.agent.dataplane_config import Config, Listener, Tool
from mcpg.agent.dataplane_http import HttpServer, Limits, Request, Response
from mcpg.agent.expression import NoSuchMember

# The revisions without batches; both are spoken by initialize. Newest last.
PROTOCOL_VERSIONS: Final = ("2025-06-18", "2025-11-25")
MAX_SESSIONS: Final = 10_000
RETRY_AFTER_S: Final = 5  # a restart takes less
SESSION_HEADER: Final = "mcp-session-id"
VERSION_HEADER: Final = "mcp-protocol-version"

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
UNSUPPORTED_VERSION: Final = -32022

Method = Callable[[dict[str, Any]], dict[str, Any]]


class RpcError(Exception):
    """What a method answers instead of a result: JSON-RPC code, words, and data where the protocol wants some."""

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.body = {"code": code, "message": message, **({"data": data} if data else {})}


class DataPlane:
    """One listener and the config it serves."""

    def __init__(self, config: Config, limits: Limits | None = None) -> None:
        self._config = config
        self._listener = config.listener
        self._http = HttpServer(self._respond, limits)
        self._draining = False
        # Session ids, longest unused first; a dict because it keeps the order.
        self._sessions: dict[str, None] = {}
        self._methods: dict[str, Method] = {
            "ping": lambda _params: {},
            "tools/list": self._list_tools,
            "tools/call": self._call_tool,
        }

    @property
    def config(self) -> Config:
        """What is served now."""
        return self._config

    @property
    def listener(self) -> Listener:
        """Where, with the real port once started."""
        return self._listener

    @property
    def active_connections(self) -> int:
        return self._http.active_connections

    async def start(self) -> None:
        """Starts to listen. Raises errors.Failed where the address cannot be bound."""
        wanted = self._listener
        port = await self._http.start(wanted.host, wanted.port)
        self._listener = Listener(wanted.host, port, wanted.mcp_path, wanted.health_path)

    async def drain(self) -> None:
        """From now on nobody begins a session (503, Retry-After); returns when nothing is being answered."""
        self._draining = True
        await self._http.quiet()

    async def stop(self) -> None:
        await self._http.stop()

    def apply(self, config: Config) -> None:
        """Serves *config* from the next call on. The listener stays what it was."""
        self._config = config

    def _respond(self, request: Request) -> Response:
        if request.path == self._listener.health_path:
            return _json({"status": "ok"}) if request.method == "GET" else _not_allowed("GET")
        if request.path != self._listener.mcp_path:
            return _text(404, "not found")
        if not _from_here(request.headers.get("origin")):
            # Without authentication, any web page in a browser on this machine could call the tools otherwise.
            return _text(403, "this gateway does not serve web pages of other origins")
        match request.method:
            case "POST":
                return self._post(request)
            case "DELETE":
                return self._delete(request)
            case _:
                # GET would open a stream for messages of the server's own; it has none.
                return _not_allowed("POST, DELETE")

    def _delete(self, request: Request) -> Response:
        session = request.headers.get(SESSION_HEADER)
        if session is None:
            return _text(400, f"no {SESSION_HEADER} header")
        if session not in self._sessions:
            return _text(404, "no such session")
        del self._sessions[session]
        return Response(204)

    def _post(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _text(415, "send application/json")
        accepted = request.headers.get("accept", "*/*").lower()
        if not any(kind in accepted for kind in ("application/json", "application/*", "*/*")):
            return _text(406, "answers are application/json")
        try:
            message = json.loads(request.body, parse_constant=_no_constant, parse_float=_finite)
        except (ValueError, RecursionError):
            return _failure(400, None, RpcError(PARSE_ERROR, "the body is not JSON"))
        return self._message(message, request.headers)

    def _message(self, message: Any, headers: Mapping[str, str]) -> Response:
        if not isinstance(message, dict):
            why = "batches are not supported" if isinstance(message, list) else "a message is a JSON object"
            return _failure(400, None, RpcError(INVALID_REQUEST, why))
        identity = message.get("id")
        is_request = "id" in message and "method" in message
        if is_request and (isinstance(identity, bool) or not isinstance(identity, str | int)):
            return _failure(400, None, RpcError(INVALID_REQUEST, "id must be text or a whole number"))
        if message.get("jsonrpc") != "2.0" or not isinstance(message.get("method", ""), str):
            return _failure(400, identity if is_request else None, RpcError(INVALID_REQUEST, "not JSON-RPC 2.0"))
        if not is_request and not ("method" in message or "result" in message or "error" in message):
            return _failure(400, None, RpcError(INVALID_REQUEST, "neither a request, a notification nor a response"))
        if is_request and message["method"] == "initialize":
            if self._draining:
                return _text(503, "this gateway is stopping", {"retry-after": str(RETRY_AFTER_S)})
            return self._initialize(identity, message.get("params"))
        if refusal := self._refuse_stranger(headers, identity if is_request else None):
            return refusal
        if not is_request:
            return Response(202)
        return self._call(identity, message["method"], message.get("params"))

    def _refuse_stranger(self, headers: Mapping[str, str], identity: str | int | None) -> Response | None:
        """The answer for a message outside every session, or None."""
        version = headers.get(VERSION_HEADER)
        if version is not None and version not in PROTOCOL_VERSIONS:
            data = {"supported": list(PROTOCOL_VERSIONS), "requested": version[:40]}
            return _failure(400, identity, RpcError(UNSUPPORTED_VERSION, "unsupported protocol version", data))
        session = headers.get(SESSION_HEADER)
        if session is None:
            return _failure(400, identity, RpcError(INVALID_REQUEST, f"no {SESSION_HEADER} header: initialize first"))
        if session not in self._sessions:
            return _failure(404, identity, RpcError(INVALID_REQUEST, "no such session: initialize again"))
        self._sessions[session] = self._sessions.pop(session)
        return None

    def _initialize(self, identity: str | int | None, params: Any) -> Response:
        if not isinstance(params, dict):
            return _failure(200, identity, RpcError(INVALID_PARAMS, "params must be an object"))
        asked = params.get("protocolVersion")
        session = secrets.token_hex(16)
        while len(self._sessions) >= MAX_SESSIONS:
            # Clients often leave without DELETE. The longest unused makes room; if it still lives, its 404 says so.
            del self._sessions[next(iter(self._sessions))]
        self._sessions[session] = None
        result = {
            "protocolVersion": asked if asked in PROTOCOL_VERSIONS else PROTOCOL_VERSIONS[-1],
            # No listChanged: there is no stream on which to say it, clients see a new list when they ask.
            "capabilities": {"tools": {"listChanged": False}},
            "serverInfo": {"name": "mcpg-ctl gateway", "version": __version__},
        }
        return _json({"jsonrpc": "2.0", "id": identity, "result": result}, {SESSION_HEADER: session})

    def _call(self, identity: str | int | None, name: str, params: Any) -> Response:
        method = self._methods.get(name)
        if method is None:
            return _failure(200, identity, RpcError(METHOD_NOT_FOUND, f"no method {name[:80]!r}"))
        if params is not None and not isinstance(params, dict):
            return _failure(200, identity, RpcError(INVALID_PARAMS, "params must be an object"))
        try:
            return _json({"jsonrpc": "2.0", "id": identity, "result": method(params or {})})
        except RpcError as error:
            return _failure(200, identity, error)
        except RecursionError:
            return _failure(200, identity, RpcError(INTERNAL_ERROR, "nested too deeply"))

    def _list_tools(self, params: dict[str, Any]) -> dict[str, Any]:
        if params.get("cursor") is not None:
            raise RpcError(INVALID_PARAMS, "no such cursor: the list has one page")
        return {"tools": [_listed(tool) for tool in self._config.tools.values()]}

    def _call_tool(self, params: dict[str, Any]) -> dict[str, Any]:
        name, arguments = params.get("name"), params.get("arguments")
        tool = self._config.tools.get(name) if isinstance(name, str) else None
        if tool is None:
            raise RpcError(INVALID_PARAMS, f"no tool {str(name)[:80]!r}")
        if arguments is not None and not isinstance(arguments, dict):
            raise RpcError(INVALID_PARAMS, "arguments must be an object")
        try:
            value = tool.evaluate(arguments or {})
        except NoSuchMember as error:
            return {"content": [{"type": "text", "text": str(error)}], "isError": True}
        result: dict[str, Any] = {"content": [{"type": "text", "text": json.dumps(value)}], "isError": False}
        if isinstance(value, dict):
            result["structuredContent"] = value
        return result


def _listed(tool: Tool) -> dict[str, Any]:
    listed = {"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema}
    return {**listed, "title": tool.title} if tool.title else listed


def _from_here(origin: str | None) -> bool:
    """Whether a request comes from no web page, or from one of this machine (DNS rebinding cannot forge Origin)."""
    if origin is None:
        return True
    try:
        return urlsplit(origin).hostname in {"localhost", "127.0.0.1", "::1"}
    except ValueError:
        return False


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _json(value: Any, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    return Response(status, json.dumps(value).encode(), {"content-type": "application/json", **(headers or {})})


def _failure(status: int, identity: str | int | None, error: RpcError) -> Response:
    return _json({"jsonrpc": "2.0", "id": identity, "error": error.body}, status=status)


def _text(status: int, words: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, words.encode() + b"\n", {"content-type": "text/plain", **(headers or {})})


def _not_allowed(allow: str) -> Response:
    return _text(405, f"only {allow}", {"allow": allow})
