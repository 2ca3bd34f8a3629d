"""PostgreSQL alone: what is sent as one statement, or asked as one read, is what one after the other would be."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import asyncpg
import pytest

from mcpg.errors import Conflict, TemporaryError
from mcpg.machines import cluster
from mcpg.machines.cluster import Event
from mcpg.store import journal, postgres_writer, writes
from mcpg.store.database import Database
from mcpg.store.journal import Also, Birth, Fire, Line, line_hash
from mcpg.store.postgres_link import INDEXED, JOURNAL_LOCK, connect
from mcpg.store.reads import history
from mcpg.store.sql import for_many
from tests.bounds import BOUND_S
from tests.store.conftest import COLUMNS, born
from tests.store.test_postgres import turn

pytestmark = pytest.mark.parametrize("database", ["postgres"])
C = cluster.MACHINE


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


AWKWARD = 'it\'s \\ "quoted" ${x} \u2028 \n\t € 𝄞'


async def test_values_are_the_same_whether_they_go_together_or_not(db: Database) -> None:
    """Text that JSON and SQL quote, numbers beyond 32 and 53 bits, and nothing at all."""
    names = [f"c{i}" for i in range(4)]
    await asyncio.gather(*(born(db, name) for name in names))
    said = "UPDATE cluster SET reason=?,memory_bytes_used=?,last_seen_at=?,cpu_millicores_total=? WHERE id=?"
    for count in (1, 4, 4, 4, 4):
        written = [(f"{AWKWARD}{name}", 2**53 + i, None, i or None, name) for i, name in enumerate(names[:count])]
        await asyncio.gather(*(db.writer.execute(Also(said, each, expect=1)) for each in written))
        rows = await db.rows(
            "SELECT reason,memory_bytes_used,last_seen_at,cpu_millicores_total,id FROM cluster ORDER BY id"
        )
        assert [tuple(row.values()) for row in rows[:count]] == written
    assert db.writer.one_by_one == 0  # type: ignore[attr-defined]


async def taken(db: Database) -> tuple[int, ...]:
    [row] = await db.rows("SELECT gateways_used,cpu_millicores_used,memory_bytes_used FROM cluster WHERE id='c1'")
    return tuple(row.values())


async def test_room_that_is_taken_at_once_is_one_sum_and_each_has_its_own_reservation(db: Database) -> None:
    """Again and again, so that it goes together: what is added to the cluster is what the reservations say."""
    await born(db)
    await db.writer.execute(Also("UPDATE cluster SET gateways_max=100,memory_bytes_total=?", (2**45,), expect=1))
    for round_ in range(6):
        asked = [writes.reserve("c1", f"i{round_}-{n}", "op", (1, 250 * n, 2**31)) for n in range(4)]
        await asyncio.gather(*(db.writer.submit(each) for each in asked))
        assert await taken(db) == (4 * (round_ + 1), 1500 * (round_ + 1), 2**33 * (round_ + 1))
        held = await db.rows("SELECT sum(places) AS p,sum(cpu_millicores) AS c,sum(memory_bytes) AS m FROM reservation")
        assert tuple(int(value) for value in held[0].values()) == await taken(db)
    assert db.writer.one_by_one == 0  # type: ignore[attr-defined]


async def test_a_sum_that_does_not_fit_is_asked_for_one_by_one(db: Database) -> None:
    await born(db)
    await db.writer.execute(Also("UPDATE cluster SET gateways_max=3", expect=1))
    asked = [writes.reserve("c1", f"i{n}", "op", (1, 0, 0)) for n in range(5)]
    told = await asyncio.gather(*(db.writer.submit(each) for each in asked), return_exceptions=True)
    assert [type(each) for each in told] == [list, list, list, TemporaryError, TemporaryError]
    assert await taken(db) == (3, 0, 0)
    assert len(await db.rows("SELECT 1 FROM reservation")) == 3


async def test_what_gives_back_is_not_summed_with_what_takes(db: Database) -> None:
    """Their sum would fit where the one that takes, which is first, does not."""
    await born(db)
    await db.writer.execute(Also("UPDATE cluster SET gateways_max=3,gateways_used=3", expect=1))
    take, give = writes.reserve("c1", "i1", "op", (1, 0, 0))[:1], writes.reserve("c1", "i2", "op", (-1, 0, 0))[:1]
    told = await asyncio.gather(db.writer.submit(take), db.writer.submit(give), return_exceptions=True)
    assert [type(each) for each in told] == [TemporaryError, list]
    assert await taken(db) == (2, 0, 0)


async def test_two_texts_that_add_to_one_row_are_both_done(db: Database) -> None:
    """One statement changes a row once: the second text has to be another."""
    await born(db)
    await db.writer.execute(Also("UPDATE cluster SET gateways_max=1000", expect=1))
    other = "UPDATE cluster SET gateways_used=gateways_used+? WHERE id=?"
    for round_ in range(5):
        asked = [writes.reserve("c1", f"i{round_}-{n}", "op", (1, 0, 0)) for n in range(2)]
        more = [(Also(other, (10, "c1"), expect=1),) for _ in range(2)]
        await asyncio.gather(*(db.writer.submit(each) for each in (*asked, *more)))
        assert await taken(db) == (22 * (round_ + 1), 0, 0)


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


async def test_what_is_done_together_finds_its_rows_by_an_index(db: Database, url: str) -> None:
    """The plan is made once for any number of rows, and maybe while the table is empty."""
    sql = for_many(journal._update("operation", ("error",)), ("text",) * 12)
    con = await connect(url, **INDEXED)
    try:
        await con.execute(f"PREPARE many(json) AS {re.sub('[$]1::json', '$1', _typed(sql))}")
        plan = "\n".join(row[0] for row in await con.fetch("EXPLAIN EXECUTE many('[]')"))
    finally:
        await con.close()
    assert "Index Scan using operation_pkey" in plan, plan
    assert "Seq Scan" not in plan


def _typed(sql: str) -> str:
    """Of the row's numbers, which PostgreSQL would not take text for."""
    columns = {
        1: "text",
        2: "int",
        3: "text",
        4: "int8",
        5: "text",
        6: "int8",
        7: "int",
        8: "int8",
        9: "int8",
        12: "int",
    }
    return re.sub(r"p(\d+) text", lambda found: f"p{found[1]} {columns.get(int(found[1]), 'text')}", sql)


# ---- one message


async def often(db: Database, name: str, times: int = 5) -> int:
    """Moves *name* until such a batch is one message; its version."""
    for version in range(1, times + 1):
        await db.writer.fire(turn(name, version))
    return times + 1


def at_once(db: Database) -> int:
    return int(db.writer.at_once)  # type: ignore[attr-defined]


async def test_a_batch_that_needs_nothing_read_is_one_message(db: Database) -> None:
    await born(db)
    version = await often(db, "c1")
    before = at_once(db)
    sent = Answering(db)
    line = await db.writer.fire(turn("c1", version))
    assert (line.seq, at_once(db) - before) == (version + 1, 1)
    assert [text.partition(" ")[0] for text in sent.texts] == ["BEGIN"]


async def test_a_move_that_was_overtaken_is_refused_though_it_is_one_message(db: Database, other: Database) -> None:
    """What it was decided on is compared by the statement itself; of its neighbours nothing is lost."""
    await asyncio.gather(*(born(db, name) for name in ("c1", "c2")))
    for version in range(1, 6):
        await asyncio.gather(*(db.writer.fire(turn(name, version)) for name in ("c1", "c2")))
    assert at_once(db) > 0
    await other.writer.fire(turn("c1", 6))
    told = await asyncio.gather(db.writer.fire(turn("c1", 6)), db.writer.fire(turn("c2", 6)), return_exceptions=True)
    assert isinstance(told[0], Conflict)
    assert not isinstance(told[1], BaseException)
    assert told[1].seq == 7
    assert db.writer.one_by_one == 0  # type: ignore[attr-defined]
    assert [row["n"] for row in await db.rows("SELECT count(*) AS n FROM journal GROUP BY subject")] == [7, 7]


async def test_what_is_remembered_of_a_row_is_compared_by_the_one_message_too(db: Database, other: Database) -> None:
    """Set by somebody else without a move: the version says nothing."""
    await born(db)
    version = await often(db, "c1")
    await other.writer.execute(Also("UPDATE cluster SET attempt=5 WHERE id=?", ("c1",), expect=1))
    await db.writer.fire(turn("c1", version, again_at=1))
    assert await db.rows("SELECT attempt FROM cluster") == [{"attempt": 6}]


class Answering:
    """The writer's connection, but that *lose* loses an answer: before or after the server does what it is asked."""

    def __init__(self, db: Database, lose: str = "") -> None:
        self._con = db.writer._con  # type: ignore[attr-defined]
        self.lose = lose
        self.texts: list[str] = []
        db.writer._con = self  # type: ignore[attr-defined]

    async def execute(self, sql: str, *params: Any) -> str:
        self.texts.append(sql)
        is_last = sql.endswith("COMMIT")
        if self.lose == "before" and is_last:
            self._con.terminate()
            raise ConnectionResetError("cut")
        status = str(await self._con.execute(sql, *params))
        if self.lose == "after" and is_last:
            self._con.terminate()
            raise ConnectionResetError("cut")
        return status

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)


@pytest.mark.parametrize("times", [5, 1], ids=["one message", "several"])
@pytest.mark.parametrize("lose", ["before", "after"])
async def test_an_answer_to_commit_that_was_lost_is_looked_up(
    db: Database, caplog: pytest.LogCaptureFixture, lose: str, times: int
) -> None:
    """The caller hears what is true, and the move is made once, whether or not it had been written."""
    await born(db)
    version = await often(db, "c1", times)
    Answering(db, lose)
    line = await db.writer.fire(turn("c1", version))
    assert line.seq == version + 1
    assert [row["seq"] for row in await db.rows("SELECT seq FROM journal ORDER BY id")] == list(range(1, version + 2))
    [said] = [r.getMessage() for r in caplog.records if "answer to COMMIT was lost" in r.getMessage()]
    assert said.endswith(": it was written" if lose == "after" else ": it was not written")


async def test_what_a_lost_connection_had_asked_for_is_not_done_behind_the_back_of_the_next(
    db: Database, url: str
) -> None:
    """Its batch waits for the journal's lock when the client is gone: the server's process is ended, and the batch with it."""
    await born(db)
    version = await often(db, "c1")
    stranger = await asyncpg.connect(url)
    await stranger.execute(f"BEGIN; SELECT pg_advisory_xact_lock({JOURNAL_LOCK})")
    moving = asyncio.create_task(db.writer.fire(turn("c1", version)))
    waiting = "SELECT min(pid) FROM pg_locks WHERE locktype='advisory' AND NOT granted"
    async with asyncio.timeout(BOUND_S):
        while (pid := await stranger.fetchval(waiting)) is None:
            await asyncio.sleep(0.01)
        db.writer._con.terminate()  # type: ignore[attr-defined]
        while await stranger.fetchval("SELECT 1 FROM pg_locks WHERE pid=$1", pid):
            await asyncio.sleep(0.01)
    await stranger.execute("COMMIT")
    assert (await moving).seq == version + 1
    await stranger.close()


async def test_a_connection_keeps_only_so_many_batches_prepared(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_writer, "PREPARED", 2)
    for name in ("c0", "c1"):
        await born(db, name)
    version = 1
    for _ in range(8):
        for column in ("reason", "region", "name", "isolation_tier"):
            also = Also(f"UPDATE cluster SET {column}=? WHERE id=?", (f"{column} x", "c0"), expect=1)  # noqa: S608
            version = (await db.writer.submit([turn("c1", version), also]))[0].seq
    kept = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'batch%'"
    assert 1 <= await db.writer._con.fetchval(kept) <= 2  # type: ignore[attr-defined]
    assert at_once(db) > 8
