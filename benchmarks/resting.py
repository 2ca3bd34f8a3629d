"""
What a server costs while 10,000 operations rest: half of them paused, half waiting for evidence with a deadline.

The operations are written through the real journal writer; then `mcpg-ctl serve` is started on them, and its CPU is
counted while nothing happens. Afterwards every one of them must still rest where it was.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from benchmarks.measure import Load, Wrong, bounded, emit, middle, on_cpu_s, say, scratch, wake_ups
from benchmarks.plane import ask, database
from benchmarks.serving import serve
from mcpg.engine.config import DEFAULT_CONFIG, render
from mcpg.engine.seed import seed
from mcpg.machines import provision
from mcpg.store.clock import now_us, short_id, uuid7
from mcpg.store.journal import Birth, Fire, Step, canonical
from mcpg.store.writes import insert_config, insert_instance

LONG_S = 3600
E = provision.Event


async def fill(path: Path, count: int) -> None:
    """*count* open operations: every second one paused in `applying`, the others `confirming`."""
    config = render(DEFAULT_CONFIG)
    async with database(path) as db:
        await seed(db, now_us, local_gateways_max=2 * count)
        for first in range(0, count, 200):
            await asyncio.gather(
                *(db.writer.submit(_one(n, config.text, config.sha256)) for n in range(first, first + 200))
            )


def _one(number: int, config: str, digest: str) -> list[Step]:
    operation, instance, at = short_id("op-"), uuid7(), now_us()
    spec = {
        "replicas": 1, "size": "s", "cpu_millicores": 0, "memory_bytes": 0, "region": "", "isolation_tier": "shared",
        "custom_hostname": "", "image_tag": "latest", "config_version": 1, "config_hash": digest,
    }  # fmt: skip
    where = {"org": "default", "workspace": "default", "environment": "default", "name": f"rest-{number}"}
    columns = {
        "machine": "provision", "kind": "create", **where, "instance_id": instance, "spec": canonical(spec),
        "actor": "bench", "body_hash": "0" * 64,
    }  # fmt: skip
    row = {
        "id": instance, "instance_uid": instance, **where, "live_name": where["name"], "managed": 1,
        "discovered_via": "static", "spec": canonical(spec), "operation_id": operation, "created_at": at,
        "config_version": 1, "assigned_hash": digest,
    }  # fmt: skip
    events = [E.ACCEPT, E.RESERVED, *([E.DEADLINE] if number % 2 else [E.APPLIED])]
    return [
        Birth(provision.MACHINE, operation, columns, "bench"),
        insert_instance(taken_hint="", columns=row),
        insert_config(instance, 1, config, digest, config, digest, operation, at),
        *(Fire(provision.MACHINE, operation, e, "bench", within_s=LONG_S) for e in events),
    ]


def one_round(directory: Path, count: int, seconds: float) -> dict[str, float]:
    path = directory / "state" / "cp-state.db"
    path.parent.mkdir(mode=0o700)
    asyncio.run(fill(path, count))
    asked = "SELECT count(*) FILTER (WHERE state='paused'), count(*) FILTER (WHERE state='confirming') FROM operation"
    before = ask(path, asked)
    if sum(before) != count:
        raise Wrong(f"{before} operations rest, not {count}")
    with serve(directory, "--confirm-timeout-s", str(LONG_S)) as server:
        time.sleep(2)  # it has taken them all by then; what it still does shows in the figure
        cpu, wakes, wall = on_cpu_s(server.pid), wake_ups(server.pid), time.perf_counter()
        time.sleep(seconds)
        cpu, wakes, wall = on_cpu_s(server.pid) - cpu, wake_ups(server.pid) - wakes, time.perf_counter() - wall
        start_s = server.start_s
        server.stop()
    if ask(path, asked) != before:
        raise Wrong(f"{before} operations rested, and now {ask(path, asked)}")
    return {"cpu_pct": cpu / wall * 100, "wake_ups_per_s": wakes / wall, "start_s": start_s}


def measure(rounds: int, count: int, seconds: float) -> None:
    """Nothing rests in the other case: what a server costs that has nothing to do."""
    for operations in (0, count):
        figures = []
        for _ in range(rounds):
            with scratch() as directory, Load() as load:
                found = one_round(directory, operations, seconds)
            figures.append(found | {"other_cpu": load.other_cpu})
        emit("ours", f"resting sqlite n={operations}", rounds=rounds, **middle(figures))
        say(f"{operations} resting operations: {middle(figures)['cpu_pct']:.3f} % of a core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    a = parser.parse_args()
    bounded(60 + int(a.rounds * 2 * (a.seconds + 60)), lambda: measure(a.rounds, a.count, a.seconds))


if __name__ == "__main__":
    main()
