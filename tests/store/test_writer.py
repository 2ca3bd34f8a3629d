"""The journal writer: all or nothing, one winner, durable before it is told, in order, and chained."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3

import pytest

from mcpg.errors import Busy, Conflict, GuardRefused, NoSuchMove, NotFound, Unavailable
from mcpg.machines import cluster
from mcpg.machines.cluster import Event, Load
from mcpg.store import reads
from mcpg.store.database import Database
from mcpg.store.journal import Also, Birth, Fire, Line, line_hash
from tests.conftest import NewDatabase
from tests.store.conftest import COLUMNS, born

C = cluster.MACHINE


def drain(**more: object) -> Fire:
    return Fire(C, "c1", Event.DRAIN, "test", **more)  # type: ignore[arg-type]


async def row(db: Database, name: str = "c1") -> dict[str, object]:
    found = await db.one("SELECT * FROM cluster WHERE id=?", name)
    assert found is not None
    return found


async def test_a_move_changes_the_row_and_appends_the_line(db: Database) -> None:
    await born(db)
    line = await db.writer.fire(drain(reason="maintenance"))
    assert (line.seq, line.source, line.dest, line.reason) == (2, "registered", "draining", "maintenance")
    now = await row(db)
    assert (now["state"], now["version"], now["head_hash"]) == ("draining", 2, line.hash)
    assert await reads.history(db, "c1", after=1) == [line]


async def test_a_stale_version_is_a_conflict_and_writes_nothing(db: Database) -> None:
    await born(db)
    await db.writer.fire(drain(expect=1))
    with pytest.raises(Conflict):
        await db.writer.fire(Fire(C, "c1", Event.UNDRAIN, "test", expect=1))
    assert (await row(db))["version"] == 2


async def test_an_impossible_move_is_refused_with_the_possible_ones(db: Database) -> None:
    await born(db)
    with pytest.raises(NoSuchMove) as refused:
        await db.writer.fire(Fire(C, "c1", Event.UNDRAIN, "test"))
    assert refused.value.details["allowed"] == ["drain", "force_decommission"]


async def test_a_guard_decides_on_the_facts_and_they_are_stored(db: Database) -> None:
    await born(db)
    await db.writer.fire(drain())
    with pytest.raises(GuardRefused):
        await db.writer.fire(Fire(C, "c1", Event.DECOMMISSION, "test", facts=Load(gateways=3)))
    line = await db.writer.fire(Fire(C, "c1", Event.DECOMMISSION, "test", facts=Load(gateways=0)))
    assert (await reads.history(db, "c1"))[-1].facts == {"gateways": 0} == line.facts


async def test_nobody_can_move_what_is_not_there(db: Database) -> None:
    with pytest.raises(NotFound):
        await db.writer.fire(drain())


async def test_a_refused_companion_undoes_the_move_with_it(db: Database) -> None:
    await born(db)
    refuse = Also("UPDATE cluster SET gateways_used=1 WHERE id='nobody'", expect=1, refuse=lambda: Busy("taken"))
    with pytest.raises(Busy):
        await db.writer.fire(drain(), refuse)
    assert (await row(db))["state"] == "registered"
    assert len(await reads.history(db, "c1")) == 1


async def test_a_violated_constraint_is_the_companions_refusal(db: Database) -> None:
    await born(db)
    twin = Birth(
        C, "c2", {"name": "c1", "live_name": "c1", **COLUMNS}, "test", refuse=lambda: Busy("the name is taken")
    )
    with pytest.raises(Busy):
        await db.writer.submit([drain(), twin])
    assert (await row(db))["version"] == 1


async def test_a_refusal_leaves_its_neighbours_in_the_batch_alone(db: Database) -> None:
    await asyncio.gather(*(born(db, f"c{i}") for i in range(20)))
    fates = await asyncio.gather(
        *(db.writer.fire(Fire(C, f"c{i}", Event.DRAIN if i % 2 else Event.UNDRAIN, "test")) for i in range(20)),
        return_exceptions=True,
    )
    assert [isinstance(f, Line) for f in fates] == [bool(i % 2) for i in range(20)]
    assert len(await db.rows("SELECT 1 FROM cluster WHERE state='draining'")) == 10


async def test_what_waits_together_is_committed_together(db: Database) -> None:
    before = db.writer.commits
    await asyncio.gather(*(born(db, f"c{i}") for i in range(200)))
    assert db.writer.commits - before < 200


async def test_of_many_who_decide_on_one_version_exactly_one_wins(db: Database) -> None:
    await born(db)
    fates = await asyncio.gather(*(db.writer.fire(drain(expect=1)) for _ in range(64)), return_exceptions=True)
    assert sorted(type(f).__name__ for f in fates) == ["Conflict"] * 63 + ["Line"]


@pytest.mark.parametrize("database", ["sqlite"])
async def test_a_line_is_durable_before_its_caller_hears_of_it(db: Database) -> None:
    """Another connection sees it at once, and the database runs with synchronous=FULL."""
    await born(db)
    await db.writer.fire(drain())
    other = sqlite3.connect(db.shown)
    assert other.execute("SELECT count(*) FROM journal").fetchone() == (2,)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


async def test_listeners_hear_every_line_in_commit_order_before_the_caller_goes_on(db: Database) -> None:
    heard: list[Line] = []
    db.writer.listen(heard.append)
    line = await born(db)
    assert heard == [line]
    await asyncio.gather(*(born(db, f"d{i}") for i in range(50)))
    ids = [r["subject"] for r in await db.rows("SELECT subject FROM journal ORDER BY id")]
    assert [h.subject for h in heard] == ids


async def test_every_line_carries_the_hash_of_the_line_before_it(db: Database) -> None:
    await born(db)
    for event in (Event.DRAIN, Event.UNDRAIN, Event.DRAIN):
        await db.writer.fire(Fire(C, "c1", event, "tëst", reason='a\nb"c', data={"ü": [1, 2.5, None]}))
    lines = await reads.history(db, "c1")
    assert [line.prev_hash for line in lines] == ["", *(line.hash for line in lines[:-1])]
    assert [line_hash(line) for line in lines] == [line.hash for line in lines]
    changed = dataclasses.replace(lines[1], reason="somebody else's")
    assert line_hash(changed) != lines[1].hash


async def test_time_never_goes_back_within_the_journal(new_database: NewDatabase) -> None:
    ticks = iter([100, 90, 80, 120, *range(121, 200)])
    database = await Database.open(new_database(), clock=lambda: next(ticks))
    await born(database)
    for event in (Event.DRAIN, Event.UNDRAIN):
        await database.writer.fire(Fire(C, "c1", event, "test"))
    at = [line.at for line in await reads.history(database, "c1")]
    await database.close()
    assert at == sorted(at)


async def test_a_deadline_is_absolute_and_a_move_that_stays_keeps_it(new_database: NewDatabase) -> None:
    database = await Database.open(new_database(), timeout=lambda table, state: 5.0)
    line = await born(database)
    found = await row(database)
    await database.close()
    assert found["deadline_at"] == line.at + 5_000_000


async def test_a_cancelled_caller_changes_nothing(db: Database) -> None:
    """Its unit is applied or it is not; either way the writer goes on, and nothing is half done."""
    await born(db)
    for _ in range(300):
        task = asyncio.create_task(db.writer.fire(Fire(C, "c1", Event.DRAIN, "test")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        try:
            await db.writer.fire(Fire(C, "c1", Event.UNDRAIN, "test"))
        except NoSuchMove:
            pytest.fail("the cancelled unit was queued first, so it must be applied first")
    lines = await reads.history(db, "c1")
    assert [line.seq for line in lines] == list(range(1, 602))


async def test_after_close_a_caller_is_told_so(db: Database) -> None:
    await born(db)
    await db.writer.close()
    with pytest.raises(Unavailable):
        await db.writer.fire(drain())


async def test_a_mistake_in_one_unit_is_its_callers_alone(db: Database) -> None:
    await born(db)
    bad, good = await asyncio.gather(
        db.writer.fire(drain(data={"not json": object()})), db.writer.fire(drain()), return_exceptions=True
    )
    assert isinstance(good, Line)
    assert isinstance(bad, TypeError)
