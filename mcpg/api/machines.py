"""The declared machines: what the engine runs, as data and as a diagram."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from mcpg import present
from mcpg.api.context import answer, query, server
from mcpg.errors import NotFound
from mcpg.machines import TABLES

blueprint = Blueprint("machines", url_prefix="/v1/machines")


@blueprint.get("/")
async def index(request: Request) -> HTTPResponse:
    query(request)
    return answer(await present.machines(server(request).db))


@blueprint.get("/<name>")
async def show(request: Request, name: str) -> HTTPResponse:
    query(request)
    if name not in TABLES:
        raise NotFound(f"no machine {name[:60]}", cause=f"machines: {', '.join(TABLES)}", hint="mcpg-ctl machine list")
    return answer(await present.machine(server(request).db, TABLES[name]))
