"""
Units on PostgreSQL: a batch's rows are read in one statement, decided in memory, and written in few.

Every statement of the batch has its place in a plan: behind each earlier one that touches a row of its own, unless both
are of one text, for those are sent together and done in order. So what is done is what one after the other would do, and
the journal's lines follow at the end, in the order of the units.

Called by postgres_writer.py, inside its transaction. A refusal leaves that transaction to be rolled back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import asyncpg

from mcpg.errors import McpgError
from mcpg.store.journal import (
    DECISIVE,
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
    Unit,
    Written,
    moved_on,
    refusal,
)
from mcpg.store.sql import Access, access, dollars

Connection = Any  # asyncpg.Connection: it comes without types


class Violation(Exception):
    """A constraint, or an expectation, of some statement among many: whose it was is found out one by one."""


class _Statement(NamedTuple):
    params: tuple[Any, ...]
    expect: int | None
    refuse: Callable[[str], McpgError]


_Last = tuple[int, str]  # a wave and a text


class _Plan:
    """Statements in waves: those of one wave and one text go together."""

    def __init__(self) -> None:
        self.waves: list[dict[str, list[_Statement]]] = []
        self.lines: list[tuple[Any, ...]] = []
        self._rows: dict[tuple[str, bool, str, Any], _Last] = {}  # the last statement on a row
        self._columns: dict[tuple[str, bool], dict[str, int]] = {}  # the last wave by the column that named its rows
        self._whole: dict[tuple[str, bool], _Last] = {}  # the last statement on a whole table

    def add(self, sql: str, statement: _Statement) -> None:
        touched = [(each, each.row(statement.params)) for each in access(sql)]
        wave = max(self._after(each, row, sql) for each, row in touched)
        while len(self.waves) <= wave:
            self.waves.append({})
        self.waves[wave].setdefault(sql, []).append(statement)
        for each, row in touched:
            kind = (each.table, each.adds)
            if row is None:
                self._whole[kind] = (wave, sql)
            else:
                self._rows[*kind, *row] = (wave, sql)
                columns = self._columns.setdefault(kind, {})
                columns[row[0]] = max(columns.get(row[0], 0), wave)

    def _after(self, touched: Access, row: tuple[str, Any] | None, sql: str) -> int:
        """The first wave in which *sql* comes behind all that touched what it touches."""
        first = 0
        for adds in (False, True):
            if adds and touched.adds:
                continue  # two that add may come in any order
            kind = (touched.table, adds)
            lasts = [self._whole.get(kind)]
            if row is not None:
                lasts.append(self._rows.get((*kind, *row)))
            for last in lasts:
                if last is not None:
                    first = max(first, last[0] if last[1] == sql else last[0] + 1)
            for column, wave in self._columns.get(kind, {}).items():
                if row is None or column != row[0]:
                    first = max(first, wave + 1)
        return first


class Appender:
    """
    Applies units on one connection. `strictly` waits for each statement before the next is decided: a refusal is then that
    of the first step that has one, as on SQLite.
    """

    def __init__(self, con: Connection, scribe: Scribe) -> None:
        self._con = con
        self._scribe = scribe
        self._heads: dict[tuple[str, str], Head | None] = {}
        self._plan = _Plan()

    async def apply(self, units: Sequence[Unit], *, strictly: bool = False) -> list[list[Line]]:
        """The lines of each unit. Raises the first refusal, Violation, or what the database says."""
        self._heads, self._plan = {}, _Plan()  # of this batch alone: nothing is known of a row from the last one
        await self._load(units)
        lines = [await self._unit(unit, units, strictly=strictly) for unit in units]
        await self._flush()
        return lines

    async def _unit(self, unit: Unit, units: Sequence[Unit], *, strictly: bool) -> list[Line]:
        lines: list[Line] = []
        for step in unit:
            match step:
                case Fire():
                    lines.append(await self._fire(step, units))
                case Birth():
                    made = self._scribe.birth(step)
                    self._write(made, (ROWS[step.table.name], step.subject), None, _refused(step))
                    lines.append(made.line)
                case Also():
                    self._plan.add(step.sql, _Statement(step.params, step.expect, _refused(step)))
                    self._forget(step)
            if strictly:
                await self._flush()
        return lines

    async def _fire(self, f: Fire, units: Sequence[Unit]) -> Line:
        key = (ROWS[f.table.name], f.subject)
        if f.counts or f.lists:
            await self._flush()
        if key not in self._heads:
            await self._flush()
            await self._load(units)
        counts = {k: await self._count(ask) for k, ask in f.counts.items()}
        lists = {k: await self._list(ask) for k, ask in f.lists.items()}
        made = self._scribe.fire(f, self._heads[key], counts, lists)
        self._write(made, key, 1, lambda _: moved_on(f))
        return made.line

    def _write(
        self, made: Written, key: tuple[str, str], expect: int | None, refuse: Callable[[str], McpgError]
    ) -> None:
        self._plan.add(made.sql, _Statement(made.params, expect, refuse))
        self._plan.lines.append(made.line_params)
        self._heads[key] = made.head

    def _forget(self, also: Also) -> None:
        """A companion that sets what an event is decided on makes what is known of those rows old."""
        if DECISIVE.search(also.sql):
            tables = {each.table for each in access(also.sql)}
            self._heads = {key: head for key, head in self._heads.items() if key[0] not in tables}

    # ---- what is asked

    async def _load(self, units: Sequence[Unit]) -> None:
        """The rows of every event of the batch that are not known yet."""
        wanted: dict[str, set[str]] = {}
        for unit in units:
            for step in unit:
                if isinstance(step, Fire) and (ROWS[step.table.name], step.subject) not in self._heads:
                    wanted.setdefault(ROWS[step.table.name], set()).add(step.subject)
        if not wanted:
            return
        rows = tuple(sorted(wanted))
        for row, subjects in wanted.items():
            self._heads.update(((row, subject), None) for subject in subjects)
        for row, subject, *head in await self._con.fetch(_heads(rows), *(list(wanted[row]) for row in rows)):
            self._heads[row, subject] = Head(*head)

    async def _count(self, ask: Ask) -> int:
        return int(await self._con.fetchval(dollars(ask.sql), *ask.params))

    async def _list(self, ask: Ask) -> list[dict[str, Any]]:
        return [dict(row) for row in await self._con.fetch(dollars(ask.sql), *ask.params)]

    # ---- what is written

    async def _flush(self) -> None:
        plan, self._plan = self._plan, _Plan()
        for wave in plan.waves:
            for sql, statements in wave.items():
                await self._send(sql, statements)
        if len(plan.lines) == 1:
            await self._con.execute(dollars(INSERT_LINE), *plan.lines[0])
        elif plan.lines:
            await self._con.executemany(dollars(INSERT_LINE), plan.lines)

    async def _send(self, sql: str, statements: list[_Statement]) -> None:
        try:
            if len(statements) == 1:
                [one] = statements
                counts = {0: int((await self._con.execute(dollars(sql), *one.params)).rpartition(" ")[2])}
            elif all(s.expect is None for s in statements):
                await self._con.executemany(dollars(sql), [s.params for s in statements])
                return
            else:
                numbered = [(*s.params, i) for i, s in enumerate(statements)]
                found = await self._con.fetchmany(_numbered(sql, len(statements[0].params)), numbered)
                counts = Counter(number for (number,) in found)
        except asyncpg.IntegrityConstraintViolationError as exc:
            if len(statements) > 1:
                raise Violation(exc.message) from exc
            raise statements[0].refuse(exc.message) from exc
        for number, statement in enumerate(statements):
            count = counts.get(number, 0)
            if statement.expect is not None and count != statement.expect:
                raise statement.refuse(f"{count} rows matched")


def _refused(step: Birth | Also) -> Callable[[str], McpgError]:
    return lambda cause: refusal(step, cause)


@lru_cache(maxsize=256)
def _numbered(sql: str, params: int) -> str:
    """*sql* telling for each row it changes which of many executions it was."""
    return f"{dollars(sql)} RETURNING ${params + 1}::int"


@lru_cache(maxsize=16)
def _heads(rows: tuple[str, ...]) -> str:
    return " UNION ALL ".join(
        f"SELECT '{row}',id,{HEAD} FROM {row} WHERE id = ANY(${number}::text[])"  # noqa: S608
        for number, row in enumerate(rows, 1)
    )
