"""
The allocator's pool, kept beside the database as a hint: which cluster a new gateway should try first.

Committed lines say whose room changed, and only those clusters are read again. The truth is the compare-and-set of
`writes.reserve`: a hint that was wrong costs one more look. A refusal is given after a fresh look and a fresh read only.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mcpg.engine.allocator import Pool, Refusal, Room, Wish, refusal
from mcpg.engine.reach import Reach
from mcpg.machines import cluster
from mcpg.store import fleet
from mcpg.store.clock import Clock
from mcpg.store.database import Database
from mcpg.store.journal import Line

_FIELDS = tuple(f for f in Room._fields if f != "unreachable")


class Rooms:
    """One for each engine. `place` chooses; `on_line` hears every committed line."""

    def __init__(self, db: Database, reach: Reach, clock: Clock) -> None:
        self._db = db
        self._reach = reach
        self._clock = clock
        self._pool: Pool | None = None
        self._changed: set[str] = set()
        self._meanwhile: set[str] = set()  # what changed since the last reading of everything began
        self._reading = asyncio.Lock()
        reach.changed = self.changed

    def changed(self, cluster_id: str | None) -> None:
        """What is known of this cluster is old."""
        if cluster_id is not None:
            self._changed.add(cluster_id)
            self._meanwhile.add(cluster_id)

    def on_line(self, line: Line) -> None:
        """A cluster's own line, or an operation's that says whose room it took or gave back."""
        self.changed(line.subject if line.machine == cluster.MACHINE.name else line.data.get("cluster_id"))

    async def place(self, wish: Wish) -> Room | Refusal:
        """
        Where *wish* goes, or why nowhere. The room is taken from the pool at once, so that others who choose meanwhile
        choose with it gone; who then fails to reserve it says so with `changed`.
        """
        pool = await self._known()
        room = pool.place(wish)
        if room is None:
            pool, rooms = await self._anew()
            room = pool.place(wish)
            if room is None:
                return refusal(rooms, wish)
        pool.put(room.holding(wish.need))
        return room

    async def one(self, cluster_id: str) -> Room:
        """One cluster as it is now, whatever its state."""
        [row] = await fleet.rooms_of(self._db, [cluster_id])
        return self._room(row)

    async def _known(self) -> Pool:
        if self._pool is None:
            pool, _ = await self._anew()
            return pool
        if self._changed:
            changed, self._changed = list(self._changed), set()
            for row in await fleet.rooms_of(self._db, changed):  # on SQLite nothing comes between
                self._pool.put(self._room(row))
        return self._pool

    async def _anew(self) -> tuple[Pool, list[Room]]:
        """Everything from the database, after a look at the provisioner if something seems unreachable."""
        async with self._reading:
            rows = await fleet.rooms(self._db)
            if any(not r["reachable"] for r in rows):
                await self._reach.look()
            self._meanwhile.clear()
            rooms = [self._room(r) for r in await fleet.rooms(self._db)]
            self._pool, self._changed = Pool(rooms), set(self._meanwhile)  # what changed while we read is read again
            return self._pool, rooms

    def _room(self, row: dict[str, Any]) -> Room:
        since = "" if row["reachable"] else f"since {_age(self._clock() - row['seen_at'])}: {row['reason']}"
        return Room(**{f: row[f] for f in _FIELDS}, unreachable=since)


def _age(us: int) -> str:
    """`8s`, `12m`, `3h`, `5d`."""
    seconds = max(0, us // 1_000_000)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
