"""
The one place a state changes: move the row, append the line, in one transaction.

`Unit`s come from the engine, the API and the agent protocol through mcpg/store/writer.py, which applies them here on its
own thread, many to a commit. A unit is all or nothing; every step of it is constant SQL.

A line's hash is sha256 over the canonical JSON (sorted keys, no spaces, UTF-8) of the array [prev_hash, machine, subject,
seq, event, source, dest, actor, reason, facts, data, definition, at], `at` being microseconds since the epoch and
prev_hash "" in a subject's first line.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from typing import Any

from mcpg.errors import Conflict, McpgError, NotFound
from mcpg.machines.table import NO_FACTS, Facts, Table, Wait, Work

ROWS = {
    "provision": "operation",
    "teardown": "operation",
    "recovery": "operation",
    "enrolment": "agent",
    "cluster": "cluster",
}


@dataclass(frozen=True, slots=True)
class Also:
    """
    A companion statement. With `expect`, another number of affected rows raises `refuse()` and undoes the whole unit;
    a violated constraint raises it too.
    """

    sql: str
    params: tuple[Any, ...] = ()
    expect: int | None = None
    refuse: Callable[[], McpgError] | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A read inside the transaction: what it finds cannot be overtaken."""

    sql: str
    params: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Birth:
    """A new subject: its row (`columns` beside the machine's own) and its first line."""

    table: Table
    subject: str
    columns: dict[str, Any]
    actor: str
    reason: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    refuse: Callable[[], McpgError] | None = None


@dataclass(frozen=True, slots=True)
class Fire:
    """
    One event on one subject. `expect` is the version it was decided on; None takes the row as it is (only for events
    that are true whatever happened meanwhile). `sets` are further columns of the row. `claim` leases it to an engine
    epoch in the same statement, so that going on with the next state's work needs no commit of its own. `within_s` is a
    shorter deadline than the table's for the state that is entered. `again_at` (microseconds) is for a move that stays
    because an attempt failed: attempts are counted on, and the next is not made before.
    """

    table: Table
    subject: str
    event: Enum
    actor: str
    facts: Facts = NO_FACTS
    expect: int | None = None
    reason: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=dict)
    claim: str | None = None
    within_s: float | None = None
    again_at: int | None = None
    counts: dict[str, Ask] = field(default_factory=dict)
    lists: dict[str, Ask] = field(default_factory=dict)


Step = Birth | Fire | Also


@dataclass(frozen=True, slots=True)
class Line:
    """One journal line, as it is stored."""

    machine: str
    subject: str
    seq: int
    event: str
    source: str
    dest: str
    actor: str
    reason: str
    facts: dict[str, Any]
    data: dict[str, Any]
    definition: str
    prev_hash: str
    hash: str
    at: int


Unit = Sequence[Step]
Timeout = Callable[[Table, str], float | None]  # seconds a row may rest in a state, None for no limit
LEASE_S = 30.0


def table_timeout(table: Table, state: str) -> float | None:
    """The deadline the definition itself declares."""
    rest = table.rests.get(table.states(state))
    return rest.timeout_s if isinstance(rest, Work | Wait) else None


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, nothing escaped that need not be."""
    return _ENCODER.encode(value)


def line_hash(line: Line) -> str:
    """The hash a line must have; `Line.hash` is what it has."""
    fields = [line.prev_hash, line.machine, line.subject, line.seq, line.event, line.source, line.dest]
    fields += [line.actor, line.reason, line.facts, line.data, line.definition, line.at]
    return hashlib.sha256(canonical(fields).encode()).hexdigest()


INSERT_LINE = (
    "INSERT INTO journal(machine,subject,seq,event,source,dest,actor,reason,facts,data,definition,prev_hash,hash,at)"
    " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)


@lru_cache(maxsize=256)
def _update(row: str, columns: tuple[str, ...]) -> str:
    more = "".join(f",{c}=?" for c in columns)
    return (
        f"UPDATE {row} SET state=?,version=?,head_hash=?,deadline_at=?,lease_owner=?,lease_until=?,attempt=?,"  # noqa: S608
        f"next_attempt_at=?,updated_at=?{more} WHERE id=? AND version=?"
    )


@lru_cache(maxsize=64)
def _insert(row: str, columns: tuple[str, ...]) -> str:
    names = ",".join(("id", "state", "version", "head_hash", "deadline_at", "created_at", "updated_at", *columns))
    return f"INSERT INTO {row}({names}) VALUES({','.join('?' * (7 + len(columns)))})"


@lru_cache(maxsize=8)
def _select(row: str) -> str:
    return f"SELECT state,version,head_hash,deadline_at,attempt FROM {row} WHERE id=?"  # noqa: S608


class Appender:
    """Applies units on one open SQLite connection. Lives on the writer's thread; knows nothing of transactions' ends."""

    def __init__(self, db: sqlite3.Connection, clock: Callable[[], int], timeout: Timeout) -> None:
        self._db = db
        self._clock = clock
        self._timeout = timeout
        self._last_at = 0

    def apply(self, unit: Unit) -> list[Line]:
        """Every step in order; raises the first refusal. The caller undoes what was written before it."""
        lines: list[Line] = []
        for step in unit:
            match step:
                case Fire():
                    lines.append(self._fire(step))
                case Birth():
                    lines.append(self._birth(step))
                case Also():
                    self._also(step)
        return lines

    def _now(self) -> int:
        """Never goes back, whatever the wall clock does."""
        self._last_at = max(self._last_at, self._clock())
        return self._last_at

    def _also(self, also: Also) -> None:
        try:
            count = self._db.execute(also.sql, also.params).rowcount
        except sqlite3.IntegrityError as exc:
            raise (also.refuse() if also.refuse else Conflict("somebody else was first", cause=str(exc))) from exc
        if also.expect is not None and count != also.expect:
            raise also.refuse() if also.refuse else Conflict("somebody else was first", cause=f"{count} rows matched")

    def _birth(self, b: Birth) -> Line:
        at, state = self._now(), b.table.initial.value
        line = self._append(
            b.table, b.subject, 1, b.table.birth.value, "", state, b.actor, b.reason, {}, b.data, "", at
        )
        values = (b.subject, state, 1, line.hash, self._deadline(b.table, state, at), at, at, *b.columns.values())
        try:
            self._db.execute(_insert(ROWS[b.table.name], tuple(b.columns)), values)
        except sqlite3.IntegrityError as exc:
            raise (b.refuse() if b.refuse else Conflict(f"{b.subject} exists already", cause=str(exc))) from exc
        return line

    def _fire(self, f: Fire) -> Line:
        row = ROWS[f.table.name]
        found = self._db.execute(_select(row), (f.subject,)).fetchone()
        if found is None:
            raise NotFound(f"no {row} {f.subject}")
        source, version, head, deadline, attempt = found
        if f.expect is not None and version != f.expect:
            raise Conflict(
                f"{row} {f.subject} has moved on", cause=f"it is at version {version}, {source}; not at {f.expect}"
            )
        facts = f.facts if not f.counts else replace(f.facts, **{k: self._count(ask) for k, ask in f.counts.items()})
        data = f.data if not f.lists else f.data | {k: self._list(ask) for k, ask in f.lists.items()}
        dest = f.table.step(source, f.event, facts).value
        at = self._now()
        if dest != source:  # a move that stays keeps its absolute deadline
            deadline = self._deadline(f.table, dest, at)
            if f.within_s is not None:
                latest = at + int(f.within_s * 1e6)
                deadline = latest if deadline is None else min(deadline, latest)
        claim = f.claim if dest in f.table.working else None
        line = self._append(
            f.table, f.subject, version + 1, f.event.value, source, dest, f.actor, f.reason,
            facts.as_json(), data, head, at,
        )  # fmt: skip
        lease = at + int(LEASE_S * 1e6) if claim else None
        attempt = 0 if f.again_at is None else attempt + 1
        values = (
            dest,
            version + 1,
            line.hash,
            deadline,
            claim,
            lease,
            attempt,
            f.again_at,
            at,
            *f.sets.values(),
            f.subject,
            version,
        )
        if self._db.execute(_update(row, tuple(f.sets)), values).rowcount != 1:
            raise Conflict(f"{row} {f.subject} has moved on")
        return line

    def _count(self, ask: Ask) -> int:
        [number] = self._db.execute(ask.sql, ask.params).fetchone()
        return int(number)

    def _list(self, ask: Ask) -> list[dict[str, Any]]:
        cursor = self._db.execute(ask.sql, ask.params)
        names = [d[0] for d in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def _deadline(self, table: Table, state: str, at: int) -> int | None:
        seconds = self._timeout(table, state)
        return None if seconds is None else at + int(seconds * 1e6)

    def _append(
        self, table: Table, subject: str, seq: int, event: str, source: str, dest: str, actor: str, reason: str,
        facts: dict[str, Any], data: dict[str, Any], prev: str, at: int,
    ) -> Line:  # fmt: skip
        definition = table.definition_hash
        facts_text, data_text = canonical(facts), canonical(data)  # spliced into the array: encoded once, not twice
        head = canonical([prev, table.name, subject, seq, event, source, dest, actor, reason])
        body = f"{head[:-1]},{facts_text},{data_text},{canonical([definition, at])[1:]}"
        digest = hashlib.sha256(body.encode()).hexdigest()
        self._db.execute(
            INSERT_LINE,
            (
                table.name, subject, seq, event, source, dest, actor, reason,
                facts_text, data_text, definition, prev, digest, at,
            ),
        )  # fmt: skip
        return Line(
            table.name, subject, seq, event, source, dest, actor, reason, facts, data, definition, prev, digest, at
        )
