"""`mcpg-ctl instance list|show|adopt|reap`: the gateways of the fleet, orphans among them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from mcpg.cli import inputs, render, resolve
from mcpg.cli.client import Api
from mcpg.cli.history import of, where
from mcpg.cli.operate import Request, operate
from mcpg.cli.parse import Line
from mcpg.cli.render import Row
from mcpg.cli.resolve import Values

Instance = dict[str, Any]

_HEAD = ("NAME", "WHERE", "STATE", "CLUSTER", "REPLICAS", "VERSION", "SEEN", "AGE")
_WIDE = ("UID", "CONFIG", "ASSIGNED", "ACTIVE", "ENDPOINTS", "OPERATION")
_AGENT = ("REPLICA", "STATE", "CONNECTED", "SEEN", "VERSION", "ASSIGNED", "ACTIVE", "REASON")


def index(line: Line) -> int:
    """Prints the gateways, newest first. `-o json` is the server's array, unchanged."""
    values = resolve.values(line)
    asked = {"org": values.org} if values.org else {}
    with contextlib.closing(inputs.connect(values)) as api:
        found = api.items("v1", "instances", **asked, **({"orphaned": "true"} if values.orphaned else {}))
    now = time.time()
    width = render.terminal_width()
    none = [f"no {'orphaned ' if values.orphaned else ''}gateways{f' in {values.org}' if values.org else ''}"]
    render.emit(
        values.output,
        found,
        table=lambda: render.columns([_HEAD, *(_row(each, now) for each in found)], width=width) if found else none,
        wide=lambda: render.columns([_HEAD + _WIDE, *(_wide_row(each, now) for each in found)]) if found else none,
        names=[str(each.get("instance_uid", "")) for each in found],
    )
    return 0


def show(line: Line) -> int:
    """Prints one gateway, by name, uid or the beginning of it, with its agents."""
    values = resolve.values(line)
    with contextlib.closing(inputs.connect(values)) as api:
        found = api.item("v1", "instances", values.instance_uid)
    now = time.time()
    width = render.terminal_width()
    render.emit(
        values.output,
        found,
        table=lambda: [
            render.clean("  ".join(filter(None, _title(found)))),
            *render.columns(list(_facts(found, now)), width=width, indent=2),
            *_agents(found, now, width),
        ],
        names=[str(found.get("instance_uid", ""))],
    )
    return 0


def adopt(line: Line) -> int:
    """Gives an orphaned gateway a cluster again, and follows that."""
    values = resolve.values(line)
    with contextlib.closing(inputs.connect(values)) as api:
        found = api.item("v1", "instances", values.instance_uid)
        body = {"cluster": values.cluster} if values.cluster else {}
        return operate(api, values, _request(found, "adopt", "adopt", body))


def reap(line: Line) -> int:
    """Ends an orphaned gateway, after asking, and follows that."""
    values = resolve.values(line)
    with contextlib.closing(inputs.connect(values)) as api:
        found = api.item("v1", "instances", values.instance_uid)
        _confirm(api, values, line, found)
        return operate(api, values, _request(found, "reap", "delete", {}))


def _request(found: Instance, verb: str, kind: str, body: dict[str, Any]) -> Request:
    uid, org = str(found.get("instance_uid", "")), str(found.get("org", ""))
    name = str(found.get("name") or uid)
    path = ("v1", "orgs", org, "instances", uid, verb)
    return Request("POST", path, body, kind, name, where(found, fleet=True), uid)


def _confirm(api: Api, values: Values, line: Line, found: Instance) -> None:
    uid = str(found.get("instance_uid", ""))
    name = str(found.get("name") or uid)
    what = f"{name} ({uid}, {found.get('state', '')})"
    inputs.confirm(line, values, f"end {what} in {where(found, fleet=True)}", name=name, where=api.url)


def _row(found: Instance, now: float) -> Row:
    orphan = "  orphaned" if found.get("orphaned_at") else ""
    return (
        str(found.get("name") or found.get("instance_uid", "")),
        where(found, fleet=True),
        f"{_state(found)}{_recovery(found)}{_stranded(found)}",
        str(found.get("cluster") or "–") + orphan,
        *of(found, "replicas"),
        str(found.get("version") or "–"),
        _age(found, "last_seen_at", now),
        _age(found, "created_at", now),
    )


def _state(found: Instance) -> str:
    """The gateway's state, which is its worst replica's; where others are online, how many: `departed, 1/2 online`."""
    online = sum(agent.get("state") == "online" for agent in found.get("agents") or [])
    total = int(found.get("replicas") or 0)
    return f"{found.get('state', '')}{f', {online}/{total} online' if 0 < online < total else ''}"


def _recovery(found: Instance) -> str:
    """How far the engine is with bringing it back; "" when it does not."""
    return f" ({found.get('operation_phase')})" if found.get("operation_kind") == "recover" else ""


def _stranded(found: Instance) -> str:
    """That nobody looks after it; "" where somebody does."""
    brief = (found.get("stranded") or {}).get("brief")
    return f" ({brief})" if brief else ""


def _title(found: Instance) -> Row:
    return *of(found, "name"), where(found, fleet=True), f"{_state(found)}{_stranded(found)}"


def _wide_row(found: Instance, now: float) -> Row:
    active = {_short(agent, "active_hash") for agent in found.get("agents") or []}
    return (
        *_row(found, now),
        *of(found, "instance_uid", "config_version"),
        _short(found, "assigned_hash"),
        " ".join(sorted(active - {""})),
        " ".join(map(str, found.get("addressable") or [])),
        *of(found, "operation_id"),
    )


def _facts(found: Instance, now: float) -> Iterator[Row]:
    ref = found.get("name") or found.get("instance_uid", "")
    yield "instance", str(found.get("instance_uid", ""))
    yield "cluster", ", region ".join(filter(None, of(found, "cluster", "region"))) or "–"
    if found.get("orphaned_at"):
        yield (
            "orphaned",
            (
                f"{render.ago(found['orphaned_at'], now)}: its cluster was decommissioned under it;"
                f" mcpg-ctl instance adopt {ref}, or reap {ref}"
            ),
        )
    if alone := found.get("stranded"):
        words = f"{render.ago(alone.get('since'), now)}: {alone.get('message')}; {alone.get('hint')}"
        yield str(alone.get("brief") or "stranded"), words
    if found.get("down_since"):
        yield "down since", f"{found['down_since']}  {render.ago(found['down_since'], now)}"
    if found.get("reason"):
        yield "reason", str(found["reason"])
    yield (
        "replicas",
        " ".join(filter(None, (*of(found, "replicas"), f"size {found['size']}" if found.get("size") else ""))),
    )
    yield "config", f"version {found.get('config_version') or '–'}  {_short(found, 'assigned_hash')}".rstrip()
    for url in found.get("addressable") or []:
        yield "endpoint", str(url)
    for agent in found.get("agents") or []:
        if agent.get("log"):
            pid = f"  pid {agent['pid']}" if agent.get("pid") else ""
            yield f"log {agent.get('replica')}", f"{agent['log']}{pid}"
    managed = "this control plane" if found.get("managed") else "somebody else: it enrolled itself"
    yield "managed by", managed
    yield "created", f"{found.get('created_at') or '–'}  {render.ago(found.get('created_at'), now)}"
    if found.get("operation_id"):
        doing = " ".join(filter(None, (f"({found.get('operation_kind')})", "is", found.get("operation_phase"))))
        yield "operation", f"{found['operation_id']} {doing if found.get('operation_phase') else 'is running'}"


def _agents(found: Instance, now: float, width: int | None) -> list[str]:
    agents = found.get("agents") or []
    return render.columns([_AGENT, *(_agent(each, now) for each in agents)], width=width, indent=2) if agents else []


def _agent(agent: dict[str, Any], now: float) -> Row:
    error = str(agent.get("config_error") or "")
    return (
        *of(agent, "replica", "state"),
        "yes" if agent.get("connected") else "no",
        _age(agent, "last_seen_at", now),
        *of(agent, "version"),
        _short(agent, "assigned_hash"),
        _short(agent, "active_hash"),
        " ".join(
            filter(None, (*of(agent, "reason"), f"refused {_short(agent, 'rejected_hash')}: {error}" if error else ""))
        ),
    )


def _age(found: dict[str, Any], field: str, now: float) -> str:
    return render.age(found[field], now) if found.get(field) else "never"


def _short(found: dict[str, Any], field: str) -> str:
    return str(found.get(field) or "")[:12]
