"""
Whether the past and the present agree: every history folded through its definitions and held against its row, then the
rows held against each other. And what another definition would make of those same histories.

Both read a page of lines at a time and end after so many, at the end of a subject: who asked goes on from there, so that
no answer takes long, whatever the journal holds. Called by mcpg/api/audit.py and mcpg/api/machines.py.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby

from mcpg.engine.past import Found, Past, Row, plain
from mcpg.errors import BadSpec, McpgError
from mcpg.machines import TABLES
from mcpg.machines.diff import judge
from mcpg.machines.replay import Rules, rules
from mcpg.store import verify
from mcpg.store.database import Database

log = logging.getLogger("mcpg.engine")

PAGE = 400  # lines of one read: some 5 ms of this process's time
LINES = 10_000  # of one answer, and what its last subject has beyond them
LAST = 2**31 - 1  # no line has a higher seq


@dataclass(slots=True)
class Verified:
    """One answer's worth. `next` is the last subject that was looked at, "" when there are no more."""

    lines: int = 0
    subjects: int = 0
    found: int = 0
    findings: list[Found] = field(default_factory=list)
    next: str = ""

    def add(self, finding: Found, most: int) -> None:
        self.found += 1
        if len(self.findings) < most:
            self.findings.append(finding.as_text())


async def known_rules(db: Database) -> tuple[dict[str, Rules], list[Found]]:
    """Every stored definition made ready, by hash, and those whose text is not what its hash says."""
    ready: dict[str, Rules] = {}
    wrong = []
    for digest, text in (await verify.definitions(db)).items():
        short = plain(digest)[:12]
        if not isinstance(text, str):
            wrong.append(Found("definition", short, "it cannot be read: it is no text"))
            continue
        if sha256(text.encode()).hexdigest() != digest:
            wrong.append(Found("definition", short, "its text is not what its hash says: it was changed"))
        try:
            ready[digest] = rules(text)
        except BadSpec as exc:
            wrong.append(Found("definition", short, f"it cannot be read: {exc.cause}"))
    return ready, wrong


async def _histories(
    read: Callable[[Row | None], Awaitable[list[Row]]], after: str, page: int
) -> AsyncIterator[list[Row]]:
    """The lines after the subject *after*, in order, a list for each subject on each page."""
    last: Row | None = {"subject": after, "seq": LAST} if after else None
    more = True
    while more:
        found = await read(last)
        more = len(found) == page
        for _, group in groupby(found, key=lambda r: r["subject"]):
            yield list(group)
        if found:
            last = found[-1]


async def verify_journal(db: Database, after: str, most: int, *, lines: int = LINES, page: int = PAGE) -> Verified:
    """
    Histories of subjects after *after*, some *lines* of them, and at the end what rows say of each other. At most *most*
    findings are listed. What cannot be read is a finding; raises Unavailable when the database does not answer.
    """
    out = Verified()
    ready, wrong = await known_rules(db)
    past: Past | None = None
    try:
        async for rows in _histories(lambda last: verify.page(db, last, page), after, page):
            if past is not None and past.subject != rows[0]["subject"]:
                _close(out, past, most)
                if out.lines >= lines and verify.has_place(past.last):
                    out.next = past.subject
                    return out
                past = None
            past = past or Past(rows[0]["subject"], ready)
            out.lines += len(rows)
            past.add(rows)
    except McpgError:
        raise
    except Exception as exc:
        log.exception("audit: the journal could not be read to its end")
        where = plain(past.subject) if past is not None else after
        out.add(Found("unreadable", where, f"the journal cannot be read from there on: {exc}"), most)
    else:
        if past is not None:
            _close(out, past, most)
    for finding in wrong:
        out.add(finding, most)
    await _across(db, out, most)
    return out


def _close(out: Verified, past: Past, most: int) -> None:
    """A subject's lines are all there: hold them against the row they were read with."""
    out.subjects += 1
    for finding in past.findings():
        out.add(finding, most)


async def _across(db: Database, out: Verified, most: int) -> None:
    """What holds between rows: counters, room, who occupies what."""
    for what, look in (("rows without lines", _silent), ("counters", _counters), ("rows", _contradictions)):
        try:
            async for finding in look(db, most):
                out.add(finding, most)
        except McpgError:
            raise
        except Exception as exc:
            log.exception("audit: %s could not be read", what)
            out.add(Found("unreadable", what, f"they cannot be held against each other: {exc}"), most)


async def _silent(db: Database, most: int) -> AsyncIterator[Found]:
    for table in ("operation", "agent", "cluster"):
        for row in await verify.without_lines(db, table, most):
            yield Found(
                "silent", row["id"], f"{table} {row['state']} at version {row['version']}, and not one line of it"
            )


async def _counters(db: Database, most: int) -> AsyncIterator[Found]:
    for row in await verify.totals(db):
        for counter, held in (("gateways", "places"), ("cpu_millicores", "cpu"), ("memory_bytes", "memory")):
            if row[f"{counter}_used"] != row[held]:
                what = f"{counter}_used of cluster {row['name']} is not what is reserved there"
                yield Found("counters", row["id"], what, counter, 0, str(row[held]), str(row[f"{counter}_used"]))


async def _contradictions(db: Database, most: int) -> AsyncIterator[Found]:
    for kind in verify.CONTRADICTIONS:
        for row in await verify.contradictions(db, kind, most):
            yield Found(kind, row["id"], row["words"])


# ---- another definition


async def stranded(db: Database) -> list[tuple[str, str, int]]:
    """
    What rests where the tables of this version know no way on, after an upgrade that should not have been: the machine, the
    state, and how many rows.
    """
    ready = {name: rules(table.canonical) for name, table in TABLES.items()}
    return [
        (row["machine"], row["state"], row["number"])
        for row in await verify.resting(db)
        if row["machine"] not in ready or not ready[row["machine"]].has_way_out(row["state"])
    ]


@dataclass(frozen=True, slots=True)
class Judged:
    """One history that another definition would not make as it was."""

    subject: str
    name: str
    live: bool
    state: str
    verdict: str
    seq: int
    why: str


@dataclass(slots=True)
class Upgrade:
    """One answer's worth of histories under another definition; see mcpg/wire/machines.py `UpgradePage`."""

    subjects: int = 0
    live: int = 0
    replayable: int = 0
    differs: int = 0
    stuck: int = 0
    live_stuck: int = 0
    findings: list[Judged] = field(default_factory=list)
    next: str = ""


async def judge_all(
    db: Database, new: Rules, after: str, most: int, *, lines: int = LINES, page: int = PAGE
) -> Upgrade:
    """Every history of the machine that *new* defines, judged by it; rows that live are listed before the rest."""
    out, read_lines = Upgrade(), 0
    ready, _ = await known_rules(db)
    final = TABLES[new.name].final_values if new.name in TABLES else new.final
    past: Past | None = None
    async for rows in _histories(lambda last: verify.page_of(db, new.name, last, page), after, page):
        if past is not None and past.subject != rows[0]["subject"]:
            _judge(out, past, new, final)
            if read_lines >= lines and verify.has_place(past.last):
                out.next = past.subject
                break
            past = None
        past = past or Past(rows[0]["subject"], ready, new)
        read_lines += len(rows)
        past.add(rows)
    else:
        if past is not None:
            _judge(out, past, new, final)
    out.findings = sorted(out.findings, key=lambda j: (not j.live, j.verdict != "stuck"))[:most]
    return out


def _judge(out: Upgrade, past: Past, new: Rules, final: frozenset[str]) -> None:
    fold, row = past.fold, past.last
    state = str(row["row_state"] or row["dest"])
    live = state not in final
    verdict = judge(fold, new, state)
    out.subjects += 1
    out.live += live
    match verdict.verdict:
        case "replayable":
            out.replayable += 1
            return
        case "differs":
            out.differs += 1
        case _:
            out.stuck += 1
            out.live_stuck += live
    out.findings.append(
        Judged(
            fold.subject,
            plain(row.get("row_name") or ""),
            live,
            state,
            verdict.verdict,
            verdict.seq,
            plain(verdict.why),
        )
    )
