"""The journal held against the rows, a part at a time."""

from __future__ import annotations

import dataclasses

from sanic import Blueprint, HTTPResponse, Request

from mcpg.api.context import answer, limit, query, server
from mcpg.engine.audit import verify_journal
from mcpg.store import reads
from mcpg.store.clock import now_us, to_datetime
from mcpg.wire.audit import AuditPage, Finding

blueprint = Blueprint("audit", url_prefix="/v1/audit")


@blueprint.get("/verify")
async def verify(request: Request) -> HTTPResponse:
    """Some whole histories after `?after=`, and where to go on; at the end also what rows say of each other."""
    db = server(request).db
    asked = query(request, after=None, limit=None)
    found = await verify_journal(db, asked.get("after", ""), limit(request, 100, 1000))
    return answer(
        AuditPage(
            at=to_datetime(now_us()), lines=found.lines, subjects=found.subjects, found=found.found, next=found.next,
            findings=[Finding(**dataclasses.asdict(each)) for each in found.findings],
            journal=await reads.newest_line_id(db),
        )
    )  # fmt: skip
