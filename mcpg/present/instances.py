"""Instances and their agents as bodies of the wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from types import MappingProxyType

from mcpg.engine.stranded import Stranded
from mcpg.machines import TABLES
from mcpg.machines.enrolment import State
from mcpg.present.base import Live, Row, when
from mcpg.present.replicas import stranded
from mcpg.store import reads
from mcpg.store.database import Database
from mcpg.wire.fleet import Agent, Instance

Process = Callable[[str, int], tuple[int | None, str]]
Left = Mapping[str, Stranded]
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


async def instances(
    db: Database, live: Live, org: str | None, *, orphaned: bool = False, left: Left = MappingProxyType({})
) -> list[Instance]:
    """Every instance that exists, newest first; of every org when *org* is None, orphans only if wished. *left*: as below."""
    agents = {
        key: list(rows) for key, rows in groupby(await reads.all_agents(db, org), key=lambda a: str(a["instance_id"]))
    }
    rows = await reads.instances(db, org, orphaned=orphaned)
    return [instance(i, agents.get(i["id"], []), live, left=left) for i in rows]


def instance(
    row: Row, agents: Sequence[Row], live: Live, process: Process = lambda *_: (None, ""), *, left: Left
) -> Instance:
    """
    One gateway, its state derived from its agents'. *process*: the pid and the log of a replica of an instance. *left*:
    the gateways that nobody looks after, by uid.
    """
    alone = left.get(row["instance_uid"])
    replicas = row["spec"].get("replicas", 1)
    bodies = [
        _agent(a, reads.assigned(row, a["replica"])[1], live, process(row["id"], a["replica"]))
        for a in agents
        if a["replica"] <= replicas
    ]
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
        operation_kind=row["operation_kind"] or "", operation_phase=_phase(row), down_since=_down_since(agents, replicas),
        last_seen_at=max(seen) if seen else None, created_at=when(row["created_at"]),
        orphaned_at=when(row["orphaned_at"]), stranded=stranded(alone) if alone else None, agents=bodies,
    )  # fmt: skip


def _phase(row: Row) -> str:
    return TABLES[row["operation_machine"]].phase(row["operation_state"]) if row["operation_machine"] else ""


def _down_since(agents: Sequence[Row], replicas: int) -> datetime | None:
    gone = [a["updated_at"] for a in agents if a["replica"] <= replicas and a["state"] == State.DEPARTED.value]
    return when(min(gone, default=None))


def _is_quiet(row: Row, live: Live) -> bool:
    """Still online by its last heartbeat, but not connected now."""
    return row["state"] == State.ONLINE.value and not live.is_connected(row)


def _agent(row: Row, assigned: str, live: Live, where: tuple[int | None, str]) -> Agent:
    return Agent(
        pid=where[0], log=where[1],
        id=row["id"], replica=row["replica"], state=row["state"], version=row["software"],
        reason=row["reason"] or ("no channel is open" if _is_quiet(row, live) else ""),
        connected=live.is_connected(row), last_seen_at=when(live.last_heard(row["id"]) or row["last_seen_at"]),
        assigned_hash=assigned, active_hash=row["active_hash"], received_hash=row["received_hash"],
        rejected_hash=row["rejected_hash"], config_error=row["config_error"],
    )  # fmt: skip
