"""
The journal on PostgreSQL: one task that owns one connection and commits whatever waits, many units to a transaction.

Journal transactions of all replicas come one after the other, by an advisory lock that ends with each: so line ids become
visible in their order, and a unit sees everything before it, as on SQLite. No caller ever touches the connection, so none
can leave it half used. A connection that is lost is made anew; only when it was lost in COMMIT is it unknown whether the
batch was written, and its callers are told so. What is remembered of a row from one transaction to the next, the next
compares with the row: see postgres_appender.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

import asyncpg

from mcpg import faults
from mcpg.errors import Unavailable
from mcpg.store.clock import Clock, now_us
from mcpg.store.journal import Line, Scribe, Timeout, Unit, table_timeout
from mcpg.store.postgres_appender import Appender, Decided
from mcpg.store.postgres_link import (
    CONNECT_S,
    INDEXED,
    JOURNAL_LOCK,
    Connection,
    connect,
    is_away,
    is_of_the_database,
    unavailable,
    words,
)
from mcpg.store.writer import MAX_BATCH, Fate, JournalWriter, Waiting, reach

log = logging.getLogger("mcpg.store")

_BEGIN = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({JOURNAL_LOCK})"
_DURABLE = "SELECT set_config('synchronous_commit','on',false) WHERE current_setting('synchronous_commit')='off'"
BACKOFF_S = (0.0, 0.1, 0.3)  # before each attempt at a batch of which nothing can have been written


class _CommitLost(Exception):
    """The answer to COMMIT did not come."""


class PostgresWriter(JournalWriter):
    """`one_by_one` counts the batches with a refusal of which only the database knows whose: their units went one by one."""

    def __init__(self, url: str, *, clock: Clock = now_us, timeout: Timeout = table_timeout) -> None:
        super().__init__()
        self._url = url
        self._appender = Appender(Scribe(clock, timeout))
        self._queue: deque[Waiting] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._con: Connection | None = None
        self.one_by_one = 0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name="journal-writer")

    def _put(self, waiting: Waiting) -> None:
        self._queue.append(waiting)
        self._wake.set()

    async def close(self) -> None:
        if self._task is None or self._closed:
            return
        self._closed = True
        self._wake.set()
        await asyncio.shield(self._task)

    # ---- the task

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
                    self._deliver(await self._commit(batch))
                if self._closed:
                    return
        finally:
            await self._drop()

    async def _commit(self, batch: list[Waiting]) -> list[Fate]:
        units = [unit for unit, _ in batch]
        failure: Unavailable
        end = asyncio.get_running_loop().time() + CONNECT_S
        for pause in BACKOFF_S:
            await asyncio.sleep(pause)
            try:
                fates = await self._transaction(units)
            except _CommitLost as exc:
                await self._drop()
                failure = Unavailable(
                    "the database did not say whether it was written",
                    cause=f"the connection was lost in COMMIT: {exc}",
                    hint="it may have been written: look before you repeat it",
                )
                break
            except Exception as exc:  # whatever it is, the transaction is over and nothing is written
                has_lost = self._con is None or self._con.is_closed() or is_away(exc)
                await self._drop()
                failure = unavailable(exc)
                if not has_lost and not isinstance(exc, asyncpg.TransactionRollbackError):
                    trace = None if self.trouble else exc  # once is enough for what goes on
                    log.error("journal: a batch of %d could not be written", len(batch), exc_info=trace)  # noqa: TRY400
                    break
                if asyncio.get_running_loop().time() > end:
                    break
            else:
                self.commits += 1
                return [(future, fate) for (_, future), fate in zip(batch, fates, strict=True)]
        log.error("journal: a batch of %d was not acknowledged: %s", len(batch), failure.cause)
        return [(future, failure) for _, future in batch]

    async def _transaction(self, units: Sequence[Unit]) -> list[list[Line] | BaseException]:
        """The fates of *units*, durable. Raises _CommitLost, or anything else when nothing was written."""
        con, appender = await self._connection(), self._appender
        fates: list[list[Line] | BaseException] = []
        await con.execute(_BEGIN)
        try:  # most batches hold no refusal, and then need no savepoints
            fates.extend(await appender.apply(con, units))
        except Exception as exc:  # some unit was refused: which one, and how, is found out below
            if _is_lost(con, exc):
                raise
            fates.extend(await self._sorted_out(con, units, is_decided=isinstance(exc, Decided)))
        if faults.armed is not None:
            reach("before", fates)
        try:
            status = await con.execute("COMMIT")
            if faults.armed is not None:
                reach("after", fates)
        except Exception as exc:
            raise _CommitLost(words(exc)) from exc
        if status != "COMMIT":
            raise Unavailable("the database undid a transaction", cause=f"COMMIT was answered with {status}")
        return fates

    async def _sorted_out(
        self, con: Connection, units: Sequence[Unit], *, is_decided: bool
    ) -> Sequence[list[Line] | BaseException]:
        """
        The fates of *units*, of which one was refused. What a row decides shows when the rows are read anew, and the others
        go on together; what only a statement ran into, when each unit has a savepoint of its own.
        """
        if is_decided:
            await self._anew(con)
            try:
                return await self._appender.apply(con, units, past=True)
            except Exception as exc:
                if _is_lost(con, exc):
                    raise
        self.one_by_one += 1
        await self._anew(con)
        return [await _apply(con, self._appender, unit) for unit in units]

    async def _anew(self, con: Connection) -> None:
        self._appender.forget()
        await con.execute("ROLLBACK")
        await con.execute(_BEGIN)

    async def _connection(self) -> Connection:
        if self._con is None or self._con.is_closed():
            self._con = await connect(self._url, **INDEXED)
            await self._con.execute(_DURABLE)
        return self._con

    async def _drop(self) -> None:
        """A connection in an unknown state is not used again."""
        self._appender.forget()
        con, self._con = self._con, None
        if con is not None:
            con.terminate()


def _is_lost(con: Connection, exc: Exception) -> bool:
    """Whether *exc* is no refusal: the connection, or the database, is in no state to go on."""
    return bool(con.is_closed()) or is_away(exc) or is_of_the_database(exc)


async def _apply(con: Connection, appender: Appender, unit: Unit) -> list[Line] | BaseException:
    """A unit's fate. A refused one leaves nothing behind, and does not touch its neighbours in the batch."""
    await con.execute("SAVEPOINT unit")
    try:
        [lines] = await appender.apply(con, [unit], strictly=True)
    except Exception as exc:
        if _is_lost(con, exc):
            raise
        appender.forget()
        await con.execute("ROLLBACK TO unit; RELEASE unit")
        return exc.args[0] if isinstance(exc, Decided) else exc
    await con.execute("RELEASE unit")
    return lines
