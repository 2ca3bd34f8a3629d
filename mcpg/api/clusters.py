"""Clusters: the list, the health of the fleet, one with its history; and the admin routes that change them."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from mcpg import present
from mcpg.api.context import FLAG, actor, answer, parse, query, server
from mcpg.engine import clusters
from mcpg.engine.clusters import Registration
from mcpg.machines.cluster import Event, State
from mcpg.store import fleet, reads
from mcpg.wire.clusters import ClusterRequest, MoveRequest

blueprint = Blueprint("clusters", url_prefix="/v1")


@blueprint.get("/clusters")
async def index(request: Request) -> HTTPResponse:
    """By name; those that were decommissioned with `?all=true` only."""
    parts = server(request)
    everything = query(request, all=FLAG).get("all") == "true"
    return answer(await present.clusters(parts.db, parts.live, everything=everything))


@blueprint.get("/clusters/health")
async def health(request: Request) -> HTTPResponse:
    parts = server(request)
    query(request)
    return answer(await present.health(parts.db, parts.live))


@blueprint.get("/clusters/<ref>")
async def show(request: Request, ref: str) -> HTTPResponse:
    parts = server(request)
    query(request)
    row = await clusters.find(parts.engine, ref)
    return answer(present.cluster(row, parts.live, lines=await reads.history(parts.db, row["id"])))


@blueprint.post("/admin/clusters")
async def register(request: Request) -> HTTPResponse:
    body = parse(request, ClusterRequest)
    cluster_id = await clusters.register(
        server(request).engine, Registration(**body.model_dump()), actor=actor(request)
    )
    return await _now(request, cluster_id, status=201)


@blueprint.post("/admin/clusters/<ref>/drain")
async def drain(request: Request, ref: str) -> HTTPResponse:
    """Nothing new is placed there; what runs goes on."""
    return await _move(request, ref, Event.DRAIN)


@blueprint.post("/admin/clusters/<ref>/undrain")
async def undrain(request: Request, ref: str) -> HTTPResponse:
    return await _move(request, ref, Event.UNDRAIN)


@blueprint.delete("/admin/clusters/<ref>")
async def decommission(request: Request, ref: str) -> HTTPResponse:
    """An empty cluster goes; one with gateways only with `?force=true`, which makes orphans of them."""
    parts = server(request)
    asked = query(request, force=FLAG, dry_run=FLAG)
    force = asked.get("force") == "true"
    row = await clusters.find(parts.engine, ref)
    if asked.get("dry_run") == "true":
        orphaned = await clusters.would_decommission(parts.engine, row, force=force)
        after = row | dict.fromkeys((k for k in row if k.endswith("_used") or k.startswith("reserved_")), 0)
        after |= {"state": State.DECOMMISSIONED.value, "gateways": 0}
        return answer(present.cluster(after, parts.live, orphaned=orphaned))
    orphaned = await clusters.decommission(parts.engine, row, force=force, actor=actor(request))
    return await _now(request, row["id"], orphaned=orphaned)


async def _move(request: Request, ref: str, event: Event) -> HTTPResponse:
    body = parse(request, MoveRequest) if request.body else MoveRequest()
    engine = server(request).engine
    row = await clusters.find(engine, ref)
    await clusters.move(engine, row, event, actor=actor(request), reason=body.reason)
    return await _now(request, row["id"])


async def _now(
    request: Request, cluster_id: str, *, status: int = 200, orphaned: list[clusters.Row] | None = None
) -> HTTPResponse:
    """The cluster as it is after what was asked."""
    parts = server(request)
    row = await fleet.find_cluster(parts.db, cluster_id)
    assert row is not None  # noqa: S101 - clusters are never deleted
    return answer(present.cluster(row, parts.live, orphaned=orphaned), status=status)
