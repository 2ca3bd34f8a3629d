"""PostgreSQL alone: what a batch's statements wait for, what none of them can hold, and connections lost before its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcpg.errors import Conflict
from mcpg.store import postgres_writer, writes
from mcpg.store.database import Database
from mcpg.store.journal import Also, Line
from mcpg.store.postgres_link import connect
from tests.bounds import BOUND_S
from tests.postgres import Server
from tests.store.conftest import born
from tests.store.test_postgres import turn
from tests.store.test_postgres_together import at_once, often, taken

pytestmark = pytest.mark.parametrize("database", ["postgres"])


async def test_what_sets_a_counter_comes_behind_all_that_add_to_it(db: Database) -> None:
    """One that adds may be done before another that was asked for earlier: both come before what is asked for later."""
    await born(db)
    for name in ("i1", "i2"):
        await db.writer.submit(writes.reserve("c1", name, "op", (2, 0, 0)))
    units = [writes.settle("i1", (1, 0, 0)), writes.settle("i1", (3, 0, 0)), writes.settle("i2", (1, 0, 0))]
    await asyncio.gather(*(db.writer.submit(unit) for unit in (*units, writes.orphan_all("c1", 5))))
    assert await taken(db) == (0, 0, 0)
    assert await db.rows("SELECT 1 FROM reservation") == []


def said(text: str) -> Also:
    return Also("UPDATE cluster SET reason=? WHERE id=?", (text, "c3"), expect=1)


async def test_text_that_cannot_be_sent_costs_neither_the_connection_nor_its_neighbours(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of a surrogate pair is no UTF-8: nothing was sent, so nothing was lost either."""
    await asyncio.gather(*(born(db, name) for name in ("c1", "c2", "c3")))
    before = at_once(db)
    for version in range(1, 6):
        await asyncio.gather(db.writer.submit([turn("c1", version), said("x")]), db.writer.fire(turn("c2", version)))
    assert at_once(db) > before
    con = db.writer._con  # type: ignore[attr-defined]
    told = await asyncio.gather(
        db.writer.submit([turn("c1", 6), said("a\ud800b")]), db.writer.fire(turn("c2", 6)), return_exceptions=True
    )
    assert "surrogates not allowed" in str(told[0])
    assert isinstance(told[1], Line)
    assert db.writer._con is con  # type: ignore[attr-defined]
    assert not caplog.records
    assert (await db.writer.fire(turn("c1", 6))).seq == 7, "of the refused unit nothing was written"


class Cut:
    """The writer's connection, but that it is lost with the first message that begins with *at*: before or after it."""

    def __init__(self, db: Database, at: str, when: str) -> None:
        self._con = db.writer._con  # type: ignore[attr-defined]
        self._at, self._when = at, when
        self.cuts = 0
        db.writer._con = self  # type: ignore[attr-defined]

    async def execute(self, sql: str, *params: Any) -> str:
        if not sql.startswith(self._at):
            return str(await self._con.execute(sql, *params))
        self.cuts += 1
        if self._when == "after":
            await self._con.execute(sql, *params)
        self._con.terminate()
        raise ConnectionResetError("cut")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", ["PREPARE", "DEALLOCATE", "BEGIN"])
async def test_a_connection_that_is_lost_anywhere_writes_once(
    db: Database, monkeypatch: pytest.MonkeyPatch, at: str, when: str
) -> None:
    """Also where nothing of the batch was sent yet."""
    monkeypatch.setattr(postgres_writer, "PREPARED", 1)
    await asyncio.gather(*(born(db, name) for name in ("c1", "c3")))
    version = await often(db, "c1")
    await db.writer.submit([turn("c1", version), said("x")])  # once more, and it is prepared
    lost = Cut(db, at, when)
    lines = await db.writer.submit([turn("c1", version + 1), said("y")])
    assert (lines[0].seq, lost.cuts) == (version + 2, 1)
    assert (await db.writer.fire(turn("c1", version + 2))).seq == version + 3
    seqs = [row["seq"] for row in await db.rows("SELECT seq FROM journal WHERE subject='c1' ORDER BY id")]
    assert seqs == list(range(1, version + 4))
    assert await db.rows("SELECT reason FROM cluster WHERE id='c3'") == [{"reason": "y"}]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_refusal_is_one_though_the_connection_is_lost_as_it_is_undone(
    db: Database, other: Database, when: str
) -> None:
    await asyncio.gather(*(born(db, name) for name in ("c1", "c2")))
    for version in range(1, 6):
        await asyncio.gather(*(db.writer.fire(turn(name, version)) for name in ("c1", "c2")))
    await other.writer.fire(turn("c1", 6))
    lost = Cut(db, "ROLLBACK", when)
    told = await asyncio.gather(*(db.writer.fire(turn(name, 6)) for name in ("c1", "c2")), return_exceptions=True)
    assert [type(each) for each in told] == [Conflict, Line]
    assert lost.cuts == 1
    assert [row["n"] for row in await db.rows("SELECT count(*) AS n FROM journal GROUP BY subject")] == [7, 7]


async def test_a_lost_answer_is_looked_up_also_when_the_database_takes_a_while_to_come_back(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts anew, and refuses connections for longer than three attempts take."""
    monkeypatch.setattr(postgres_writer, "CONNECT_S", BOUND_S)
    await born(db)
    version = await often(db, "c1")
    refused: list[str] = []

    async def connecting(url: str, **settings: str) -> Any:
        if len(refused) < 5:
            refused.append(url)
            raise ConnectionRefusedError("it starts anew")
        return await connect(url, **settings)

    monkeypatch.setattr(postgres_writer, "connect", connecting)
    Cut(db, "BEGIN", "after")
    assert (await db.writer.fire(turn("c1", version))).seq == version + 1
    assert await db.rows("SELECT version FROM cluster") == [{"version": version + 1}]


async def test_a_batch_that_fails_leaves_no_config_in_the_servers_log(
    db: Database, other: Database, postgres: Server
) -> None:
    """The server logs a statement that fails, and its literals with it; a config may hold secrets."""
    await born(db)

    def config(number: int) -> Also:
        return writes.insert_config(
            "i1", number, f"raw SESAME {number}", "h", f"rendered SESAME {number}", "h", "op", 1
        )

    for version in range(1, 6):
        await db.writer.submit([turn("c1", version), config(version)])
    await other.writer.fire(turn("c1", 6))
    before = at_once(db)
    with pytest.raises(Conflict):
        await db.writer.submit([turn("c1", 6), config(6)])
    await db.writer.submit([turn("c1", 7), config(7)])
    assert at_once(db) > before
    found = await db.rows("SELECT raw_text,rendered FROM config_version ORDER BY version DESC LIMIT 2")
    assert [row["raw_text"] for row in found] == ["raw SESAME 7", "raw SESAME 5"]
    said = postgres.log.read_text()
    assert "division by zero" in said, "or this looks at the wrong log"
    assert "SESAME" not in said
