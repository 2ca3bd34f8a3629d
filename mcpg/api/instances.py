"""Instances: of one org, of all, one with the moves of its agents; and what becomes of orphans."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from mcpg import present
from mcpg.api.context import FLAG, actor, answer, idempotency_key, parse, query, server, slug
from mcpg.api.stream import ladder
from mcpg.engine import instances as gateways
from mcpg.engine import stranded
from mcpg.engine.orphans import adopt, reap
from mcpg.engine.ports import Locates
from mcpg.errors import NotFound
from mcpg.store import reads, tenancy
from mcpg.wire.base import Body
from mcpg.wire.clusters import AdoptRequest
from mcpg.wire.operations import Transition

blueprint = Blueprint("instances", url_prefix="/v1")


@blueprint.get("/instances")
async def everywhere(request: Request) -> HTTPResponse:
    """Of every org, newest first."""
    parts = server(request)
    asked = query(request, org=None, orphaned=FLAG)
    if org := asked.get("org"):
        await tenancy.org(parts.db, slug(org, "org"))
    orphaned = asked.get("orphaned") == "true"
    left = await stranded.gateways(parts.engine)
    return answer(await present.instances(parts.db, parts.live, org, orphaned=orphaned, left=left))


@blueprint.get("/instances/<ref>")
async def anywhere(request: Request, ref: str) -> HTTPResponse:
    """By uid, name, or the beginning of a uid."""
    parts = server(request)
    row = await gateways.find(parts.engine, ref)
    agents, left = await reads.agents(parts.db, row["id"]), await stranded.gateways(parts.engine)
    where = parts.engine.provisioner
    if row["managed"] and isinstance(where, Locates):
        return answer(present.instance(row, agents, parts.live, where.process, left=left))
    return answer(present.instance(row, agents, parts.live, left=left))


@blueprint.get("/orgs/<org>/instances")
async def instances(request: Request, org: str) -> HTTPResponse:
    parts = server(request)
    await tenancy.org(parts.db, slug(org, "org"))
    left = await stranded.gateways(parts.engine)
    return answer(await present.instances(parts.db, parts.live, org, left=left))


@blueprint.get("/orgs/<org>/instances/<uid>")
async def instance(request: Request, org: str, uid: str) -> HTTPResponse:
    parts = server(request)
    row = await reads.find_instance_by_uid(parts.db, uid)
    if row is None or row["org"] != slug(org, "org") or row["deleted_at"] is not None:
        raise NotFound(f"no instance {uid[:80]} in org {org}")
    left = await stranded.gateways(parts.engine)
    return answer(present.instance(row, await reads.agents(parts.db, row["id"]), parts.live, left=left))


class AgentHistory(Body):
    """One agent of an instance and every move it made."""

    agent: str
    replica: int
    history: list[Transition]


@blueprint.get("/orgs/<org>/instances/<uid>/history")
async def instance_history(request: Request, org: str, uid: str) -> HTTPResponse:
    """Also for instances that are gone: their journal stays."""
    db = server(request).db
    row = await reads.find_instance_by_uid(db, uid)
    if row is None or row["org"] != slug(org, "org"):
        raise NotFound(f"no instance {uid[:80]} in org {org}")
    agents = await reads.agents(db, row["id"])
    lines = await reads.histories(db, [a["id"] for a in agents])
    return answer(
        [AgentHistory(agent=a["id"], replica=a["replica"], history=present.transitions(lines[a["id"]])) for a in agents]
    )


@blueprint.post("/orgs/<org>/instances/<uid>/adopt")
async def take_back(request: Request, org: str, uid: str) -> None:
    """An orphan gets room again, in the cluster that is named or one that the allocator chooses."""
    body = parse(request, AdoptRequest) if request.body else AdoptRequest()
    parts = server(request)
    op = await adopt(
        parts.engine, slug(org, "org"), uid, body.cluster, actor=actor(request), key=idempotency_key(request)
    )
    await ladder(request, op.id)


@blueprint.post("/orgs/<org>/instances/<uid>/reap")
async def take_down(request: Request, org: str, uid: str) -> None:
    """An orphan is torn down."""
    op = await reap(server(request).engine, slug(org, "org"), uid, actor=actor(request), key=idempotency_key(request))
    await ladder(request, op.id)
