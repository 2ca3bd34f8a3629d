"""
Operations: of one org, of all; one with its history; its events, its export, why it is where it is; the events of all; and
what an operator does to one.
"""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from mcpg import present
from mcpg.api.context import FLAG, actor, answer, last_event_id, limit, parse, query, server, slug
from mcpg.api.stream import events, everything
from mcpg.engine import steer
from mcpg.engine.explain import explain
from mcpg.errors import Refused
from mcpg.store import fleet, reads, tenancy
from mcpg.store.parsed import readable
from mcpg.wire.operations import CancelPlan, SteerRequest, Undo

blueprint = Blueprint("operations", url_prefix="/v1")
KINDS = frozenset({"create", "update", "delete", "adopt", "recover"})


@blueprint.get("/orgs/<org>/operations")
async def of_org(request: Request, org: str) -> HTTPResponse:
    """Newest first. `?history=true` puts every journal line in."""
    db = server(request).db
    asked = query(request, limit=None, history=FLAG)
    await tenancy.org(db, slug(org, "org"))
    rows = await reads.operations(db, org, limit(request, 100, 1000))
    return await _list(request, rows, histories=asked.get("history") == "true")


@blueprint.get("/orgs/<org>/operations/<operation_id>")
async def one_of_org(request: Request, org: str, operation_id: str) -> HTTPResponse:
    row = await reads.operation(server(request).db, slug(org, "org"), operation_id, readable)
    return await _show(request, row)


@blueprint.get("/orgs/<org>/operations/<operation_id>/events")
async def events_of_org(request: Request, org: str, operation_id: str) -> None:
    row = await reads.operation(server(request).db, slug(org, "org"), operation_id)
    await events(request, row["id"], last_event_id(request, row["version"]) or 0)


@blueprint.get("/operations")
async def index(request: Request) -> HTTPResponse:
    """Of every org, newest first."""
    db = server(request).db
    asked = query(request, org=None, kind=KINDS, name=None, running=FLAG, limit=None, history=FLAG)
    if org := asked.get("org"):
        await tenancy.org(db, slug(org, "org"))
    rows = await reads.fleet_operations(
        db, org=org, kind=asked.get("kind"), name=asked.get("name"), running=asked.get("running") == "true",
        limit=limit(request, 100, 1000),
    )  # fmt: skip
    return await _list(request, rows, histories=asked.get("history") == "true")


@blueprint.get("/operations/<ref>")
async def show(request: Request, ref: str) -> HTTPResponse:
    return await _show(request, await reads.operation_by_ref(server(request).db, ref, readable))


@blueprint.get("/operations/<ref>/events")
async def stream(request: Request, ref: str) -> None:
    row = await reads.operation_by_ref(server(request).db, ref)
    await events(request, row["id"], last_event_id(request, row["version"]) or 0)


@blueprint.get("/operations/<ref>/export")
async def export(request: Request, ref: str) -> HTTPResponse:
    """One canonical JSON document: of a finished operation always the same bytes."""
    db = server(request).db
    row = await reads.operation_by_ref(db, ref)
    lines = [line for line in await reads.history(db, row["id"]) if line.seq <= row["version"]]
    definitions: dict[str, str] = {}
    for digest in dict.fromkeys(line.definition for line in lines):
        text = await reads.find_definition(db, digest)
        if text is None:
            cause = f"the definition {digest[:12]} that made one of its lines is not in the database"
            raise Refused(f"{row['id']} cannot be exported", cause=cause, hint="mcpg-ctl audit verify")
        definitions[digest] = text
    configs = await reads.config_versions(db, row["instance_id"])
    text = present.export(row, await fleet.cluster_names(db), lines, definitions, configs)
    return HTTPResponse(text, content_type="application/json")


@blueprint.post("/operations/<ref>/<verb:resume|retry|cancel>")
async def do(request: Request, ref: str, verb: str) -> HTTPResponse:
    return await _steer(request, await reads.operation_by_ref(server(request).db, ref), verb)


@blueprint.post("/orgs/<org>/operations/<operation_id>/<verb:resume|retry|cancel>")
async def do_of_org(request: Request, org: str, operation_id: str, verb: str) -> HTTPResponse:
    return await _steer(request, await reads.operation(server(request).db, slug(org, "org"), operation_id), verb)


@blueprint.get("/operations/<ref>/cancel-plan")
async def cancel_plan(request: Request, ref: str) -> HTTPResponse:
    """What a cancel would do, or the refusal it would give. Writes nothing."""
    return await _plan(request, await reads.operation_by_ref(server(request).db, ref))


@blueprint.get("/orgs/<org>/operations/<operation_id>/cancel-plan")
async def cancel_plan_of_org(request: Request, org: str, operation_id: str) -> HTTPResponse:
    return await _plan(request, await reads.operation(server(request).db, slug(org, "org"), operation_id))


@blueprint.get("/operations/<ref>/explain")
async def explained(request: Request, ref: str) -> HTTPResponse:
    """Why it is where it is, and what would move it on. It only looks."""
    parts = server(request)
    row = await reads.operation_by_ref(parts.db, ref)
    found = await explain(parts.engine, row, drives=parts.engine.drives(row["id"]))
    return answer(present.explanation(found, await fleet.cluster_names(parts.db)))


@blueprint.get("/events")
async def all_events(request: Request) -> None:
    """Every operation's lines as they are committed, from now on or after `Last-Event-ID`."""
    newest = await reads.newest_line_id(server(request).db)
    after = last_event_id(request, newest)
    await everything(request, newest if after is None else after)


async def _list(request: Request, rows: list[dict[str, object]], *, histories: bool) -> HTTPResponse:
    db = server(request).db
    names = await fleet.cluster_names(db)
    lines = await reads.histories(db, [str(r["id"]) for r in rows]) if histories else {}
    return answer([present.operation(r, names, lines.get(str(r["id"]))) for r in rows])


async def _show(request: Request, row: dict[str, object]) -> HTTPResponse:
    db = server(request).db
    return answer(present.operation(row, await fleet.cluster_names(db), await reads.history(db, str(row["id"]))))


_VERBS = {"resume": steer.resume, "retry": steer.retry, "cancel": steer.cancel}


async def _steer(request: Request, row: dict[str, object], verb: str) -> HTTPResponse:
    """The operation as it is after that; of a retry of one that is over, the new one."""
    body = parse(request, SteerRequest) if request.body else SteerRequest()
    engine = server(request).engine
    operation_id = await _VERBS[verb](engine, str(row["id"]), actor=actor(request), reason=body.reason)
    return await _show(request, await reads.operation_by_ref(engine.db, operation_id))


async def _plan(request: Request, row: dict[str, object]) -> HTTPResponse:
    found = await steer.cancel_plan(server(request).engine, str(row["id"]))
    return answer(
        CancelPlan(
            operation_id=str(row["id"]), kind=str(row["kind"]), name=str(row["name"]), now=str(row["state"]),
            state=found.goes_to, words=found.words,
            steps=[Undo(undo=s.undo, effect=s.effect, from_seq=s.from_seq, words=s.words) for s in found.steps],
        )
    )  # fmt: skip
