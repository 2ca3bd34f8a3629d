"""
One operation with its journal, read among many: 1,000 and 100,000 finished ones, beside DBOS's status and steps.

Ours is what GET /v1/operations/ID answers (row, journal, made into the wire's JSON), called in this process without
HTTP; DBOS: get_workflow_status and list_workflow_steps. 100 real operations each, the rest cloned from them by SQL.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import time
from pathlib import Path

from benchmarks.beside_dbos import peer, peer_python, peer_url
from benchmarks.ladder import Ends, climb
from benchmarks.measure import Load, Wrong, bounded, emit, median, middle, say, scratch
from benchmarks.plane import engine
from mcpg import present
from mcpg.store import fleet, reads
from mcpg.store.database import Database

REAL = 100
READS = 300


async def made(path: Path, count: int) -> None:
    """A database with *count* finished operations and their lines."""
    async with engine(path) as running:
        ends = Ends(running)
        for number in range(REAL):
            await climb(running, ends, f"real-{number}")
    db = sqlite3.connect(path)
    numbers = f"(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM s WHERE i<{count // REAL}) SELECT i FROM s)"
    for table, key, where in (
        ("operation", "id", "1"),
        ("journal", "subject", "w.machine='provision'"),
    ):
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        kept = [c for c in columns if (table, c) != ("journal", "id")]
        picked = ",".join(f"w.{c}||'-'||g.i" if c == key else f"w.{c}" for c in kept)
        db.execute(
            f"INSERT INTO {table}({','.join(kept)}) SELECT {picked} FROM {table} w CROSS JOIN {numbers} g WHERE {where}"
        )
    db.execute("ANALYZE")
    db.commit()
    [found] = db.execute("SELECT count(*) FROM operation").fetchone()
    db.close()
    if found != count + REAL:
        raise Wrong(f"{found} operations were made, not {count + REAL}")


async def read(path: Path, count: int) -> dict[str, float]:
    """READS operations, each another one."""
    db = await Database.open(path)
    try:
        known = [row["id"] for row in await db.many("SELECT id FROM operation WHERE id NOT LIKE 'op-%-%' ORDER BY id")]
        took, cpu, size = [], 0.0, 0
        for number in range(READS):
            ref = f"{known[number % REAL]}-{number * 37 % (count // REAL) + 1}"
            wall, used = time.perf_counter(), time.process_time()
            row = await reads.operation_by_ref(db, ref)
            body = present.operation(row, await fleet.cluster_names(db), await reads.history(db, ref))
            size = len(body.model_dump_json())
            took.append(time.perf_counter() - wall)
            cpu += time.process_time() - used
            if body.history is None or len(body.history) != row["version"]:
                raise Wrong(f"{ref} was not read whole")
        return {"one_p50_ms": median(took) * 1e3, "one_cpu_ms": cpu / READS * 1e3, "bytes": size}
    finally:
        await db.close()


def measure(rounds: int, many: int) -> None:
    """Three cases in turns; medians."""
    peer_python()
    sides: dict[str, list[dict[str, float]]] = {"ours few": [], "ours many": [], "dbos many": []}
    with scratch() as home:
        for name, count in (("ours few", 1_000), ("ours many", many)):
            asyncio.run(made(home / f"{name}.db", count))
        for _ in range(rounds):
            for name, taken in sides.items():
                with scratch() as directory, Load() as load:
                    if name == "dbos many":
                        figures = peer("history", peer_url(directory), many, "--reads", str(READS))
                    else:
                        figures = asyncio.run(read(home / f"{name}.db", 1_000 if name == "ours few" else many))
                taken.append(figures | {"other_cpu": load.other_cpu})
    emit("ours", "history sqlite n=1000", rounds=rounds, **middle(sides["ours few"]))
    emit("ours", "history sqlite n=100000", rounds=rounds, **middle(sides["ours many"]))
    emit("dbos", "history sqlite n=100000", rounds=rounds, **middle(sides["dbos many"]))
    mine, peers = middle(sides["ours many"]), middle(sides["dbos many"])
    say(
        f"one operation among {many}: {mine['one_cpu_ms']:.3f} ms CPU against {peers['one_cpu_ms']:.3f}"
        f" = {mine['one_cpu_ms'] / peers['one_cpu_ms']:.2f}x; p50 {mine['one_p50_ms']:.3f} ms, among 1,000"
        f" {middle(sides['ours few'])['one_p50_ms']:.3f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=100_000)
    a = parser.parse_args()
    bounded(700 + a.rounds * 120, lambda: measure(a.rounds, a.many))


if __name__ == "__main__":
    main()
