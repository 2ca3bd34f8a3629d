"""
Units on PostgreSQL: a batch's rows are read in one statement, decided in memory, and written in few.

Every statement of the batch has its place in a plan (postgres_plan.py); the journal's lines follow at the end, in the order
of the units. Statements of which no two touch one row are sent as one, whatever their texts, the lines with the last of
them: what costs is the way to the server and back.

What it wrote last of a row it remembers and does not read again. Others may have written to it since: so the update of a
move compares all that an event is decided on (`_SAME`), and one that was decided on an old row matches nothing.

Called by postgres_writer.py, inside its transaction. A refusal leaves that transaction to be rolled back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, Protocol

import asyncpg

from mcpg.errors import McpgError
from mcpg.machines.chain import canonical, quoted
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
from mcpg.store.postgres_plan import MOST, Group, Plan, Statement, no_refusal, parted
from mcpg.store.sql import Part, access, dollars, for_all, for_many, literal

Connection = Any  # asyncpg.Connection: it comes without types

REMEMBERED = 4096  # rows
OFTEN = 3  # times that texts were seen together before they become one statement: to prepare it costs most
# What is written to these may hold secrets. A server logs the text of a statement that fails, with its literals: so the
# session is told of them before, as parameters, which are not logged.
SECRET = frozenset({"config_version", "keyring"})
# What companions may set, which does not change a row's version: with that, all of a Head.
_SAME = (
    " AND attempt=? AND deadline_at IS NOT DISTINCT FROM ? AND lease_owner IS NOT DISTINCT FROM ?"
    " AND lease_until IS NOT DISTINCT FROM ?"
)


class Prepared(Protocol):
    """The statements that a connection keeps prepared under names."""

    async def name_of(self, con: Connection, text: str) -> str: ...


class Violation(Exception):
    """A constraint, or an expectation, of some statement among many: whose it was is found out one by one."""


class Decided(Exception):
    """Its argument is a refusal: a row as it is known refuses the first step of a unit, so nothing of that was planned."""


class Appender:
    """
    Applies units on one connection at a time. `strictly` waits for each statement before the next is decided: a refusal is
    then that of the first step that has one, as on SQLite.
    """

    def __init__(self, scribe: Scribe) -> None:
        self._con: Connection = None
        self._scribe = scribe
        self._heads: dict[tuple[str, str], Head | None] = {}
        self._plan = Plan()
        self._types: dict[str, tuple[str, ...]] = {}  # of the parameters of a text
        self._met: Counter[tuple[str, ...]] = Counter()

    async def apply(
        self, con: Connection, units: Sequence[Unit], *, strictly: bool = False, past: bool = False
    ) -> list[list[Line] | McpgError]:
        """
        The lines of each unit. Raises the first refusal, Violation, or what the database says; call `forget` then, for a
        refusal that was decided on what is remembered may be none. With *past*, when nothing is, what is Decided is a fate.
        """
        self._con, self._plan = con, Plan()
        await self._load(units, {(ROWS[s.table.name], s.subject) for u in units for s in u if isinstance(s, Birth)})
        fates: list[list[Line] | McpgError] = []
        for unit in units:
            lines: list[Line] = []
            begun: Fire | None = None
            try:
                for at, step in enumerate(unit):
                    asked = await self._ask(step, units) if isinstance(step, Fire) and step is not begun else ()
                    begun = self._take(unit, at, begun, lines, *asked)
                    if strictly:
                        await self._flush(strictly=True)
            except Decided as exc:
                if not past:
                    raise
                fates.append(exc.args[0])
            else:
                fates.append(lines)
        await self._flush()
        self._tidy()
        return fates

    def decide(self, units: Sequence[Unit]) -> list[list[Line]] | None:
        """
        The lines of each unit, decided on what is remembered; what is to be written is in the plan then: see `call`, and
        `send`. None where something has to be read first. Raises the first refusal, as `apply` does.
        """
        self._tidy()
        self._plan = Plan()
        told: list[list[Line]] = []
        for unit in units:
            lines: list[Line] = []
            begun: Fire | None = None
            for at, step in enumerate(unit):
                if isinstance(step, Fire) and step is not begun and not self._is_known(step):
                    self.forget()  # what was decided so far is not written
                    return None
                begun = self._take(unit, at, begun, lines)
            told.append(lines)
        return told

    async def send(self, con: Connection) -> None:
        """Write what was decided, inside a transaction. Raises what `apply` raises."""
        self._con = con
        await self._flush()

    def forget(self) -> None:
        """What is remembered may be wrong, e.g. because it was rolled back."""
        self._heads = {}

    def _tidy(self) -> None:
        if len(self._heads) > REMEMBERED:
            self.forget()

    def _is_known(self, f: Fire) -> bool:
        return not f.counts and not f.lists and (ROWS[f.table.name], f.subject) in self._heads

    def _take(self, unit: Unit, at: int, begun: Fire | None, lines: list[Line], *asked: dict[str, Any]) -> Fire | None:
        """One step into the plan, its lines to *lines*; the event that was written together with a birth, if it was one."""
        match unit[at]:
            case Fire() as fire:
                if fire is not begun:
                    lines.append(self._fire(fire, *asked, is_first=at == 0))
            case Birth() as birth:
                begun = first_event(birth, unit[at + 1 :])
                lines += self._birth(birth, begun)
            case Also() as also:
                self._plan.add(also.sql, Statement(also.params, also.expect, _refused(also), also.sums))
                self._forget(also)
        return begun

    def _birth(self, b: Birth, begun: Fire | None) -> list[Line]:
        several = (self._scribe.birth(b),) if begun is None else self._scribe.begun(b, begun)
        made = several[-1]
        self._plan.lines += [each.line_params for each in several]
        self._write(made.sql, made.params, made.head, (ROWS[b.table.name], b.subject), None, _refused(b))
        return [each.line for each in several]

    def _fire(self, f: Fire, *asked: dict[str, Any], is_first: bool) -> Line:
        key = (ROWS[f.table.name], f.subject)
        head = self._heads[key]
        try:
            made = self._scribe.fire(f, head, *asked)
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
        self._plan.add(sql, Statement(params, expect, refuse))
        self._heads[key] = head

    def _forget(self, also: Also) -> None:
        """A companion that sets what an event is decided on makes what is known of those rows old."""
        if is_decisive(also.sql):
            tables = {each.table for each in access(also.sql)}
            self._heads = {key: head for key, head in self._heads.items() if key[0] not in tables}

    # ---- what is asked

    async def _ask(self, f: Fire, units: Sequence[Unit]) -> tuple[dict[str, Any], ...]:
        """What *f* asks for, and the row it moves, with all that comes before it written."""
        if f.counts or f.lists or (ROWS[f.table.name], f.subject) not in self._heads:
            await self._flush()
        if (ROWS[f.table.name], f.subject) not in self._heads:
            await self._load(units)
        if not f.counts and not f.lists:
            return ()
        counts = {k: await self._count(ask) for k, ask in f.counts.items()}
        return counts, {k: await self._list(ask) for k, ask in f.lists.items()}

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
        plan, self._plan = self._plan, Plan()
        for number, wave in enumerate(plan.waves, 1):
            alone, together = (list(wave.items()), []) if strictly else parted(wave)
            for sql, statements in alone:
                await self._send(sql, statements)
            if number == len(plan.waves) and together:
                together += plan.take_lines()
            if together:
                await self._send_together(together)
        for start in range(0, len(plan.lines), MOST):
            some = plan.lines[start : start + MOST]
            await self._send_by_text(INSERT_LINE, [Statement(line, None, no_refusal) for line in some])

    async def _send(self, sql: str, statements: list[Statement]) -> None:
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

    async def _send_together(self, groups: list[Group]) -> None:
        """Statements that touch no row twice, as one; those that are not often seen with each other are sent by text."""
        if len(groups) == 1 or not self._is_often(groups):
            for sql, statements in groups:
                await self._send_by_text(sql, statements)
            return
        try:
            await self._con.fetchval(for_all(await self._parts(groups)), *(_json(each) for _, each in groups))
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.DivisionByZeroError) as exc:
            raise Violation(exc.message) from exc

    # ---- all of it as one

    async def call(self, con: Connection, prepared: Prepared) -> str:
        """
        What does all that was decided, as one statement that fails where a row is not as it was expected; *prepared* are
        those of this connection. "" where it takes more than one, or is not often seen. The plan stays.
        """
        self._con = con
        groups = self._plan.as_one()
        if not groups or not self._is_often(groups):
            return ""
        name = await prepared.name_of(con, for_all(await self._parts(groups)))
        given, secrets = [], []
        for sql, statements in groups:
            if access(sql)[0].table in SECRET:
                secrets.append(_json(statements))
                given.append(f"current_setting('mcpg.secret_{len(secrets)}')::json")
            else:
                given.append(literal(_json(statements)))
        text = f"EXECUTE {name}({','.join(given)})"
        text.encode()  # what is no UTF-8 is refused here: asyncpg would give up the connection over it
        if secrets:
            await con.execute(_told(len(secrets)), *secrets)
        return text

    def _is_often(self, groups: list[Group]) -> bool:
        met = tuple([sql for sql, _ in groups])
        if len(self._met) > REMEMBERED:
            self._met.clear()
        self._met[met] += 1
        return self._met[met] >= OFTEN

    async def _parts(self, groups: list[Group]) -> tuple[Part, ...]:
        return tuple([(sql, await self._types_of(sql), several[0].expect is not None) for sql, several in groups])

    # ---- for themselves

    async def _send_by_text(self, sql: str, statements: list[Statement]) -> None:
        """As one statement; a lone one as it stands, for that is prepared already or the sooner."""
        if len(statements) == 1:
            await self._send(sql, statements)
            return
        try:
            done = await self._con.execute(_for_many(sql, await self._types_of(sql)), _json(statements))
        except asyncpg.IntegrityConstraintViolationError as exc:
            raise Violation(exc.message) from exc
        _check(int(done.rpartition(" ")[2]), statements)

    async def _types_of(self, sql: str) -> tuple[str, ...]:
        types = self._types.get(sql)
        if types is None:
            found = (await self._con.prepare(dollars(sql))).get_parameters()
            types = self._types[sql] = tuple(type_.name for type_ in found)
        return types


def _json(statements: list[Statement]) -> str:
    """Their parameters, as `for_many` takes them."""
    row = _row(len(statements[0].params))
    return f"[{','.join([row % tuple([_value(value) for value in s.params]) for s in statements])}]"


@lru_cache(maxsize=64)
def _row(width: int) -> str:
    return "{" + ",".join(f'"p{number}":%s' for number in range(1, width + 1)) + "}"


def _value(value: Any) -> str:
    """As JSON; nearly all is text, numbers or nothing."""
    if value.__class__ is str:
        return quoted(value)
    return "null" if value is None else repr(value) if value.__class__ is int else canonical(value)


def _check(count: int, statements: list[Statement]) -> None:
    if statements[0].expect is not None and count != len(statements):
        raise Violation(f"{count} rows of {len(statements)} matched")


def _refused(step: Birth | Also) -> Callable[[str], McpgError]:
    return lambda cause: refusal(step, cause)


@lru_cache(maxsize=8)
def _told(count: int) -> str:
    return "SELECT " + ",".join([f"set_config('mcpg.secret_{n}',${n},false)" for n in range(1, count + 1)])


@lru_cache(maxsize=256)
def _compared(sql: str) -> str:
    return sql + _SAME


@lru_cache(maxsize=256)
def _for_many(sql: str, types: tuple[str, ...]) -> str:
    return for_many(sql, types)


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
