"""
The journal on PostgreSQL: one task that owns one connection and commits whatever waits, many units to a transaction.

Journal transactions of all replicas come one after the other, by an advisory lock that ends with each: so line ids become
visible in their order, and a unit sees everything before it, as on SQLite. No caller ever touches the connection, so none
can leave it half used. What is remembered of a row from one transaction to the next, the next compares with the row: see
postgres_appender.py.

Most batches need nothing that is not remembered, and are one message: BEGIN, the lock, one statement, COMMIT. So they wait
for the server once, and who is stopped dead while it waits holds the lock no longer than the server works.

A connection that is lost is made anew. When the answer to COMMIT was lost with it, the next transaction looks first whether
the batch's last line is there; only when none is had in time is it unknown, and its callers are told so.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any

import asyncpg

from mcpg import faults
from mcpg.errors import Unavailable
from mcpg.store.clock import Clock, now_us
from mcpg.store.journal import Line, Scribe, Timeout, Unit, table_timeout
from mcpg.store.postgres_appender import Appender, Decided
from mcpg.store.postgres_link import (
    CONNECT_S,
    JOURNAL,
    JOURNAL_LOCK,
    Connection,
    connect,
    is_away,
    is_of_the_database,
    unavailable,
    words,
)
from mcpg.store.writer import MAX_BATCH, NOT_WRITTEN, Fate, JournalWriter, Waiting, reach

log = logging.getLogger("mcpg.store")

_BEGIN = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({JOURNAL_LOCK})"
_DURABLE = "SELECT set_config('synchronous_commit','on',false) WHERE current_setting('synchronous_commit')='off'"
STILL_S = (
    4.0  # that a session is silent inside its transaction before another ends it; PostgreSQL itself does after 5 s
)
# A client prepares a statement and sends it in two steps. One that stops dead between them leaves a session that counts as
# active, though it waits for its client: no timeout of PostgreSQL ends that, and the lock would be held for ever.
_HELD_BY_NOBODY = (
    "SELECT a.pid, pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid=l.pid"  # noqa: S608
    " WHERE l.locktype='advisory' AND l.granted AND a.datname=current_database() AND l.database=a.datid"
    f" AND l.classid={JOURNAL_LOCK >> 32} AND l.objid={JOURNAL_LOCK & 0xFFFFFFFF} AND l.objsubid=1"
    " AND a.wait_event IN ('ClientRead','ClientWrite') AND a.state_change<clock_timestamp()-make_interval(secs=>$1)"
)
PREPARED = 128  # batches of different texts that a connection keeps prepared
# Of a connection that was lost: who is still at work for nobody is ended. By its start too, for a pid is used again.
_MYSELF = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid=pg_backend_pid()"
_END_OF = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid=$1 AND backend_start=$2"
_IS_WRITTEN = "SELECT 1 FROM journal WHERE subject=$1 AND seq=$2 AND hash=$3"
# Before each attempt. A batch that may have been written is looked for until CONNECT_S are over, any other as often as this.
BACKOFF_S = (0.0, 0.1, 0.3)


Fates = list[list[Line] | BaseException]


class _CommitLost(Exception):
    """The answer to COMMIT did not come. *fates* are the batch's, if it was written."""

    def __init__(self, why: BaseException, fates: Fates) -> None:
        super().__init__(words(why))
        self.fates = fates


class _Prepared:
    """The batches of one connection that are prepared, by their texts."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    async def name_of(self, con: Connection, text: str) -> str:
        name = self._names.get(text)
        if name is None:
            if len(self._names) == PREPARED:
                await con.execute(";".join([f"DEALLOCATE {each}" for each in self._names.values()]))
                self._names.clear()
            name = f"batch_{len(self._names)}"
            await con.execute(f"PREPARE {name} AS {text}")
            self._names[text] = name
        return name


class PostgresWriter(JournalWriter):
    """
    `at_once` counts the batches that were one message, `one_by_one` those with a refusal of which only the database knows
    whose: their units went one by one.
    """

    def __init__(self, url: str, *, clock: Clock = now_us, timeout: Timeout = table_timeout) -> None:
        super().__init__()
        self._url = url
        self._appender = Appender(Scribe(clock, timeout))
        self._queue: deque[Waiting] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._con: Connection | None = None
        self._prepared = _Prepared()
        self._myself: tuple[int, Any] | None = None  # pid and start of the server's process behind the connection
        self.one_by_one = 0
        self.at_once = 0

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
        lost: _CommitLost | None = None
        end = asyncio.get_running_loop().time() + CONNECT_S
        for attempt in count(1):
            await asyncio.sleep(BACKOFF_S[min(attempt, len(BACKOFF_S)) - 1])
            try:
                fates = await self._transaction(units, lost)
            except _CommitLost as exc:
                lost = exc
                await self._drop()
                failure = _unknown(lost)
                if _last_line(lost.fates) is None:
                    break
            except Exception as exc:  # whatever it is, the transaction is over and nothing is written
                has_lost = self._con is None or self._con.is_closed() or is_away(exc)
                await self._drop()
                failure = _unknown(lost) if lost is not None else unavailable(exc, NOT_WRITTEN)
                if not has_lost and not isinstance(exc, asyncpg.TransactionRollbackError):
                    trace = None if self.trouble else exc  # once is enough for what goes on
                    log.error("journal: a batch of %d could not be written", len(batch), exc_info=trace)  # noqa: TRY400
                    break
            else:
                self.commits += 1
                return [(future, fate) for (_, future), fate in zip(batch, fates, strict=True)]
            if asyncio.get_running_loop().time() > end or (lost is None and attempt == len(BACKOFF_S)):
                break
        log.error("journal: a batch of %d was not acknowledged: %s", len(batch), failure.cause)
        return [(future, failure) for _, future in batch]

    async def _transaction(self, units: Sequence[Unit], lost: _CommitLost | None) -> Fates:
        """
        The fates of *units*, durable; *lost* is how an attempt ended of which it is not known whether it was written. Raises
        _CommitLost, or anything else when nothing was written.
        """
        con, appender = await self._connection(), self._appender
        fates: Fates = []
        is_decided = False
        call = ""
        refusal: Exception | None = None  # most batches hold none, and then need no savepoints
        try:
            if lost is None and (decided := appender.decide(units)) is not None:
                is_decided = True
                fates.extend(decided)
                call = await appender.call(con, self._prepared)
        except Exception as exc:  # noqa: BLE001 - some unit was refused: which one, and how, is found out below
            refusal = _refusal(con, exc)
        if call:
            if faults.armed is not None:
                reach("before", fates)
            is_done, refusal = await self._at_once(con, call, fates)
            if is_done:
                return fates
        if refusal is None:
            await _begin(con)
            try:
                if lost is not None and await self._is_written(con, lost):
                    await con.execute("ROLLBACK")
                    return lost.fates
                if is_decided:
                    await appender.send(con)
                else:
                    fates.extend(await appender.apply(con, units))
            except Exception as exc:  # noqa: BLE001 - see above
                refusal = _refusal(con, exc)
                await con.execute("ROLLBACK")
        if refusal is not None:
            fates = await self._sorted_out(con, units, refusal)
        if faults.armed is not None:
            reach("before", fates)
        try:
            status = await con.execute("COMMIT")
            if faults.armed is not None:
                reach("after", fates)
        except Exception as exc:
            raise _CommitLost(exc, fates) from exc
        _check(status)
        return fates

    async def _sorted_out(self, con: Connection, units: Sequence[Unit], refusal: Exception) -> Fates:
        """
        The fates of *units*, of which one was refused. What a row decides shows when the rows are read anew, and the others
        go on together; what only a statement ran into, when each unit has a savepoint of its own.
        """
        if isinstance(refusal, Decided | asyncpg.DivisionByZeroError):
            self._appender.forget()
            await _begin(con)
            try:
                return list(await self._appender.apply(con, units, past=True))
            except Exception as exc:  # noqa: BLE001 - it is found out below
                _refusal(con, exc)
                await con.execute("ROLLBACK")
        self.one_by_one += 1
        self._appender.forget()
        await _begin(con)
        return [await _apply(con, self._appender, unit) for unit in units]

    async def _at_once(self, con: Connection, call: str, fates: Fates) -> tuple[bool, Exception | None]:
        """
        One message: whether it was done, and the refusal of something in it. When neither, the lock was not had in time; nothing
        was written then.
        """
        try:
            status = await con.execute(f"{_BEGIN}; {call}; COMMIT")
            if faults.armed is not None:
                reach("after", fates)
        except asyncpg.PostgresError as exc:  # the server says what it would not do, and so has not done
            if is_away(exc):
                raise _CommitLost(exc, fates) from exc
            is_late = isinstance(exc, asyncpg.LockNotAvailableError)
            refusal = None if is_late else _refusal(con, exc)
            await con.execute("ROLLBACK")
            if is_late:
                await _end_who_stands_still(con)
            return False, refusal
        except Exception as exc:
            raise _CommitLost(exc, fates) from exc
        _check(status)
        self.at_once += 1
        return True, None

    async def _is_written(self, con: Connection, lost: _CommitLost) -> bool:
        """Whether a batch is there whose answer was lost. The journal's lock is held, so none is on its way."""
        line = _last_line(lost.fates)
        found = line is not None and await con.fetchval(_IS_WRITTEN, line.subject, line.seq, line.hash) is not None
        log.warning("the answer to COMMIT was lost (%s): it was %swritten", lost, "" if found else "not ")
        return found

    async def _connection(self) -> Connection:
        if self._con is None or self._con.is_closed():
            con = await connect(self._url, **JOURNAL)
            await con.execute(_DURABLE)
            if self._myself is not None:
                await con.execute(_END_OF, *self._myself)
            self._con, self._prepared = con, _Prepared()
            self._myself = tuple(await con.fetchrow(_MYSELF))
        return self._con

    async def _drop(self) -> None:
        """A connection in an unknown state is not used again."""
        self._appender.forget()
        con, self._con = self._con, None
        if con is not None:
            con.terminate()


def _check(status: str) -> None:
    if status != "COMMIT":
        raise Unavailable("the database undid a transaction", cause=f"COMMIT was answered with {status}")


def _unknown(lost: _CommitLost) -> Unavailable:
    return Unavailable(
        "the database did not say whether it was written",
        cause=f"the connection was lost in COMMIT: {lost}",
        hint="it may have been written: look before you repeat it",
    )


def _last_line(fates: Fates) -> Line | None:
    """Of a batch, by which it can be found."""
    return next((fate[-1] for fate in reversed(fates) if not isinstance(fate, BaseException) and fate), None)


async def _begin(con: Connection) -> None:
    """A transaction that has the journal's lock. Who holds it and stands still is not waited for: its session is ended."""
    try:
        await con.execute(_BEGIN)
    except asyncpg.LockNotAvailableError:
        await con.execute("ROLLBACK")
        await _end_who_stands_still(con)
        await con.execute(_BEGIN)


async def _end_who_stands_still(con: Connection) -> None:
    """The journal's lock was not had in time: of its holders, those that wait for a client which says no more are ended."""
    for pid, is_ended in await con.fetch(_HELD_BY_NOBODY, STILL_S):
        if is_ended:
            log.warning("the journal's lock was held by a control plane that stands still: session %d is ended", pid)


def _refusal(con: Connection, exc: Exception) -> Exception:
    """*exc*, if it refuses what was asked; where the connection, or the database, is in no state to go on it is raised."""
    if con.is_closed() or is_away(exc) or is_of_the_database(exc):
        raise exc
    return exc


async def _apply(con: Connection, appender: Appender, unit: Unit) -> list[Line] | BaseException:
    """A unit's fate. A refused one leaves nothing behind, and does not touch its neighbours in the batch."""
    await con.execute("SAVEPOINT unit")
    try:
        [lines] = await appender.apply(con, [unit], strictly=True)
    except Exception as exc:  # noqa: BLE001 - its caller hears it
        _refusal(con, exc)
        appender.forget()
        await con.execute("ROLLBACK TO unit; RELEASE unit")
        return exc.args[0] if isinstance(exc, Decided) else exc
    await con.execute("RELEASE unit")
    return lines
