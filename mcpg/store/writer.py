"""
The journal writer, as everybody knows it: units go in, each caller gets its own fate, listeners hear every line.

What is common to both databases. SqliteWriter (sqlite_writer.py) and PostgresWriter (postgres_writer.py) commit whatever
waits, many units at a time, and never wait for company, so that a lone caller pays one commit. A cancelled caller changes
nothing: the unit is applied or not, and nothing of a connection is held by the caller. Every committed line is published
to listeners, on the event loop, in commit order, before its caller goes on.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable

from mcpg import faults
from mcpg.errors import Unavailable
from mcpg.store.journal import Also, Fire, Line, Unit
from mcpg.store.listeners import Listener, Listeners

Waiting = tuple[Unit, "asyncio.Future[list[Line]]"]
Fate = tuple["asyncio.Future[list[Line]]", "list[Line] | BaseException"]

MAX_BATCH = 256
NOT_WRITTEN = "this was not written"  # what a caller is told of a unit whose transaction is known to be over


def reach(moment: str, fates: Iterable[list[Line] | BaseException]) -> None:
    """The fault points of a commit: those of every move in the batch. Call it only when something is armed."""
    for fate in fates:
        if not isinstance(fate, BaseException):
            faults.commits(moment, [(line.machine, line.event) for line in fate])


class JournalWriter(ABC):
    """
    `commits` and `lines` count what was written since the start. `trouble` is why the last write failed, "" when it did not;
    a refusal is an answer, and no failure.
    """

    def __init__(self) -> None:
        self.listeners = Listeners()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.commits = 0
        self.lines = 0
        self.trouble = ""

    def listen(self, listener: Listener) -> None:
        """*listener* hears every committed line, on the event loop: see Listeners.add."""
        self.listeners.add(listener)

    @abstractmethod
    def start(self) -> None:
        """Begin to take units. Called once, on the event loop."""

    @abstractmethod
    def _put(self, waiting: Waiting) -> None:
        """Queue a unit."""

    @abstractmethod
    async def close(self) -> None:
        """Commit what waits, then end."""

    async def submit(self, unit: Unit) -> list[Line]:
        """
        Apply *unit* durably and return its lines. Raises the unit's refusal (Conflict, NoSuchMove, whatever a companion
        statement refuses with), having written nothing; Unavailable when the database cannot be written.
        """
        if self._closed or self._loop is None:
            raise Unavailable("the control plane is stopping", cause="its journal is closed")
        future: asyncio.Future[list[Line]] = self._loop.create_future()
        self._put((unit, future))
        return await future  # cancelling the caller cancels only its future: the unit is applied all the same

    async def fire(self, fire: Fire, *also: Also) -> Line:
        """One event, with companion statements in its transaction."""
        return (await self.submit([fire, *also]))[0]

    async def execute(self, *statements: Also) -> None:
        """Statements without a transition, in one transaction."""
        await self.submit(statements)

    def _deliver(self, fates: list[Fate]) -> None:
        for future, fate in fates:
            self.trouble = (fate.cause or fate.what) if type(fate) is Unavailable else ""
            if isinstance(fate, BaseException):
                if not future.done():
                    future.set_exception(fate)
                    future.exception()  # a cancelled caller never fetches it: not an unhandled error
                continue
            self.lines += len(fate)
            for line in fate:
                self.listeners.committed(line)
            if not future.done():
                future.set_result(fate)
