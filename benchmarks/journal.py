"""
Durable advances per second: mcpg's journal writer beside a bare group-commit queue on the same disk.

Ours is one event on one of 1,000 operations through JournalWriter.fire: load, compare the version, decide, append
the hashed line, update the row, commit, publish to the bus, answer. The reference does the least that is durable: one
UPDATE guarded by the version and one INSERT, on one writer thread that commits whatever waits. Both sync every commit
(synchronous=FULL), write a body of 150 bytes, start every round on a fresh file, and take turns.

After every round the file itself is asked: as many journal lines as were acknowledged, every version as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.measure import Load, Wrong, bounded, emit, median, middle, quantile, scratch
from benchmarks.plane import FULL, ask, database
from mcpg.engine.bus import Bus
from mcpg.machines import provision
from mcpg.store.journal import Birth, Fire, Line, canonical

ROWS = 1_000
CALLERS = (1, 32)
BODY = {"code": "bench", "note": "x" * 124}
BODY_TEXT = json.dumps(BODY, separators=(",", ":"))
MAX_ADVANCES = 500_000  # of one round, whatever its time

Event, State = provision.Event, provision.State
_NEXT = {State.PAUSED.value: Event.RESUME, State.COMPENSATING.value: Event.FAIL}
FACTS = provision.Seen(paused_in=State.COMPENSATING.value)  # so `resume` goes back there
_LINES_BEFORE = 4  # request, accept, cancel, fail: how an operation comes to rest in `paused`

Advance = Callable[[int], Awaitable[None]]
"""Advance row number N durably."""


async def drive(advance: Advance, callers: int, seconds: float) -> dict[str, float]:
    """*callers* tasks, each advancing one row after the other for *seconds*; figures of the acknowledged ones."""
    rows = itertools.cycle(range(ROWS))  # a row is back in turn long after its last advance was acknowledged
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def call() -> None:
        while (began := time.perf_counter()) < end and len(took) < MAX_ADVANCES:
            await advance(next(rows))
            took.append(time.perf_counter() - began)

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(call() for _ in range(callers)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "per_s": len(took) / wall, "cpu_us": cpu / len(took) * 1e6, "p50_ms": median(took) * 1e3,
        "p99_ms": quantile(took, 0.99) * 1e3, "acked": len(took),
    }  # fmt: skip


# ---- ours


async def ours(path: Path, callers: int, seconds: float) -> dict[str, float]:
    """JournalWriter.fire with the versions that were decided on."""
    async with database(path) as db:
        writer = db.writer
        heard = 0

        def count(_line: Line) -> None:
            nonlocal heard
            heard += 1

        ids = [f"op-bench-{number}" for number in range(ROWS)]
        for start in range(0, ROWS, 100):
            await asyncio.gather(*(writer.submit(_paused(id_)) for id_ in ids[start : start + 100]))
        states = [State.PAUSED.value] * ROWS
        versions = [_LINES_BEFORE] * ROWS
        writer.listen(Bus().publish)
        writer.listen(count)

        async def advance(row: int) -> None:
            event = _NEXT[states[row]]
            line = await writer.fire(
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

        commits = writer.commits
        figures = await drive(advance, callers, seconds)
        commits = writer.commits - commits
    [lines] = ask(path, "SELECT count(*) FROM journal WHERE machine='provision'")
    [moved] = ask(path, "SELECT sum(version) FROM operation")
    due = ROWS * _LINES_BEFORE + int(figures["acked"])
    if not lines == moved == sum(versions) == due or heard != figures["acked"]:
        raise Wrong(f"fire: {due} lines are due; the journal has {lines}, the rows {moved}, listeners heard {heard}")
    return figures | {"per_commit": figures["acked"] / commits}


def _paused(operation_id: str) -> list[Birth | Fire]:
    """An operation that nobody drives, in `paused`: from there it can be resumed and fail for ever."""
    columns = {
        "machine": "provision", "kind": "create", "org": "default", "workspace": "default", "environment": "default",
        "name": operation_id, "instance_id": operation_id, "spec": canonical({}), "actor": "bench", "body_hash": "",
    }  # fmt: skip
    events = (Event.ACCEPT, Event.CANCEL, Event.FAIL)
    return [
        Birth(provision.MACHINE, operation_id, columns, "bench"),
        *(Fire(provision.MACHINE, operation_id, event, "bench") for event in events),
    ]


# ---- the reference

_SCHEMA = """
CREATE TABLE machine(id INTEGER PRIMARY KEY, state TEXT NOT NULL, version INTEGER NOT NULL, doc TEXT);
CREATE TABLE journal(seq INTEGER PRIMARY KEY AUTOINCREMENT, machine INTEGER NOT NULL, version INTEGER NOT NULL,
  source TEXT, dest TEXT, event TEXT, actor TEXT, at REAL, body TEXT);
CREATE INDEX journal_machine ON journal(machine, version);
"""
_MOVE = "UPDATE machine SET state=?,version=version+1 WHERE id=? AND version=?"
_NOTE = "INSERT INTO journal(machine,version,source,dest,event,actor,at,body) VALUES(?,?,?,?,?,?,?,?)"
_MOST = 256  # advances of one commit, as in mcpg/store/writer.py
_AFTER = {"paused": "compensating", "compensating": "paused"}

_Job = tuple[int, int, str, "asyncio.Future[None]"]


class BareQueue:
    """One writer thread and nothing else: whatever waits becomes one commit, and then everybody is told."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="bare-queue", daemon=True)
        self.commits = 0
        self.trouble: BaseException | None = None

    def start(self) -> None:
        with sqlite3.connect(self._path) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_SCHEMA)
            db.executemany("INSERT INTO machine VALUES(?,'paused',1,'{}')", ((row,) for row in range(ROWS)))
        db.close()
        self._thread.start()

    async def close(self) -> None:
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    async def advance(self, row: int, version: int, state: str) -> None:
        """Returns once it is durable."""
        done = self._loop.create_future()
        self._jobs.put((row, version, state, done))
        await done

    def _write(self) -> None:
        db = sqlite3.connect(self._path, isolation_level=None)
        db.execute("PRAGMA synchronous=FULL")
        [(synchronous,)] = db.execute("PRAGMA synchronous").fetchall()
        if synchronous != FULL:
            self.trouble = Wrong(f"the reference's PRAGMA synchronous reads {synchronous}")
        while (job := self._jobs.get()) is not None:
            batch, ending = [job], False
            while len(batch) < _MOST and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    ending = True
                    break
                batch.append(following)
            try:
                self._commit(db, batch)
            except BaseException as exc:  # noqa: BLE001 - told to everybody who waits
                self.trouble = exc
            self._loop.call_soon_threadsafe(self._tell, [done for *_, done in batch])
            if ending:
                break
        db.close()

    def _commit(self, db: sqlite3.Connection, batch: list[_Job]) -> None:
        db.execute("BEGIN IMMEDIATE")
        for row, version, state, _ in batch:
            dest = _AFTER[state]
            if db.execute(_MOVE, (dest, row, version)).rowcount != 1:
                raise Wrong(f"row {row} is not at version {version}")
            db.execute(_NOTE, (row, version + 1, state, dest, "go", "bench", time.time(), BODY_TEXT))
        db.execute("COMMIT")
        self.commits += 1

    def _tell(self, waiting: list[asyncio.Future[None]]) -> None:
        for done in waiting:
            if self.trouble is None:
                done.set_result(None)
            else:
                done.set_exception(self.trouble)


async def reference(path: Path, callers: int, seconds: float) -> dict[str, float]:
    """The bare queue under the same load."""
    bare = BareQueue(path)
    bare.start()
    states, versions = ["paused"] * ROWS, [1] * ROWS

    async def advance(row: int) -> None:
        await bare.advance(row, versions[row], states[row])
        states[row], versions[row] = _AFTER[states[row]], versions[row] + 1

    try:
        figures = await drive(advance, callers, seconds)
    finally:
        await bare.close()
    [lines] = ask(path, "SELECT count(*) FROM journal")
    [moved] = ask(path, "SELECT sum(version) FROM machine")
    if not lines == moved - ROWS == figures["acked"]:
        raise Wrong(f"bare queue: {figures['acked']:.0f} acknowledged, {lines} lines, rows moved by {moved - ROWS}")
    return figures | {"per_commit": figures["acked"] / bare.commits}


def measure(rounds: int, seconds: float) -> None:
    """Both sides in turn, for every number of callers; medians, and the median of the rounds' own ratios."""
    sides = {"sqlite": ("queue FULL conc={}", reference), "ours": ("fire sqlite conc={}", ours)}
    taken: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for callers in CALLERS:
            for bench, (case, work) in sides.items():
                with scratch() as directory, Load() as load:
                    figures = asyncio.run(work(directory / "journal.db", callers, seconds))
                taken.setdefault((bench, case.format(callers)), []).append(figures | {"other_cpu": load.other_cpu})
    for (bench, case), all_rounds in taken.items():
        beside = taken["sqlite", case.replace("fire sqlite", "queue FULL")]
        emit(
            bench, case, **middle(all_rounds), per_s_max=max(f["per_s"] for f in all_rounds), rounds=rounds,
            synchronous=FULL, per_s_x=_beside(all_rounds, beside, "per_s"), p50_x=_beside(all_rounds, beside, "p50_ms"),
        )  # fmt: skip


def _beside(figures: list[dict[str, float]], reference_: list[dict[str, float]], metric: str) -> float:
    """The median of the ratios of one round to the reference's round before it: steadier than a ratio of medians."""
    return median([ours_[metric] / theirs[metric] for ours_, theirs in zip(figures, reference_, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one round of one side, at least 1")
    a = parser.parse_args()
    seconds = max(1.0, a.seconds)
    bounded(60 + int(a.rounds * 4 * (seconds + 5)), lambda: measure(a.rounds, seconds))


if __name__ == "__main__":
    main()
