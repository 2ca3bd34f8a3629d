"""
`mcpg-ctl status`: what runs on this machine and what its database holds.

Reads only: the state directory is never created, the database is opened read-only, and it works with the server down.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mcpg.cli import render, resolve
from mcpg.cli.parse import Line
from mcpg.cli.running import Local, look
from mcpg.errors import StateDirUnusable

_BY_STATE = {  # field: the table it needs, and the question
    "operations": ("operation", "SELECT state, count(*) FROM operation GROUP BY state ORDER BY state"),
    "agents": (
        "agent",
        "SELECT a.state, count(*) FROM agent a JOIN instance i ON i.id = a.instance_id WHERE i.deleted_at IS NULL"
        " GROUP BY a.state ORDER BY a.state",
    ),
}
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"


def status(line: Line) -> int:
    """Prints the control plane and the statistics of its database. Exit 0 when there is nothing yet."""
    values = resolve.values(line)
    state_dir: Path = values.state_dir
    local = look(state_dir)
    path = Path(local.record.get("db_path") or state_dir / "cp-state.db")
    now = time.time()
    counts = statistics(path)
    data = {"state_dir": str(state_dir), "control_plane": _control_plane(local, now), **counts}
    render.emit(
        values.output,
        data,
        table=lambda: _table(data, now),
        wide=lambda: [*_table(data, now), *render.columns(_rows(counts["rows"]), indent=2, right=frozenset((1,)))],
        names=[data["control_plane"]["http_url"]] if data["control_plane"]["http_url"] else [],
    )
    return 0


def statistics(path: Path) -> dict[str, Any]:
    """
    Sizes and counts of the database at *path*, nulls when there is none. Raises StateDirUnusable when it is not one.

    One read transaction, so that the numbers belong together while a server writes.
    """
    counts: dict[str, Any] = {"database": {"path": str(path), "exists": path.is_file(), "size_bytes": None}}
    counts |= {"rows": {}, "operations": {}, "agents": {}, "journal_length": None}
    if not counts["database"]["exists"]:
        return counts
    files = (path, path.with_name(f"{path.name}-wal"))
    counts["database"]["size_bytes"] = sum(file.stat().st_size for file in files if file.is_file())
    try:
        with contextlib.closing(_opened(path)) as db:
            tables = [name for (name,) in db.execute(_TABLES)]
            counts["rows"] = {name: _count(db, name) for name in tables}
            for field, (table, question) in _BY_STATE.items():
                if table in tables:
                    counts[field] = dict(db.execute(question).fetchall())
    except (sqlite3.Error, OSError) as exc:
        hint = "another file: --state-dir PATH"
        raise StateDirUnusable(f"{path} cannot be read as a database", cause=str(exc), hint=hint) from None
    counts["journal_length"] = counts["rows"].get("journal")
    return counts


def _opened(path: Path) -> sqlite3.Connection:
    """
    A read-only connection inside a transaction.

    Even read-only, SQLite creates -wal and -shm files beside a WAL database that has none. One without a -wal file is
    open nowhere, so it may be opened as immutable, which creates nothing and works in a directory of somebody else.
    """
    url = f"file:{quote(str(path.absolute()))}?mode=ro"
    if _is_wal(path) and not path.with_name(f"{path.name}-wal").exists():
        url += "&immutable=1"
    db = sqlite3.connect(url, uri=True, timeout=1.0, isolation_level=None)
    try:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _is_wal(path: Path) -> bool:
    """Byte 18 of the header is the write version: 2 for WAL (sqlite.org/fileformat.html)."""
    with path.open("rb") as file:
        return file.read(20)[18:20] == b"\2\2"


def _count(db: sqlite3.Connection, table: str) -> int:
    row: tuple[int] = db.execute(f"SELECT count(*) FROM {_quoted(table)}").fetchone()  # noqa: S608  quoted
    return row[0]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _control_plane(local: Local, now: float) -> dict[str, Any]:
    """The same keys whatever runs: null where there is nothing to say."""
    fields = ("pid", "http_url", "grpc_url", "external_url", "version", "replica", "started_at", "auth_mode")
    known = {**local.record, **{key: value for key, value in local.meta.items() if value not in (None, "")}}
    found = {field: known.get(field) if local.state in ("running", "silent") else None for field in fields}
    started = render.epoch(found["started_at"])
    uptime = None if started is None else round(max(now - started, 0.0) * 1000)
    return {"state": local.state, **found, "uptime_ms": uptime}


def _table(data: dict[str, Any], now: float) -> Iterable[str]:
    control, database = data["control_plane"], data["database"]
    yield from _head(control, now)
    if not database["exists"]:
        yield f"database         none yet at {render.clean(database['path'])}"
        if control["state"] == "stopped":
            yield "start one: mcpg-ctl quickstart"
        return
    yield f"database         {render.clean(database['path'])}  {render.size(database['size_bytes'])}"
    rows = [
        ("operations", render.counted(data["operations"])),
        ("agents", render.counted(data["agents"])),
        ("journal lines", "none" if data["journal_length"] is None else str(data["journal_length"])),
    ]
    yield from map(_labelled, rows)


def _labelled(row: tuple[str, str]) -> str:
    return f"  {row[0]:<13}  {render.clean(row[1])}".rstrip()


def _head(control: dict[str, Any], now: float) -> Iterable[str]:
    says = {
        "stopped": "not running",
        "stale": "not running (it did not stop cleanly)",
        "silent": f"pid {control['pid']} lives and does not answer at {control['http_url']}",
        "running": f"running, pid {control['pid']}, up {render.age(control['started_at'], now)}, {control['version']}",
    }
    yield f"control plane    {render.clean(says[control['state']])}"
    if control["state"] in ("running", "silent"):
        url = str(control["external_url"] or control["http_url"]).rstrip("/")
        rows = [
            ("UI", f"{url}/"),
            ("REST API", f"{url}/v1"),
            ("gRPC", str(control["grpc_url"] or "").rpartition("://")[2]),
            ("Auth", str(control["auth_mode"] or "")),
        ]
        yield from map(_labelled, rows)


def _rows(rows: dict[str, int]) -> list[tuple[str, str]]:
    return [("TABLE", "ROWS"), *((name, str(count)) for name, count in rows.items())]
