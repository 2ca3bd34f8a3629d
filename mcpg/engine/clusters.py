"""
The cluster machine at work: register, drain, undrain, decommission. Called by mcpg/api/clusters.py.

Whether a cluster is empty is read in the transaction of the move itself, so a create that races a decommission loses, or
the decommission does. A forced one makes orphans of those who live there: they run on, and their room is given back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mcpg.engine.core import Core
from mcpg.errors import BadSlug, BadSpec, ClusterInUse, Conflict, GuardRefused, NameTaken, NotFound, Refused, Usage
from mcpg.machines import cluster
from mcpg.machines.cluster import Event, State
from mcpg.store import fleet, writes
from mcpg.store.clock import uuid7
from mcpg.store.journal import Ask, Birth, Fire, Line, Step

Row = dict[str, Any]
M = cluster.MACHINE
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,58}[a-z0-9]")
_ROUTES = frozenset({"health"})  # /v1/clusters/health is another resource


@dataclass(frozen=True, slots=True)
class Registration:
    """What a new cluster is. Totals of None are no limit."""

    name: str
    region: str
    gateways_max: int
    isolation_tier: str
    cpu_millicores_total: int | None
    memory_bytes_total: int | None
    provisioner: str
    kubeconfig: str
    kube_context: str
    kube_server: str


async def register(engine: Core, wish: Registration, *, actor: str) -> str:
    """Its id. Raises BadSlug, BadSpec, NameTaken."""
    if not _NAME.fullmatch(wish.name) or wish.name in _ROUTES:
        raise BadSlug(
            f"name {wish.name[:80]!r} cannot be a cluster's",
            cause="2 to 60 of a-z, 0-9 and -, not starting or ending with -, and not `health`",
            hint="choose another --name",
        )
    _check_kubernetes(wish)
    fields = {f: getattr(wish, f) for f in wish.__dataclass_fields__}
    reachable, reason, seen_at = await engine.reach.first(wish.provisioner)
    cluster_id = uuid7()
    columns = fields | {
        "live_name": wish.name, "reachable": int(reachable), "reason": reason, "last_seen_at": seen_at,
    }  # fmt: skip
    birth = Birth(
        M, cluster_id, columns, actor,
        reason=f"{wish.gateways_max} places in {wish.region}, {wish.isolation_tier}, {wish.provisioner}",
        data={k: v for k, v in fields.items() if v not in ("", None)},
        refuse=lambda: NameTaken(
            f"the cluster name {wish.name} is taken",
            cause="a living cluster has it; the name of a decommissioned one is free",
            hint=f"mcpg-ctl cluster list; choose another --name, or decommission {wish.name} first",
        ),
    )  # fmt: skip
    await engine.db.writer.submit([birth])
    return cluster_id


def _check_kubernetes(wish: Registration) -> None:
    """A kubernetes cluster is named by context and API server; a local one has neither."""
    given = {"kubeconfig": wish.kubeconfig, "kube_context": wish.kube_context, "kube_server": wish.kube_server}
    if wish.provisioner != "kubernetes":
        if extra := [k for k, v in given.items() if v]:
            raise BadSpec(
                f"{', '.join(extra)} says nothing about a {wish.provisioner} cluster",
                cause="only a kubernetes cluster has them",
                hint="--provisioner kubernetes, or leave them out",
            )
        return
    if missing := [k for k in ("kube_context", "kube_server") if not given[k]]:
        raise BadSpec(
            f"a kubernetes cluster needs {' and '.join(missing)}",
            cause="they say which cluster it is; credentials are never stored here",
            hint="--kube-context NAME, and a kubeconfig that has it",
        )
    try:
        url = urlsplit(wish.kube_server)
        good = url.scheme == "https" and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        good = False
    if not good or url.username is not None or url.password is not None:
        raise BadSpec("kube_server is not an https URL", cause="e.g. https://10.0.0.1:6443, without credentials")


async def find(engine: Core, ref: str) -> Row:
    """By id, name, or an id's beginning of six characters or more. Raises NotFound, or Usage naming the candidates."""
    found = await fleet.find_clusters_named(engine.db, ref)
    if not found:
        names = [c["name"] for c in await fleet.clusters(engine.db)]
        raise NotFound(
            f"no cluster {ref[:80]}",
            cause=f"clusters here: {', '.join(names[:20]) or 'none'}",
            hint="their ids: mcpg-ctl cluster list -o wide",
        )
    if len(found) > 1:
        raise Usage(
            f"{ref[:80]} may be any of {len(found)} clusters",
            cause=", ".join(f"{c['id']} ({c['name']}, {c['state']})" for c in found),
            hint="give more of the id",
            candidates=[{"id": c["id"], "name": c["name"], "state": c["state"]} for c in found],
        )
    return found[0]


async def move(engine: Core, row: Row, event: Event, *, actor: str, reason: str) -> None:
    """Drain or undrain. Raises NoSuchMove with the moves there are."""
    await engine.db.writer.fire(Fire(M, row["id"], event, actor, reason=reason))


async def decommission(engine: Core, row: Row, *, force: bool, actor: str) -> list[Row]:
    """
    Take a cluster out of the pool; whom that made orphans. Raises ClusterInUse unless it is empty or *force*, NoSuchMove
    when it is gone already.
    """
    for _ in range(4):
        try:
            lines = await engine.db.writer.submit(_unit(engine, row, force=force, actor=actor))
        except GuardRefused as exc:
            refused: Refused = await in_use(engine, row)
            if refused.details["gateways"]:
                raise refused from exc  # else the last of them left a moment ago
        except Conflict as exc:  # it was drained or undrained meanwhile: decide again
            refused = exc
            row = await fleet.find_cluster(engine.db, row["id"]) or row
        else:
            return _orphaned(lines)
    raise refused


async def would_decommission(engine: Core, row: Row, *, force: bool) -> list[Row]:
    """Whom `decommission` would make orphans now, or its refusal; nothing is written."""
    M.step(row["state"], Event.FORCE_DECOMMISSION)  # from every state that a decommission starts from
    gateways = await fleet.gateways_in(engine.db, row["id"])
    if gateways and not force:
        raise await in_use(engine, row)
    return gateways


def _unit(engine: Core, row: Row, *, force: bool, actor: str) -> list[Step]:
    """One transaction: an empty cluster goes through `draining`, and both lines are written."""
    here, at = (row["id"],), engine.clock()
    gone: dict[str, Any] = {"live_name": None}
    if force:
        orphans = {"orphaned": Ask(fleet.IN_CLUSTER, here)}
        fire = Fire(M, row["id"], Event.FORCE_DECOMMISSION, actor, reason="by force", sets=gone, lists=orphans)
        return [fire, *writes.orphan_all(row["id"], at)]
    first = Fire(M, row["id"], Event.DRAIN, actor, expect=row["version"], reason="to be decommissioned")
    drained = row["state"] == State.DRAINING.value
    version = row["version"] + (0 if drained else 1)
    count = {"gateways": Ask(fleet.COUNT_IN_CLUSTER, here)}
    last = Fire(
        M, row["id"], Event.DECOMMISSION, actor, cluster.Load(), expect=version, reason="it is empty", sets=gone,
        counts=count,
    )  # fmt: skip
    return [last] if drained else [first, last]


def _orphaned(lines: list[Line]) -> list[Row]:
    found: list[Row] = lines[-1].data.get("orphaned", [])
    return found


async def in_use(engine: Core, row: Row) -> ClusterInUse:
    """The refusal: who is in the way, and the two ways on."""
    gateways = await fleet.gateways_in(engine.db, row["id"])
    name = row["name"]
    few = ", ".join(g["name"] for g in gateways[:5]) + (", …" if len(gateways) > 5 else "")
    return ClusterInUse(
        f"{name} still runs {len(gateways)} gateway{'s' * (len(gateways) != 1)}",
        cause=f"drain protection: {few}",
        hint=f"delete them first (mcpg-ctl cluster drain --id {name} keeps new ones away),"
        f" or orphan them: mcpg-ctl cluster decommission --id {name} --force",
        gateways=gateways,
        allowed=[e for e in M.allowed(row["state"]) if e != Event.DECOMMISSION.value],  # that one is being refused
        machine=M.name,
        state=row["state"],
    )
