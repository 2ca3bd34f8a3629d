"""What every handler has: the parts of this server, and the few things that are checked for every request."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ValidationError
from sanic import Request
from sanic.compat import Header
from sanic.response import HTTPResponse

from mcpg.engine.core import Scope
from mcpg.engine.loop import Engine
from mcpg.errors import BadSlug, BadSpec, Usage
from mcpg.present import Live
from mcpg.store import tenancy
from mcpg.store.database import Database
from mcpg.wire.base import Body
from mcpg.wire.fleet import Meta

B = TypeVar("B", bound=BaseModel)

SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])")
RESERVED = frozenset(
    """
    cp app api auth www admin portal dashboard docs status cdn static assets mcp inspector healthz readyz metrics v1
    _internal well-known login logout callback enroll default localhost
    """.split()  # noqa: SIM905 - a list would take twenty lines
)
DIGITS = 18  # of a number that the database can hold; int() refuses a text of some thousands
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,200}")


@dataclass(slots=True)
class Server:
    """The parts a handler may use. `allowed_hosts` is None when every Host is accepted."""

    db: Database
    engine: Engine
    live: Live
    meta: Meta
    allowed_hosts: frozenset[str] | None
    stopping: bool = False
    catching_up: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))  # for pages of the journal


class McpgRequest(Request):
    """A real client given a base URL that ends in a slash asks for `//v1/…`: the same as `/v1/…`."""

    def __init__(self, url_bytes: bytes, headers: Header, version: str, method: str, *rest: Any, **more: Any) -> None:
        # NONE is Sanic's stand-in for what could not be read as a request. Its URL may be why: then it has none.
        super().__init__(b"*" if method == "NONE" else url_bytes, headers, version, method, *rest, **more)

    @property
    def path(self) -> str:
        path: str = super().path
        return path[1:] if path.startswith("//") else path


def server(request: Request) -> Server:
    parts: Server = request.app.ctx.server
    return parts


def actor(request: Request) -> str:
    """Who asks, as the journal names them. With auth mode none everybody on this machine is `local`."""
    return "local"


def segment(sent: str) -> str:
    """
    A segment of a path as it was meant: percent-encoding undone, once. Routes are matched before, so an encoded `/` stays
    in its place. Raises Usage for what is no text, or holds what no name can and no database stores.
    """
    try:
        meant = unquote(sent, errors="strict")
    except UnicodeDecodeError:
        meant = "\0"
    if "\0" in meant:
        cause = "percent-encoded is UTF-8 without NUL"
        raise Usage(f"{sent[:60]!r} in the path cannot be read", cause=cause, hint="the routes are in docs/api.md")
    return meant


def slug(value: str, what: str) -> str:
    """*value*, if it is a slug."""
    if not SLUG.fullmatch(value):
        raise BadSlug(
            f"{what} {value[:60]!r} is not a slug",
            cause="2 to 40 of a-z, 0-9 and -, not starting or ending with -",
            hint=f"choose another {what}",
        )
    return value


def gateway_name(value: str) -> str:
    """A name a new gateway may take: a slug that is not reserved."""
    if slug(value, "name") in RESERVED:
        raise BadSlug(f"the name {value} is reserved", cause="it would collide with a name of the platform's own")
    return value


async def scope(request: Request, org: str, ws: str, env: str) -> Scope:
    """The environment a path names. Raises BadSlug or NotFound, naming which segment and what exists."""
    found = Scope(slug(org, "org"), slug(ws, "workspace"), slug(env, "environment"))
    await tenancy.environment(server(request).db, found.org, found.workspace, found.environment)
    return found


def parse(request: Request, kind: type[B]) -> B:
    """The JSON body as *kind*; BadSpec names each field that is wrong and why."""
    try:
        return kind.model_validate_json(request.body or b"null")
    except ValidationError as exc:
        wrong = [(".".join(map(str, e["loc"])) or "body", e["msg"]) for e in exc.errors(include_url=False)]
        raise BadSpec(
            "the request body is not right: " + "; ".join(f"{where}: {why}" for where, why in wrong[:5]),
            cause=f"{len(wrong)} problem(s) in {kind.__name__}",
            fields=[{"field": where, "problem": why} for where, why in wrong],
        ) from exc


def idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        raise Usage("the Idempotency-Key is not usable", cause="1 to 200 printable ASCII characters, no spaces")
    return key


def query(request: Request, **known: frozenset[str] | None) -> dict[str, str]:
    """
    The query's parameters, those that were given. A name that is not *known*, a second value, an empty one and a value
    that is not among its words (None: any) are refused: a filter that is ignored in silence answers another question.
    """
    found: dict[str, str] = {}
    for name, values in request.get_args(keep_blank_values=True).items():
        if name not in known:
            words = f"the parameters here: {', '.join(sorted(known))}" if known else "there are none here"
            raise Usage(f"unknown query parameter {name[:60]!r}", cause=words)
        allowed = known[name]
        if len(values) != 1 or not values[0] or (allowed is not None and values[0] not in allowed):
            words = f"one of {', '.join(sorted(allowed))}" if allowed else "one value"
            raise Usage(f"query parameter {name} is not right: {', '.join(values)[:60]!r}", cause=f"it takes {words}")
        found[name] = values[0]
    return found


FLAG = frozenset({"true", "false"})  # the words of a query parameter that is yes or no


def limit(request: Request, default: int, most: int) -> int:
    """The `limit` query parameter."""
    raw = request.args.get("limit", str(default))
    if not raw.isascii() or not raw.isdigit() or len(raw) > DIGITS or not 1 <= int(raw) <= most:
        raise Usage(f"limit {raw[:20]!r} is not a number from 1 to {most}")
    return int(raw)


def last_event_id(request: Request, most: int) -> int | None:
    """The id of the last event a client has, at most *most*; None when it says nothing."""
    raw = request.headers.get("last-event-id", "").strip()
    if not raw:
        return None
    if not raw.isascii() or not raw.isdigit() or len(raw) > DIGITS:
        raise Usage(f"Last-Event-ID {raw[:20]!r} is not a number", cause="it is the id of the last event you have")
    return min(int(raw), most)


def answer(body: Body | list[Any], status: int = 200) -> HTTPResponse:
    """A wire type, or a bare array of them, as JSON."""
    bodies = [body] if isinstance(body, Body) else body
    texts = ",".join(b.model_dump_json() for b in bodies)
    return HTTPResponse(
        texts if isinstance(body, Body) else f"[{texts}]", status=status, content_type="application/json"
    )


def host_of(value: str) -> str:
    """The host of a Host header or URL, lower case, without port or brackets; "" when there is none to be had."""
    try:
        return (urlsplit(value if "://" in value else f"//{value}").hostname or "").rstrip(".")
    except ValueError:
        return ""
