"""PostgreSQL alone: what is sent as one statement, or asked as one read, is what one after the other would be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from mcpg.errors import Conflict
from mcpg.machines import cluster
from mcpg.machines.cluster import Event
from mcpg.store.database import Database
from mcpg.store.journal import Also, Birth, Fire, Line, line_hash
from mcpg.store.reads import history
from tests.conftest import NewDatabase
from tests.store.conftest import COLUMNS, born
from tests.store.test_postgres import turn

C = cluster.MACHINE


@pytest.fixture
def database() -> str:
    return "postgres"


@pytest.fixture
def url(new_database: NewDatabase) -> str:
    return str(new_database())


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    opened = await Database.open(url)
    yield opened
    await opened.close()


@pytest.fixture
async def other(url: str) -> AsyncIterator[Database]:
    """A second control plane's, on the same database."""
    opened = await Database.open(url)
    yield opened
    await opened.close()


async def test_what_is_remembered_of_a_row_is_compared_with_it(db: Database, other: Database) -> None:
    """Another control plane may set what an event is decided on without a move: the version alone does not tell."""
    await born(db)
    await other.writer.execute(Also("UPDATE cluster SET attempt=5,deadline_at=77 WHERE id=?", ("c1",), expect=1))
    line = await db.writer.fire(turn("c1", 1, again_at=1))
    assert line.seq == 2
    assert await db.rows("SELECT attempt FROM cluster") == [{"attempt": 6}]
    await other.writer.execute(Also("UPDATE cluster SET lease_owner='e-other' WHERE id=?", ("c1",), expect=1))
    with pytest.raises(Conflict) as fenced:
        await db.writer.fire(turn("c1", 2, fence="e-mine"))
    assert "leased to e-other" in fenced.value.cause
    await other.writer.fire(turn("c1", 2))
    assert (await db.writer.fire(turn("c1", 3))).seq == 4, "what was refused from memory is looked at again"


async def test_a_batch_that_was_seen_often_is_one_statement_and_does_the_same(db: Database) -> None:
    """The same shapes again and again, of several sizes: moves, their companions, births; every line in its order."""
    for round_ in range(6):
        names = [f"c{round_}-{i}" for i in range(5 + round_ % 3)]
        units = [
            [Birth(C, name, {"name": name, "live_name": name, **COLUMNS}, "test"), Fire(C, name, Event.DRAIN, "test")]
            for name in names
        ]
        await asyncio.gather(*(db.writer.submit(unit) for unit in units))
        moves = [
            [turn(name, 2), Also("UPDATE cluster SET reason=? WHERE id=?", (f"said of {name}", name), expect=1)]
            for name in names
        ]
        told = await asyncio.gather(*(db.writer.submit(move) for move in moves))
        assert [[(line.subject, line.seq) for line in lines] for lines in told] == [[(name, 3)] for name in names]
        rows = await db.rows("SELECT id,version,reason,state FROM cluster WHERE id LIKE ? ORDER BY id", f"c{round_}-%")
        assert [tuple(row.values()) for row in rows] == [(n, 3, f"said of {n}", "registered") for n in names]
    lines = await db.rows("SELECT subject,seq FROM journal ORDER BY id")
    begun = [(line["subject"], line["seq"]) for line in lines if line["seq"] < 3]
    assert [seq for _, seq in begun] == [1, 2] * (len(begun) // 2), "a birth's line, then the first event's"
    assert [subject for subject, _ in begun[::2]] == [subject for subject, _ in begun[1::2]]
    assert db.writer.one_by_one == 0  # type: ignore[attr-defined]


async def test_one_refusal_in_a_batch_that_goes_together_is_its_callers_alone(db: Database) -> None:
    names = [f"c{i}" for i in range(4)]
    await asyncio.gather(*(born(db, name) for name in names))
    for version in range(1, 6):
        fates = await asyncio.gather(
            *(
                db.writer.submit(
                    [turn(name, version), Also("UPDATE cluster SET reason=? WHERE id=?", (name, name), expect=1)]
                )
                for name in names
            ),
            db.writer.submit([Also("UPDATE cluster SET reason=? WHERE id=?", ("", "nobody"), expect=1)]),
            return_exceptions=True,
        )
        assert [type(fate).__name__ for fate in fates] == ["list"] * 4 + ["Conflict"]
    assert {row["version"] for row in await db.rows("SELECT version FROM cluster")} == {6}


async def test_who_comes_too_late_costs_the_others_of_the_batch_nothing(db: Database, other: Database) -> None:
    """What a row decides is found out by reading the rows anew, not unit by unit; also where what was known of them is old."""
    names = [f"c{i}" for i in range(6)]
    await asyncio.gather(*(born(db, name) for name in names))
    await other.writer.fire(turn("c0", 1))  # so what is known here of c0 is old: its move is refused, and then is not
    said = Also("UPDATE cluster SET reason='said' WHERE id=?", ("c5",), expect=1)
    fates = await asyncio.gather(
        db.writer.fire(turn("c0", 2)),
        *(db.writer.fire(turn(name, 1)) for name in names[1:]),
        db.writer.submit([turn("c1", 1), Also("UPDATE cluster SET reason='late' WHERE id=?", ("c1",), expect=1)]),
        db.writer.fire(turn("nobody", 1)),
        db.writer.submit([said]),
        return_exceptions=True,
    )
    told = [fate.seq if isinstance(fate, Line) else type(fate).__name__ for fate in fates]
    assert told == [3, 2, 2, 2, 2, 2, "Conflict", "NotFound", "list"]
    rows = await db.rows("SELECT version,reason FROM cluster ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [(3, ""), *[(2, "")] * 4, (2, "said")]
    lines = [line for name in names for line in await history(db, name)]
    assert [line_hash(line) for line in lines] == [line.hash for line in lines]
    assert db.writer.one_by_one == 0  # type: ignore[attr-defined]


async def test_a_late_one_and_one_that_a_statement_refuses_are_told_apart(db: Database) -> None:
    """The second is found one by one, after the first was found; a step that is not the first of its unit counts as such."""
    names = [f"c{i}" for i in range(4)]
    await asyncio.gather(*(born(db, name) for name in names))
    said = Also("UPDATE cluster SET reason='said' WHERE id=?", ("c3",), expect=1)
    fates = await asyncio.gather(
        *(db.writer.fire(turn(name, 1)) for name in names),
        db.writer.fire(turn("c1", 1)),
        db.writer.submit([said, turn("c2", 1)]),
        db.writer.submit([Also("UPDATE cluster SET reason='x' WHERE id=?", ("nobody",), expect=1)]),
        return_exceptions=True,
    )
    assert [type(fate).__name__ for fate in fates] == ["Line"] * 4 + ["Conflict"] * 3
    rows = await db.rows("SELECT version,reason FROM cluster ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [(2, "")] * 4
    assert db.writer.one_by_one == 1  # type: ignore[attr-defined]


# ---- reads that go together


async def test_reads_at_once_are_one_round_trip_and_each_is_told_its_own(db: Database) -> None:
    names = [f"c{i}" for i in range(20)]
    await asyncio.gather(*(born(db, name) for name in names))
    reads_of = db._few  # type: ignore[attr-defined]
    asked, trips = reads_of.asked, reads_of.trips
    wanted = [*names, "nobody", "c7"]
    found = await asyncio.gather(*(db.one("SELECT id,version FROM cluster WHERE id=?", name) for name in wanted))
    assert found == [{"id": n, "version": 1} for n in names] + [None, {"id": "c7", "version": 1}]
    assert (reads_of.asked - asked, reads_of.trips - trips) == (22, 1)
    assert found[7] is not found[21], "nobody shares what another may change"
    both = await asyncio.gather(
        *(db.rows("SELECT id FROM cluster WHERE id IN (?,?) ORDER BY id DESC", "c1", n) for n in ("c2", "c3"))
    )
    assert [[row["id"] for row in rows] for rows in both] == [["c2", "c1"], ["c3", "c1"]]


async def test_a_read_that_cannot_be_answered_is_its_callers_mistake_alone(db: Database) -> None:
    await born(db)
    good, bad, cancelled = (
        asyncio.ensure_future(db.one("SELECT id FROM cluster WHERE id=? AND version=?", "c1", version))
        for version in (1, 1 << 70, 1)
    )
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await good == {"id": "c1"}
    with pytest.raises(asyncpg.DataError):
        await bad
