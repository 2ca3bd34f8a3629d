"""What every database has from its first start: the tenancy default/default/default and the cluster `local`."""

from __future__ import annotations

from mcpg.machines import cluster
from mcpg.store import reads, writes
from mcpg.store.clock import Clock, uuid7
from mcpg.store.database import Database
from mcpg.store.journal import Birth
from mcpg.store.tenancy import ensure_default

LOCAL = "local"


async def seed(db: Database, clock: Clock, *, local_gateways_max: int) -> None:
    """Idempotent; a changed `local_gateways_max` takes effect here."""
    await ensure_default(clock)
    existing = await reads.find_cluster(db, LOCAL)
    if existing is None:
        columns = {
            "name": LOCAL, "region": LOCAL, "isolation_tier": "shared", "provisioner": "local",
            "gateways_max": local_gateways_max,
        }  # fmt: skip
        await db.writer.submit([Birth(cluster.MACHINE, uuid7(), columns, "engine", reason="this machine")])
    elif existing["gateways_max"] != local_gateways_max:
        await db.writer.execute(writes.resize_cluster(existing["id"], local_gateways_max))
