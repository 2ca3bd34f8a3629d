"""
Rows of the store as bodies of the wire: the only place that knows both. Called by the API and by the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from mcpg.machines import TABLES
from mcpg.machines.enrolment import State
from mcpg.store import reads
from mcpg.store.clock import now_us, to_datetime
from mcpg.store.database import Database
from mcpg.store.journal import Line
from mcpg.wire.events import EndEvent, LadderEvent
from mcpg.wire.fleet import Agent, Cluster, Environment, Instance, Org, Workspace
from mcpg.wire.operations import Operation, Transition

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Live:
    """What this process knows of agents now: open channels, and when each was last heard (microseconds, or None)."""

    is_live: Callable[[str], bool]
    last_heard: Callable[[str], int | None]


def when(us: int | None) -> datetime | None:
    return None if us is None else to_datetime(us)


def org(row: Row) -> Org:
    return Org(**{**row, "created_at": when(row["created_at"])})


def workspace(row: Row) -> Workspace:
    return Workspace(**{**row, "created_at": when(row["created_at"])})


def environment(row: Row) -> Environment:
    return Environment(**{**row, "created_at": when(row["created_at"])})


def cluster(row: Row) -> Cluster:
    return Cluster(
        id=row["id"], name=row["name"], region=row["region"], isolation_tier=row["isolation_tier"],
        status=row["state"], provisioner=row["provisioner"], gateways_max=row["gateways_max"],
        gateways_running=row["gateways_used"], created_at=when(row["created_at"]),
    )  # fmt: skip


def message(line: Line) -> str:
    """A line in words: its reason, or what was asked in the first one."""
    undone = line.data.get("undone")
    if undone:
        return f"{line.reason}; {', '.join(undone)}"
    if line.reason:
        return line.reason
    if line.source == "" and "kind" in line.data:
        return f"{line.data['kind']} {line.data['name']}"
    return ""


def transitions(lines: Sequence[Line]) -> list[Transition]:
    """A subject's history: offsets from its first line, and how long it stayed in each state."""
    out = []
    for i, line in enumerate(lines):
        after = lines[i + 1].at if i + 1 < len(lines) else None
        out.append(
            Transition(
                seq=line.seq,
                at=to_datetime(line.at),
                offset_ms=(line.at - lines[0].at) / 1000,
                source=line.source,
                dest=line.dest,
                phase=TABLES[line.machine].phase(line.dest),
                event=line.event,
                actor=line.actor,
                reason=line.reason,
                message=message(line),
                facts=line.facts,
                data=line.data,
                definition=line.definition,
                prev_hash=line.prev_hash,
                hash=line.hash,
                in_state_ms=None if after is None else (after - line.at) / 1000,
            )
        )
    return out


def operation(row: Row, clusters: dict[str, Row], lines: Sequence[Line] | None = None) -> Operation:
    """`final_phase` is the phase of the state it is in; `duration_ms` counts to the end, or to now."""
    table = TABLES[row["machine"]]
    running = row["state"] not in table.final_values
    where = clusters.get(row["cluster_id"] or "", {})
    end = row["finished_at"] or now_us()
    return Operation(
        id=row["id"], kind=row["kind"], machine=row["machine"], org=row["org"], workspace=row["workspace"],
        environment=row["environment"], name=row["name"], instance_uid=row["instance_id"], state=row["state"],
        final_phase=table.phase(row["state"]), error=row["error"], code=row["code"], running=running,
        cluster=where.get("name", ""), region=where.get("region", ""), replicas=row["spec"].get("replicas", 0),
        actor=row["actor"], started_at=when(row["created_at"]), finished_at=when(row["finished_at"]),
        deadline_at=when(row["deadline_at"]) if running else None, duration_ms=(end - row["created_at"]) / 1000,
        transitions=row["version"], definition=table.label,
        history=None if lines is None else transitions(lines),
    )  # fmt: skip


def ladder_event(line: Line, first_at: int) -> LadderEvent:
    table = TABLES[line.machine]
    coords: dict[str, Any] | None = None
    if line.dest in table.final_values and line.dest not in table.failure_values:
        coords = {str(k): line.data[k] for k in ("instance_uid", "endpoints") if k in line.data} or None
    return LadderEvent(
        operation_id=line.subject, seq=line.seq, phase=table.phase(line.dest), state=line.dest, event=line.event,
        at=to_datetime(line.at), message=message(line), reason=line.reason, code=str(line.data.get("code", "")),
        actor=line.actor, offset_ms=(line.at - first_at) / 1000, coords=coords, data=line.data,
    )  # fmt: skip


def end_event(line: Line) -> EndEvent:
    table = TABLES[line.machine]
    ok = line.dest in table.final_values and line.dest not in table.failure_values
    return EndEvent(
        operation_id=line.subject, seq=line.seq, phase=table.phase(line.dest), state=line.dest, ok=ok,
        code=str(line.data.get("code", "")), message=message(line),
    )  # fmt: skip


_RANK = [State.QUARANTINED, State.ONLINE, State.ENROLLING, State.STALE, State.DEPARTED]


def derived_state(agents: Sequence[Row], replicas: int) -> str:
    """
    An instance's state from its agents': quarantined if any is, online only if as many are online as there should be,
    else the worst of those that should run. Without agents it is still enrolling.
    """
    states = [State(a["state"]) for a in agents if a["replica"] <= replicas]
    if State.QUARANTINED in states:
        return State.QUARANTINED.value
    if len(states) < replicas:
        return State.ENROLLING.value
    return max(states, key=_RANK.index).value


async def instances(db: Database, live: Live, org: str | None) -> list[Instance]:
    """Every instance that exists, newest first; of every org when *org* is None."""
    agents = {
        key: list(rows) for key, rows in groupby(await reads.all_agents(db, org), key=lambda a: str(a["instance_id"]))
    }
    return [instance(i, agents.get(i["id"], []), live) for i in await reads.instances(db, org)]


async def recent_operations(db: Database, limit: int) -> list[Operation]:
    """The newest of every org, without their histories."""
    clusters = {c["id"]: c for c in await reads.clusters(db)}
    return [operation(r, clusters) for r in await reads.recent_operations(db, limit)]


def instance(row: Row, agents: Sequence[Row], live: Live) -> Instance:
    """One gateway, its state derived from its agents'."""
    replicas = row["spec"].get("replicas", 1)
    bodies = [_agent(a, row["assigned_hash"], live) for a in agents if a["replica"] <= replicas]
    seen = [b.last_seen_at for b in bodies if b.last_seen_at]
    state = derived_state(agents, replicas)
    return Instance(
        id=row["id"], instance_uid=row["instance_uid"], name=row["name"], org=row["org"], workspace=row["workspace"],
        environment=row["environment"], state=state, managed=bool(row["managed"]),
        reason=next((b.reason for b in bodies if b.state == state and b.reason), ""),
        discovered_via=row["discovered_via"], version=next((b.version for b in bodies if b.version), ""),
        addressable=row["endpoints"] if row["ready_at"] else [], replicas=replicas, size=row["spec"].get("size", ""),
        region=row["spec"].get("region", ""), cluster=row["cluster"] or "", config_version=row["config_version"],
        assigned_hash=row["assigned_hash"], operation_id=row["operation_id"] or "",
        last_seen_at=max(seen) if seen else None, created_at=when(row["created_at"]), agents=bodies,
    )  # fmt: skip


def _is_quiet(row: Row, live: Live) -> bool:
    """Still online by its last heartbeat, but not connected now."""
    return row["state"] == State.ONLINE.value and not live.is_live(row["id"])


def _agent(row: Row, assigned: str, live: Live) -> Agent:
    return Agent(
        id=row["id"], replica=row["replica"], state=row["state"], version=row["software"],
        reason=row["reason"] or ("no channel is open" if _is_quiet(row, live) else ""),
        connected=live.is_live(row["id"]), last_seen_at=when(live.last_heard(row["id"]) or row["last_seen_at"]),
        assigned_hash=assigned, active_hash=row["active_hash"], received_hash=row["received_hash"],
        rejected_hash=row["rejected_hash"], config_error=row["config_error"],
    )  # fmt: skip
