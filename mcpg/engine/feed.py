"""
What other control planes on this database write, heard here: their journal lines go to the same listeners as our own.

One task reads the journal beyond its cursor when it is woken by a notification, and once a second if none comes: a
notification may be lost, the journal is not. Another sends ours, at most one every 20 ms whatever is committed. Lines of
one control plane that share a database with nobody pass through the writer alone: there is no feed then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from mcpg.store import reads
from mcpg.store.database import Database

log = logging.getLogger("mcpg.engine")

POLL_S = 1.0
COALESCE_S = 0.02
PAGE = 500
FREE = "free"  # in a notification: operations were given back
MOST_NAMED = 100  # instances that one notification names; PostgreSQL takes 8000 bytes


class Feed:
    """
    `looked_at` is told of an instance that something was seen of elsewhere, `freed` that rows were given back.

    A notification is `<epoch> [free] [<instance id> …]`.
    """

    looked_at: Callable[[str], object] = staticmethod(lambda _: None)
    freed: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, db: Database, epoch: str) -> None:
        self._db = db
        self._epoch = epoch
        self._cursor = 0
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._seen: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.lines = 0  # heard of others

    async def start(self) -> None:
        """From now on; call it before anything is read that lines bring up to date."""
        self._db.writer.listeners.shared = True
        self._cursor = await reads.newest_line_id(self._db)
        self._db.writer.listeners.add(lambda _: self._news.set(), lambda _: None)
        await self._db.listen(self._told)
        spawn = asyncio.get_running_loop().create_task
        self._tasks = [spawn(self._read(), name="feed"), spawn(self._tell(), name="notify")]

    async def stop(self, *, freed: bool = False) -> None:
        """*freed*: tell the others, with a last word, that there are operations to take."""
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if freed:
            await self._send(f"{self._epoch} {FREE}")

    def look_at(self, instance_id: str) -> None:
        """Something was seen here of an instance that somebody else may be waiting for."""
        if self._tasks:
            self._seen.add(instance_id)
            self._news.set()

    # ---- hearing

    def _told(self, text: str) -> None:
        """What a notification says; "" when some may have been missed, and there is something to look at in any case."""
        epoch, *words = text.split() or [""]
        if epoch == self._epoch:
            return
        self._wake.set()
        for word in words:
            if word == FREE:
                self.freed()
            else:
                self.looked_at(word)

    async def _read(self) -> None:
        failed = full = False
        while True:
            if not full:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()
                self._wake.clear()
            try:
                full = await self.page() == PAGE
                failed = False
            except Exception as exc:  # noqa: BLE001 - the database, whatever ails it: the cursor stays
                full = False
                if not failed:
                    log.warning("the journal cannot be followed: %s; trying on from line %d", exc, self._cursor)
                failed = True

    async def page(self) -> int:
        """Read on from the cursor, and tell of what is not known yet; how many lines there were."""
        listeners = self._db.writer.listeners
        found = await reads.raw_lines(self._db, self._cursor, PAGE)
        for raw in found:
            if raw["id"] <= self._cursor:
                continue  # told by another reading of the same page
            self._cursor = raw["id"]
            if not listeners.is_known(raw["subject"], raw["seq"]):
                self.lines += 1
                listeners.heard(reads.line_of(raw))
        return len(found)

    # ---- telling

    async def _tell(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            named = [self._seen.pop() for _ in range(min(MOST_NAMED, len(self._seen)))]
            await self._send(" ".join([self._epoch, *named]))
            if self._seen:
                self._news.set()
            await asyncio.sleep(COALESCE_S)

    async def _send(self, text: str) -> None:
        """A notification that is lost costs a second: everybody looks by themselves too."""
        try:
            await self._db.notify(text)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is no more than a hint that was not given
            log.debug("not notified: %s", exc)
