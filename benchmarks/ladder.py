"""
Whole operations per second: create a gateway and take it through its three durable phases to `ready`.

The real engine and the real store in this process, with the no-op provisioner and without HTTP: requests.publish, then
waiting for the final line. Every phase is committed and synced before the next
begins. Latency is from the call of publish to the final line.

Afterwards the database itself is asked: every operation `ready`, and as many journal lines as were acknowledged. With
--url it is an empty PostgreSQL database, for one round of one number in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import itertools
import pstats
import sys
import time

from benchmarks.measure import Load, Wrong, bounded, emit, median, middle, quantile, scratch
from benchmarks.plane import FULL, ask, engine
from mcpg.engine.core import Scope
from mcpg.engine.loop import Engine
from mcpg.engine.requests import Publish, publish
from mcpg.machines import provision
from mcpg.store.database import Where
from mcpg.store.journal import Line

IN_FLIGHT = (1, 32)
MAX_LADDERS = 100_000  # of one round, whatever its time
WHERE = Scope("default", "default", "default")
READY = provision.State.READY.value


class Ends:
    """Hears every committed line, checks that each operation's follow one another, and tells who waits for an end."""

    def __init__(self, running: Engine) -> None:
        self._seq: dict[str, int] = {}
        self._ends: dict[str, asyncio.Future[Line]] = {}
        self._loop = asyncio.get_running_loop()
        running.db.writer.listen(self._heard)

    def _heard(self, line: Line) -> None:
        if line.machine != provision.MACHINE.name:
            return
        if line.seq != self._seq.get(line.subject, 0) + 1:
            raise Wrong(f"{line.subject}: line {line.seq} came after line {self._seq.get(line.subject, 0)}")
        self._seq[line.subject] = line.seq
        if line.dest in provision.MACHINE.final_values:
            self.of(line.subject).set_result(line)

    def of(self, operation_id: str) -> asyncio.Future[Line]:
        """Its last line, once it is written."""
        if operation_id not in self._ends:
            self._ends[operation_id] = self._loop.create_future()
        return self._ends[operation_id]


async def climb(running: Engine, ends: Ends, name: str) -> int:
    """One operation from the request to its end: the number of its journal lines. Raises Wrong unless it is ready."""
    op = await publish(running, WHERE, Publish(name=name, replicas=1), actor="bench", key=None)
    line = await ends.of(op.id)
    if line.dest != READY:
        raise Wrong(f"{name}: ended {line.dest}: {line.reason}")
    return line.seq


async def one_round(where: Where, in_flight: int, seconds: float, profile: cProfile.Profile | None) -> dict[str, float]:
    """*in_flight* ladders at any time for *seconds*, on a new database."""
    took: list[float] = []
    acked = 0
    numbers = itertools.count()
    async with engine(where) as running:
        writer, ends = running.db.writer, Ends(running)
        end = time.perf_counter() + seconds

        async def climber() -> None:
            nonlocal acked
            while (began := time.perf_counter()) < end and len(took) < MAX_LADDERS:
                lines = await climb(running, ends, f"bench-{next(numbers)}")
                took.append(time.perf_counter() - began)
                acked += lines

        commits, wall, cpu = writer.commits, time.perf_counter(), time.process_time()
        if profile is not None:
            profile.enable()
        await asyncio.gather(*(climber() for _ in range(in_flight)))
        if profile is not None:
            profile.disable()
        commits, wall, cpu = writer.commits - commits, time.perf_counter() - wall, time.process_time() - cpu
    _check(where, len(took), acked)
    return {
        "per_s": len(took) / wall, "cpu_ms": cpu / len(took) * 1e3, "p50_ms": median(took) * 1e3,
        "p99_ms": quantile(took, 0.99) * 1e3, "p99_x": quantile(took, 0.99) / median(took), "ladders": len(took),
        "lines_each": acked / len(took), "per_commit": acked / commits,
    }  # fmt: skip


def _check(where: Where, ladders: int, acked: int) -> None:
    """Raises Wrong unless the database holds exactly what was acknowledged."""
    [lines] = ask(where, "SELECT count(*) FROM journal WHERE machine='provision'")
    ready, operations = ask(where, f"SELECT count(*) FILTER (WHERE state='{READY}'), count(*) FROM operation")
    [used] = ask(where, "SELECT sum(gateways_used) FROM cluster")
    if lines != acked:
        raise Wrong(f"{acked} lines were acknowledged and the journal has {lines}")
    if not ready == operations == used == ladders:
        raise Wrong(f"{ladders} ladders ended: {operations} operations, {ready} ready, {used} places reserved")


def measure(rounds: int, seconds: float, numbers: tuple[int, ...], *, profiled: bool, url: str = "") -> None:
    """Every number in flight in turn; medians. *url*: of a PostgreSQL database, instead of a new SQLite file each time."""
    taken: dict[int, list[dict[str, float]]] = {n: [] for n in numbers}
    profile = cProfile.Profile() if profiled else None
    for _ in range(rounds):
        for in_flight in numbers:
            with scratch() as directory, Load() as load:
                figures = asyncio.run(one_round(url or directory / "ladder.db", in_flight, seconds, profile))
            taken[in_flight].append(figures | {"other_cpu": load.other_cpu})
    if profile is not None:  # its figures are not figures: the profiler costs more than what it watches
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(40)
        return
    for in_flight, all_rounds in taken.items():
        if url:
            emit("ours", f"ladder pg conc={in_flight}", **middle(all_rounds), rounds=rounds)
        else:
            emit("ours", f"ladder sqlite conc={in_flight}", **middle(all_rounds), rounds=rounds, synchronous=FULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one round")
    parser.add_argument("--in-flight", type=int, action="append", help="1 and 32 when not given")
    parser.add_argument("--url", default="", help="of an empty PostgreSQL database; then --rounds is 1")
    parser.add_argument("--profile", action="store_true", help="print where the event loop's time goes, no figures")
    a = parser.parse_args()
    numbers = tuple(a.in_flight or IN_FLIGHT)
    if a.url and (a.rounds, len(numbers)) != (1, 1):
        parser.error("--url is one database: give --rounds 1 and one --in-flight")
    bound = 60 + int(a.rounds * len(numbers) * (a.seconds + 10))
    bounded(bound, lambda: measure(a.rounds, a.seconds, numbers, profiled=a.profile, url=a.url))


if __name__ == "__main__":
    main()
