"""PostgreSQL alone: several writers on one database, callers that are cancelled, connections that are cut."""

from __future__ import annotations

import asyncio
import sys

import asyncpg
import pytest

from mcpg.errors import Conflict, Unavailable
from mcpg.machines import cluster
from mcpg.machines.cluster import Event
from mcpg.store import postgres_link, reads
from mcpg.store.database import Database
from mcpg.store.journal import Also, Fire, Line, line_hash
from mcpg.store.postgres_link import JOURNAL_LOCK
from tests.bounds import BOUND_S
from tests.postgres import Server
from tests.store.conftest import born

pytestmark = pytest.mark.parametrize("database", ["postgres"])
C = cluster.MACHINE
ROUNDS = 40


def turn(name: str, version: int, **more: object) -> Fire:
    event = Event.DRAIN if version % 2 else Event.UNDRAIN
    return Fire(C, name, event, "test", expect=version, **more)  # type: ignore[arg-type]


def cut(postgres: Server, url: str) -> int:
    """End every session on the database, as a failover does; how many there were."""
    name = url.rpartition("/")[2]
    sessions = f"FROM pg_stat_activity WHERE datname='{name}' AND pid<>pg_backend_pid()"
    return len(postgres.run(f"SELECT pg_terminate_backend(pid) {sessions}"))


# ---- several writers


async def test_of_two_control_planes_that_move_one_row_exactly_one_wins(db: Database, other: Database) -> None:
    await born(db)
    for version in range(1, ROUNDS + 1):
        fates = await asyncio.gather(
            db.writer.fire(turn("c1", version)), other.writer.fire(turn("c1", version)), return_exceptions=True
        )
        assert sorted(type(f).__name__ for f in fates) == ["Conflict", "Line"]
    lines = await reads.history(other, "c1")
    assert [line.seq for line in lines] == list(range(1, ROUNDS + 2))
    assert [line.prev_hash for line in lines] == ["", *(line.hash for line in lines[:-1])]
    assert all(line_hash(line) == line.hash for line in lines)


_RACER = """
import asyncio, sys
from mcpg.errors import Conflict
from mcpg.machines import cluster
from mcpg.store.database import Database
from mcpg.store.journal import Fire
async def main(url, rounds):
    db = await Database.open(url)
    won = 0
    print("ready", flush=True)
    sys.stdin.readline()
    while (version := (await db.one("SELECT version FROM cluster WHERE id=?", "c1"))["version"]) <= rounds:
        event = cluster.Event.DRAIN if version % 2 else cluster.Event.UNDRAIN
        try:
            await db.writer.fire(Fire(cluster.MACHINE, "c1", event, "racer", expect=version))
            won += 1
        except Conflict:
            pass
    print(won, flush=True)
    await db.close()
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.long
async def test_two_processes_race_for_one_row_and_each_version_is_won_once(db: Database, url: str) -> None:
    await born(db)
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _RACER,
            url,
            str(ROUNDS),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]
    async with asyncio.timeout(BOUND_S):
        for racer in racers:
            assert await racer.stdout.readline() == b"ready\n"  # type: ignore[union-attr]
        outs = await asyncio.gather(*(racer.communicate(b"go\n") for racer in racers))
    assert sum(int(out) for out, _ in outs) == ROUNDS
    assert [line.seq for line in await reads.history(db, "c1")] == list(range(1, ROUNDS + 2))


async def test_a_cursor_on_line_ids_misses_nothing_that_two_control_planes_write(db: Database, other: Database) -> None:
    """An id is visible only once all lower ones are: who reads `id > cursor` while others write sees every line."""
    seen: list[int] = []
    is_over = asyncio.Event()

    async def follow() -> None:
        while True:
            last = is_over.is_set()
            rows = await db.rows("SELECT id FROM journal WHERE id>? ORDER BY id", seen[-1] if seen else 0)
            seen.extend(row["id"] for row in rows)
            if last and not rows:
                return

    follower = asyncio.create_task(follow())
    await asyncio.gather(*(born(db if i % 2 else other, f"c{i}") for i in range(400)))
    is_over.set()
    async with asyncio.timeout(BOUND_S):
        await follower
    assert seen == [row["id"] for row in await db.rows("SELECT id FROM journal ORDER BY id")]
    assert len(seen) == 400


async def test_a_journal_transaction_waits_for_that_of_another_control_plane(db: Database, url: str) -> None:
    """Or a line with a higher id could be seen, and a cursor moved on, before one with a lower id is."""
    await born(db)
    con = await asyncpg.connect(url)
    await con.execute(f"BEGIN; SELECT pg_advisory_xact_lock({JOURNAL_LOCK})")
    fire = asyncio.create_task(db.writer.fire(turn("c1", 1)))
    waiting = "SELECT count(*) AS n FROM pg_locks WHERE locktype='advisory' AND NOT granted"
    async with asyncio.timeout(BOUND_S):
        while not (await con.fetchval(waiting)) and not fire.done():
            await asyncio.sleep(0.01)
        assert not fire.done()
        await con.execute("COMMIT")
        assert (await fire).seq == 2
    await con.close()


async def test_what_one_notifies_all_hear_also_after_a_cut(
    db: Database, other: Database, url: str, postgres: Server
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await db.listen(heard.put_nowait)
    async with asyncio.timeout(BOUND_S):
        assert await heard.get() == "", "from here on nothing is missed"
        await other.notify("one")
        assert await heard.get() == "one"
        cut(postgres, url)
        assert await heard.get() == "", "something may have been missed"
        await other.notify("two")
        assert await heard.get() == "two"


# ---- callers that are cancelled, connections that are cut


@pytest.mark.long
async def test_hundreds_of_cancelled_callers_and_it_still_writes_and_reads(db: Database) -> None:
    await born(db)
    for i in range(300):
        tasks = [
            asyncio.create_task(db.writer.fire(Fire(C, "c1", Event.DRAIN if i % 2 else Event.UNDRAIN, "test"))),
            asyncio.create_task(db.rows("SELECT * FROM journal WHERE subject=?", "c1")),
        ]
        for _ in range(i % 9):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(BOUND_S):
        await born(db, "c2")
        lines = await reads.history(db, "c1")
    assert [line.seq for line in lines] == list(range(1, len(lines) + 1))


async def test_a_cut_connection_loses_nothing_that_was_acknowledged(db: Database, url: str, postgres: Server) -> None:
    """Writers go on through three cuts: what they were told is there, what they were not told is whole or not there."""
    acked: dict[str, int] = {}
    unsure = 0
    is_over = asyncio.Event()

    async def work(name: str) -> None:
        nonlocal unsure
        await born(db, name)
        acked[name] = 1
        while not is_over.is_set():
            try:
                acked[name] = (await db.writer.fire(turn(name, acked[name]))).seq
            except Unavailable:
                unsure += 1
            except Conflict:  # the one before was written after all
                row = await db.one("SELECT version FROM cluster WHERE id=?", name)
                assert row is not None
                assert row["version"] == acked[name] + 1
                acked[name] = row["version"]

    workers = [asyncio.create_task(work(f"c{i}")) for i in range(16)]
    commits = 0
    async with asyncio.timeout(BOUND_S):
        for _ in range(3):
            while db.writer.commits < commits + 5:
                await asyncio.sleep(0.01)
            assert await asyncio.to_thread(cut, postgres, url) >= 1
            commits = db.writer.commits
        while db.writer.commits < commits + 5:
            await asyncio.sleep(0.01)
        is_over.set()
        await asyncio.gather(*workers)
    rows = {row["id"]: row["version"] for row in await db.rows("SELECT id,version FROM cluster")}
    assert rows == acked
    for name, version in acked.items():
        lines = await reads.history(db, name)
        assert [line.seq for line in lines] == list(range(1, version + 1))
        assert [line.prev_hash for line in lines] == ["", *(line.hash for line in lines[:-1])]


async def test_an_idle_connection_that_was_cut_costs_its_next_caller_nothing(
    db: Database, url: str, postgres: Server
) -> None:
    await born(db)
    await asyncio.to_thread(cut, postgres, url)
    assert (await db.writer.fire(turn("c1", 1))).seq == 2
    await asyncio.to_thread(cut, postgres, url)
    assert len(await reads.history(db, "c1")) == 2


_ONCE = """
CREATE SEQUENCE cuts;
CREATE FUNCTION cut_once() RETURNS int LANGUAGE plpgsql AS
 $$ BEGIN IF nextval('cuts') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN 7; END $$;
CREATE FUNCTION cut_once_here() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM cut_once(); RETURN NEW; END $$;
CREATE TRIGGER cuts BEFORE UPDATE ON cluster FOR EACH ROW EXECUTE FUNCTION cut_once_here();
"""


async def test_what_was_cut_before_commit_is_done_again_and_nobody_hears_of_it(db: Database, url: str) -> None:
    await born(db)
    con = await asyncpg.connect(url)
    await con.execute(_ONCE)
    assert (await db.writer.fire(turn("c1", 1))).seq == 2
    await con.execute("SELECT setval('cuts', 1, false)")
    assert await db.rows("SELECT cut_once() AS n") == [{"n": 7}]
    assert [line.seq for line in await reads.history(db, "c1")] == [1, 2]
    await con.close()


async def test_a_database_that_is_away_is_unavailable_and_back_when_it_is_back(
    db: Database, url: str, postgres: Server
) -> None:
    name = url.rpartition("/")[2]
    await born(db)
    postgres.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await asyncio.to_thread(cut, postgres, url)
    with pytest.raises(Unavailable):
        await db.writer.fire(turn("c1", 1))
    with pytest.raises(Unavailable):
        await reads.history(db, "c1")
    postgres.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert (await db.writer.fire(turn("c1", 1))).seq == 2


async def test_a_commit_whose_answer_was_lost_is_told_as_that(db: Database, url: str, postgres: Server) -> None:
    """A deferred trigger cuts the session inside COMMIT: nobody may claim to know."""
    await born(db)
    con = await asyncpg.connect(url)
    await con.execute(
        "CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER gone AFTER UPDATE ON cluster DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION gone()"
    )
    with pytest.raises(Unavailable) as lost:
        await db.writer.fire(turn("c1", 1))
    assert "may have been written" in lost.value.hint
    await con.execute("DROP TRIGGER gone ON cluster")
    await con.close()
    assert (await db.writer.fire(turn("c1", 1))).seq == 2


async def test_a_peer_that_stops_inside_its_transaction_does_not_stop_the_others(db: Database, url: str) -> None:
    """The journal's lock is held by a session that says no more: the settings of ours would end it within seconds."""
    await born(db)
    silent = await postgres_link.connect(url, idle_in_transaction_session_timeout="300ms")
    await silent.execute(f"BEGIN; SELECT pg_advisory_xact_lock({JOURNAL_LOCK})")
    async with asyncio.timeout(BOUND_S):
        assert (await db.writer.fire(turn("c1", 1))).seq == 2
    silent.terminate()
    assert int(postgres_link.SETTINGS["idle_in_transaction_session_timeout"].removesuffix("s")) <= 10


# ---- the batch is what one after the other would be


async def test_companions_of_one_row_keep_their_order_whatever_goes_together(db: Database) -> None:
    """Statements of one text go together where nothing comes between; where something does, they do not."""
    await asyncio.gather(*(born(db, f"c{i}") for i in range(9)))

    def add(name: str) -> Also:
        return Also("UPDATE cluster SET gateways_used=gateways_used+1 WHERE id=?", (name,), expect=1)

    def double(name: str) -> Also:
        return Also("UPDATE cluster SET gateways_used=gateways_used*2 WHERE id=?", (name,), expect=1)

    everybody = Also("UPDATE cluster SET gateways_used=gateways_used+1 WHERE gateways_used>=(SELECT 0)")
    units = [[add(f"c{i}"), double(f"c{i}"), add(f"c{i}")] for i in range(8)]
    units += [[everybody], *([double(f"c{i}")] for i in range(9))]  # nothing came to c8 before everybody
    await asyncio.gather(*(db.writer.submit(unit) for unit in units))
    used = {row["id"]: row["gateways_used"] for row in await db.rows("SELECT id,gateways_used FROM cluster")}
    assert used == {**{f"c{i}": 8 for i in range(8)}, "c8": 2}
    assert db.writer.one_by_one == 0  # type: ignore[attr-defined]


async def test_one_subject_may_move_often_in_one_batch(db: Database) -> None:
    await born(db)
    moves = [Fire(C, "c1", Event.UNDRAIN if i % 2 else Event.DRAIN, f"mover {i}") for i in range(20)]
    commits = db.writer.commits
    lines = await asyncio.gather(*(db.writer.fire(move) for move in moves))
    assert [line.seq for line in lines] == list(range(2, 22))
    assert db.writer.commits - commits <= 2
    assert db.writer.one_by_one == 0  # type: ignore[attr-defined]
    assert all(line_hash(line) == line.hash for line in await reads.history(db, "c1"))


async def test_what_a_column_cannot_hold_is_its_callers_mistake_alone(db: Database) -> None:
    """PostgreSQL counts a column's characters, which SQLite does not."""
    await asyncio.gather(born(db), born(db, "c2"))
    long, good = await asyncio.gather(
        db.writer.fire(turn("c1", 1, sets={"region": "r" * 1000})),
        db.writer.fire(turn("c2", 1)),
        return_exceptions=True,
    )
    assert isinstance(good, Line)
    assert isinstance(long, Exception)
    assert not isinstance(long, Unavailable)
