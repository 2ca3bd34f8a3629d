"""
Reads of those who check and explain: the whole journal in pages, rows that contradict each other, who holds a lease.

Constant SQL on the read-only connection, a page at a time, so that nobody else waits for it.
"""

from __future__ import annotations

from typing import Any

from mcpg.machines.chain import Entry
from mcpg.store.database import Database, Row
from mcpg.store.journal import LEASE_S

# One statement sees one moment: a line and the row it leads to are never compared across a commit. What a row holds beside
# its state is read with its last line alone, for a spec may be long.
_LAST = "".join(
    f", CASE WHEN o.version=j.seq THEN o.{name} END AS row_{name}"
    for name in ("kind", "name", "instance_id", "spec", "actor", "retry_of", "error", "code", "finished_at")
)
_LINE = """
SELECT j.id, j.machine, j.subject, j.seq, j.event, j.source, j.dest, j.actor, j.reason, j.facts, j.data, j.definition,
  j.prev_hash, j.hash, j.at"""
_ROWS = """ FROM journal j LEFT JOIN operation o ON o.id=j.subject LEFT JOIN agent a ON a.id=j.subject
  LEFT JOIN cluster c ON c.id=j.subject"""
_ALL = f"""{_LINE}, COALESCE(o.state, a.state, c.state) AS row_state, COALESCE(o.version, a.version, c.version) AS row_version,
  COALESCE(o.head_hash, a.head_hash, c.head_hash) AS row_head,
  COALESCE(o.created_at, a.created_at, c.created_at) AS row_created_at,
  CASE WHEN o.id IS NOT NULL THEN 'operation' WHEN a.id IS NOT NULL THEN 'agent' WHEN c.id IS NOT NULL THEN 'cluster'
    ELSE '' END AS row_table, o.machine AS row_machine{_LAST}{_ROWS}"""
_HISTORIES = f"""{_LINE}, COALESCE(o.state, a.state, c.state, '') AS row_state, COALESCE(o.name, c.name, '') AS row_name{_ROWS}"""
_ORDER = " ORDER BY j.subject, j.seq LIMIT ?"
_WHERE = {  # where a page begins
    "first": "",
    "after": " WHERE (j.subject, j.seq) > (?, ?)",
    "line": " WHERE (j.subject, j.seq) > (SELECT subject, seq FROM journal WHERE id=?)",
}
_PAGE = {begin: f"{_ALL}{where}{_ORDER}" for begin, where in _WHERE.items()}
_PAGE_OF = {
    begin: f"{_HISTORIES}{where}{' AND' if where else ' WHERE'} j.machine=?{_ORDER}" for begin, where in _WHERE.items()
}


def _begin(last: Row | None) -> tuple[str, tuple[Any, ...]]:
    """Where the page after the line *last* begins. One whose place is no text and number can be found by its id alone."""
    if last is None:
        return "first", ()
    subject, seq = last["subject"], last["seq"]
    if has_place(last):
        return "after", (subject, seq)
    return "line", (last["id"],)


def has_place(line: Row) -> bool:
    """Whether subject and seq of *line* are as they were written: a text, and a number. U+FFFD is how others are shown."""
    subject = line["subject"]
    return isinstance(subject, str) and not subject.startswith("\ufffd") and isinstance(line["seq"], int)


async def page(db: Database, last: Row | None, limit: int) -> list[Row]:
    """The journal after the line *last*, by subject and then in order, each line with the row it belongs to."""
    begin, params = _begin(last)
    return await db.many(_PAGE[begin], *params, limit)


def entry_of(row: Row) -> Entry:
    """A line as it is stored, its JSON as text."""
    return Entry(
        row["machine"], row["seq"], row["event"], row["source"], row["dest"], row["actor"], row["reason"], row["facts"],
        row["data"], row["definition"], row["prev_hash"], row["hash"], row["at"],
    )  # fmt: skip


async def page_of(db: Database, machine: str, last: Row | None, limit: int) -> list[Row]:
    """As `page`, of one machine alone, with the state of the row."""
    begin, params = _begin(last)
    return await db.many(_PAGE_OF[begin], *params, machine, limit)


async def subjects_of(db: Database, machine: str) -> int:
    """How many subjects a machine has."""
    row = await db.many("SELECT count(*) AS number FROM journal WHERE machine=? AND seq=1", machine)
    return int(row[0]["number"])


async def definitions(db: Database) -> dict[str, str]:
    """Every definition that ever wrote a line here, by hash."""
    return {r["hash"]: r["body"] for r in await db.rows("SELECT hash, body FROM definition")}


async def stored_definitions(db: Database) -> list[Row]:
    """The same with machine and when each was first seen, the newest last."""
    return await db.rows(
        "SELECT hash, machine, body, first_seen_at FROM definition ORDER BY machine, first_seen_at, hash"
    )


_SILENT = {
    table: f"SELECT r.id, r.state, r.version FROM {table} r WHERE r.id > ?"  # noqa: S608 - one of three names
    " AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.subject=r.id) ORDER BY r.id LIMIT ?"
    for table in ("operation", "agent", "cluster")
}
_TOTALS = """
SELECT c.id, c.name, c.gateways_used, c.cpu_millicores_used, c.memory_bytes_used,
  CAST(COALESCE(SUM(r.places),0) AS BIGINT) AS places, CAST(COALESCE(SUM(r.cpu_millicores),0) AS BIGINT) AS cpu,
  CAST(COALESCE(SUM(r.memory_bytes),0) AS BIGINT) AS memory
FROM cluster c LEFT JOIN reservation r ON r.cluster_id=c.id
GROUP BY c.id, c.name, c.gateways_used, c.cpu_millicores_used, c.memory_bytes_used ORDER BY c.id
"""
_CROSS = {  # what must never be, each with the id it is about and what to say of it
    "reservation": "SELECT r.instance_id AS id, 'holds room in cluster '||r.cluster_id||CASE WHEN i.id IS NULL"
    " THEN ', and there is no such instance' ELSE ', and is deleted' END AS words FROM reservation r"
    " LEFT JOIN instance i ON i.id=r.instance_id WHERE i.id IS NULL OR i.deleted_at IS NOT NULL ORDER BY r.instance_id LIMIT ?",
    "room": "SELECT i.id, 'is in cluster '||i.cluster_id||', and holds no room there' AS words FROM instance i"
    " LEFT JOIN reservation r ON r.instance_id=i.id WHERE r.instance_id IS NULL AND i.managed=1 AND i.cluster_id IS NOT NULL"
    " AND i.deleted_at IS NULL AND i.orphaned_at IS NULL AND i.operation_id IS NULL ORDER BY i.id LIMIT ?",
    "placement": "SELECT r.instance_id AS id, 'holds room in cluster '||r.cluster_id||CASE WHEN c.id IS NULL"
    " THEN ', which does not exist' ELSE ', which is '||c.state END AS words FROM reservation r"
    " LEFT JOIN cluster c ON c.id=r.cluster_id WHERE c.id IS NULL OR c.state='decommissioned' ORDER BY r.instance_id LIMIT ?",
    "occupation": "SELECT i.id, 'is occupied by '||i.operation_id||CASE WHEN o.id IS NULL THEN ', which does not exist'"
    " ELSE ', which is over' END AS words FROM instance i LEFT JOIN operation o ON o.id=i.operation_id"
    " WHERE i.operation_id IS NOT NULL AND (o.id IS NULL OR o.finished_at IS NOT NULL) ORDER BY i.id LIMIT ?",
    "operation": "SELECT o.id, 'is '||o.state||', and '||COALESCE('its gateway is occupied by '||i.operation_id,"
    " 'its gateway is occupied by nobody') AS words FROM operation o LEFT JOIN instance i ON i.id=o.instance_id"
    " WHERE o.finished_at IS NULL AND (i.operation_id IS NULL OR i.operation_id!=o.id) ORDER BY o.id LIMIT ?",
    "lease": "SELECT o.id, 'is over, and leased to '||o.lease_owner AS words FROM operation o"
    " WHERE o.finished_at IS NOT NULL AND o.lease_owner IS NOT NULL ORDER BY o.id LIMIT ?",
}


async def without_lines(db: Database, table: str, limit: int) -> list[Row]:
    """Rows of *table* that have no history at all."""
    return await db.many(_SILENT[table], "", limit)


async def totals(db: Database) -> list[Row]:
    """Every cluster's counters, and what the reservations in it add up to, as of one moment."""
    return await db.many(_TOTALS)


CONTRADICTIONS = tuple(_CROSS)


async def contradictions(db: Database, kind: str, limit: int) -> list[Row]:
    """Rows that contradict each other in one of CONTRADICTIONS: `id`, and what is wrong in `words`."""
    return await db.many(_CROSS[kind], limit)


_OPEN = """
SELECT machine, state, count(*) AS number FROM operation WHERE finished_at IS NULL GROUP BY machine, state
UNION ALL SELECT 'enrolment', state, count(*) FROM agent GROUP BY state
UNION ALL SELECT 'cluster', state, count(*) FROM cluster GROUP BY state
"""


async def resting(db: Database) -> list[Row]:
    """How many rows that are not over rest in each state of each machine."""
    return await db.many(_OPEN)


async def replica_of(db: Database, epoch: str) -> Row | None:
    """
    The control plane whose start that was; None for a start before its last. `asked_at` is now by the database's clock, as
    `seen_at` is.
    """
    return await db.one(f"SELECT *,{db.clock_sql} AS asked_at FROM replica WHERE epoch=?", epoch)  # noqa: S608


async def driven_by(db: Database) -> dict[str, int]:
    """How many open operations are leased to each start of a control plane, by its epoch."""
    found = await db.many(
        "SELECT lease_owner, count(*) AS number FROM operation WHERE lease_owner IS NOT NULL AND lease_until IS NOT NULL"
        " GROUP BY lease_owner"
    )
    return {r["lease_owner"]: r["number"] for r in found}


async def undriven(db: Database, seconds: float, epoch: str, limit: int) -> list[Row]:
    """
    Open operations that somebody should drive and nobody has for *seconds*, the longest first: `since` is when its holder
    had been silent for too long; without one when it was given back, or last moved. Whatever is leased to *epoch* is driven.
    """
    ended = f"r.seen_at+{int(LEASE_S * 1e6)}"
    return await db.many(
        "SELECT id,kind,name,state,managed,lease_owner,since FROM (SELECT o.id,o.kind,o.name,o.state,o.lease_owner,"  # noqa: S608
        f"COALESCE(i.managed,1) AS managed,CASE WHEN r.seen_at>0 THEN {ended}"
        " WHEN o.lease_until>o.updated_at THEN o.lease_until ELSE o.updated_at END AS since"
        " FROM operation o LEFT JOIN instance i ON i.id=o.instance_id LEFT JOIN replica r ON r.epoch=o.lease_owner"
        " WHERE o.lease_until IS NOT NULL AND o.finished_at IS NULL AND (o.lease_owner IS NULL OR o.lease_owner!=?)) x"
        f" WHERE since<{db.clock_sql}-{int(seconds * 1e6)} ORDER BY since, id LIMIT ?", epoch, limit,
    )  # fmt: skip


async def living_provisioners(db: Database) -> list[str]:
    """The provisioners of every control plane that was heard within a lease's time."""
    since = f"{db.clock_sql}-{int(LEASE_S * 1e6)}"
    found: list[Any] = await db.rows(f"SELECT DISTINCT provisioner FROM replica WHERE seen_at>={since}")  # noqa: S608
    return [r["provisioner"] for r in found]


async def managed(db: Database) -> dict[str, str]:
    """Name of every gateway that a provisioner runs and that is not deleted, by its id."""
    found = await db.many("SELECT id,name FROM instance WHERE managed=1 AND deleted_at IS NULL ORDER BY name, id")
    return {r["id"]: r["name"] for r in found}


async def cancelled_last(db: Database, machine: str) -> list[Row]:
    """
    The newest operation of every managed gateway on which none runs, where it is one of *machine* and was cancelled; with
    `instance_uid`.
    """
    return await db.many(
        "SELECT o.*,i.instance_uid FROM operation o JOIN instance i ON i.id=o.instance_id WHERE o.machine=?"
        " AND o.state='cancelled' AND i.deleted_at IS NULL AND i.managed=1 AND i.orphaned_at IS NULL AND i.operation_id IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM operation n WHERE n.instance_id=o.instance_id AND (n.created_at>o.created_at OR"
        " (n.created_at=o.created_at AND n.id>o.id))) ORDER BY o.finished_at, o.id", machine,
    )  # fmt: skip
