"""
The plan of a batch on PostgreSQL: which statements may go together, and what has to come before what.

Every statement has its place behind each earlier one that touches a row of its own, unless both are of one text, for those
are sent together and done in order. So what is done is what one after the other would do. Of executions that only add to one
row's counters the sum is one. Made by postgres_appender.py, which sends it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mcpg.errors import Conflict, McpgError
from mcpg.store.journal import INSERT_LINE
from mcpg.store.sql import access, takes_many

MOST = 64  # executions of one text that become one statement


class Statement(NamedTuple):
    """One execution. The first *sums* parameters are amounts that it adds to its row: see `Also`."""

    params: tuple[Any, ...]
    expect: int | None
    refuse: Callable[[str], McpgError]
    sums: int = 0


Group = tuple[str, list[Statement]]  # a text, and its executions
_Last = tuple[int, str]  # a wave and a text


class Plan:
    """Statements in waves: those of one wave and one text go together. The journal's `lines` come last."""

    def __init__(self) -> None:
        self.waves: list[dict[str, list[Statement]]] = []
        self.lines: list[tuple[Any, ...]] = []
        self._touched: dict[tuple[str, bool], _Touched] = {}  # by table, and whether they do nothing but add

    def add(self, sql: str, statement: Statement) -> None:
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
        several = self.waves[wave].setdefault(sql, [])
        if statement.sums and (at := next((i for i, s in enumerate(several) if _is_summed(s, statement)), -1)) >= 0:
            several[at] = _sum(several[at], statement)
        else:
            several.append(statement)
        for each in touched:
            kind = (each.table, each.adds)
            seen = self._touched.get(kind)
            if seen is None:
                seen = self._touched[kind] = _Touched()
            seen.note(each.row(statement.params), wave, sql)

    def take_lines(self) -> list[Group]:
        """The journal's lines, where they may be part of one statement; they are not in the plan any more then."""
        if not self.lines or len(self.lines) > MOST:
            return []
        lines, self.lines = self.lines, []
        return [(INSERT_LINE, [Statement(line, None, no_refusal) for line in lines])]

    def as_one(self) -> list[Group]:
        """All of it, where it can be one statement and leaves a line; the plan stays. Else nothing."""
        if len(self.waves) != 1 or not self.lines or len(self.lines) > MOST:
            return []
        alone, together = parted(self.waves[0])
        return [] if alone else [*together, (INSERT_LINE, [Statement(line, None, no_refusal) for line in self.lines])]


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
            self._whole = _later(self._whole, (wave, sql))
        else:
            self._rows[row] = _later(self._rows.get(row), (wave, sql))
            if self._columns.get(row[0], -1) < wave:
                self._columns[row[0]] = wave


def _later(last: _Last | None, this: _Last) -> _Last:
    """Of those that only add one may come into a wave before the last: who follows has to follow that one too."""
    return this if last is None or this[0] >= last[0] else last


def _is_summed(one: Statement, other: Statement) -> bool:
    """Whether both add to the same row, and neither takes anything away: so all fit where their sum does."""
    amounts = (*one.params[: one.sums], *other.params[: other.sums])
    return one.params[one.sums :] == other.params[other.sums :] and all(amount >= 0 for amount in amounts)


def _sum(one: Statement, other: Statement) -> Statement:
    added = [a + b for a, b in zip(one.params[: one.sums], other.params, strict=False)]
    return one._replace(params=(*added, *one.params[one.sums :]))


def parted(wave: dict[str, list[Statement]]) -> tuple[list[Group], list[Group]]:
    """
    Those that are sent for themselves, and those of which no two touch one row, so that they can be one statement. Of texts
    that add to one row, which stand in one wave, the first is among these.
    """
    alone: list[Group] = []
    together: list[Group] = []
    added: set[tuple[str, tuple[str, Any] | None]] = set()
    for sql, statements in wave.items():
        adds = {(each.table, each.row(s.params)) for each in access(sql) if each.adds for s in statements}
        if _are_apart(sql, statements) and not adds & added:
            together.append((sql, statements))
            added |= adds
        else:
            alone.append((sql, statements))
    return alone, together


def _are_apart(sql: str, statements: list[Statement]) -> bool:
    """Whether no two of them touch one row, and the number of rows tells whether each found its own."""
    [*several] = {s.expect for s in statements}
    if not takes_many(sql) or several not in ([None], [1]) or len(statements) > MOST:
        return False
    [touched] = access(sql)
    if several == [1] and touched.column != "id" and not sql.startswith("INSERT"):
        return False
    rows = {touched.row(s.params) for s in statements}
    return len(rows) == len(statements) and (touched.column, None) not in rows


def no_refusal(cause: str) -> McpgError:
    return Conflict("a journal line is there already", cause=cause)
