"""
Units on PostgreSQL: a batch's rows are read in one statement, decided in memory, and written in few.

Every statement of the batch has its place in a plan: behind each earlier one that touches a row of its own, unless both
are of one text, for those are sent together and done in order. So what is done is what one after the other would do, and
the journal's lines follow at the end, in the order of the units. Statements of which no two touch one row are sent as one,
whatever their texts, the lines with the last of them: what costs is the way to the server and back.

What it wrote last of a row it remembers and does not read again. Others may have written to it since: so the update of a
move compares all that an event is decided on (`_SAME`), and one that was decided on an old row matches nothing.

Called by postgres_writer.py, inside its transaction. A refusal leaves that transaction to be rolled back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import asyncpg

from mcpg.errors import Conflict, McpgError
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
    Unit,
    first_event,
    is_decisive,
    moved_on,
    refusal,
)
from mcpg.store.sql import access, dollars, for_all, for_many, takes_many

Connection = Any  # asyncpg.Connection: it comes without types

REMEMBERED = 4096  # rows
MOST = 64  # executions of one text that become one statement
OFTEN = 3  # times that texts were seen together before they become one statement: to prepare it costs most
# What companions may set, which does not change a row's version: with that, all of a Head.
_SAME = (
    " AND attempt=? AND deadline_at IS NOT DISTINCT FROM ? AND lease_owner IS NOT DISTINCT FROM ?"
    " AND lease_until IS NOT DISTINCT FROM ?"
)


class Violation(Exception):
    """A constraint, or an expectation, of some statement among many: whose it was is found out one by one."""


class Decided(Exception):
    """Its argument is a refusal: a row as it is known refuses the first step of a unit, so nothing of that was planned."""


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
        self._touched: dict[tuple[str, bool], _Touched] = {}  # by table, and whether they do nothing but add

    def add(self, sql: str, statement: _Statement) -> None:
        """In the first wave that comes behind all that touched what it touches."""
        wave = 0
        touched = access(sql)
        for each in touched:
            row = each.row(statement.params)
            for adds in (False,) if each.adds else (False, True):  # two that add may come in any order
                before = self._touched.get((each.table, adds))
                if before is not None:
                    wave = max(wave, before.after(row, sql))
        while len(self.waves) <= wave:
            self.waves.append({})
        self.waves[wave].setdefault(sql, []).append(statement)
        for each in touched:
            kind = (each.table, each.adds)
            seen = self._touched.get(kind)
            if seen is None:
                seen = self._touched[kind] = _Touched()
            seen.note(each.row(statement.params), wave, sql)


class _Touched:
    """What touched one table so far."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, Any], _Last] = {}  # the last statement on a row
        self._columns: dict[str, int] = {}  # the last wave by the column that named its rows
        self._whole: _Last | None = None  # the last statement on all of it

    def after(self, row: tuple[str, Any] | None, sql: str) -> int:
        """The first wave in which *sql* may touch *row*, or all of it (None)."""
        first = 0
        for last in (self._whole, None if row is None else self._rows.get(row)):
            if last is not None:
                first = max(first, last[0] if last[1] == sql else last[0] + 1)
        for column, wave in self._columns.items():
            if row is None or column != row[0]:
                first = max(first, wave + 1)
        return first

    def note(self, row: tuple[str, Any] | None, wave: int, sql: str) -> None:
        if row is None:
            self._whole = (wave, sql)
        else:
            self._rows[row] = (wave, sql)
            if self._columns.get(row[0], -1) < wave:
                self._columns[row[0]] = wave


class Appender:
    """
    Applies units on one connection at a time. `strictly` waits for each statement before the next is decided: a refusal is
    then that of the first step that has one, as on SQLite.
    """

    def __init__(self, scribe: Scribe) -> None:
        self._con: Connection = None
        self._scribe = scribe
        self._heads: dict[tuple[str, str], Head | None] = {}
        self._plan = _Plan()
        self._types: dict[str, tuple[str, ...]] = {}  # of the parameters of a text
        self._met: Counter[tuple[tuple[str, int], ...]] = Counter()

    async def apply(
        self, con: Connection, units: Sequence[Unit], *, strictly: bool = False, past: bool = False
    ) -> list[list[Line] | McpgError]:
        """
        The lines of each unit. Raises the first refusal, Violation, or what the database says; call `forget` then, for a
        refusal that was decided on what is remembered may be none. With *past*, when nothing is, what is Decided is a fate.
        """
        self._con, self._plan = con, _Plan()
        await self._load(units, {(ROWS[s.table.name], s.subject) for u in units for s in u if isinstance(s, Birth)})
        fates: list[list[Line] | McpgError] = []
        for unit in units:
            try:
                fates.append(await self._unit(unit, units, strictly=strictly))
            except Decided as exc:
                if not past:
                    raise
                fates.append(exc.args[0])
        await self._flush()
        if len(self._heads) > REMEMBERED:
            self.forget()
        return fates

    def forget(self) -> None:
        """What is remembered may be wrong, e.g. because it was rolled back."""
        self._heads = {}

    async def _unit(self, unit: Unit, units: Sequence[Unit], *, strictly: bool) -> list[Line]:
        lines: list[Line] = []
        begun: Fire | None = None  # written together with the birth before it
        for at, step in enumerate(unit):
            match step:
                case Fire():
                    if step is not begun:
                        lines.append(await self._fire(step, units, is_first=at == 0))
                case Birth():
                    begun = first_event(step, unit[at + 1 :])
                    lines += self._birth(step, begun)
                case Also():
                    self._plan.add(step.sql, _Statement(step.params, step.expect, _refused(step)))
                    self._forget(step)
            if strictly:
                await self._flush(strictly=True)
        return lines

    def _birth(self, b: Birth, begun: Fire | None) -> list[Line]:
        several = (self._scribe.birth(b),) if begun is None else self._scribe.begun(b, begun)
        made = several[-1]
        self._plan.lines += [each.line_params for each in several]
        self._write(made.sql, made.params, made.head, (ROWS[b.table.name], b.subject), None, _refused(b))
        return [each.line for each in several]

    async def _fire(self, f: Fire, units: Sequence[Unit], *, is_first: bool) -> Line:
        key = (ROWS[f.table.name], f.subject)
        if f.counts or f.lists:
            await self._flush()
        if key not in self._heads:
            await self._flush()
            await self._load(units)
        head = self._heads[key]
        counts = {k: await self._count(ask) for k, ask in f.counts.items()}
        lists = {k: await self._list(ask) for k, ask in f.lists.items()}
        try:
            made = self._scribe.fire(f, head, counts, lists)
        except McpgError as exc:
            if is_first:
                raise Decided(exc) from exc
            raise
        assert head is not None  # noqa: S101 - the scribe refuses what is not there
        same = (head.attempt, head.deadline_at, head.lease_owner, head.lease_until)
        self._plan.lines.append(made.line_params)
        self._write(_compared(made.sql), (*made.params, *same), made.head, key, 1, lambda _: moved_on(f))
        return made.line

    def _write(
        self, sql: str, params: tuple[Any, ...], head: Head, key: tuple[str, str], expect: int | None,
        refuse: Callable[[str], McpgError],
    ) -> None:  # fmt: skip
        self._plan.add(sql, _Statement(params, expect, refuse))
        self._heads[key] = head

    def _forget(self, also: Also) -> None:
        """A companion that sets what an event is decided on makes what is known of those rows old."""
        if is_decisive(also.sql):
            tables = {each.table for each in access(also.sql)}
            self._heads = {key: head for key, head in self._heads.items() if key[0] not in tables}

    # ---- what is asked

    async def _load(self, units: Sequence[Unit], born: Collection[tuple[str, str]] = ()) -> None:
        """The rows of every event of the batch that are not known yet; those that are *born* in it will be."""
        wanted: dict[str, set[str]] = {}
        for unit in units:
            for step in unit:
                if not isinstance(step, Fire):
                    continue
                key = (ROWS[step.table.name], step.subject)
                if key not in self._heads and key not in born:
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

    async def _flush(self, *, strictly: bool = False) -> None:
        plan, self._plan = self._plan, _Plan()
        for number, wave in enumerate(plan.waves, 1):
            together: list[tuple[str, list[_Statement]]] = []
            for sql, statements in wave.items():
                if not strictly and _are_apart(sql, statements):
                    together.append((sql, statements))
                else:
                    await self._send(sql, statements)
            if number == len(plan.waves) and together and len(plan.lines) <= MOST:
                lines = [_Statement(line, None, _no_refusal) for line in plan.lines]
                together += [(INSERT_LINE, lines)] if lines else []
                plan.lines = []
            if together:
                await self._send_together(together)
        for start in range(0, len(plan.lines), MOST):
            some = plan.lines[start : start + MOST]
            await self._send_by_text(INSERT_LINE, [_Statement(line, None, _no_refusal) for line in some])

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

    async def _send_together(self, groups: list[tuple[str, list[_Statement]]]) -> None:
        """Statements that touch no row twice, as one; those that are not often seen with each other are sent by text."""
        met = tuple([(sql, _size(statements)) for sql, statements in groups])
        if len(self._met) > REMEMBERED:
            self._met.clear()
        self._met[met] += 1
        if len(groups) == 1 or self._met[met] < OFTEN:
            for sql, statements in groups:
                await self._send_by_text(sql, statements)
            return
        parts = tuple([(sql, await self._types_of(sql), size) for sql, size in met])
        params: list[Any] = []
        for (_, types, size), (_, statements) in zip(parts, groups, strict=True):
            _fill(params, statements, len(types), size)
        try:
            counts = await self._con.fetchrow(for_all(parts), *params)
        except asyncpg.IntegrityConstraintViolationError as exc:
            raise Violation(exc.message) from exc
        for count, (_, statements) in zip(counts, groups, strict=True):
            _check(count, statements)

    async def _send_by_text(self, sql: str, statements: list[_Statement]) -> None:
        """As one statement; a lone one as it stands, for that is prepared already or the sooner."""
        if len(statements) == 1:
            await self._send(sql, statements)
            return
        types, size, params = await self._types_of(sql), _size(statements), list[Any]()
        _fill(params, statements, len(types), size)
        try:
            done = await self._con.execute(_for_many(sql, types, size), *params)
        except asyncpg.IntegrityConstraintViolationError as exc:
            raise Violation(exc.message) from exc
        _check(int(done.rpartition(" ")[2]), statements)

    async def _types_of(self, sql: str) -> tuple[str, ...]:
        types = self._types.get(sql)
        if types is None:
            found = (await self._con.prepare(dollars(sql))).get_parameters()
            types = self._types[sql] = tuple(type_.name for type_ in found)
        return types


def _size(statements: list[_Statement]) -> int:
    """The power of four that holds them: so there are few texts to prepare."""
    return 1 << 2 * (((len(statements) - 1).bit_length() + 1) // 2)


def _fill(params: list[Any], statements: list[_Statement], width: int, size: int) -> None:
    for statement in statements:
        params += statement.params
    params += [None] * (width * (size - len(statements)))


def _check(count: int, statements: list[_Statement]) -> None:
    if statements[0].expect is not None and count != len(statements):
        raise Violation(f"{count} rows of {len(statements)} matched")


def _are_apart(sql: str, statements: list[_Statement]) -> bool:
    """
    Whether they can be one statement, and part of one: no two of them touch one row, and the number of rows tells whether
    each found its own. Those that add may share a row with others that do.
    """
    [*several] = {s.expect for s in statements}
    if not takes_many(sql) or several not in ([None], [1]) or len(statements) > MOST:
        return False
    [touched] = access(sql)
    if touched.adds or (several == [1] and touched.column != "id" and not sql.startswith("INSERT")):
        return False
    rows = {touched.row(s.params) for s in statements}
    return len(rows) == len(statements) and (touched.column, None) not in rows


def _no_refusal(cause: str) -> McpgError:
    return Conflict("a journal line is there already", cause=cause)


def _refused(step: Birth | Also) -> Callable[[str], McpgError]:
    return lambda cause: refusal(step, cause)


@lru_cache(maxsize=256)
def _compared(sql: str) -> str:
    return sql + _SAME


@lru_cache(maxsize=256)
def _for_many(sql: str, types: tuple[str, ...], rows: int) -> str:
    return for_many(sql, types, rows)


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
