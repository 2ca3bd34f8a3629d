"""Operations: the list, one with its history, and its events."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from mcpg import present
from mcpg.api.context import answer, limit, server, slug
from mcpg.api.stream import events
from mcpg.errors import Usage
from mcpg.store import reads

blueprint = Blueprint("operations", url_prefix="/v1/orgs/<org>/operations")


@blueprint.get("/")
async def index(request: Request, org: str) -> HTTPResponse:
    """Newest first. `?history=true` puts every journal line in."""
    db = server(request).db
    await reads.org(db, slug(org, "org"))
    rows = await reads.operations(db, org, limit(request, 100, 1000))
    clusters = {c["id"]: c for c in await reads.clusters(db)}
    lines = {}
    if request.args.get("history") == "true":
        lines = await reads.histories(db, [r["id"] for r in rows])
    return answer([present.operation(r, clusters, lines.get(r["id"])) for r in rows])


@blueprint.get("/<operation_id>")
async def show(request: Request, org: str, operation_id: str) -> HTTPResponse:
    db = server(request).db
    row = await reads.operation(db, slug(org, "org"), operation_id)
    clusters = {c["id"]: c for c in await reads.clusters(db)}
    return answer(present.operation(row, clusters, await reads.history(db, operation_id)))


@blueprint.get("/<operation_id>/events")
async def stream(request: Request, org: str, operation_id: str) -> None:
    row = await reads.operation(server(request).db, slug(org, "org"), operation_id)
    after = request.headers.get("last-event-id", "0").strip() or "0"
    if not after.isascii() or not after.isdigit() or len(after) > 9:
        raise Usage(f"Last-Event-ID {after[:20]!r} is not a seq", cause="it is the id of the last event you have")
    await events(request, operation_id, min(int(after), row["version"]))
