"""What is SQLite's alone: who waits for whom, what is written as one row, and what reads of one turn see."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from mcpg.errors import Conflict, Unavailable
from mcpg.machines import provision
from mcpg.machines.cluster import MACHINE as C
from mcpg.machines.cluster import Event
from mcpg.store import reads, sqlite_writer
from mcpg.store.database import Database
from mcpg.store.journal import Also, Birth, Fire, Line, Step, line_hash
from mcpg.store.models import Org
from tests.store.conftest import born


@pytest.fixture
def database() -> str:
    return "sqlite"


@pytest.fixture
def other(db: Database) -> Iterator[sqlite3.Connection]:
    """Somebody else on the same file."""
    connection = sqlite3.connect(db.shown, isolation_level=None)
    yield connection
    connection.close()


def drain(name: str = "c1") -> Fire:
    return Fire(C, name, Event.DRAIN, "test")


async def test_somebody_else_who_writes_holds_up_the_journal_and_nothing_else(
    db: Database, other: sqlite3.Connection
) -> None:
    await born(db)
    other.execute("BEGIN IMMEDIATE")
    waits = asyncio.create_task(db.writer.fire(drain()))
    for _ in range(50):
        assert await db.one("SELECT state FROM cluster WHERE id='c1'") == {"state": "registered"}
        await asyncio.sleep(0)
    assert not waits.done()
    later = asyncio.create_task(db.writer.fire(Fire(C, "c1", Event.UNDRAIN, "test")))
    other.execute("COMMIT")
    assert [(await waits).seq, (await later).seq] == [2, 3]
    assert isinstance(db.writer, sqlite_writer.SqliteWriter)
    assert db.writer._db.execute("PRAGMA busy_timeout").fetchone() == (0,), "the event loop would wait the next time"


async def test_somebody_else_who_does_not_end_is_not_waited_for_for_ever(
    db: Database, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await born(db)
    monkeypatch.setattr(sqlite_writer, "BUSY_TIMEOUT_MS", 20)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as refused:
        await db.writer.fire(drain())
    assert refused.value.cause == "OperationalError: database is locked"
    assert refused.value.hint == "this was not written; is its disk full, read-only or its file locked? mcpg-ctl doctor"
    other.execute("COMMIT")
    caplog.clear()
    assert (await db.writer.fire(drain())).seq == 2
    assert await reads.history(db, "c1", after=2) == []


async def test_what_another_connection_wrote_is_seen_before_the_next_move(
    db: Database, other: sqlite3.Connection
) -> None:
    """What the writer remembers of a row is old then: somebody else drives it."""
    await born(db)
    other.execute("UPDATE cluster SET lease_owner='e-2' WHERE id='c1'")
    with pytest.raises(Conflict, match="not ours"):
        await db.writer.fire(Fire(C, "c1", Event.DRAIN, "test", fence="e-1"))


def request(name: str, *between: Step) -> list[Step]:
    """A provision that is born and accepted in one unit."""
    columns = {
        "machine": "provision", "kind": "create", "org": "o", "workspace": "w", "environment": "e", "name": name,
        "instance_id": name, "spec": "{}", "actor": "test", "body_hash": "",
    }  # fmt: skip
    born = Birth(provision.MACHINE, name, columns, "test")
    return [born, *between, Fire(provision.MACHINE, name, provision.Event.ACCEPT, "test", claim="e-1")]


async def test_one_row_for_what_is_born_and_moved_is_the_row_of_two_statements(new_database: Any) -> None:
    """Also when a companion between them looks at the row, which then has to be there."""
    looks = Also("UPDATE operation SET name=name WHERE id=? AND state='requested'", ("op-2",), expect=1)
    database = await Database.open(new_database(), clock=lambda: 1_000_000)
    await database.writer.submit(request("op-1"))
    await database.writer.submit(request("op-2", looks))
    one, two = [dict(r) for r in await database.rows("SELECT * FROM operation ORDER BY id")]
    lines = [await reads.history(database, name) for name in ("op-1", "op-2")]
    await database.close()
    own = ("id", "name", "instance_id", "head_hash")
    assert {k: v for k, v in one.items() if k not in own} == {k: v for k, v in two.items() if k not in own}
    assert (one["state"], one["version"], one["lease_owner"]) == ("allocating", 2, "e-1")
    for row, story in zip((one, two), lines, strict=True):
        assert [line.event for line in story] == ["request", "accept"]
        assert row["head_hash"] == story[-1].hash
        assert [line_hash(line) for line in story] == [line.hash for line in story]


async def test_a_unit_that_is_refused_after_its_birth_leaves_no_line(db: Database) -> None:
    never = Also("UPDATE cluster SET region='x' WHERE id='nobody'", expect=1)
    refused, made = await asyncio.gather(
        db.writer.submit([*request("op-1"), never]), db.writer.submit(request("op-2")), return_exceptions=True
    )
    assert isinstance(refused, Conflict)
    assert not isinstance(made, BaseException)
    assert await reads.history(db, "op-1") == []
    assert await reads.find_operation(db, "op-1") is None
    assert await reads.history(db, "op-2") == made


@pytest.mark.parametrize(
    "words", ['"', "\\", "\x00\x01\x1f\x7f", "\u2028\u2029", "é😀", "</script>", "\t\r\n", "'", "{}[],:"]
)
async def test_the_hash_is_over_the_canonical_text_whatever_is_in_it(db: Database, words: str) -> None:
    line = await db.writer.submit([Birth(C, words, {"name": words, "live_name": words, **REST}, words, reason=words)])
    moved = await db.writer.fire(Fire(C, words, Event.DRAIN, words, reason=words, data={words: [words]}))
    for each in [*line, moved]:
        assert isinstance(each, Line)
        assert line_hash(each) == each.hash
    assert await reads.history(db, words) == [*line, moved]


REST = {"region": "r", "isolation_tier": "shared", "provisioner": "noop", "gateways_max": 10}
HOW_MANY = "SELECT count(*) AS rows FROM org"


async def test_reads_of_one_turn_see_one_moment_and_the_next_turn_the_next(
    db: Database, other: sqlite3.Connection
) -> None:
    before = await db.one(HOW_MANY)
    other.execute("INSERT INTO org(id,slug,name,created_at) VALUES('x','x','x',0)")
    assert await db.one(HOW_MANY) == before
    await asyncio.sleep(0)
    assert await db.one(HOW_MANY) != before


async def test_whoever_wrote_reads_what_it_wrote(db: Database) -> None:
    """Whatever others read in the same turn: a journal line, and a row of Tortoise's."""
    reading = True

    async def reads_on() -> None:
        while reading:
            await db.one(HOW_MANY)
            await asyncio.sleep(0)

    async def work(tx: Any) -> None:
        await Org.create(id=slug, slug=slug, name="n", created_at=0, using_db=tx)

    readers = [asyncio.create_task(reads_on()) for _ in range(3)]
    for n in range(100):
        slug = f"o-{n}"
        await born(db, slug)
        assert await reads.history(db, slug) != []
        await db.run_tx(work)
        assert await db.one("SELECT 1 FROM org WHERE slug=?", slug) is not None
        assert (await db.many(HOW_MANY))[0] == await db.one(HOW_MANY)
    reading = False
    await asyncio.gather(*readers)
