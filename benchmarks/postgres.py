"""
Durable advances per second on PostgreSQL: mcpg's journal writer beside asyncpg doing the least that is durable.

Ours is one event on one of 4,096 operations through `fire()`: load, compare the version, decide, append the hashed line,
update the row, commit, tell listeners, answer. The reference is one statement that updates a row guarded by its version and
inserts a line, on one connection for each caller. Both write a body of 150 bytes and sync every commit; they take turns on
one server, started for this with its own settings but for the number of connections. `ladder` is a create with its three
durable phases by the no-op provisioner.

After every round the database is asked: as many journal lines as were acknowledged, every version as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

from benchmarks.journal import _NEXT, BODY, BODY_TEXT, FACTS, Event, State, _beside, _paused, drive
from benchmarks.ladder import one_round
from benchmarks.measure import Load, Wrong, bounded, emit, middle
from benchmarks.plane import check_synchronous
from mcpg.engine.bus import Bus
from mcpg.machines import provision
from mcpg.store.database import Database
from mcpg.store.journal import Fire, Line
from tests.postgres import Server, serving

ROWS = 4096
LINES_BEFORE = 4
CALLERS = (1, 32)


# ---- ours


async def ours(url: str, callers: int, seconds: float) -> dict[str, float]:
    """`fire()` with the versions that were decided on."""
    db = await Database.open(url)
    await check_synchronous(db, url)
    heard = 0

    def count(_line: Line) -> None:
        nonlocal heard
        heard += 1

    ids = [f"op-bench-{number}" for number in range(ROWS)]
    for start in range(0, ROWS, 256):
        await asyncio.gather(*(db.writer.submit(_paused(id_)) for id_ in ids[start : start + 256]))
    states, versions = [State.PAUSED.value] * ROWS, [LINES_BEFORE] * ROWS
    db.writer.listen(Bus().publish)
    db.writer.listen(count)

    async def advance(row: int) -> None:
        event: Event = _NEXT[states[row]]
        line = await db.writer.fire(
            Fire(
                provision.MACHINE,
                ids[row],
                event,
                "bench",
                facts=FACTS,
                expect=versions[row],
                reason="bench",
                data=BODY,
            )
        )
        states[row], versions[row] = line.dest, line.seq

    commits = db.writer.commits
    figures = await drive(advance, callers, seconds)
    commits = db.writer.commits - commits
    [found] = await db.rows(
        "SELECT (SELECT count(*) FROM journal) AS lines, (SELECT sum(version) FROM operation) AS moved"
    )
    await db.close()
    due = ROWS * LINES_BEFORE + int(figures["acked"])
    if not found["lines"] == int(found["moved"]) == sum(versions) == due or heard != figures["acked"]:
        raise Wrong(f"fire: {due} lines are due; the journal has {found['lines']}, the rows {found['moved']}")
    return figures | {"per_commit": figures["acked"] / commits}


async def ladder(url: str, callers: int, seconds: float) -> dict[str, float]:
    """Creates to `ready`, one after the other for each caller: benchmarks/ladder.py on this database."""
    figures = await one_round(url, callers, seconds, None)
    return figures | {"cpu_us": figures["cpu_ms"] * 1e3, "acked": figures["ladders"]}


# ---- the reference

_SCHEMA = """
CREATE TABLE machine(id int PRIMARY KEY, state text NOT NULL, version int NOT NULL, doc text) WITH (fillfactor=70);
CREATE TABLE journal(seq bigserial PRIMARY KEY, machine int NOT NULL, version int NOT NULL, source text, dest text,
  event text, actor text, at timestamptz DEFAULT now(), body text);
CREATE INDEX journal_machine ON journal(machine, version);
INSERT INTO machine SELECT g,'paused',1,'{}' FROM generate_series(0,4095) g;
"""
_BOTH = (
    "WITH u AS (UPDATE machine SET state=$1,version=version+1 WHERE id=$2 AND version=$3 RETURNING id,version)"
    " INSERT INTO journal(machine,version,source,dest,event,actor,body) SELECT id,version,$4,$1,'go','bench',$5 FROM u"
)
_AFTER = {"paused": "compensating", "compensating": "paused"}


async def reference(url: str, callers: int, seconds: float) -> dict[str, float]:
    """The pair as one statement, its own commit."""
    connections = [await asyncpg.connect(url) for _ in range(callers)]
    await connections[0].execute(_SCHEMA)
    free = [await con.prepare(_BOTH) for con in connections]
    states, versions = ["paused"] * ROWS, [1] * ROWS

    async def advance(row: int) -> None:
        statement, before = free.pop(), states[row]
        await statement.fetch(_AFTER[before], row, versions[row], before, BODY_TEXT)
        if statement.get_statusmsg() != "INSERT 0 1":
            raise Wrong(f"row {row} was not at version {versions[row]}")
        states[row], versions[row] = _AFTER[before], versions[row] + 1
        free.append(statement)

    figures = await drive(advance, callers, seconds)
    lines = await connections[0].fetchval("SELECT count(*) FROM journal")
    for con in connections:
        await con.close()
    if lines != figures["acked"]:
        raise Wrong(f"the reference acknowledged {figures['acked']:.0f} and wrote {lines}")
    return figures


Work = Callable[[str, int, float], Awaitable[dict[str, float]]]


def measure(server: Server, rounds: int, seconds: float) -> None:
    taken: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for callers in CALLERS:
            cases: list[tuple[str, str, Work, Callable[[], str]]] = [
                ("pg", f"asyncpg cte conc={callers}", reference, server.empty),
                ("ours", f"fire pg conc={callers}", ours, server.fresh),
                ("ours", f"ladder pg conc={callers}", ladder, server.fresh),
            ]
            for bench, case, work, new in cases:
                url = new()
                with Load() as load:
                    figures = asyncio.run(work(url, callers, seconds))
                server.drop(url)
                taken.setdefault((bench, case), []).append(figures | {"other_cpu": load.other_cpu})
    for (bench, case), all_rounds in taken.items():
        beside = taken["pg", f"asyncpg cte {case.rpartition(' ')[2]}"]
        emit(
            bench, case, **middle(all_rounds), per_s_max=max(f["per_s"] for f in all_rounds), rounds=rounds,
            per_s_x=_beside(all_rounds, beside, "per_s"), p50_x=_beside(all_rounds, beside, "p50_ms"),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one round of one side, at least 1")
    a = parser.parse_args()
    seconds = max(1.0, a.seconds)

    def work() -> None:
        with serving(()) as server:
            measure(server, a.rounds, seconds)

    bounded(90 + int(a.rounds * 6 * (seconds + 8)), work)


if __name__ == "__main__":
    main()
