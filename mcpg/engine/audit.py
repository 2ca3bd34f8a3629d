"""
Whether the past and the present agree: every history folded through its definitions and held against its row, then the
rows held against each other. And what another definition would make of those same histories.

Both read a page of lines at a time and end after so many, at the end of a subject: who asked goes on from there, so that
no answer takes long, whatever the journal holds. Called by mcpg/api/audit.py and mcpg/api/machines.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from typing import Any

from mcpg.errors import BadSpec
from mcpg.machines import TABLES
from mcpg.machines.diff import judge
from mcpg.machines.replay import Fold, Rules, rules
from mcpg.store import verify
from mcpg.store.database import Database
from mcpg.store.journal import ROWS

PAGE = 400  # lines of one read: some 5 ms of this process's time
LINES = 10_000  # of one answer, and what its last subject has beyond them
LAST = 2**31 - 1  # no line has a higher seq

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that is not as it must be; see mcpg/wire/audit.py `Finding`."""

    kind: str
    subject: str
    what: str
    check: str = ""
    seq: int = 0
    expected: str = ""
    found: str = ""


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
            self.findings.append(finding)


async def known_rules(db: Database) -> tuple[dict[str, Rules], list[Found]]:
    """Every stored definition made ready, by hash, and those whose text is not what its hash says."""
    ready: dict[str, Rules] = {}
    wrong = []
    for digest, text in (await verify.definitions(db)).items():
        if sha256(text.encode()).hexdigest() != digest:
            wrong.append(Found("definition", digest[:12], "its text is not what its hash says: it was changed"))
        try:
            ready[digest] = rules(text)
        except BadSpec as exc:
            wrong.append(Found("definition", digest[:12], f"it cannot be read: {exc.cause}"))
    return ready, wrong


async def verify_journal(db: Database, after: str, most: int, *, lines: int = LINES, page: int = PAGE) -> Verified:
    """
    Histories of subjects after *after*, some *lines* of them, and at the end what rows say of each other. At most *most*
    findings are listed.
    """
    out = Verified()
    ready, wrong = await known_rules(db)
    fold: Fold | None = None
    last: Row = {}
    at, seq = after, LAST if after else 0
    more = True
    while more:
        read = await verify.page(db, at, seq, page)
        more = len(read) == page
        for subject, group in groupby(read, key=lambda r: str(r["subject"])):
            if fold is not None and fold.subject != subject:
                _close(out, fold, last, most)
                fold = None
                if out.lines >= lines:
                    out.next = str(last["subject"])
                    return out
            fold = fold or Fold(subject, ready)
            rows = list(group)
            last = rows[-1]
            out.lines += len(rows)
            fold.feed(map(verify.entry_of, rows))
        if read:
            at, seq = str(last["subject"]), int(last["seq"])
    if fold is not None:
        _close(out, fold, last, most)
    for finding in wrong:
        out.add(finding, most)
    await _across(db, out, most)
    return out


def _close(out: Verified, fold: Fold, row: Row, most: int) -> None:
    """A subject's lines are all there: hold them against the row they were read with."""
    out.subjects += 1
    machine = str(row["machine"])
    if not row["row_table"]:
        out.add(Found("orphan", fold.subject, f"{row['seq']} line(s) of {machine}, and no row they belong to"), most)
        return
    if fold.finish(row["row_state"], row["row_version"], row["row_head"]):
        wanted = ROWS.get(fold.machine)
        if wanted != row["row_table"] or row["row_machine"] not in ("", fold.machine):
            what = f"its lines are of {fold.machine}, its row is of {row['row_machine'] or row['row_table']}"
            out.add(Found("chain", fold.subject, what, "machine", 1), most)
        return
    d = fold.divergence
    assert d is not None  # noqa: S101 - finish() said no
    out.add(Found("chain", fold.subject, d.why, d.check, d.seq, d.expected, d.found), most)


async def _across(db: Database, out: Verified, most: int) -> None:
    """What holds between rows: counters, room, who occupies what."""
    for table in ("operation", "agent", "cluster"):
        for row in await verify.without_lines(db, table, most):
            words = f"{table} {row['state']} at version {row['version']}, and not one line of it"
            out.add(Found("silent", row["id"], words), most)
    for row in await verify.totals(db):
        pairs = (("gateways", "places"), ("cpu_millicores", "cpu"), ("memory_bytes", "memory"))
        for counter, held in pairs:
            if row[f"{counter}_used"] != row[held]:
                what = f"{counter}_used of cluster {row['name']} is not what is reserved there"
                expected, found = str(row[held]), str(row[f"{counter}_used"])
                out.add(Found("counters", row["id"], what, counter, 0, expected, found), most)
    for kind, subject, words in await verify.contradictions(db, most):
        out.add(Found(kind, subject, words), most)


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
    fold: Fold | None = None
    last: Row = {}
    at, seq = after, LAST if after else 0
    more = True
    while more and not out.next:
        read = await verify.page_of(db, new.name, at, seq, page)
        more = len(read) == page
        for subject, group in groupby(read, key=lambda r: str(r["subject"])):
            if fold is not None and fold.subject != subject:
                _judge(out, fold, last, new, final)
                fold = None
                if read_lines >= lines:
                    out.next = str(last["subject"])
                    break
            fold = fold or Fold(subject, ready, new)
            rows = list(group)
            last = rows[-1]
            read_lines += len(rows)
            fold.feed(map(verify.entry_of, rows))
        if read:
            at, seq = str(last["subject"]), int(last["seq"])
    if fold is not None:
        _judge(out, fold, last, new, final)
    out.findings = sorted(out.findings, key=lambda j: (not j.live, j.verdict != "stuck"))[:most]
    return out


def _judge(out: Upgrade, fold: Fold, row: Row, new: Rules, final: frozenset[str]) -> None:
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
        Judged(fold.subject, str(row.get("row_name") or ""), live, state, verdict.verdict, verdict.seq, verdict.why)
    )
