"""
Reads of clusters: what they hold, who lives there, what the allocator needs to know. The other reads: reads.py.

Constant SQL on the read-only connection. `gateways` of a row counts the instances that hold room there, `reserved_*` is
what those of them hold that are not ready yet.
"""

from __future__ import annotations

from mcpg.store.database import Database, Row
from mcpg.store.sql import marks

_HELD = """
SELECT c.*, COALESCE(h.gateways,0) AS gateways, COALESCE(h.places,0) AS reserved_places,
  COALESCE(h.cpu,0) AS reserved_cpu_millicores, COALESCE(h.memory,0) AS reserved_memory_bytes
FROM cluster c LEFT JOIN (
  SELECT r.cluster_id AS cluster_id, count(*) AS gateways, sum(CASE WHEN i.ready_at IS NULL THEN r.places END) AS places,
    CAST(sum(CASE WHEN i.ready_at IS NULL THEN r.cpu_millicores END) AS BIGINT) AS cpu,
    CAST(sum(CASE WHEN i.ready_at IS NULL THEN r.memory_bytes END) AS BIGINT) AS memory
  FROM reservation r JOIN instance i ON i.id=r.instance_id GROUP BY r.cluster_id) h ON h.cluster_id=c.id
"""


async def clusters(db: Database, *, everything: bool = False) -> list[Row]:
    """
    By name; those that were taken out of the pool only with *everything*. `gateways` counts the instances that hold room
    there, `reserved_*` is what those of them hold that are not ready yet.
    """
    return await db.many(
        f"{_HELD} WHERE ?=1 OR c.state!='decommissioned' ORDER BY c.name, c.created_at, c.id", int(everything)
    )


async def find_cluster(db: Database, cluster_id: str) -> Row | None:
    return await db.one(f"{_HELD} WHERE c.id=?", cluster_id)


async def find_clusters_named(db: Database, ref: str) -> list[Row]:
    """What *ref* may name, the likeliest kind only: an id, a living name, an id's beginning, else a name that was."""
    for where in ("c.id=?1", "c.live_name=?1", "length(?1)>=6 AND substr(c.id,1,length(?1))=?1", "c.name=?1"):
        found = await db.rows(f"{_HELD} WHERE {where} ORDER BY c.name, c.id LIMIT 20", ref)
        if found:
            return found
    return []


async def find_living_cluster(db: Database, name: str) -> Row | None:
    return await db.one(f"{_HELD} WHERE c.live_name=?", name)


async def was_there_ever(db: Database, name: str) -> bool:
    """Whether a cluster of this name was ever registered, also when it is gone."""
    return await db.one("SELECT 1 FROM cluster WHERE name=? LIMIT 1", name) is not None


async def cluster_names(db: Database) -> dict[str, Row]:
    """Name and region of every cluster there ever was, by id."""
    return {r["id"]: r for r in await db.rows("SELECT id,name,region FROM cluster")}


_ROOM = (
    "SELECT id,name,region,isolation_tier,state,gateways_max,gateways_used,cpu_millicores_total,cpu_millicores_used,"
    "memory_bytes_total,memory_bytes_used,reachable,reason,COALESCE(last_seen_at,created_at) AS seen_at FROM cluster"
)


async def rooms(db: Database) -> list[Row]:
    """What the allocator needs to know of every living cluster, by name."""
    return await db.many(f"{_ROOM} WHERE state!='decommissioned' ORDER BY name")


async def rooms_of(db: Database, cluster_ids: list[str]) -> list[Row]:
    """The same of some clusters, whatever their state. There must be one; on SQLite it never waits."""
    places, values = marks(cluster_ids)
    return await db.rows(f"{_ROOM} WHERE id IN ({places})", *values)


async def probed_clusters(db: Database, provisioner: str) -> list[Row]:
    """Living clusters of one provisioner, with what was last written of their reachability."""
    return await db.rows(
        "SELECT id,name,reachable,reason,last_seen_at FROM cluster WHERE provisioner=? AND state!='decommissioned'",
        provisioner,
    )


IN_CLUSTER = (
    "SELECT i.name,i.instance_uid,i.org,i.workspace,i.environment,r.places AS replicas"
    " FROM reservation r JOIN instance i ON i.id=r.instance_id WHERE r.cluster_id=? ORDER BY i.name, i.id"
)
COUNT_IN_CLUSTER = "SELECT count(*) FROM reservation WHERE cluster_id=?"


async def gateways_in(db: Database, cluster_id: str) -> list[Row]:
    """Who holds room in a cluster, by name, as short as they can be named."""
    return await db.many(IN_CLUSTER, cluster_id)
