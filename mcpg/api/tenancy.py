"""Orgs, workspaces and environments."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from mcpg import present
from mcpg.api.context import answer, server, slug
from mcpg.store import tenancy

blueprint = Blueprint("tenancy", url_prefix="/v1")


@blueprint.get("/orgs")
async def orgs(request: Request) -> HTTPResponse:
    return answer([present.org(o) for o in await tenancy.orgs(server(request).db)])


@blueprint.get("/orgs/<org>")
async def org(request: Request, org: str) -> HTTPResponse:
    return answer(present.org(await tenancy.org(server(request).db, slug(org, "org"))))


@blueprint.get("/orgs/<org>/workspaces")
async def workspaces(request: Request, org: str) -> HTTPResponse:
    db = server(request).db
    found = await tenancy.org(db, slug(org, "org"))
    return answer([present.workspace(w) for w in await tenancy.workspaces(db, found["id"])])


@blueprint.get("/orgs/<org>/workspaces/<ws>/environments")
async def environments(request: Request, org: str, ws: str) -> HTTPResponse:
    db = server(request).db
    found = await tenancy.workspace(db, slug(org, "org"), slug(ws, "workspace"))
    return answer([present.environment(e) for e in await tenancy.environments(db, found["id"])])
