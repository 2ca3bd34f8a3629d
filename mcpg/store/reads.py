"""
Every read of the database, one function a question; rows as dicts with the columns of models.py, JSON columns parsed.

Constant SQL on the read-only connection. A function named `find_*` may answer None; the others raise NotFound.
"""

from __future__ import annotations

import json
from typing import Any

from mcpg.errors import NotFound
from mcpg.store.database import Database, Row
from mcpg.store.journal import Line

_JSON = {"spec", "previous", "endpoints", "host", "facts", "data"}


def _parsed(row: Row) -> Row:
    return {k: json.loads(v) if k in _JSON and isinstance(v, str) else v for k, v in row.items()}


async def _all(db: Database, sql: str, *params: Any) -> list[Row]:
    return [_parsed(r) for r in await db.rows(sql, *params)]


async def _many(db: Database, sql: str, *params: Any) -> list[Row]:
    return [_parsed(r) for r in await db.many(sql, *params)]


async def _one(db: Database, sql: str, *params: Any) -> Row | None:
    row = await db.one(sql, *params)
    return None if row is None else _parsed(row)


# ---- tenancy


async def orgs(db: Database) -> list[Row]:
    return await _all(db, "SELECT * FROM org ORDER BY slug")


async def org(db: Database, slug: str) -> Row:
    row = await _one(db, "SELECT * FROM org WHERE slug=?", slug)
    if row is None:
        names = [o["slug"] for o in await orgs(db)]
        raise NotFound(f"no org {slug}", cause=f"orgs here: {', '.join(names[:20])}", hint=f"--org {names[0]}")
    return row


async def workspaces(db: Database, org_id: str) -> list[Row]:
    return await _all(db, "SELECT * FROM workspace WHERE org_id=? ORDER BY slug", org_id)


async def workspace(db: Database, org_slug: str, slug: str) -> Row:
    o = await org(db, org_slug)
    found = await workspaces(db, o["id"])
    for row in found:
        if row["slug"] == slug:
            return row
    names = ", ".join(w["slug"] for w in found[:20]) or "none"
    raise NotFound(f"no workspace {slug} in org {org_slug}", cause=f"workspaces there: {names}")


async def environments(db: Database, workspace_id: str) -> list[Row]:
    return await _all(db, "SELECT * FROM environment WHERE workspace_id=? ORDER BY slug", workspace_id)


async def environment(db: Database, org_slug: str, workspace_slug: str, slug: str) -> Row:
    w = await workspace(db, org_slug, workspace_slug)
    found = await environments(db, w["id"])
    for row in found:
        if row["slug"] == slug:
            return row
    names = ", ".join(e["slug"] for e in found[:20]) or "none"
    raise NotFound(f"no environment {slug} in {org_slug}/{workspace_slug}", cause=f"environments there: {names}")


# ---- operations and the journal


async def find_operation(db: Database, operation_id: str) -> Row | None:
    return await _one(db, "SELECT * FROM operation WHERE id=?", operation_id)


async def operation(db: Database, org_slug: str, operation_id: str) -> Row:
    row = await find_operation(db, operation_id)
    if row is None or row["org"] != org_slug:
        raise NotFound(
            f"no operation {operation_id} in org {org_slug}", hint=f"mcpg-ctl provision history --org {org_slug}"
        )
    return row


async def find_operation_by_key(db: Database, org_slug: str, key: str) -> Row | None:
    return await _one(db, "SELECT * FROM operation WHERE org=? AND idempotency_key=?", org_slug, key)


async def operations(db: Database, org_slug: str, limit: int) -> list[Row]:
    """Newest first."""
    return await _many(db, "SELECT * FROM operation WHERE org=? ORDER BY created_at DESC, id LIMIT ?", org_slug, limit)


async def recent_operations(db: Database, limit: int) -> list[Row]:
    return await _many(db, "SELECT * FROM operation ORDER BY created_at DESC, id LIMIT ?", limit)


async def open_operations(db: Database) -> list[Row]:
    """All that are not in a final state, oldest first."""
    return await _many(db, "SELECT * FROM operation WHERE finished_at IS NULL ORDER BY created_at")


def _line(row: Row) -> Line:
    return Line(**{k: v for k, v in row.items() if k != "id"})


async def history(db: Database, subject: str, after: int = 0) -> list[Line]:
    """A subject's lines with seq > *after*, in order."""
    return [
        _line(r) for r in await _all(db, "SELECT * FROM journal WHERE subject=? AND seq>? ORDER BY seq", subject, after)
    ]


async def find_line(db: Database, subject: str, seq: int) -> Line | None:
    row = await _one(db, "SELECT * FROM journal WHERE subject=? AND seq=?", subject, seq)
    return None if row is None else _line(row)


async def histories(db: Database, subjects: list[str]) -> dict[str, list[Line]]:
    """The same for several subjects, in one read."""
    out: dict[str, list[Line]] = {s: [] for s in subjects}
    marks = json.dumps(subjects)
    for r in await _many(
        db, "SELECT * FROM journal WHERE subject IN (SELECT value FROM json_each(?)) ORDER BY subject, seq", marks
    ):
        out[r["subject"]].append(_line(r))
    return out


# ---- instances, agents, configs, tokens

_WITH_CLUSTER = "SELECT i.*, c.name AS cluster FROM instance i LEFT JOIN cluster c ON c.id=i.cluster_id"


async def find_instance(db: Database, instance_id: str) -> Row | None:
    return await _one(db, f"{_WITH_CLUSTER} WHERE i.id=?", instance_id)


async def find_instance_by_uid(db: Database, uid: str) -> Row | None:
    """By the uid people use: a managed instance's is its id."""
    return await _one(db, f"{_WITH_CLUSTER} WHERE i.instance_uid=?", uid)


async def find_live_name(db: Database, name: str) -> Row | None:
    return await _one(db, f"{_WITH_CLUSTER} WHERE i.live_name=?", name)


async def instances(db: Database, org_slug: str | None) -> list[Row]:
    """Those that exist, newest first; of every org when *org_slug* is None."""
    return await _many(
        db,
        f"{_WITH_CLUSTER} WHERE i.deleted_at IS NULL AND (?1 IS NULL OR i.org=?1) ORDER BY i.created_at DESC, i.id",
        org_slug,
    )


async def find_agent(db: Database, agent_id: str) -> Row | None:
    return await _one(db, "SELECT * FROM agent WHERE id=?", agent_id)


async def agents(db: Database, instance_id: str) -> list[Row]:
    return await _all(db, "SELECT * FROM agent WHERE instance_id=? ORDER BY replica", instance_id)


async def agents_of_token(db: Database, token_id: str) -> list[Row]:
    return await _all(db, "SELECT * FROM agent WHERE token_id=? ORDER BY created_at", token_id)


async def living_agents(db: Database) -> list[Row]:
    """Those with a clock running: enrolling, online or stale."""
    return await _many(db, "SELECT * FROM agent WHERE state IN ('enrolling','online','stale')")


async def all_agents(db: Database, org_slug: str | None) -> list[Row]:
    return await _many(
        db,
        "SELECT a.* FROM agent a JOIN instance i ON i.id=a.instance_id"
        " WHERE i.deleted_at IS NULL AND (?1 IS NULL OR i.org=?1) ORDER BY a.instance_id, a.replica",
        org_slug,
    )


async def config_versions(db: Database, instance_id: str) -> list[Row]:
    return await _all(db, "SELECT * FROM config_version WHERE instance_id=? ORDER BY version DESC", instance_id)


async def find_config(db: Database, instance_id: str, version: int) -> Row | None:
    return await _one(db, "SELECT * FROM config_version WHERE instance_id=? AND version=?", instance_id, version)


async def find_token(db: Database, nonce_hash: str) -> Row | None:
    return await _one(db, "SELECT * FROM bootstrap_token WHERE nonce_hash=?", nonce_hash)


# ---- clusters


async def clusters(db: Database) -> list[Row]:
    return await _all(db, "SELECT * FROM cluster ORDER BY name")


async def find_cluster(db: Database, name: str) -> Row | None:
    return await _one(db, "SELECT * FROM cluster WHERE name=?", name)


async def find_reservation(db: Database, instance_id: str) -> Row | None:
    return await _one(db, "SELECT * FROM reservation WHERE instance_id=?", instance_id)


# ---- the server itself


async def find_key(db: Database, name: str) -> str | None:
    row = await _one(db, "SELECT value FROM keyring WHERE name=?", name)
    return row["value"] if row else None


async def ping(db: Database) -> None:
    """One cheap read; raises when the database does not answer."""
    await db.one("SELECT 1")
