"""
The journal on SQLite: one connection that commits whatever waits, with a thread that waits for the disk. Made by
sqlite_database.py.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from mcpg import faults
from mcpg.errors import Unavailable
from mcpg.store.clock import Clock, now_us
from mcpg.store.config import BUSY_TIMEOUT_MS, SYNCHRONOUS
from mcpg.store.journal import (
    HEAD,
    INSERT_LINE,
    ROWS,
    Also,
    Ask,
    Birth,
    Fire,
    Head,
    Line,
    Scribe,
    Timeout,
    Unit,
    first_event,
    is_decisive,
    moved_on,
    refusal,
    table_timeout,
)
from mcpg.store.writer import NOT_WRITTEN, Fate, JournalWriter, Waiting, reach

log = logging.getLogger("mcpg.store")


REMEMBERED = 4096  # rows
AT_ONCE = 64  # units in a batch: nothing else happens on the event loop while their statements are carried out


@lru_cache(maxsize=8)
def _select(row: str) -> str:
    return f"SELECT {HEAD} FROM {row} WHERE id=?"  # noqa: S608


class Appender:
    """
    Applies units on one open connection. Lives on the writer's thread.

    What it wrote last of a row it remembers and does not read again, until another connection has written to the file.
    """

    def __init__(self, db: sqlite3.Connection, scribe: Scribe) -> None:
        self._db = db
        self._scribe = scribe
        self._heads: dict[tuple[str, str], Head] = {}
        self._lines: list[tuple[Any, ...]] = []  # that are still to be written, by `flush`
        self._seen = -1

    def begin(self) -> None:
        """Called in a transaction, when nobody else can write any more."""
        [seen] = self._db.execute("PRAGMA data_version").fetchone()  # moves when another connection commits
        if seen != self._seen:
            self._seen = seen
            self.forget()

    def forget(self) -> None:
        """What was remembered may be wrong: a companion has changed what an event is decided on."""
        self._heads.clear()

    def undone(self) -> None:
        """What was applied since the last `flush` is rolled back, and what was remembered may be wrong."""
        self.forget()
        self._lines.clear()

    def apply(self, unit: Unit) -> list[Line]:
        """
        Every step in order; raises the first refusal. The caller undoes what was written before it. The lines themselves are
        written by `flush`.
        """
        if len(unit) == 1 and isinstance(unit[0], Fire):
            return [self._fire(unit[0])]
        lines: list[Line] = []
        begun: Fire | None = None  # written together with the birth before it
        for at, step in enumerate(unit):
            match step:
                case Fire():
                    if step is not begun:
                        lines.append(self._fire(step))
                case Birth():
                    begun = first_event(step, unit[at + 1 :])
                    lines += self._birth(step, begun)
                case Also():
                    self._also(step)
        return lines

    def flush(self) -> None:
        """Write the lines of what was applied."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._db.executemany(INSERT_LINE, lines)

    def _also(self, also: Also) -> None:
        if is_decisive(also.sql):
            self.forget()
        try:
            count = self._db.execute(also.sql, also.params).rowcount
        except sqlite3.IntegrityError as exc:
            raise refusal(also, str(exc)) from exc
        if also.expect is not None and count != also.expect:
            raise refusal(also, f"{count} rows matched")

    def _birth(self, b: Birth, begun: Fire | None) -> list[Line]:
        several = (self._scribe.birth(b),) if begun is None else self._scribe.begun(b, begun)
        made = several[-1]
        try:
            self._db.execute(made.sql, made.params)
        except sqlite3.IntegrityError as exc:
            raise refusal(b, str(exc)) from exc
        self._lines += [each.line_params for each in several]
        self._remember((ROWS[b.table.name], b.subject), made.head)
        return [each.line for each in several]

    def _fire(self, f: Fire) -> Line:
        key = (ROWS[f.table.name], f.subject)
        head = self._heads.get(key)
        if head is None:
            found = self._db.execute(_select(key[0]), (f.subject,)).fetchone()
            head = None if found is None else Head(*found)
        if f.counts or f.lists:
            counts = {k: self._count(ask) for k, ask in f.counts.items()}
            lists = {k: self._list(ask) for k, ask in f.lists.items()}
            made = self._scribe.fire(f, head, counts, lists)
        else:
            made = self._scribe.fire(f, head)
        if self._db.execute(made.sql, made.params).rowcount != 1:
            raise moved_on(f)
        self._lines.append(made.line_params)
        self._remember(key, made.head)
        return made.line

    def _remember(self, key: tuple[str, str], head: Head) -> None:
        if len(self._heads) >= REMEMBERED:
            self._heads.clear()
        self._heads[key] = head

    def _count(self, ask: Ask) -> int:
        [number] = self._db.execute(ask.sql, ask.params).fetchone()
        return int(number)

    def _list(self, ask: Ask) -> list[dict[str, Any]]:
        cursor = self._db.execute(ask.sql, ask.params)
        names = [d[0] for d in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


class SqliteWriter(JournalWriter):
    """
    A batch's statements are carried out on the event loop, some 50 µs a unit, and its COMMIT, which waits for the disk, on
    the thread; while that runs, the next batch gathers. So the interpreter is not handed to and fro with each statement.
    """

    def __init__(self, path: Path, *, clock: Clock = now_us, timeout: Timeout = table_timeout) -> None:
        super().__init__()
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
        self._db.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
        self._appender = Appender(self._db, Scribe(clock, timeout))
        self._waiting: deque[Waiting] = deque()
        self._is_busy = False  # a batch is on its way: the connection is its own, on whichever thread
        self._idle = asyncio.Event()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    def _put(self, waiting: Waiting) -> None:
        self._waiting.append(waiting)
        if not self._is_busy:
            self._is_busy = True
            self._idle.clear()
            self._soon(self._next)

    async def close(self) -> None:
        """Commit what waits, then end the thread."""
        if self._thread is None or self._closed:
            return
        self._closed = True
        await self._idle.wait()
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._db.close()

    # ---- on the event loop

    def _soon(self, what: Callable[..., None], *args: Any) -> None:
        assert self._loop is not None  # noqa: S101 - start() set it
        self._loop.call_soon(what, *args)

    def _next(self) -> None:
        """What waits now, if anything does, becomes a batch."""
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), AT_ONCE))]
        if not batch:
            self._is_busy = False
            self._idle.set()
            return
        self._open(batch)

    def _open(self, batch: list[Waiting], *, singly: bool = False) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:  # most likely somebody else is writing: wait for them on the thread
            self._jobs.put(lambda: self._back(self._waited, batch, singly, self._begin()))
        else:
            self._write(batch, singly=singly)

    def _waited(self, batch: list[Waiting], singly: bool, problem: sqlite3.Error | None) -> None:
        if problem is None:
            self._write(batch, singly=singly)
        else:
            self._done(self._failed(batch, problem))

    def _write(self, batch: list[Waiting], *, singly: bool) -> None:
        """All of a transaction but its begin and its end. Most batches hold no refusal, and then need no savepoints."""
        db, appender = self._db, self._appender
        try:
            appender.begin()
            if singly:
                fates: list[Fate] = [(future, _apply(db, appender, unit)) for unit, future in batch]
            else:
                fates = [(future, appender.apply(unit)) for unit, future in batch]
                appender.flush()
        except Exception as exc:  # noqa: BLE001 - every caller hears of it
            if singly or isinstance(exc, sqlite3.Error):  # the database itself: no unit of this batch can be trusted
                self._done(self._failed(batch, exc))
            else:  # some unit was refused: which one, and how, is found out one by one
                self._roll_back()
                self._open(batch, singly=True)
        else:
            self._jobs.put(lambda: self._back(self._done, self._commit(batch, fates)))

    def _done(self, fates: list[Fate]) -> None:
        """The callers are told, and who of them goes on at once is in the next batch already."""
        try:
            self._deliver(fates)
        finally:
            self._soon(self._next)

    def _failed(self, batch: list[Waiting], exc: Exception) -> list[Fate]:
        """Nothing of the batch is written."""
        trace = None if self.trouble else exc  # once is enough for what goes on
        log.error("journal: a batch of %d could not be written: %s", len(batch), exc, exc_info=trace)
        self._roll_back()
        hint = f"{NOT_WRITTEN}; is its disk full, read-only or its file locked? mcpg-ctl doctor"
        failure = Unavailable("the database could not be written", cause=f"{type(exc).__name__}: {exc}", hint=hint)
        return [(future, failure) for _, future in batch]

    def _roll_back(self) -> None:
        self._appender.undone()
        try:
            if self._db.in_transaction:  # it may have undone itself, e.g. when the disk is full
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            log.exception("journal: a transaction could not be undone; the next one will say so again")

    # ---- on the thread

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _begin(self) -> sqlite3.Error | None:
        """A transaction, once whoever writes to the database has ended; or what stood in the way."""
        problem: sqlite3.Error | None = None
        for sql in (f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}", "BEGIN IMMEDIATE", "PRAGMA busy_timeout=0"):
            try:
                self._db.execute(sql)
            except sqlite3.Error as exc:
                problem = problem or exc
        return problem

    def _commit(self, batch: list[Waiting], fates: list[Fate]) -> list[Fate]:
        try:
            if faults.armed is not None:
                reach("before", [fate for _, fate in fates])
            self._db.execute("COMMIT")
            self.commits += 1
            if faults.armed is not None:
                reach("after", [fate for _, fate in fates])
        except Exception as exc:  # noqa: BLE001 - whatever it is, every caller hears of it
            return self._failed(batch, exc)
        return fates

    def _back(self, what: Callable[..., None], *args: Any) -> None:
        """Go on with *what* on the event loop."""
        assert self._loop is not None  # noqa: S101 - start() set it
        try:
            self._loop.call_soon_threadsafe(what, *args)
        except RuntimeError:  # the loop is gone: nobody waits any more
            log.warning("journal: the event loop closed before the fates of a batch were told")


def _apply(db: sqlite3.Connection, appender: Appender, unit: Unit) -> list[Line] | BaseException:
    """A unit's fate. A refused one leaves nothing behind, and does not touch its neighbours in the batch."""
    db.execute("SAVEPOINT unit")
    try:
        lines = appender.apply(unit)
        appender.flush()
    except sqlite3.Error:
        raise  # the database itself: no unit of this batch can be trusted
    except Exception as exc:  # noqa: BLE001 - a refusal, or a mistake in this unit alone: its caller hears it
        db.execute("ROLLBACK TO unit")
        appender.undone()
        db.execute("RELEASE unit")
        return exc
    db.execute("RELEASE unit")
    return lines
