"""What every database has from its first start: the tenancy default/default/default and the cluster `local`."""

from __future__ import annotations

from contextlib import suppress

from mcpg.errors import Conflict
from mcpg.machines import cluster
from mcpg.store import fleet, writes
from mcpg.store.clock import Clock, uuid7
from mcpg.store.database import Database
from mcpg.store.journal import Birth
from mcpg.store.tenancy import ensure_default

LOCAL = "local"


async def seed(db: Database, clock: Clock, *, local_gateways_max: int) -> None:
    """Idempotent. A changed `local_gateways_max` takes effect here; a `local` that was decommissioned stays gone."""
    await ensure_default(db, clock)
    living = await fleet.find_living_cluster(db, LOCAL)
    if living is None and not await fleet.was_there_ever(db, LOCAL):
        columns = {
            "name": LOCAL, "live_name": LOCAL, "region": LOCAL, "isolation_tier": "shared", "provisioner": "local",
            "gateways_max": local_gateways_max,
        }  # fmt: skip
        with suppress(Conflict):  # another replica was first
            await db.writer.submit([Birth(cluster.MACHINE, uuid7(), columns, "engine", reason="this machine")])
    elif living is not None and living["gateways_max"] != local_gateways_max:
        await db.writer.execute(writes.resize_cluster(living["id"], local_gateways_max))
