"""`mcpg-ctl cluster list`, `show` and `health`: where gateways run, how full it is, what needs attention first."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from mcpg.cli import history, render, resolve, room
from mcpg.cli.inputs import connect
from mcpg.cli.parse import Line
from mcpg.cli.render import Row

Cluster = dict[str, Any]

_HEAD = ("NAME", "REGION", "TIER", "STATE", "GATEWAYS", "CPU", "MEMORY", "SEEN")
_WIDE = ("ID", "PROVISIONER", "RESERVED", "FREE", "CPU FREE", "MEMORY FREE", "ORPHANS", "CREATED")


def index(line: Line) -> int:
    """Prints the clusters by name. `-o json` is the server's array, unchanged."""
    values = resolve.values(line)
    with contextlib.closing(connect(values)) as api:
        clusters = api.items("v1", "clusters", **({"all": "true"} if values.all else {}))
    now = time.time()
    none = ["no clusters yet: mcpg-ctl cluster register --name NAME --region REGION --gateways-max N"]
    width = render.terminal_width()
    render.emit(
        values.output,
        clusters,
        table=lambda: (
            render.columns([_HEAD, *(_row(each, now) for each in clusters)], width=width) if clusters else none
        ),
        wide=lambda: (
            render.columns([_HEAD + _WIDE, *(_wide_row(each, now) for each in clusters)]) if clusters else none
        ),
        names=[str(each.get("name", "")) for each in clusters],
    )
    return 0


def show(line: Line) -> int:
    """Prints one cluster, by id, name or the beginning of its id, with every move it made."""
    values = resolve.values(line)
    with contextlib.closing(connect(values)) as api:
        cluster = api.item("v1", "clusters", values.id)
    now = time.time()
    width = render.terminal_width()
    steps = cluster.get("history") or []
    render.emit(
        values.output,
        cluster,
        table=lambda: [
            title(cluster),
            *render.columns(list(_facts(cluster, now)), width=width, indent=2),
            *history.steps(steps, width),
        ],
        names=[str(cluster.get("name", ""))],
    )
    return 0


def health(line: Line) -> int:
    """Prints the fleet at one look. Exit 0, it is a report; with --exit-status 1 when something is critical."""
    values = resolve.values(line)
    with contextlib.closing(connect(values)) as api:
        found = api.item("v1", "clusters", "health")
    now = time.time()
    attention = found.get("attention") or []
    items = attention if isinstance(attention, list) else []
    render.emit(
        values.output,
        found,
        table=lambda: [*render.columns(list(_totals(found, now))), "", *_attention(attention, now)],
        names=(str(each.get("subject", "")) for each in items),
    )
    return int(values.exit_status and any(each.get("severity") == "critical" for each in attention))


def title(cluster: Cluster) -> str:
    """`us-east-1a  registered  7f2e1a90-…  us-east-1 shared  0/50 gateways`."""
    where = f"{cluster.get('region', '')} {cluster.get('isolation_tier', '')}"
    places = f"{room.gateways(cluster.get('capacity') or {})} gateways"
    return render.clean("  ".join((*history.of(cluster, "name", "state", "id"), where, places)))


def gateway(found: dict[str, Any]) -> str:
    """A gateway and where it belongs: `edge-3 (acme/prod/us)`."""
    place = "/".join(history.of(found, "org", "workspace", "environment"))
    return f"{found.get('name') or found.get('instance_uid', '')} ({place})"


def _row(cluster: Cluster, now: float) -> Row:
    capacity = cluster.get("capacity") or {}
    taken = (room.gateways(capacity), room.cpu(capacity), room.memory(capacity))
    return *history.of(cluster, "name", "region", "isolation_tier", "state"), *taken, _seen(cluster, now)


def _wide_row(cluster: Cluster, now: float) -> Row:
    capacity = cluster.get("capacity") or {}
    held = int(cluster.get("gateways") or 0)
    return (
        *_row(cluster, now),
        *history.of(cluster, "id", "provisioner"),
        room.gateways(capacity, "reserved"),
        *(words(capacity, "free") for words in (room.gateways, room.cpu, room.memory)),
        str(held if cluster.get("state") == "decommissioned" else 0),
        *history.of(cluster, "created_at"),
    )


def _seen(cluster: Cluster, now: float) -> str:
    """How old the evidence is, and that the cluster is out of reach."""
    at = cluster.get("last_seen_at")
    age = render.age(at, now) if at else "never"
    return age if cluster.get("reachable", True) else f"{age}  unreachable"


def _facts(cluster: Cluster, now: float) -> Iterator[Row]:
    capacity = cluster.get("capacity") or {}
    yield "seen", _seen(cluster, now) + (f": {cluster['reason']}" if cluster.get("reason") else "")
    for name, words in (("gateways", room.gateways), ("cpu", room.cpu), ("memory", room.memory)):
        parts = "  ".join(f"{key} {words(capacity, key)}" for key in ("used", "reserved", "free"))
        yield name, f"{words(capacity)}  {parts}"
    yield "instances", str(cluster.get("gateways", ""))
    yield (
        "runs by",
        " ".join(filter(None, history.of(cluster, "provisioner", "kube_context", "kube_server", "kubeconfig"))),
    )
    yield "created", f"{cluster.get('created_at', '')}  {render.ago(cluster.get('created_at'), now)}"


def _totals(found: dict[str, Any], now: float) -> Iterator[Row]:
    capacity, evidence = found.get("capacity") or {}, found.get("evidence") or {}
    kinds = ", ".join(f"{found.get(kind, 0)} {kind}" for kind in ("healthy", "degraded", "unreachable"))
    yield "clusters", f"{found.get('clusters', 0)}: {kinds}"
    yield "state", render.counted(found.get("by_state") or {})
    yield "reach", render.counted(found.get("by_reachability") or {})
    yield "gateways", f"{room.gateways(capacity)} ({float(found.get('utilisation') or 0):.0%})"
    yield "cpu", _limited(room.cpu(capacity))
    yield "memory", _limited(room.memory(capacity))
    yield "orphans", str(found.get("orphans", 0))
    ages = [
        f"{key} {render.ago(evidence[f'{key}_at'], now)}" for key in ("newest", "oldest") if evidence.get(f"{key}_at")
    ]
    yield "evidence", ", ".join(ages) or "none yet"


def _limited(words: str) -> str:
    return words if words == room.NO_LIMIT else f"{words} of the clusters with a limit"


def _attention(items: list[dict[str, Any]], now: float) -> Iterator[str]:
    if not items:
        yield "nothing needs attention"
        return
    yield "needs attention"
    for item in items:
        since = f" ({render.ago(item['since'], now)})" if item.get("since") else ""
        yield f"  {render.clean(item.get('severity', '')):<8}  {render.clean(item.get('message', ''))}{since}"
        if item.get("hint"):
            yield f"            {render.clean(item['hint'])}"
