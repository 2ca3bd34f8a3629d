"""The declared machines: what the engine runs, as data and as a diagram."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sanic import Blueprint, HTTPResponse, Request

from mcpg import present
from mcpg.api.context import answer, limit, parse, query, server
from mcpg.engine.audit import judge_all
from mcpg.errors import BadSpec, NotFound, Usage
from mcpg.machines import TABLES
from mcpg.machines.replay import rules_of
from mcpg.store import verify
from mcpg.store.database import Database
from mcpg.wire.machines import UpgradeCheck, UpgradePage

blueprint = Blueprint("machines", url_prefix="/v1/machines")
MOST = 1024 * 1024  # bytes of a definition; ours have some 4,000


@blueprint.get("/")
async def index(request: Request) -> HTTPResponse:
    query(request)
    return answer(await present.machines(server(request).db))


@blueprint.get("/definitions")
async def definitions(request: Request) -> HTTPResponse:
    """Every definition that ever wrote a line here, without its text."""
    query(request)
    rows = await verify.stored_definitions(server(request).db)
    return answer([present.definition(row).model_copy(update={"body": ""}) for row in rows])


@blueprint.get("/definitions/<ref>")
async def one_definition(request: Request, ref: str) -> HTTPResponse:
    """By a machine's name (what runs now), `name@hash`, or a hash; of both, six characters of the hash or more will do."""
    query(request)
    return answer(present.definition(await _definition(server(request).db, ref)))


async def _definition(db: Database, ref: str) -> dict[str, Any]:
    rows = await verify.stored_definitions(db)
    if ref in TABLES:
        return next(row for row in rows if row["hash"] == TABLES[ref].definition_hash)
    name, _, digest = ref.rpartition("@")
    found = [r for r in rows if len(digest) >= 6 and r["hash"].startswith(digest) and name in ("", r["machine"])]
    if not found:
        known = ", ".join(f"{r['machine']}@{r['hash'][:12]}" for r in rows[:20])
        raise NotFound(f"no definition {ref[:80]}", cause=f"definitions here: {known}", hint="mcpg-ctl machine list")
    if len(found) > 1:
        words = ", ".join(f"{r['machine']}@{r['hash'][:12]}" for r in found)
        raise Usage(f"{ref[:80]} may be any of {len(found)} definitions", cause=words, hint="give more of the hash")
    return found[0]


@blueprint.post("/upgrade-check")
async def upgrade_check(request: Request) -> HTTPResponse:
    """What another definition would make of the histories here, some at a time."""
    parts = server(request)
    asked = query(request, after=None, limit=None)
    if len(request.body or b"") > MOST:
        raise BadSpec("the definition is too large", cause=f"a definition is at most {MOST // 1024} KiB")
    new = rules_of(parse(request, UpgradeCheck).definition)
    if new.name not in TABLES:
        raise NotFound(
            f"no machine {new.name[:60]}", cause=f"machines: {', '.join(TABLES)}", hint="mcpg-ctl machine list"
        )
    found = await judge_all(parts.db, new, asked.get("after", ""), limit(request, 100, 1000))
    return answer(UpgradePage(machine=new.name, before=TABLES[new.name].label, after=new.label, **asdict(found)))


@blueprint.get("/<name>")
async def show(request: Request, name: str) -> HTTPResponse:
    query(request)
    if name not in TABLES:
        raise NotFound(f"no machine {name[:60]}", cause=f"machines: {', '.join(TABLES)}", hint="mcpg-ctl machine list")
    return answer(await present.machine(server(request).db, TABLES[name]))
