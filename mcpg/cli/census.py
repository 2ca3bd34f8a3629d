"""
What a control plane's database holds, counted: rows by table, subjects by state, the journal. Called by status.py.

One read transaction, so that the numbers belong together while a server writes. A database of another version may lack a
column or a table: what cannot be asked is None, the rest is answered.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import Any

from mcpg.cli.database import Place, applied_migrations, columns, known_migrations, opened, quoted, sizes
from mcpg.errors import StateDirUnusable

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
_OPERATIONS = (
    "SELECT machine, kind, state, count(*) FROM operation GROUP BY machine, kind, state ORDER BY machine, kind, state"
)
_CLUSTERS = "SELECT state, count(*) FROM cluster GROUP BY state ORDER BY state"
_INSTANCES = (
    "SELECT id, CASE WHEN json_valid(spec) THEN json_extract(spec, '$.replicas') END FROM instance"
    " WHERE deleted_at IS NULL"
)
_AGENTS = (
    "SELECT a.instance_id, a.replica, a.state FROM agent a JOIN instance i ON i.id = a.instance_id"
    " WHERE i.deleted_at IS NULL"
)
_ORPHANS = "SELECT count(*) FROM instance WHERE deleted_at IS NULL AND orphaned_at IS NOT NULL"
_NEWEST_LINE = "SELECT at FROM journal ORDER BY id DESC LIMIT 1"
_RANK = ("quarantined", "online", "enrolling", "stale", "departed")  # mcpg/present.py, derived_state


def take(found: Place) -> tuple[dict[str, Any], StateDirUnusable | None]:
    """The statistics of the database at *found*, with the error that kept it from being read, if any."""
    counts: dict[str, Any] = {
        "database": {
            "path": found.shown, "exists": found.exists, "size_bytes": None, "wal_bytes": None, "schema_version": None,
            "newer_schema": [], "error": "",
        },
        "rows": {}, "operations": {}, "operations_by_kind": {}, "instances": {}, "orphans": None, "clusters": {},
        "agents": {}, "journal_length": None, "journal_newest_at": None,
    }  # fmt: skip
    if found.path is None:
        counts["database"]["error"] = "it is no SQLite file: only its server can count what it holds"
    if found.path is None or not found.exists:
        return counts, None
    size, wal = sizes(found.path)
    counts["database"] |= {"size_bytes": size + wal, "wal_bytes": wal}
    try:
        with opened(found.path) as db:
            _count(db, counts)
    except StateDirUnusable as exc:
        counts["database"]["error"] = exc.cause
        return counts, exc
    return counts, None


def _count(db: sqlite3.Connection, counts: dict[str, Any]) -> None:
    applied, known = applied_migrations(db), known_migrations()
    counts["database"] |= {
        "schema_version": len(applied) or None,
        "newer_schema": [name for name in applied if name not in known],
    }
    tables = [str(name) for (name,) in db.execute(_TABLES)]
    counts["rows"] = {name: _asked(db, f"SELECT count(*) FROM {quoted(name)}")[0][0] for name in tables}  # noqa: S608
    by_kind: dict[str, dict[str, int]] = {}
    for machine, kind, state, count in _asked(db, _OPERATIONS):
        by_kind.setdefault(f"{machine} {kind}", {})[state] = count
    counts["operations_by_kind"] = by_kind
    counts["operations"] = _sorted(sum((Counter(each) for each in by_kind.values()), Counter[str]()))
    agents = _asked(db, _AGENTS)
    counts["agents"] = _sorted(Counter(str(state) for _, _, state in agents))
    counts["instances"] = instances_by_state(_asked(db, _INSTANCES), agents)
    counts["orphans"] = _first(db, _ORPHANS) if "orphaned_at" in columns(db, "instance") else None
    counts["clusters"] = dict(_asked(db, _CLUSTERS))
    counts["journal_length"] = counts["rows"].get("journal")
    newest = _first(db, _NEWEST_LINE)
    counts["journal_newest_at"] = None if newest is None else rfc3339(newest / 1e6)


def _asked(db: sqlite3.Connection, question: str) -> list[Any]:
    """The rows, none when this database's schema has no answer to that."""
    try:
        return db.execute(question).fetchall()
    except sqlite3.OperationalError as exc:
        if "no such" in str(exc):
            return []
        raise


def _first(db: sqlite3.Connection, question: str) -> int | None:
    rows = _asked(db, question)
    return int(rows[0][0]) if rows and rows[0][0] is not None else None


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def instances_by_state(instances: list[tuple[str, int | None]], agents: list[tuple[str, int, str]]) -> dict[str, int]:
    """How many instances are in which state: *instances* are (id, replicas), *agents* (instance id, replica, state)."""
    states: dict[str, list[str]] = {}
    wanted = {instance_id: replicas or 1 for instance_id, replicas in instances}
    for instance_id, replica, state in agents:
        if replica <= wanted.get(instance_id, 0):
            states.setdefault(instance_id, []).append(state)
    return _sorted(Counter(_derived(states.get(each, []), replicas) for each, replicas in wanted.items()))


def _derived(states: list[str], replicas: int) -> str:
    """As the server derives it: quarantined if any agent is, else the worst of as many agents as there should be."""
    unknown = [state for state in states if state not in _RANK]
    if unknown or "quarantined" in states:
        return unknown[0] if unknown else "quarantined"
    return "enrolling" if len(states) < replicas else max(states, key=_RANK.index)


def rfc3339(seconds: float | None) -> str | None:
    """Unix seconds as RFC 3339, UTC with milliseconds; None for what is no time."""
    from datetime import UTC, datetime

    try:
        at = None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
