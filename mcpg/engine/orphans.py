"""
Gateways that lost their cluster: adopt them (the provision machine once more) or reap them (a teardown).

Called by mcpg/api/instances.py. An adoption changes nothing of the gateway: it gets room, and is looked at like any other.
One that fails gives back what it took and leaves the orphan an orphan. Publishing its name adopts it too.
"""

from __future__ import annotations

from typing import Any

from mcpg.engine.accept import (
    accept,
    body_hash,
    first_or_same,
    join,
    needs_provisioner,
    new_operation,
    occupy,
    running_on,
    same_request,
    scope_of,
)
from mcpg.engine.core import Core
from mcpg.engine.operation import Operation
from mcpg.engine.requests import delete, delete_command
from mcpg.errors import NotFound, Refused
from mcpg.machines import provision
from mcpg.store import fleet, reads
from mcpg.store.clock import short_id

Row = dict[str, Any]


async def adopt(engine: Core, org: str, uid: str, cluster: str, *, actor: str, key: str | None) -> Operation:
    """
    Accept an adoption, into *cluster* or wherever there is room. Raises NotFound, Busy, KeyReused, NoProvisioner, and
    Refused for a gateway that is no orphan.
    """
    needs_provisioner(engine)
    return await first_or_same(lambda: _adopt(engine, org, uid, cluster, actor, key))


async def _adopt(engine: Core, org: str, uid: str, cluster: str, actor: str, key: str | None) -> Operation:
    row = await _known(engine, org, uid)
    scope = scope_of(row)
    digest = body_hash(scope, "adopt", {"instance_uid": uid, "cluster": cluster})
    same = await same_request(engine, scope, digest, key)
    if same is not None:
        return same
    if row["deleted_at"] is not None:
        raise _not_here(org, uid)
    running = await running_on(engine, scope, row, digest)
    if running is not None:
        return await join(engine, running, key)
    if row["orphaned_at"] is None:
        raise _no_orphan(row, "it needs no adoption")
    op = new_operation(
        short_id("op-"), provision.MACHINE.name, "adopt", scope, row["name"], row["id"], row["spec"], row["spec"], actor,
        digest,
    )  # fmt: skip
    op.cluster_id = await _living(engine, cluster) if cluster else None
    return await accept(engine, op, provision.Event.ACCEPT, await occupy(engine, row, op.id, actor), key)


async def reap(engine: Core, org: str, uid: str, *, actor: str, key: str | None) -> Operation:
    """
    Accept the teardown of an orphan, or of what enrolled itself and has departed. Raises as `requests.delete`, and Refused
    for a gateway that is ours and no orphan.
    """
    row = await _known(engine, org, uid)
    if row["deleted_at"] is None and row["orphaned_at"] is None and row["managed"]:
        raise _no_orphan(row, f"it is deleted by: {delete_command(row)}")
    return await delete(engine, scope_of(row), uid, actor=actor, key=key)


async def _known(engine: Core, org: str, uid: str) -> Row:
    """Also one that is gone: a request that is repeated after its end finds its operation."""
    row = await reads.find_instance_by_uid(engine.db, uid)
    if row is None or row["org"] != org:
        raise _not_here(org, uid)
    return row


def _not_here(org: str, uid: str) -> NotFound:
    return NotFound(f"no instance {uid[:80]} in org {org}", hint="mcpg-ctl instance list --orphaned")


async def _living(engine: Core, name: str) -> str:
    """The id of the cluster an orphan is to go to."""
    found = await fleet.find_living_cluster(engine.db, name)
    if found is None:
        names = [c["name"] for c in await fleet.clusters(engine.db)]
        raise NotFound(f"no cluster {name}", cause=f"clusters here: {', '.join(names[:20]) or 'none'}")
    return str(found["id"])


def _no_orphan(row: Row, hint: str) -> Refused:
    where = f"it lives in {row['cluster']} and holds room there" if row["cluster"] else "it was never placed by us"
    return Refused(f"{row['name'] or row['instance_uid']} is no orphan", cause=where, hint=hint)
