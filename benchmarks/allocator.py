"""
Placements per second over 1,000 clusters: the engine's pool beside a look at every cluster.

Both answer the same wishes, one after the other, and take what they were given; before nine of ten a gateway goes and its
room comes back. Clusters have 12 regions and two tiers, half limit CPU and memory; three of four, or all, are nearly full.
One wish in three names no region. The reference reads every cluster for each wish and takes the best that fits: what a control
plane does that keeps no order. Where the two do not agree on every single placement, no figure is printed.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

from benchmarks.measure import Load, Wrong, bounded, emit, median, middle
from mcpg.engine.allocator import Need, Pool, Room, Wish, headroom, why_not
from mcpg.engine.sizes import DEFAULT, parse

CLUSTERS = 1_000
WISHES = 20_000
COMPARED = 2_000  # wishes that the reference answers too: it is that much slower
REGIONS = [f"region-{number}" for number in range(12)]
CAPACITIES = (10, 20, 50, 100, 500)
GIB = 2**30
FULL = {0.75: "mixed fleet", 1.0: "nearly full fleet"}

Step = tuple[Wish, float | None]  # a wish, and which of those that live then (0 to 1) goes before it


def fleet(rng: random.Random, full: float) -> list[Room]:
    """A share *full* of the clusters has lost 95 % of its places or more, in some all are gone."""
    rooms = []
    for number in range(CLUSTERS):
        most = rng.choice(CAPACITIES)
        share = rng.uniform(0.95, 1.0) if rng.random() < full else rng.uniform(0.0, 0.9)
        used = min(most, round(most * share))
        limited = rng.random() < 0.5
        cpu, memory = most * rng.choice((250, 500, 1000)), most * rng.choice((1, 2)) * GIB // 2
        rooms.append(
            Room(
                f"id-{number:04}", f"cluster-{number:04}", rng.choice(REGIONS),
                "dedicated" if rng.random() < 0.2 else "shared", "registered", most, used,
                cpu if limited else None, min(cpu, used * 250), memory if limited else None, min(memory, used * GIB // 4),
                "since 5m: no answer" if rng.random() < 0.02 else "",
            )
        )  # fmt: skip
    return rooms


def story(rng: random.Random, wishes: int) -> list[Step]:
    sizes = list(parse(DEFAULT).values())
    steps: list[Step] = []
    for _ in range(wishes):
        replicas = rng.choices((1, 2, 3, 5), (70, 15, 10, 5))[0]
        size = rng.choices(sizes, (60, 25, 10, 5))[0]
        need = Need(replicas, replicas * size.cpu_millicores, replicas * size.memory_bytes)
        region = "" if rng.random() < 1 / 3 else rng.choice(REGIONS)
        wish = Wish(need, region, "dedicated" if rng.random() < 0.2 else "shared")
        steps.append((wish, rng.random() if rng.random() < 0.9 else None))
    return steps


def ordered(rooms: list[Room]) -> tuple[Callable[[Wish], Room | None], Callable[[Room], None]]:
    pool = Pool(rooms)
    return pool.place, pool.put


def naive(rooms: list[Room]) -> tuple[Callable[[Wish], Room | None], Callable[[Room], None]]:
    known = {room.id: room for room in rooms}

    def choose(wish: Wish) -> Room | None:
        fitting = [room for room in known.values() if not why_not(room, wish)]
        return min(fitting, key=lambda room: (headroom(room), room.name, room.id), default=None)

    def put(room: Room) -> None:
        known[room.id] = room

    return choose, put


def play(
    rooms: list[Room], steps: list[Step], choose: Callable[[Wish], Room | None], put: Callable[[Room], None]
) -> tuple[list[str], float]:
    """Where each wish went ("" nowhere), and the seconds it took."""
    known = {room.id: room for room in rooms}
    where: list[str] = []
    living: list[tuple[str, Need]] = []
    began = time.perf_counter()
    for wish, leaving in steps:
        if leaving is not None and living:
            cluster_id, need = living.pop(int(leaving * len(living)))
            known[cluster_id] = room = known[cluster_id].holding(Need(*(-amount for amount in need)))
            put(room)
        found = choose(wish)
        where.append(found.id if found else "")
        if found is not None:
            known[found.id] = room = found.holding(wish.need)
            put(room)
            living.append((found.id, wish.need))
    return where, time.perf_counter() - began


def check(rooms: list[Room], steps: list[Step]) -> None:
    """Raises Wrong unless both put every gateway into the same cluster."""
    theirs, _ = play(rooms, steps, *naive(rooms))
    ours, _ = play(rooms, steps, *ordered(rooms))
    if ours != theirs:
        raise Wrong("the pool and the look at every cluster do not agree")


def measure(rounds: int) -> None:
    for full, words in FULL.items():
        taken: dict[str, list[dict[str, float]]] = {"pool": [], "naive": []}
        for seed in range(rounds):
            rng = random.Random(seed)
            rooms = fleet(rng, full)
            steps = story(rng, WISHES)
            check(rooms, steps[:COMPARED])
            for name, build, wishes in (("naive", naive, COMPARED), ("pool", ordered, WISHES)):
                with Load() as load:
                    taken[name].append(figures(rooms, steps[:wishes], *build(rooms)))
                taken[name][-1]["other_cpu"] = load.other_cpu
        ratio = median([ours["per_s"] / theirs["per_s"] for ours, theirs in zip(*taken.values(), strict=True)])
        for name, rounds_ in taken.items():
            more = {"per_s_x": ratio} if name == "pool" else {}
            emit("allocator", f"{name} {words}", clusters=CLUSTERS, rounds=rounds, **middle(rounds_), **more)


def figures(
    rooms: list[Room], steps: list[Step], choose: Callable[[Wish], Room | None], put: Callable[[Room], None]
) -> dict[str, float]:
    cpu = time.process_time()
    where, took = play(rooms, steps, choose, put)
    cpu = time.process_time() - cpu
    return {"per_s": len(steps) / took, "cpu_us": cpu / len(steps) * 1e6, "refused": where.count("") / len(steps)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    bounded(60 + 30 * a.rounds, lambda: measure(a.rounds))


if __name__ == "__main__":
    main()
