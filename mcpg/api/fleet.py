"""Orgs, workspaces, environments, instances, enrolment tokens and clusters."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from mcpg import present
from mcpg.api.context import actor, answer, parse, scope, server, slug
from mcpg.errors import NotFound
from mcpg.store import reads
from mcpg.wire.base import Body
from mcpg.wire.fleet import Token, TokenRequest
from mcpg.wire.operations import Transition

blueprint = Blueprint("fleet", url_prefix="/v1")


@blueprint.get("/orgs")
async def orgs(request: Request) -> HTTPResponse:
    return answer([present.org(o) for o in await reads.orgs(server(request).db)])


@blueprint.get("/orgs/<org>")
async def org(request: Request, org: str) -> HTTPResponse:
    return answer(present.org(await reads.org(server(request).db, slug(org, "org"))))


@blueprint.get("/orgs/<org>/workspaces")
async def workspaces(request: Request, org: str) -> HTTPResponse:
    db = server(request).db
    found = await reads.org(db, slug(org, "org"))
    return answer([present.workspace(w) for w in await reads.workspaces(db, found["id"])])


@blueprint.get("/orgs/<org>/workspaces/<ws>/environments")
async def environments(request: Request, org: str, ws: str) -> HTTPResponse:
    db = server(request).db
    found = await reads.workspace(db, slug(org, "org"), slug(ws, "workspace"))
    return answer([present.environment(e) for e in await reads.environments(db, found["id"])])


@blueprint.get("/orgs/<org>/instances")
async def instances(request: Request, org: str) -> HTTPResponse:
    parts = server(request)
    await reads.org(parts.db, slug(org, "org"))
    return answer(await present.instances(parts.db, parts.live, org))


@blueprint.get("/orgs/<org>/instances/<uid>")
async def instance(request: Request, org: str, uid: str) -> HTTPResponse:
    parts = server(request)
    row = await reads.find_instance_by_uid(parts.db, uid)
    if row is None or row["org"] != slug(org, "org") or row["deleted_at"] is not None:
        raise NotFound(f"no instance {uid[:80]} in org {org}")
    return answer(present.instance(row, await reads.agents(parts.db, row["id"]), parts.live))


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


@blueprint.post("/orgs/<org>/workspaces/<ws>/environments/<env>/enrollment-tokens")
async def mint(request: Request, org: str, ws: str, env: str) -> HTTPResponse:
    where = await scope(request, org, ws, env)
    body = parse(request, TokenRequest) if request.body else TokenRequest()
    one_shot = body.one_shot and body.max_uses == 1
    row, url = await server(request).engine.agents.mint(
        where, ttl_s=body.ttl_ms, max_uses=body.max_uses, one_shot=one_shot, expected_uid=body.expected_instance_uid,
        issuer=actor(request),
    )  # fmt: skip
    expires = present.when(row["expires_at"])
    assert expires is not None  # noqa: S101 - a minted token always has one
    return answer(
        Token(
            id=row["id"], enrollment_url=url, token=url.partition("#token=")[2], expires_at=expires,
            one_shot=one_shot, max_uses=row["max_uses"],
        ),
        status=201,
    )  # fmt: skip


@blueprint.get("/clusters")
async def clusters(request: Request) -> HTTPResponse:
    return answer([present.cluster(c) for c in await reads.clusters(server(request).db)])
