"""
The Sanic application: routes, probes, what holds for every request, and the one way an error becomes an answer.

Built by mcpg/server.py, which also runs it. With auth mode none the Host header must be one of this machine's, and an
unsafe request must not come from a foreign page: otherwise any web page a user opens could talk to this server.
"""

from __future__ import annotations

import logging
import secrets
from email.utils import formatdate
from types import SimpleNamespace

from sanic import HTTPResponse, Request, Sanic
from sanic.config import Config
from sanic.exceptions import SanicException
from sanic.response import BaseHTTPResponse

from mcpg import __version__
from mcpg.api import audit, clusters, gateways, instances, machines, operations, replicas, tenancy, tokens
from mcpg.api.context import McpgRequest, Server, answer, host_of, query, segment, server
from mcpg.errors import Forbidden, McpgError, NotFound, Usage
from mcpg.store import reads, writes
from mcpg.wire.fleet import Ready
from mcpg.wire.problem import problem

log = logging.getLogger("mcpg.api")

UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
QUERIED = frozenset(  # the routes whose handlers read a query; no other takes one
    """
    v1/clusters v1/admin/clusters/<ref:str> v1/instances v1/operations v1/orgs/<org:str>/operations
    v1/audit/verify v1/machines/upgrade-check
    """.split()  # noqa: SIM905 - they are read more easily so
)
MAX_BODY = 8 * 1024 * 1024

App = Sanic[Config, SimpleNamespace]


class MisdirectedRequest(Usage):
    """The Host header names a machine that we are not."""

    status = 421


def build(parts: Server) -> App:
    Sanic._app_registry.clear()  # several servers in one test process; the registry would refuse the second
    app: App = Sanic("mcpg-control-plane", request_class=McpgRequest, configure_logging=False)
    app.ctx.server = parts
    app.config.REQUEST_MAX_SIZE = MAX_BODY
    app.config.RESPONSE_TIMEOUT = 3600  # a ladder takes as long as it takes
    app.config.KEEP_ALIVE_TIMEOUT = 75
    app.config.FALLBACK_ERROR_FORMAT = "json"
    app.config.ACCESS_LOG = False
    app.config.MOTD = False
    app.config.TOUCHUP = False  # it rewrites methods by exec, once a process: a second server here would not start
    for part in (tenancy, gateways, tokens, instances, operations, clusters, machines, audit, replicas):
        app.blueprint(part.blueprint.copy(part.blueprint.name))
    app.add_route(healthz, "/healthz")
    app.add_route(readyz, "/readyz")
    app.add_route(meta, "/v1/meta")
    app.register_middleware(guard, "request")
    app.register_middleware(finish, "response")
    app.exception(Exception)(on_error)
    return app


async def healthz(request: Request) -> HTTPResponse:
    """The process answers."""
    return HTTPResponse("ok\n", content_type="text/plain")


async def readyz(request: Request) -> HTTPResponse:
    """The database answers, can be written to as far as is known, and we are not stopping."""
    parts = server(request)
    checks: dict[str, object] = {"stopping": parts.stopping}
    try:
        await reads.ping(parts.db)
        checks["database"] = (
            "ok" if parts.db.is_in_place() else "its file was deleted or replaced: restart on what is there"
        )
        checks["writes"] = await writes.still_failing(parts.db) or "ok"
    except McpgError as exc:
        checks["database"] = ": ".join(filter(None, (exc.what, exc.cause)))
    except Exception as exc:  # noqa: BLE001 - whatever it is, the answer is that it is not ready, and why
        checks["database"] = f"{type(exc).__name__}: {exc}"
    checks.setdefault("writes", parts.db.writer.trouble or "ok")  # no write is tried where none can go through
    if not parts.engine.leases.is_sure:
        checks["leases"] = "no heartbeat went through for too long: nothing is driven here"
    ready = checks["database"] == checks["writes"] == checks.get("leases", "ok") == "ok" and not parts.stopping
    return answer(Ready(ready=ready, checks=checks), status=200 if ready else 503)


async def meta(request: Request) -> HTTPResponse:
    parts = server(request)
    return answer(parts.meta.model_copy(update={"agents_connected": parts.live.connected()}))


def guard(request: Request) -> HTTPResponse | None:
    request.ctx.id = f"req-{secrets.token_hex(6)}"
    if request.method == "NONE":  # what could not be read as a request at all: on_error says so
        return None
    if request.route is not None and request.path.startswith("/v1/") and request.route.path not in QUERIED:
        query(request)
    request.match_info = {name: segment(value) for name, value in request.match_info.items()}
    allowed = server(request).allowed_hosts
    if allowed is None:
        return None
    if host_of(request.headers.get("host", "")) not in allowed:
        raise MisdirectedRequest(
            f"this control plane is not {request.headers.get('host', '')[:80]!r}",
            cause="with auth mode none it answers only to its own names, so that no web page can reach it by another",
            hint=f"use one of: {', '.join(sorted(allowed))}",
        )
    origin = request.headers.get("origin")
    if request.method in UNSAFE and origin is not None and not _is_ours(origin, request.headers.get("host", "")):
        raise Forbidden("this request comes from another site's page", cause=f"its Origin is {origin[:80]!r}")
    return None


def _is_ours(origin: str, host: str) -> bool:
    """Whether a page's origin is the very host and port it asks: another port of this machine is another site."""
    return origin.partition("://")[2].lower() == host.lower()


def finish(request: Request, response: BaseHTTPResponse) -> None:
    response.headers.setdefault("mcpg-version", __version__)
    response.headers.setdefault("x-request-id", getattr(request.ctx, "id", ""))
    response.headers.setdefault("x-content-type-options", "nosniff")
    response.headers.setdefault("date", formatdate(usegmt=True))  # Sanic sends none, and clients compare clocks by it


def on_error(request: Request, exc: Exception) -> HTTPResponse:
    """Every refusal as a problem body. What nobody foresaw is logged whole and told by its request id only."""
    request_id = getattr(request.ctx, "id", "")
    status: int | None = None
    if isinstance(exc, McpgError):
        told = exc
        status = getattr(exc, "status", None)
    elif isinstance(exc, SanicException):
        status = exc.status_code
        words = str(exc) or "the request could not be read"
        hint = "the routes are in docs/api.md"
        told = NotFound(words, hint=hint, route=request.path[:200]) if status == 404 else Usage(words, hint=hint)
    else:
        log.error("%s %s failed (%s)", request.method, request.path, request_id, exc_info=exc)
        told = McpgError("something went wrong here", cause=f"see the server's log for {request_id}")
    body = problem(told, request_id=request_id, status=status)
    if request.method == "HEAD":
        return HTTPResponse(b"", status=body.status, content_type="application/problem+json")
    return HTTPResponse(body.model_dump_json(), status=body.status, content_type="application/problem+json")
