"""
Every read of the database, one function a question; rows as dicts with the columns of models.py, JSON columns parsed.

Constant SQL on the read-only connection. A function named `find_*` may answer None; the others raise NotFound. The reads of
orgs, environments and tokens are in tenancy.py, those of clusters in fleet.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from mcpg.errors import NotFound, Usage
from mcpg.store import missed
from mcpg.store.database import Database, Row
from mcpg.store.journal import LEASE_S, ROWS, Line
from mcpg.store.parsed import parsed, readable, undamaged
from mcpg.store.sql import marks

IN_ONE_READ = 512  # subjects
SHORTEST_REF = 6  # characters of an id's beginning that stands for the whole
Parse = Callable[[Row], Row]  # `parsed`, or `readable` for those who show what there is, also of a row that is damaged
_OPERATION = "SELECT * FROM operation WHERE id=?"


async def _all(db: Database, sql: str, *params: Any) -> list[Row]:
    return [parsed(r) for r in await db.rows(sql, *params)]


async def _many(db: Database, sql: str, *params: Any, parse: Parse = parsed) -> list[Row]:
    return [parse(r) for r in await db.many(sql, *params)]


async def _one(db: Database, sql: str, *params: Any) -> Row | None:
    row = await db.one(sql, *params)
    return None if row is None else parsed(row)


# ---- operations and the journal


async def find_operation(db: Database, operation_id: str) -> Row | None:
    return await _one(db, _OPERATION, operation_id)


async def operation(db: Database, org_slug: str, operation_id: str, parse: Parse = parsed) -> Row:
    row = await db.one(_OPERATION, operation_id)
    if row is None or row["org"] != org_slug:
        raise NotFound(
            f"no operation {operation_id} in org {org_slug}", hint=f"mcpg-ctl operation list --org {org_slug}"
        )
    return parse(row)


async def find_operation_by_key(db: Database, org_slug: str, key: str) -> Row | None:
    """The one that a request with this key made, or joined while it ran."""
    return await _one(
        db, "SELECT * FROM operation WHERE org=?1 AND idempotency_key=?2 UNION ALL SELECT o.* FROM joined_key k"
        " JOIN operation o ON o.id=k.operation_id WHERE k.org=?1 AND k.idempotency_key=?2 LIMIT 1", org_slug, key,
    )  # fmt: skip


async def operations(db: Database, org_slug: str, limit: int) -> list[Row]:
    """Newest first."""
    text = "SELECT * FROM operation WHERE org=? ORDER BY created_at DESC, id LIMIT ?"
    return await _many(db, text, org_slug, limit, parse=readable)


async def fleet_operations(
    db: Database, *, org: str | None, kind: str | None, name: str | None, running: bool, limit: int
) -> list[Row]:
    """Of every org, newest first; None: any."""
    return await _many(
        db,
        "SELECT * FROM operation WHERE (CAST(?1 AS TEXT) IS NULL OR org=?1) AND (CAST(?2 AS TEXT) IS NULL OR kind=?2)"
        " AND (CAST(?3 AS TEXT) IS NULL OR name=?3) AND (?4=0 OR finished_at IS NULL) ORDER BY created_at DESC, id LIMIT ?5",
        org, kind, name, int(running), limit, parse=readable,
    )  # fmt: skip


async def operation_by_ref(db: Database, ref: str, parse: Parse = parsed) -> Row:
    """By id, or by its beginning of six characters or more. Raises NotFound, or Usage naming the candidates."""
    found = await db.one(_OPERATION, ref)
    if found is not None:
        return parse(found)
    several = await _prefixed(db, "operation", "id", ref)
    if not several:
        await missed.operation(db, ref, SHORTEST_REF)
    words = "mcpg-ctl operation list"
    return parse(_only(several, ref, "operation", words, lambda r: f"{r['id']} ({r['kind']} {r['name']})"))


async def _prefixed(db: Database, table: str, column: str, ref: str) -> list[Row]:
    """As they are stored."""
    if len(ref) < SHORTEST_REF:
        return []
    where = f"substr({column},1,length(?1))=?1"
    return await db.rows(f"SELECT * FROM {table} WHERE {where} ORDER BY {column} LIMIT 20", ref)  # noqa: S608


def _only(found: list[Row], ref: str, what: str, where: str, words: Callable[[Row], str]) -> Row:
    """The one that *ref* names."""
    if not found:
        raise NotFound(f"no {what} {ref[:80]}", hint=f"{where} shows them")
    if len(found) > 1:
        raise Usage(
            f"{ref[:80]} may be any of {len(found)} {what}s", cause=", ".join(map(words, found)),
            hint="give more of the id", candidates=[r["id"] for r in found],
        )  # fmt: skip
    return found[0]


async def paused_operations(db: Database) -> list[Row]:
    """Those that wait for an operator, the longest first; `words` is why."""
    return await db.many(
        "SELECT o.id,o.kind,o.name,o.updated_at,j.reason AS words FROM operation o"
        " JOIN journal j ON j.subject=o.id AND j.seq=o.version WHERE o.finished_at IS NULL AND o.state='paused'"
        " ORDER BY o.updated_at"
    )


async def count_by_state(db: Database, machine: str) -> dict[str, int]:
    """How many rows of a machine rest in each state."""
    table = ROWS[machine]
    only = "WHERE machine=?1" if table == "operation" else "WHERE CAST(?1 AS TEXT)!=''"
    found = await db.many(f"SELECT state, count(*) AS rows FROM {table} {only} GROUP BY state", machine)  # noqa: S608
    return {r["state"]: r["rows"] for r in found}


async def newest_line_id(db: Database) -> int:
    """The journal's last id; 0 when it is empty."""
    row = await db.one("SELECT COALESCE(max(id),0) AS id FROM journal")
    return int(row["id"]) if row else 0


async def operation_lines(db: Database, after: int, limit: int) -> list[tuple[int, Line, Row]]:
    """Operations' lines with a journal id > *after*, in order: id, line, and whose it is."""
    rows = await _many(
        db, "SELECT j.*,o.org,o.workspace,o.environment,o.name,o.kind,o.created_at FROM journal j"
        " JOIN operation o ON o.id=j.subject WHERE j.id>? AND j.machine IN ('provision','teardown','recovery')"
        " ORDER BY j.id LIMIT ?", after, limit,
    )  # fmt: skip
    whose = ("org", "workspace", "environment", "name", "kind", "created_at")
    return [(r["id"], _line({k: v for k, v in r.items() if k not in whose}), {k: r[k] for k in whose}) for r in rows]


async def find_definition(db: Database, digest: str) -> str | None:
    """A definition's canonical JSON, by its hash."""
    row = await db.one("SELECT body FROM definition WHERE hash=?", digest)
    return row["body"] if row else None


async def recent_operations(db: Database, limit: int) -> list[Row]:
    return await _many(db, "SELECT * FROM operation ORDER BY created_at DESC, id LIMIT ?", limit, parse=readable)


async def open_operations(db: Database) -> list[Row]:
    """All that are not in a final state, oldest first."""
    return undamaged(await db.many("SELECT * FROM operation WHERE finished_at IS NULL ORDER BY created_at"))


async def last_operation(db: Database, instance_id: str) -> Row | None:
    """The newest of one instance."""
    return await _one(
        db, "SELECT * FROM operation WHERE instance_id=? ORDER BY created_at DESC, id DESC LIMIT 1", instance_id
    )


async def unattended(db: Database) -> list[str]:
    """Managed instances on which no operation runs and that hold room: whoever is down of these is to be brought back."""
    rows = await db.many(
        "SELECT id FROM instance WHERE deleted_at IS NULL AND managed=1 AND operation_id IS NULL AND orphaned_at IS NULL"
    )
    return [r["id"] for r in rows]


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
    """The same for several subjects, in few reads."""
    out: dict[str, list[Line]] = {s: [] for s in subjects}
    for start in range(0, len(subjects), IN_ONE_READ):
        places, values = marks(subjects[start : start + IN_ONE_READ])
        text = f"SELECT * FROM journal WHERE subject IN ({places}) ORDER BY subject, seq"  # noqa: S608
        for r in await _many(db, text, *values):
            out[r["subject"]].append(_line(r))
    return out


# ---- instances, agents, configs

_WITH_CLUSTER = (
    "SELECT i.*, c.name AS cluster, f.rendered_sha256 AS rolling_hash, o.machine AS operation_machine,"
    " o.kind AS operation_kind, o.state AS operation_state FROM instance i"
    " LEFT JOIN cluster c ON c.id=i.cluster_id"
    " LEFT JOIN config_version f ON f.instance_id=i.id AND f.version=i.rolling_from"
    " LEFT JOIN operation o ON o.id=i.operation_id"
)


async def find_instance(db: Database, instance_id: str) -> Row | None:
    return await _one(db, f"{_WITH_CLUSTER} WHERE i.id=?", instance_id)


async def find_instance_by_uid(db: Database, uid: str) -> Row | None:
    """By the uid people use: a managed instance's is its id."""
    return await _one(db, f"{_WITH_CLUSTER} WHERE i.instance_uid=?", uid)


async def find_instances_named(db: Database, ref: str) -> list[Row]:
    """Living ones that *ref* may name: by uid, id or name, else by the beginning of a uid; at most 20."""
    whole = "i.instance_uid=?1 OR i.id=?1 OR i.live_name=?1"
    for where in (whole, f"length(?1)>={SHORTEST_REF} AND substr(i.instance_uid,1,length(?1))=?1"):
        found = await _all(
            db, f"{_WITH_CLUSTER} WHERE i.deleted_at IS NULL AND ({where}) ORDER BY i.instance_uid LIMIT 20", ref
        )
        if found:
            return found
    return []


async def instance_names(db: Database, limit: int) -> list[Row]:
    """Name and uid of those that live, newest first."""
    return await db.many(
        "SELECT name,instance_uid FROM instance WHERE deleted_at IS NULL ORDER BY created_at DESC, id LIMIT ?", limit
    )


async def find_live_name(db: Database, name: str) -> Row | None:
    return await _one(db, f"{_WITH_CLUSTER} WHERE i.live_name=?", name)


async def instances(db: Database, org_slug: str | None, *, orphaned: bool = False) -> list[Row]:
    """Those that exist, newest first; of every org when *org_slug* is None; with *orphaned*, orphans only."""
    return await _many(
        db,
        f"{_WITH_CLUSTER} WHERE i.deleted_at IS NULL AND (CAST(?1 AS TEXT) IS NULL OR i.org=?1)"
        " AND (?2=0 OR i.orphaned_at IS NOT NULL) ORDER BY i.created_at DESC, i.id",
        org_slug,
        int(orphaned),
    )


async def find_agent(db: Database, agent_id: str) -> Row | None:
    return await _one(db, "SELECT * FROM agent WHERE id=?", agent_id)


async def agents(db: Database, instance_id: str) -> list[Row]:
    return await _all(db, "SELECT * FROM agent WHERE instance_id=? ORDER BY replica", instance_id)


async def agents_of_token(db: Database, token_id: str) -> list[Row]:
    """Who enrolled with it, oldest first; `is_gone`: with an instance that was deleted since."""
    return await _all(
        db, "SELECT a.*, CASE WHEN i.deleted_at IS NULL THEN 0 ELSE 1 END AS is_gone FROM agent a"
        " JOIN instance i ON i.id=a.instance_id WHERE a.token_id=? ORDER BY a.created_at", token_id,
    )  # fmt: skip


async def living_agents(db: Database) -> list[Row]:
    """Those with a clock running: enrolling, online or stale."""
    return await _many(db, "SELECT * FROM agent WHERE state IN ('enrolling','online','stale')")


async def silent_agents(
    db: Database, enrol_by: int, online_since: int, stale_since: int, heard_since: int
) -> list[Row]:
    """
    Agents whose clock has run out: enrolling with a deadline before *enrol_by*; online since before *online_since* and not
    heard since then; stale since before *stale_since* and not heard since *heard_since*. Microseconds.
    """
    return await _many(
        db, "SELECT * FROM agent WHERE (state='enrolling' AND deadline_at<?1)"
        " OR (state='online' AND updated_at<?2 AND COALESCE(last_seen_at,0)<?2)"
        " OR (state='stale' AND updated_at<?3 AND COALESCE(last_seen_at,0)<?4)",
        enrol_by, online_since, stale_since, heard_since,
    )  # fmt: skip


async def agents_held_by(db: Database, epoch: str) -> list[str]:
    """Ids of those whose channel a start of a control plane holds."""
    return [r["id"] for r in await db.many("SELECT id FROM agent WHERE session_epoch=?", epoch)]


async def all_agents(db: Database, org_slug: str | None) -> list[Row]:
    return await _many(
        db,
        "SELECT a.* FROM agent a JOIN instance i ON i.id=a.instance_id"
        " WHERE i.deleted_at IS NULL AND (CAST(?1 AS TEXT) IS NULL OR i.org=?1) ORDER BY a.instance_id, a.replica",
        org_slug,
    )


async def config_versions(db: Database, instance_id: str) -> list[Row]:
    return await _all(db, "SELECT * FROM config_version WHERE instance_id=? ORDER BY version DESC", instance_id)


async def find_config(db: Database, instance_id: str, version: int) -> Row | None:
    return await _one(db, "SELECT * FROM config_version WHERE instance_id=? AND version=?", instance_id, version)


def assigned(instance: Row, replica: int) -> tuple[int | None, str]:
    """
    The config version and hash that this replica must run. While an update rolls, those it has not come to keep the old
    one. The only place that says so.
    """
    if instance["rolling_from"] is not None and replica > instance["rolled"]:
        return instance["rolling_from"], instance["rolling_hash"]
    return instance["config_version"], instance["assigned_hash"]


async def assigned_of(db: Database, instance: Row, replicas: Iterable[int]) -> dict[int, Row]:
    """The config of each of *replicas*, as `assigned` has it; those that have none are left out."""
    configs: dict[int, Row | None] = {}
    out: dict[int, Row] = {}
    for replica in replicas:
        version, _ = assigned(instance, replica)
        if version is not None and version not in configs:
            configs[version] = await find_config(db, instance["id"], version)
        if version is not None and (found := configs[version]) is not None:
            out[replica] = found
    return out


async def orphans(db: Database) -> list[Row]:
    """Instances that lost their cluster, the longest first."""
    return await _many(
        db, f"{_WITH_CLUSTER} WHERE i.orphaned_at IS NOT NULL AND i.deleted_at IS NULL ORDER BY i.orphaned_at, i.name"
    )


async def find_reservation(db: Database, instance_id: str) -> Row | None:
    return await _one(db, "SELECT * FROM reservation WHERE instance_id=?", instance_id)


# ---- replicas of this control plane, and what they drive (lease.py)


async def replicas(db: Database) -> list[Row]:
    """
    Every control plane that was on this database within a week, by when it started. `asked_at` is now by the database's
    clock, as `seen_at` is.
    """
    return await db.rows(f"SELECT *,{db.clock_sql} AS asked_at FROM replica ORDER BY started_at, id")  # noqa: S608


async def claimable(db: Database, limit: int, *, runs_gateways: bool) -> list[Row]:
    """Free ones, or of a silent holder, the longest so first; to who runs no gateways those of enrolled gateways alone."""
    only = "" if runs_gateways else " AND instance_id IN (SELECT id FROM instance WHERE managed=0)"
    living = f"SELECT epoch FROM replica WHERE seen_at>{db.clock_sql}-{int(LEASE_S * 1e6)}"  # noqa: S608
    text = f"SELECT * FROM operation WHERE lease_until IS NOT NULL AND (lease_owner IS NULL OR lease_owner NOT IN ({living}))"  # noqa: S608
    found: list[Row] = []
    for page in count():  # damaged rows stay free, and come first: there may be others behind a page of them
        rows = await db.rows(f"{text}{only} ORDER BY lease_until, id LIMIT ? OFFSET ?", limit, page * limit)
        found += undamaged(rows)
        if len(rows) < limit or len(found) >= limit:
            break
    return found[:limit]


async def leased_to(db: Database, epoch: str) -> list[Row]:
    text = "SELECT * FROM operation WHERE lease_owner=? AND lease_until IS NOT NULL ORDER BY created_at"
    return undamaged(await db.many(text, epoch))


async def raw_lines(db: Database, after: int, limit: int) -> list[Row]:
    """The journal's lines with an id > *after*, in order, as they are stored: `line_of` makes a Line of one."""
    return await db.rows("SELECT * FROM journal WHERE id>? ORDER BY id LIMIT ?", after, limit)


def line_of(raw: Row) -> Line:
    return _line(parsed(raw))


# ---- the server itself


async def find_key(db: Database, name: str) -> str | None:
    row = await _one(db, "SELECT value FROM keyring WHERE name=?", name)
    return row["value"] if row else None


async def ping(db: Database) -> None:
    """One cheap read; raises when the database does not answer."""
    await db.one("SELECT 1")
