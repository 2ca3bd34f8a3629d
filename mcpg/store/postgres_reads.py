"""
Reads of a PostgreSQL database: those that are asked for at once with one text go together, in one round trip.

Who waits for one commit goes on at once, and then asks what its neighbours ask: their parameters become arrays, and each
is told its own rows. Nobody waits for company: what has been asked when the event loop comes round is sent, and while all
connections are busy more gather. A cancelled caller cancels nothing but its own answer, so no connection is left half
used. What is lost with a connection is asked once more. Made and closed by postgres_database.py.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import asyncpg

from mcpg.store.database import Row
from mcpg.store.postgres_link import CONNECT_S, Connection, connect, is_away, is_of_the_database, unavailable
from mcpg.store.sql import dollars, placed

MOST = 256  # reads in one round trip
_NUMBER = "number_of_the_read"
_ONE_BY_ONE = re.compile(r"\b(ORDER|LIMIT|UNION|FOR|WITH)\b", re.IGNORECASE)


class _Read(NamedTuple):
    params: tuple[Any, ...]
    answer: asyncio.Future[list[Row]]
    since: float


class Reads:
    """At most *most* connections with *settings*. `asked` and `trips` count reads, and the round trips they took."""

    def __init__(self, url: str, most: int, **settings: str) -> None:
        self._url = url
        self._most = most
        self._settings = settings
        self._waiting: dict[str, list[_Read]] = {}  # by text, the oldest first
        self._together: dict[str, str] = {}  # texts that may go together, as they then read; "" for those that may not
        self._idle: list[Connection] = []
        self._serving: set[asyncio.Task[None]] = set()
        self._is_due = False
        self._alarm: asyncio.TimerHandle | None = None
        self.asked = self.trips = 0

    async def rows(self, sql: str, params: tuple[Any, ...]) -> list[Row]:
        """Raises Unavailable, or what the database says of this read."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Row]] = loop.create_future()
        self._waiting.setdefault(sql, []).append(_Read(params, answer, loop.time()))
        self.asked += 1
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._dispatch)
        return await answer

    async def close(self) -> None:
        """Answer what was asked, at most for CONNECT_S, then close the connections."""
        if self._serving:
            await asyncio.wait(self._serving, timeout=CONNECT_S)
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        if self._alarm is not None:
            self._alarm.cancel()
        for con in self._idle:
            with suppress(Exception):
                await con.close(timeout=CONNECT_S)
        self._idle.clear()

    # ---- who is served when

    def _dispatch(self) -> None:
        self._is_due = False
        for _ in range(min(len(self._waiting), self._most - len(self._serving))):
            task = asyncio.get_running_loop().create_task(self._serve(), name="reads")
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        if self._waiting and self._alarm is None and len(self._serving) == self._most:
            self._alarm = asyncio.get_running_loop().call_later(CONNECT_S, self._give_up)

    def _give_up(self) -> None:
        """All connections are busy: nobody waits for one for longer than for a new one."""
        self._alarm = None
        before = asyncio.get_running_loop().time() - CONNECT_S
        for sql, reads in list(self._waiting.items()):
            late = [read for read in reads if read.since <= before]
            _fail(late, TimeoutError("every connection is busy"), is_ours=True)
            self._waiting[sql] = [read for read in reads if read.since > before]
            if not self._waiting[sql]:
                del self._waiting[sql]
        self._dispatch()

    async def _serve(self) -> None:
        """Until nothing waits."""
        while self._waiting:
            sql = next(iter(self._waiting))
            reads = self._waiting.pop(sql)
            if len(reads) > MOST:
                self._waiting[sql] = reads[MOST:]
            await self._answer(sql, reads[:MOST])

    # ---- asking

    async def _answer(self, sql: str, reads: Sequence[_Read]) -> None:
        for is_second in (False, True):
            con: Connection | None = None
            try:
                con = await self._connection()
                answers = await self._ask(con, sql, [read.params for read in reads])
                self._idle.append(con)
            except Exception as exc:  # noqa: BLE001 - whoever asked hears it
                is_lost = con is None or is_away(exc) or isinstance(exc, asyncpg.InterfaceError)
                is_ours = is_lost or is_of_the_database(exc)  # not to blame on what was asked
                if con is not None:
                    self._put_back(con, is_lost=is_lost)
                if is_lost and con is not None and not is_second and not isinstance(exc, TimeoutError):
                    continue
                if not is_ours and len(reads) > 1:  # whose it is, is found out one by one
                    for read in reads:
                        await self._answer(sql, [read])
                    return
                _fail(reads, exc, is_ours=is_ours)
                return
            except BaseException:
                if con is not None:
                    con.terminate()
                raise
            for read, rows in zip(reads, answers, strict=True):
                if not read.answer.done():
                    read.answer.set_result(rows)
            return

    async def _connection(self) -> Connection:
        while self._idle:
            con = self._idle.pop()
            if not con.is_closed():
                return con
        return await connect(self._url, **self._settings)

    def _put_back(self, con: Connection, *, is_lost: bool) -> None:
        if is_lost:
            con.terminate()
        else:
            self._idle.append(con)

    async def _ask(self, con: Connection, sql: str, all_params: list[tuple[Any, ...]]) -> list[list[Row]]:
        text = await self._joined(con, sql) if len(all_params) > 1 else ""
        if not text:
            self.trips += len(all_params)
            return [[dict(row) for row in await con.fetch(dollars(sql), *params)] for params in all_params]
        self.trips += 1
        different = {params: number for number, params in enumerate(dict.fromkeys(all_params), 1)}
        found: list[list[Row]] = [[] for _ in different]
        if len(different) == 1:
            found = [[dict(row) for row in await con.fetch(dollars(sql), *all_params[0])]]
        else:
            for record in await con.fetch(text, *zip(*different, strict=True)):
                row = dict(record)
                found[row.pop(_NUMBER) - 1].append(row)
        told = [found[different[params] - 1] for params in all_params]
        return told if len(different) == len(all_params) else [[dict(row) for row in rows] for rows in told]

    async def _joined(self, con: Connection, sql: str) -> str:
        """*sql* for many at once; "" when each must be asked alone."""
        if sql not in self._together:
            self._together[sql] = ""
            if may_go_together(sql):
                types = (await con.prepare(dollars(sql))).get_parameters()
                if types and all(type_.kind == "scalar" for type_ in types):
                    self._together[sql] = joined(sql, [type_.name for type_ in types])
        return self._together[sql]


def may_go_together(sql: str) -> bool:
    """A read of tables that promises no order among its rows."""
    return sql.startswith("SELECT") and " FROM " in sql and _ONE_BY_ONE.search(sql) is None


def joined(sql: str, types: Sequence[str]) -> str:
    """*sql* for arrays of parameters of *types*; each row says which of them it is for, counted from 1."""
    arrays = ",".join(f"${number}::{type_}[]" for number, type_ in enumerate(types, 1))
    names = ",".join(f"p{number}" for number in range(1, len(types) + 1))
    return (
        f"SELECT w.number AS {_NUMBER}, r.* FROM unnest({arrays}) WITH ORDINALITY AS w({names},number),"  # noqa: S608
        f" LATERAL ({placed(sql, 'w.p')}) r"
    )


def _fail(reads: Sequence[_Read], exc: Exception, *, is_ours: bool) -> None:
    for read in reads:
        if not read.answer.done():
            read.answer.set_exception(unavailable(exc) if is_ours else exc)
