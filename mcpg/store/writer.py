"""
The journal writer: one thread that owns the write connection and commits whatever waits, many units at a time.

Callers await their unit's lines and get their own fate: the lines once they are durable, or the refusal. A lone caller
pays one commit, for the writer never waits for company. A cancelled caller changes nothing: the unit is applied or not,
and nothing of a connection is held by the caller. Every committed line is published to listeners, on the event loop, in
commit order, before its caller goes on.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from mcpg.errors import Unavailable
from mcpg.store.clock import Clock, now_us
from mcpg.store.config import BUSY_TIMEOUT_MS, SYNCHRONOUS
from mcpg.store.journal import Also, Appender, Fire, Line, Timeout, Unit, table_timeout

log = logging.getLogger("mcpg.store")

Listener = Callable[[Line], None]
_Waiting = tuple[Unit, "asyncio.Future[list[Line]]"]
_Fate = tuple["asyncio.Future[list[Line]]", "list[Line] | BaseException"]

MAX_BATCH = 256


class JournalWriter:
    def __init__(self, path: Path, *, clock: Clock = now_us, timeout: Timeout = table_timeout) -> None:
        self._path = path
        self._clock = clock
        self._timeout = timeout
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._listeners: list[Listener] = []
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.commits = 0
        self.lines = 0

    def listen(self, listener: Listener) -> None:
        """*listener* hears every committed line, in order, on the event loop. It must not block or raise."""
        self._listeners.append(listener)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    async def submit(self, unit: Unit) -> list[Line]:
        """
        Apply *unit* durably and return its lines. Raises the unit's refusal (Conflict, NoSuchMove, whatever a companion
        statement refuses with), having written nothing; Unavailable when the database cannot be written.
        """
        if self._closed or self._loop is None:
            raise Unavailable("the control plane is stopping", cause="its journal is closed")
        future: asyncio.Future[list[Line]] = self._loop.create_future()
        self._queue.put((unit, future))
        return await future  # cancelling the caller cancels only its future: the unit is applied all the same

    async def fire(self, fire: Fire, *also: Also) -> Line:
        """One event, with companion statements in its transaction."""
        return (await self.submit([fire, *also]))[0]

    async def execute(self, *statements: Also) -> None:
        """Statements without a transition, in one transaction."""
        await self.submit(statements)

    async def close(self) -> None:
        """Commit what waits, then end the thread."""
        if self._thread is None or self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # ---- the thread

    def _run(self) -> None:
        db = sqlite3.connect(self._path, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000)
        db.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
        appender = Appender(db, self._clock, self._timeout)
        last = False
        while not last:
            first = self._queue.get()
            if first is None:
                break
            batch = [first]
            while len(batch) < MAX_BATCH:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    last = True
                    break
                batch.append(item)
            fates = self._commit(db, appender, batch)
            assert self._loop is not None  # noqa: S101 - start() set it
            try:
                self._loop.call_soon_threadsafe(self._deliver, fates)
            except RuntimeError:  # the loop is gone: nobody waits any more
                log.warning("journal: the event loop closed before %d fates were told", len(fates))
        db.close()

    def _commit(self, db: sqlite3.Connection, appender: Appender, batch: list[_Waiting]) -> list[_Fate]:
        fates: list[_Fate] = []
        try:
            db.execute("BEGIN IMMEDIATE")
            try:  # most batches hold no refusal, and then need no savepoints
                fates = [(future, appender.apply(unit)) for unit, future in batch]
            except sqlite3.Error:
                raise  # the database itself: no unit of this batch can be trusted
            except Exception:  # noqa: BLE001 - some unit was refused: which one, and how, is found out below
                db.execute("ROLLBACK")
                db.execute("BEGIN IMMEDIATE")
                fates = [(future, _apply(db, appender, unit)) for unit, future in batch]
            db.execute("COMMIT")
            self.commits += 1
        except Exception as exc:
            log.exception("journal: a batch of %d could not be written", len(batch))
            if db.in_transaction:
                db.execute("ROLLBACK")
            failure = Unavailable("the database could not be written", cause=f"{type(exc).__name__}: {exc}")
            return [(future, failure) for _, future in batch]
        return fates

    def _deliver(self, fates: list[_Fate]) -> None:
        for future, fate in fates:
            if isinstance(fate, BaseException):
                if not future.done():
                    future.set_exception(fate)
                    future.exception()  # a cancelled caller never fetches it: not an unhandled error
                continue
            self.lines += len(fate)
            for line in fate:
                for listener in self._listeners:
                    listener(line)
            if not future.done():
                future.set_result(fate)


def _apply(db: sqlite3.Connection, appender: Appender, unit: Unit) -> list[Line] | BaseException:
    """A unit's fate. A refused one leaves nothing behind, and does not touch its neighbours in the batch."""
    db.execute("SAVEPOINT unit")
    try:
        lines = appender.apply(unit)
    except sqlite3.Error:
        raise  # the database itself: no unit of this batch can be trusted
    except Exception as exc:  # noqa: BLE001 - a refusal, or a mistake in this unit alone: its caller hears it
        db.execute("ROLLBACK TO unit")
        db.execute("RELEASE unit")
        return exc
    db.execute("RELEASE unit")
    return lines
