"""
`mcpg-ctl status`: what runs on this machine and what its database holds.

Reads only: nothing is created, the database is opened read-only, and it works with the server down, silent or elsewhere.
What is shown is shown with its evidence: who said it and when, or that nobody can say it now.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mcpg.cli import census, peers, render, resolve
from mcpg.cli.database import place
from mcpg.cli.parse import Line
from mcpg.cli.running import Local, look, readiness
from mcpg.errors import Unavailable

_CARD = (
    "pid", "http_url", "grpc_url", "external_url", "version", "replica", "started_at", "auth_mode", "provisioner", "gateway"
)  # fmt: skip


def status(line: Line) -> int:
    """Prints the control plane and the statistics of its database. Exit 0 when there is nothing yet; raises
    StateDirUnusable, after printing all the rest, for a database that cannot be read."""
    values = resolve.values(line)
    state_dir: Path = values.state_dir
    local = look(state_dir)
    now = time.time()
    where = place(values.db_url, state_dir, local.record)
    counts, problem = census.take(where)
    data = {
        "state_dir": str(state_dir), "control_plane": _control_plane(local, now), **peers.look(local, where), **counts
    }  # fmt: skip
    render.emit(
        values.output,
        data,
        table=lambda: _table(data, now),
        wide=lambda: [*_table(data, now), *_wide(data)],
        names=[data["control_plane"]["http_url"]] if data["control_plane"]["http_url"] else [],
    )
    if problem is not None:
        raise problem
    return 0


def _control_plane(local: Local, now: float) -> dict[str, Any]:
    """The same keys whatever runs: null where there is nothing to say. Connections are counted by a live server only."""
    known = {**local.record, **{key: value for key, value in local.meta.items() if value not in (None, "")}}
    lives = local.state in ("running", "silent")
    found = {field: known.get(field) if lives else None for field in _CARD}
    started = render.epoch(found["started_at"])
    ready, why = _readiness(local)
    return {
        "state": local.state,
        **found,
        "uptime_ms": None if started is None else round(max(now - started, 0.0) * 1000),
        "agents_connected": local.meta.get("agents_connected"),
        "answered_at": None if local.answered_at is None else census.rfc3339(local.answered_at),
        "answered_in_ms": local.took_ms,
        "ready": ready,
        "not_ready": why,
        "evidence": _evidence(local),
    }


def _readiness(local: Local) -> tuple[bool | None, str | None]:
    """What /readyz says, and why it says no, or why that is not known."""
    if local.state != "running":
        return None, None
    try:
        found = readiness(str(local.record.get("http_url", "")))
    except Unavailable as exc:
        return None, f"/readyz does not answer ({exc.cause}): its database may hang"
    return (None, None) if found is None else (found.ready, found.why or None)


def _evidence(local: Local) -> str:
    """What the state is read from."""
    card, pid = "server.json", local.record.get("pid")
    return {
        "stopped": f"there is no {card}",
        "stale": f"{card} names pid {pid}, which is gone",
        "silent": f"{card} names pid {pid}, which lives and gives no answer of its own",
        "running": f"{card} names pid {pid}, and its /v1/meta answered",
    }[local.state]


def _table(data: dict[str, Any], now: float) -> Iterable[str]:
    control, database = data["control_plane"], data["database"]
    yield from _head(control, now)
    yield from map(_labelled, peers.lines(data, now))
    where = render.clean(database["path"])
    if not database["exists"]:
        yield (
            f"database         {where}: {database['error']}"
            if database["error"]
            else f"database         none yet at {where}"
        )
        if control["state"] == "stopped" and not database["error"]:
            yield "start one: mcpg-ctl quickstart"
        return
    wal = f" ({render.size(database['wal_bytes'])} of it -wal)" if database["wal_bytes"] else ""
    yield f"database         {where}  {render.size(database['size_bytes'])}{wal}"
    if database["error"]:
        yield _labelled(("cannot be read", database["error"]))
        return
    if database["newer_schema"]:
        yield _labelled(("newer schema", f"written by a later version: {', '.join(database['newer_schema'])}"))
    if not data["rows"]:
        yield _labelled(("empty", "no table yet"))
        return
    yield from map(_labelled, _counts(data, now))


def _counts(data: dict[str, Any], now: float) -> Iterable[tuple[str, str]]:
    control = data["control_plane"]
    orphans = f"  orphaned {data['orphans']}" if data["orphans"] else ""
    yield "operations", render.counted(data["operations"])
    yield "instances", render.counted(data["instances"]) + orphans
    yield "clusters", render.counted(data["clusters"])
    recorded = "" if control["state"] == "running" or not data["agents"] else "  as last written: nobody listens now"
    yield "agents", render.counted(data["agents"]) + recorded
    yield "connected", _connected(control, now)
    newest = data["journal_newest_at"]
    age = f", the newest {render.ago(newest, now)}" if newest else ""
    yield "journal lines", "none" if data["journal_length"] is None else f"{data['journal_length']}{age}"


def _connected(control: Mapping[str, Any], now: float) -> str:
    if control["state"] != "running":
        return "unknown, server down" if control["state"] != "silent" else "unknown, server silent"
    if control["agents_connected"] is None:
        return "unknown, the server does not say"
    return f"{control['agents_connected']}  (asked {render.ago(control['answered_at'], now)})"


def _labelled(row: tuple[str, str]) -> str:
    return f"  {row[0]:<13}  {render.clean(row[1])}".rstrip()


def _head(control: dict[str, Any], now: float) -> Iterable[str]:
    says = {
        "stopped": "not running",
        "stale": "not running (it did not stop cleanly)",
        "silent": f"pid {control['pid']} lives and does not answer at {control['http_url']}",
        "running": f"running, pid {control['pid']}, up {render.age(control['started_at'], now)}, {control['version']}",
    }
    is_ready = control["not_ready"] is None
    yield f"control plane    {render.clean(says[control['state']])}{'' if is_ready else ', NOT READY'}"
    if not is_ready:
        yield _labelled(("Not ready", f"{control['not_ready']}; mcpg-ctl doctor"))
    if control["state"] in ("running", "silent"):
        url = str(control["external_url"] or control["http_url"]).rstrip("/")
        rows = [
            ("UI", f"{url}/"),
            ("REST API", f"{url}/v1"),
            ("gRPC", str(control["grpc_url"] or "").rpartition("://")[2]),
            ("Auth", str(control["auth_mode"] or "")),
        ]
        gateways = [str(control[key]) for key in ("provisioner", "gateway") if control[key]]
        rows += [("Gateways", ": ".join(gateways))] if gateways else []
        yield from map(_labelled, rows)


def _wide(data: dict[str, Any]) -> list[str]:
    """What the table sums up: operations by machine and kind, rows by table, and what it is all known from."""
    control = data["control_plane"]
    answer = f" in {render.took(control['answered_in_ms'])}" if control["answered_in_ms"] is not None else ""
    kinds = [("OPERATIONS", "BY STATE"), *((k, render.counted(v)) for k, v in data["operations_by_kind"].items())]
    rows = [("TABLE", "ROWS"), *((name, str(count)) for name, count in data["rows"].items())]
    return [
        *(render.columns(kinds, indent=2) if len(kinds) > 1 else ()),
        *(render.columns(rows, indent=2, right=frozenset((1,))) if len(rows) > 1 else ()),
        f"known from       {render.clean(control['evidence'])}{answer}",
    ]
