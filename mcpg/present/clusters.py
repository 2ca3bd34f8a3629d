"""Clusters and the health of the fleet as bodies of the wire."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

from mcpg.machines.cluster import MACHINE, State
from mcpg.present.base import Live, Row, transitions, when
from mcpg.store import fleet, reads
from mcpg.store.clock import now_us, to_datetime
from mcpg.store.database import Database
from mcpg.store.journal import Line
from mcpg.wire.clusters import Amount, Attention, Capacity, Cluster, ClusterHealth, Evidence, GatewayRef

_STATUS: dict[str, str] = {
    State.REGISTERED.value: "active"
}  # in the words of the public API; the others are the state's own
_GONE = State.DECOMMISSIONED.value
LIST = "mcpg-ctl cluster list -o wide"
ORPHANS = "mcpg-ctl instance list --orphaned"
_KINDS = ("gateways", "cpu_millicores", "memory_bytes")


def cluster(
    row: Row, live: Live | None = None, *, lines: Sequence[Line] | None = None, orphaned: Sequence[Row] | None = None
) -> Cluster:
    """One row of `fleet.clusters`."""
    seen = max(filter(None, (row["last_seen_at"], _heard(row, live))), default=None)
    return Cluster(
        id=row["id"], name=row["name"], region=row["region"], isolation_tier=row["isolation_tier"],
        state=row["state"], status=_STATUS.get(row["state"], str(row["state"])), provisioner=row["provisioner"],
        reachable=bool(row["reachable"]), reason=row["reason"], last_seen_at=when(seen),
        gateways_max=row["gateways_max"], gateways_running=row["gateways_used"],
        cpu_millicores_total=row["cpu_millicores_total"], cpu_millicores_used=row["cpu_millicores_used"],
        memory_bytes_total=row["memory_bytes_total"], memory_bytes_used=row["memory_bytes_used"],
        capacity=capacity(row), gateways=row["gateways"], kubeconfig=row["kubeconfig"],
        kube_context=row["kube_context"], kube_server=row["kube_server"], created_at=when(row["created_at"]),
        updated_at=when(row["updated_at"]), transitions=row["version"],
        history=None if lines is None else transitions(lines),
        orphaned=None if orphaned is None else [GatewayRef(**g) for g in orphaned],
    )  # fmt: skip


def _heard(row: Row, live: Live | None) -> int | None:
    """A look newer than the row's, of a cluster that it said yes about."""
    return live.cluster_seen(row["provisioner"]) if live and row["reachable"] and row["state"] != _GONE else None


def capacity(row: Row, more: Sequence[int] = (0, 0, 0)) -> Capacity:
    """The room of a cluster; *more* is counted as if it were reserved."""
    totals = (row["gateways_max"], row["cpu_millicores_total"], row["memory_bytes_total"])
    taken = (row["gateways_used"], row["cpu_millicores_used"], row["memory_bytes_used"])
    waiting = (row["reserved_places"], row["reserved_cpu_millicores"], row["reserved_memory_bytes"])
    amounts = [_amount(*of) for of in zip(totals, taken, waiting, more, strict=True)]
    return Capacity(**dict(zip(_KINDS, amounts, strict=True)))


def _amount(total: int | None, taken: int, waiting: int, more: int) -> Amount:
    free = None if total is None else max(0, total - taken - more)
    return Amount(total=total, used=taken - waiting + min(more, 0), reserved=waiting + max(more, 0), free=free)


def _sum(amounts: Sequence[Amount]) -> Amount:
    """Of those clusters that have a limit; what runs where there is none would make the rest look fuller than it is."""
    limited = [a for a in amounts if a.total is not None]
    return Amount(
        total=sum(a.total or 0 for a in limited) if limited else None, used=sum(a.used for a in limited),
        reserved=sum(a.reserved for a in limited), free=sum(a.free or 0 for a in limited) if limited else None,
    )  # fmt: skip


def _is_full(body: Cluster) -> bool:
    """No room for one more gateway of any size."""
    return any(getattr(body.capacity, kind).free == 0 for kind in _KINDS)


async def clusters(db: Database, live: Live, *, everything: bool = False) -> list[Cluster]:
    return [cluster(row, live) for row in await fleet.clusters(db, everything=everything)]


async def health(db: Database, live: Live) -> ClusterHealth:
    """The fleet at one look."""
    everything = await clusters(db, live, everything=True)
    living = [c for c in everything if c.state != _GONE]
    lost = [c for c in living if not c.reachable]
    degraded = [c for c in living if c.reachable and (c.state != State.REGISTERED.value or _is_full(c))]
    running, most = sum(c.gateways_running for c in living), sum(c.gateways_max for c in living)
    orphans, paused = await reads.orphans(db), await reads.paused_operations(db)
    seen = [c.last_seen_at for c in living if c.last_seen_at]
    states = [s.value for s in MACHINE.states]
    return ClusterHealth(
        clusters=len(living), healthy=len(living) - len(lost) - len(degraded), degraded=len(degraded),
        unreachable=len(lost), gateways_running=running, gateways_max=most,
        utilisation=round(running / most, 4) if most else 0.0,
        by_state={s: sum(c.state == s for c in everything) for s in states},
        by_reachability={"reachable": len(living) - len(lost), "unreachable": len(lost)},
        capacity=Capacity(**{kind: _sum([getattr(c.capacity, kind) for c in living]) for kind in _KINDS}),
        orphans=len(orphans), evidence=Evidence(oldest_at=min(seen, default=None), newest_at=max(seen, default=None)),
        attention=_attention(living, orphans, paused),
    )  # fmt: skip


def _attention(living: Sequence[Cluster], orphans: Sequence[Row], paused: Sequence[Row]) -> list[Attention]:
    """The most urgent first: critical before warning, then the oldest, then by name."""
    found = [note for c in living for note in _of_cluster(c)]
    if not living:
        hint = "mcpg-ctl cluster register --name NAME --region REGION --gateways-max N"
        found.append(
            _note("critical", "no_cluster", "clusters", "no cluster is registered: nothing can be created", hint)
        )
    for p in paused:
        words = f"{p['kind']} {p['name']} could not go on: {p['words']}"
        if p["kind"] == "recover":
            words = f"{p['name']} is down and is not started again by itself: {p['words']}"
        hint = f"mcpg-ctl operation show --id {p['id']}"
        found.append(_note("critical", "operation_paused", p["id"], words, hint, when(p["updated_at"])))
    for o in orphans:
        words = f"{o['name']} runs on and holds no room: {o['cluster']} was decommissioned"
        found.append(_note("warning", "orphan", o["name"], words, ORPHANS, when(o["orphaned_at"])))
    now = to_datetime(now_us())
    return sorted(found, key=lambda n: (n.severity != "critical", n.since or now, n.kind, n.subject))


def _note(
    severity: Literal["critical", "warning"],
    kind: str,
    subject: str,
    words: str,
    hint: str,
    since: datetime | None = None,
) -> Attention:
    return Attention(severity=severity, kind=kind, subject=subject, message=words, since=since, hint=hint)


def _of_cluster(c: Cluster) -> Iterator[Attention]:
    if not c.reachable:
        words = f"no gateway can be started in {c.name}: {c.reason}"
        yield _note(
            "critical" if c.gateways else "warning", "unreachable", c.name, words, LIST, c.last_seen_at or c.created_at
        )
    for kind, unit in zip(_KINDS, ("gateways", "CPU millicores", "memory bytes"), strict=True):
        amount: Amount = getattr(c.capacity, kind)
        taken = amount.used + amount.reserved
        if amount.total is not None and taken > amount.total:
            yield _note("critical", "overcommitted", c.name, f"{c.name} holds {taken} of {amount.total} {unit}", LIST)
        elif amount.free == 0:
            hint = "more room: mcpg-ctl cluster register --name NAME --region REGION --gateways-max N"
            yield _note("warning", "full", c.name, f"{c.name} is full: {taken} of {amount.total} {unit}", hint)
    if c.state == State.DRAINING.value:
        left = f"{c.gateways} gateway{'s' * (c.gateways != 1)} left" if c.gateways else "it is empty"
        hint = f"mcpg-ctl cluster decommission --id {c.name}, or mcpg-ctl cluster undrain --id {c.name}"
        yield _note("warning", "draining", c.name, f"{c.name} takes nothing new; {left}", hint, c.updated_at)
