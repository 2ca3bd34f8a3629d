"""
Which control planes work on the database of this state directory, what none of them looks after, and which gateways run another
program than was chosen. Called by status.py.

Asked of the control plane here; where it does not answer, or is older than the question, as its database has it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from mcpg.cli import census, programs, render
from mcpg.cli.database import Place, columns, opened
from mcpg.cli.running import ANSWER_S, Local
from mcpg.errors import McpgError

_CLOCKS_AGREE_S = 1.0  # as the control plane warns
_NAMED = 4  # how many are named in one line; the rest is counted
_TEXTS = ("id", "epoch", "host", "version", "http_url", "grpc_url", "provisioner")
_KEYS = (*_TEXTS[:2], "here", "state", *_TEXTS[2:], "pid", "operations", "started_at", "seen_at", "clock_ahead_s")
_ROWS = "SELECT id, epoch, host, version, http_url, grpc_url, provisioner, pid, started_at, seen_at FROM replica"
_STRANDED = ("kind", "subject", "brief", "message", "since", "hint")


def look(local: Local, place: Place) -> dict[str, Any]:
    """`replicas`, by when they started, `stranded` and `other_programs`; the latter two are None where nobody answers."""
    if local.state == "running":
        with contextlib.suppress(McpgError):
            return _asked(local.record)
    return {"replicas": _read(local, place), "stranded": None, "other_programs": None}


def _asked(record: Mapping[str, Any]) -> dict[str, Any]:
    from mcpg.cli.client import Api

    with contextlib.closing(Api(str(record.get("http_url", "")), answer_s=ANSWER_S)) as api:
        replicas, stranded = api.items("v1", "replicas"), api.items("v1", "stranded")
        version = programs.chosen(record)
        others = programs.others(api.items("v1", "instances"), version) if version else None
    return {
        "replicas": [{key: each.get(key) for key in _KEYS} for each in replicas],
        "stranded": [{key: each.get(key) for key in _STRANDED} for each in stranded],
        "other_programs": None if others is None else [each._asdict() for each in others],
    }


def _read(local: Local, place: Place) -> list[dict[str, Any]]:
    """
    A file has one control plane at a time: whoever is not the one that answers, is late or left. When one that is late was
    last seen nobody knows: alone on its database it writes no heartbeat.
    """
    if place.path is None or not place.exists:
        return []
    with contextlib.suppress(McpgError), opened(place.path) as db:
        if {"epoch", "seen_at", "provisioner"} <= columns(db, "replica"):
            return [_row(row, local) for row in db.execute(f"{_ROWS} ORDER BY started_at, id")]
    return []


def _row(row: tuple[Any, ...], local: Local) -> dict[str, Any]:
    found = dict(zip((*_TEXTS, "pid", "started_at", "seen_at"), row, strict=True))
    here = bool(local.record) and found["epoch"] == local.record.get("replica")
    answers = here and local.state == "running"
    state = "living" if answers else "late" if found["seen_at"] else "left"
    seen = census.rfc3339(local.answered_at) if answers else None
    times = {"started_at": census.rfc3339(found["started_at"] / 1e6), "seen_at": seen}
    whole = found | times | {"here": here, "state": state, "operations": 0, "clock_ahead_s": None}
    return {key: whole[key] for key in _KEYS}


def lines(data: Mapping[str, Any], now: float) -> Iterable[tuple[str, str]]:
    """For the table: who is there, in one line, and what is stranded or runs another program, a line each."""
    replicas = data["replicas"]
    there = [each for each in replicas if each["state"] != "left"]
    if there:
        is_silent = data["control_plane"]["state"] == "silent"
        named = ", ".join(_named(each, now, is_silent=is_silent) for each in there[:_NAMED])
        more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
        left = len(replicas) - len(there)
        yield "Replicas", f"{named}{more}{f'; {left} stopped' if left else ''}"
    stranded = data["stranded"] or []
    for each in stranded[:_NAMED]:
        yield "Stranded", f"for {render.age(each['since'], now)}: {each['message']}; {each['hint']}"
    if len(stranded) > _NAMED:
        yield "Stranded", f"{len(stranded) - _NAMED} more: mcpg-ctl status -o json"
    others = data["other_programs"] or []
    for each in others[:_NAMED]:
        words = f"{each['name']} runs {each['version']}, not what the control plane here chose"
        yield "Other program", f"{words}; mcpg-ctl instance show {each['instance_uid']}"
    if len(others) > _NAMED:
        yield "Other program", f"{len(others) - _NAMED} more: mcpg-ctl status -o json"


def _named(replica: Mapping[str, Any], now: float, *, is_silent: bool) -> str:
    """`http://127.0.0.1:7843 0.1.0 (this one, seen now)`; *is_silent*: the process of this one lives."""
    seen = render.ago(replica["seen_at"], now)
    words = f"late, last seen {seen}" if replica["state"] == "late" else f"seen {seen}"
    if replica["seen_at"] is None:
        how = "does not answer" if is_silent and replica["here"] else "gone"
        words = f"{how}, started {render.ago(replica['started_at'], now)}"
    who = str(replica["http_url"] or replica["id"])
    ahead_s = replica["clock_ahead_s"] or 0.0
    if abs(ahead_s) > _CLOCKS_AGREE_S:
        words += f", its clock {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the database's"
    return f"{who} {replica['version']} ({'this one, ' if replica['here'] else ''}{words})"
