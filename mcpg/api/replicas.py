"""The control planes on this database, and what none of them looks after."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from mcpg import present
from mcpg.api.context import answer, server
from mcpg.engine.stranded import stranded
from mcpg.store import reads, verify

blueprint = Blueprint("replicas", url_prefix="/v1")


@blueprint.get("/replicas")
async def index(request: Request) -> HTTPResponse:
    """Every one that was on this database within a week, by when it started; who answers is one of them."""
    engine = server(request).engine
    rows, driven = await reads.replicas(engine.db), await verify.driven_by(engine.db)
    here, now, ahead_s = engine.epoch, engine.clock(), engine.leases.ahead_s
    return answer([present.replica(row, driven, here=here, now=now, ahead_s=ahead_s) for row in rows])


@blueprint.get("/stranded")
async def adrift(request: Request) -> HTTPResponse:
    """The longest first; [] when all is looked after."""
    return answer([present.stranded(each) for each in await stranded(server(request).engine)])
