"""Enrolment tokens of an environment: mint, list, revoke. The secret is in the answer to the mint and nowhere else."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from mcpg import present
from mcpg.api.context import actor, answer, parse, scope, server
from mcpg.errors import NotFound
from mcpg.store import tenancy, writes
from mcpg.wire.fleet import Token, TokenRequest

blueprint = Blueprint("tokens", url_prefix="/v1/orgs/<org>/workspaces/<ws>/environments/<env>/enrollment-tokens")


@blueprint.post("/")
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


@blueprint.get("/")
async def index(request: Request, org: str, ws: str, env: str) -> HTTPResponse:
    """Newest first, those of managed replicas too: their issuer is the operation that started them."""
    parts = server(request)
    where = await scope(request, org, ws, env)
    now = parts.engine.clock()
    return answer(
        [present.token(t, now) for t in await tenancy.tokens(parts.db, where.org, where.workspace, where.environment)]
    )


@blueprint.delete("/<token_id>")
async def revoke(request: Request, org: str, ws: str, env: str, token_id: str) -> HTTPResponse:
    """It enrols nobody any more; whom it enrolled goes on. Revoking twice is revoking once."""
    parts = server(request)
    where = await scope(request, org, ws, env)
    now = parts.engine.clock()
    await parts.db.writer.execute(writes.revoke_token(str(where), token_id, now))
    row = await tenancy.find_token_of(parts.db, where.org, where.workspace, where.environment, token_id)
    if row is None:
        raise NotFound(f"no enrolment token {token_id[:60]} in {where}", hint="those there are: mcpg-ctl token list")
    return answer(present.token(row, now))
