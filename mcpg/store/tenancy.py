"""
Orgs, workspaces and environments, and the enrolment tokens of an environment: what is read of them, one function a question
(the other reads: reads.py), and the first of each, ordinary rows that Tortoise writes at human speed.

A function named `find_*` may answer None; the others raise NotFound.
"""

from __future__ import annotations

from typing import Any

from tortoise.exceptions import IntegrityError

from mcpg.errors import NotFound
from mcpg.store.clock import Clock, uuid7
from mcpg.store.database import Database, Row
from mcpg.store.models import Environment, Org, Workspace

DEFAULT = "default"


async def ensure_default(db: Database, clock: Clock) -> None:
    """default/default/default exist after this."""

    async def work(tx: Any) -> None:
        now = clock()
        org = await Org.get_or_none(slug=DEFAULT, using_db=tx)
        if org is None:
            org = await Org.create(id=uuid7(), slug=DEFAULT, name="Default", created_at=now, using_db=tx)
        space = await Workspace.get_or_none(org_id=org.id, slug=DEFAULT, using_db=tx)
        if space is None:
            space = await Workspace.create(
                id=uuid7(), org_id=org.id, slug=DEFAULT, name="Default", created_at=now, using_db=tx
            )
        if not await Environment.filter(workspace_id=space.id, slug=DEFAULT).using_db(tx).exists():
            await Environment.create(
                id=uuid7(), workspace_id=space.id, slug=DEFAULT, name="Default", created_at=now, using_db=tx
            )

    try:
        await db.run_tx(work)
    except IntegrityError:  # another replica made one of them meanwhile: now it is there
        await db.run_tx(work)


async def orgs(db: Database) -> list[Row]:
    return await db.rows("SELECT * FROM org ORDER BY slug")


async def org(db: Database, slug: str) -> Row:
    row = await db.one("SELECT * FROM org WHERE slug=?", slug)
    if row is None:
        names = [o["slug"] for o in await orgs(db)]
        raise NotFound(f"no org {slug}", cause=f"orgs here: {', '.join(names[:20])}", hint=f"--org {names[0]}")
    return row


async def workspaces(db: Database, org_id: str) -> list[Row]:
    return await db.rows("SELECT * FROM workspace WHERE org_id=? ORDER BY slug", org_id)


async def workspace(db: Database, org_slug: str, slug: str) -> Row:
    o = await org(db, org_slug)
    found = await workspaces(db, o["id"])
    for row in found:
        if row["slug"] == slug:
            return row
    names = ", ".join(w["slug"] for w in found[:20]) or "none"
    raise NotFound(f"no workspace {slug} in org {org_slug}", cause=f"workspaces there: {names}")


async def environments(db: Database, workspace_id: str) -> list[Row]:
    return await db.rows("SELECT * FROM environment WHERE workspace_id=? ORDER BY slug", workspace_id)


async def environment(db: Database, org_slug: str, workspace_slug: str, slug: str) -> Row:
    w = await workspace(db, org_slug, workspace_slug)
    found = await environments(db, w["id"])
    for row in found:
        if row["slug"] == slug:
            return row
    names = ", ".join(e["slug"] for e in found[:20]) or "none"
    raise NotFound(f"no environment {slug} in {org_slug}/{workspace_slug}", cause=f"environments there: {names}")


# ---- enrolment tokens


async def find_token(db: Database, nonce_hash: str) -> Row | None:
    return await db.one("SELECT * FROM bootstrap_token WHERE nonce_hash=?", nonce_hash)


_TOKENS = (
    "SELECT t.*, COALESCE(i.instance_uid, (SELECT n.instance_uid FROM agent a JOIN instance n ON n.id=a.instance_id"
    " WHERE a.token_id=t.id ORDER BY a.created_at DESC LIMIT 1)) AS instance_uid"
    " FROM bootstrap_token t LEFT JOIN instance i ON i.id=t.instance_id WHERE t.org=? AND t.workspace=?"
    " AND t.environment=?"
)


async def tokens(db: Database, org_slug: str, workspace_slug: str, environment_slug: str) -> list[Row]:
    """Enrolment tokens of an environment, newest first; `instance_uid` is whose each is, or whom it enrolled last."""
    return await db.many(f"{_TOKENS} ORDER BY t.created_at DESC, t.id", org_slug, workspace_slug, environment_slug)


async def find_token_of(
    db: Database, org_slug: str, workspace_slug: str, environment_slug: str, token_id: str
) -> Row | None:
    return await db.one(f"{_TOKENS} AND t.id=?", org_slug, workspace_slug, environment_slug, token_id)
