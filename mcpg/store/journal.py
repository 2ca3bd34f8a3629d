"""
The one place a state changes: what a step writes, decided once for every database.

`Unit`s come from the engine, the API and the agent protocol through a writer (writer.py), many to a commit. A unit is all
or nothing; every step of it is constant SQL. `Scribe` decides what a birth or an event writes, given the row as it is; the
appenders of sqlite_writer.py and postgres_appender.py load that row and carry the writing out, in one transaction.

What a line's hash covers, and in which form: mcpg/machines/chain.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

from mcpg.errors import Conflict, McpgError, NotFound
from mcpg.machines.chain import Entry, entry_hash, quoted
from mcpg.machines.chain import canonical as canonical  # noqa: PLC0414 - many take it from here: it is how the store writes JSON
from mcpg.machines.table import NO_FACTS, Facts, Table

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
    a violated constraint raises it too. The first *sums* parameters do nothing but add to the counters of its row, as long as
    there is room: where none is negative, two executions for one row are one that adds the sum.
    """

    sql: str
    params: tuple[Any, ...] = ()
    expect: int | None = None
    refuse: Callable[[], McpgError] | None = None
    sums: int = 0


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
    One event on one subject. `expect` is the version it was decided on; None takes the row as it is (only for
    events that are true whatever happened meanwhile). `sets` are further columns of the row. `claim` leases a row
    that nobody holds to an engine epoch in the same statement, so that going on with the next state needs no commit
    of its own. `fence` is the epoch that drives it: refused when the row is another's by now. `within_s` is a
    shorter deadline than the table's for the state that is entered. `again_at` (microseconds) is for a move that
    stays because an attempt failed: attempts are counted on, and the next is not made before.
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
    fence: str | None = None
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
LEASE_S = 10.0  # the arithmetic of leases: lease.py


def table_timeout(table: Table, state: str) -> float | None:
    """The deadline the definition itself declares."""
    return table.timeouts.get(state)


def entry_of(line: Line) -> Entry:
    """*line* as its hash sees it."""
    return Entry(
        line.machine, line.seq, line.event, line.source, line.dest, line.actor, line.reason, canonical(line.facts),
        canonical(line.data), line.definition, line.prev_hash, line.hash, line.at,
    )  # fmt: skip


def line_hash(line: Line) -> str:
    """The hash a line must have; `Line.hash` is what it has."""
    return entry_hash(line.subject, entry_of(line))


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


class Head(NamedTuple):
    """A subject's row as an event finds it."""

    state: str
    version: int
    head_hash: str
    deadline_at: int | None
    attempt: int
    updated_at: int
    lease_owner: str | None
    lease_until: int | None


def lease_after(f: Fire, dest: str, owner: str | None, until: int | None, at: int) -> tuple[str | None, int | None]:
    """
    Who holds a row after a move, and until when: nobody where no engine moves it on; who held it before, with a new term
    when it is they who move; who claims it when it was nobody's; else it is free (until 0), and any engine's to take. How
    long it is theirs says their heartbeat (lease.py), not this term, which is by our clock.
    """
    if dest not in f.table.driven or ROWS[f.table.name] != "operation":
        return None, None
    if f.claim is not None and owner in (None, f.claim):
        return f.claim, at + int(LEASE_S * 1e6)
    return (None, 0) if owner is None else (owner, until)


def check_fence(f: Fire, owner: str | None) -> None:
    """Raises Conflict when another epoch has taken the row from the one that moves it, whether or not its term is over."""
    if f.fence is not None and owner not in (None, f.fence):
        raise Conflict(f"{f.subject} is not ours to move", cause=f"it is leased to {owner}; we are {f.fence}")


HEAD = ",".join(Head._fields)
DECISIVE = re.compile(
    r"\b(attempt|deadline_at|lease_owner|lease_until)\s*="
)  # columns of a Head that companions may set


@lru_cache(maxsize=1024)
def is_decisive(sql: str) -> bool:
    """Whether a companion sets what an event is decided on: a head that was read before it is old then."""
    return DECISIVE.search(sql) is not None


@lru_cache(maxsize=1024)
def concerns(sql: str, table: str) -> bool:
    """Whether *sql* names *table*."""
    return re.search(rf"\b{table}\b", sql) is not None


def first_event(b: Birth, after: Sequence[Step]) -> Fire | None:
    """The event that its own unit raises on what is born, when nothing between them concerns its row; None without one."""
    row = ROWS[b.table.name]
    for step in after:
        if isinstance(step, Also):
            if concerns(step.sql, row):
                return None
        elif step.subject == b.subject and ROWS[step.table.name] == row:
            return step if isinstance(step, Fire) and not (step.counts or step.lists) else None
        elif isinstance(step, Fire) and (step.counts or step.lists):
            return None  # it may look at the row
    return None


class Written(NamedTuple):
    """What a step writes: the line, its row's statement, and the row as it is after both."""

    line: Line
    line_params: tuple[Any, ...]
    sql: str
    params: tuple[Any, ...]
    head: Head


class Scribe:
    """Decides what births and events write. Knows no database; its time never goes back, whatever the wall clock does."""

    def __init__(self, clock: Callable[[], int], timeout: Timeout) -> None:
        self._clock = clock
        self._timeout = timeout
        self._last_at = 0

    def birth(self, b: Birth) -> Written:
        at, state = self._now(0), b.table.initial.value
        line, params = _line(
            b.table, b.subject, 1, b.table.birth.value, "", state, b.actor, b.reason, {}, b.data, "", at
        )
        deadline = self._deadline(b.table, state, at)
        values = (b.subject, state, 1, line.hash, deadline, at, at, *b.columns.values())
        head = Head(state, 1, line.hash, deadline, 0, at, None, None)
        return Written(line, params, _insert(ROWS[b.table.name], tuple(b.columns)), values, head)

    def begun(self, b: Birth, f: Fire) -> tuple[Written, Written]:
        """
        A birth, and an event on what was just born, as one row: only the second's statement is to be carried out, and it
        inserts the row as it is after both.
        """
        born = self.birth(b)
        moved = self.fire(f, born.head)
        after, again_at = moved.head, f.again_at
        columns = b.columns | {
            "lease_owner": after.lease_owner, "lease_until": after.lease_until, "attempt": after.attempt,
            "next_attempt_at": again_at,
        } | f.sets  # fmt: skip
        values = (
            b.subject, after.state, after.version, after.head_hash, after.deadline_at, born.head.updated_at,
            after.updated_at, *columns.values(),
        )  # fmt: skip
        return born, moved._replace(sql=_insert(ROWS[b.table.name], tuple(columns)), params=values)

    def fire(
        self, f: Fire, head: Head | None, counts: dict[str, int] | None = None, lists: dict[str, Any] | None = None
    ) -> Written:
        """*head* is None where there is no such row; *counts* and *lists* are what `f` asked. Raises the refusal."""
        row = ROWS[f.table.name]
        if head is None:
            raise NotFound(f"no {row} {f.subject}")
        check_fence(f, head.lease_owner)
        source, version, prev, deadline, attempt, before, owner, until = head
        if f.expect is not None and version != f.expect:
            raise Conflict(
                f"{row} {f.subject} has moved on", cause=f"it is at version {version}, {source}; not at {f.expect}"
            )
        facts = replace(f.facts, **counts) if counts else f.facts
        data = f.data | lists if lists else f.data
        dest = f.table.step(source, f.event, facts).value
        at = self._now(before)
        if dest != source:  # a move that stays keeps its absolute deadline
            deadline = self._deadline(f.table, dest, at)
            if f.within_s is not None:
                latest = at + int(f.within_s * 1e6)
                deadline = latest if deadline is None else min(deadline, latest)
        owner, until = lease_after(f, dest, owner, until, at)
        line, params = _line(
            f.table, f.subject, version + 1, f.event.value, source, dest, f.actor, f.reason,
            facts.as_json(), data, prev, at,
        )  # fmt: skip
        attempt = 0 if f.again_at is None else attempt + 1
        values = (
            dest, version + 1, line.hash, deadline, owner, until, attempt, f.again_at, at, *f.sets.values(),
            f.subject, version,
        )  # fmt: skip
        after = Head(dest, version + 1, line.hash, deadline, attempt, at, owner, until)
        return Written(line, params, _update(row, tuple(f.sets)), values, after)

    def _now(self, before: int) -> int:
        self._last_at = max(self._last_at, before, self._clock())
        return self._last_at

    def _deadline(self, table: Table, state: str, at: int) -> int | None:
        seconds = self._timeout(table, state)
        return None if seconds is None else at + int(seconds * 1e6)


def moved_on(f: Fire) -> Conflict:
    """The refusal of an event whose row was not the one that was decided on when it came to writing."""
    return Conflict(f"{ROWS[f.table.name]} {f.subject} has moved on")


def refusal(step: Birth | Also, cause: str) -> McpgError:
    """What a step is refused with when a constraint, or what it expects, is violated."""
    if step.refuse is not None:
        return step.refuse()
    words = "somebody else was first" if isinstance(step, Also) else f"{step.subject} exists already"
    return Conflict(words, cause=cause)


def _line(
    table: Table, subject: str, seq: int, event: str, source: str, dest: str, actor: str, reason: str,
    facts: dict[str, Any], data: dict[str, Any], prev: str, at: int,
) -> tuple[Line, tuple[Any, ...]]:  # fmt: skip
    """A line, hashed, and the parameters of INSERT_LINE."""
    definition = table.definition_hash
    reason = reason.replace("\0", "\ufffd")  # PostgreSQL has no such character in text
    facts_text, data_text = canonical(facts) if facts else "{}", canonical(data) if data else "{}"
    digest = hashlib.sha256(  # the canonical array of chain.py, from parts that are encoded once; names need no escaping
        f'["{prev}","{table.name}",{quoted(subject)},{seq},"{event}","{source}","{dest}",{quoted(actor)},{quoted(reason)},'
        f'{facts_text},{data_text},"{definition}",{at}]'.encode()
    ).hexdigest()
    params = (
        table.name, subject, seq, event, source, dest, actor, reason,
        facts_text, data_text, definition, prev, digest, at,
    )  # fmt: skip
    line = Line(table.name, subject, seq, event, source, dest, actor, reason, facts, data, definition, prev, digest, at)
    return line, params
