"""
Creates per second through the real API: POST …/gateways, its ladder read to `ready`, with the no-op provisioner.

`mcpg-ctl serve` in a process of its own; the client here keeps 1 or 32 requests in flight on kept-alive connections. The
reference is the least that a durable POST can be, served and asked in the same way, in turns: a Sanic route that commits
one row to SQLite (synchronous=FULL) and answers. A create is four commits, five journal lines and a stream of events.

Afterwards the server is asked: as many gateways as were acknowledged, all ready, every place accounted for.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx

from benchmarks.measure import (
    PYTHON,
    Load,
    Wrong,
    bounded,
    clean_environment,
    emit,
    median,
    middle,
    quantile,
    scratch,
    tree_cpu_s,
)
from benchmarks.serving import serve

IN_FLIGHT = (1, 32)
PLACES = 1_000_000
MAX_CREATES = 50_000  # of one round, whatever its time
GATEWAYS = "/v1/orgs/default/workspaces/default/environments/default/gateways"
WARM_UP = 20

Post = Callable[[httpx.AsyncClient, int], Awaitable[None]]


async def create(client: httpx.AsyncClient, number: int) -> None:
    """One gateway, read to the end of its ladder. Raises Wrong unless that is `ready`."""
    answer = await client.post(GATEWAYS, json={"name": f"bench-{number}"})
    if answer.status_code != 200 or "\nevent: ready\n" not in answer.text:
        raise Wrong(f"bench-{number}: {answer.status_code} {answer.text[-300:]}")


async def bare(client: httpx.AsyncClient, number: int) -> None:
    answer = await client.post("/", json={"name": f"bench-{number}"})
    if answer.status_code != 200:
        raise Wrong(f"the reference answered {answer.status_code}")


async def drive(url: str, pid: int, post: Post, in_flight: int, seconds: float) -> dict[str, float]:
    """*in_flight* requests at any time for *seconds*; figures of those that were answered."""
    numbers, took = itertools.count(), list[float]()
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=limits) as client:
        for _ in range(WARM_UP):
            await post(client, next(numbers))
        cpu, wall = tree_cpu_s(pid), time.perf_counter()
        end = wall + seconds

        async def call() -> None:
            while (began := time.perf_counter()) < end and len(took) < MAX_CREATES:
                await post(client, next(numbers))
                took.append(time.perf_counter() - began)

        await asyncio.gather(*(call() for _ in range(in_flight)))
        wall, cpu = time.perf_counter() - wall, tree_cpu_s(pid) - cpu
        if post is create:
            await check(client, len(took) + WARM_UP)
    return {
        "per_s": len(took) / wall, "server_cpu_ms": cpu / len(took) * 1e3, "p50_ms": median(took) * 1e3,
        "p99_ms": quantile(took, 0.99) * 1e3, "creates": len(took),
    }  # fmt: skip


async def check(client: httpx.AsyncClient, created: int) -> None:
    """Raises Wrong unless the server has what it acknowledged."""
    [cluster] = (await client.get("/v1/clusters")).json()
    ready = sum(m["rows"]["ready"] for m in (await client.get("/v1/machines")).json() if m["name"] == "provision")
    if not ready == cluster["gateways_running"] == cluster["gateways"] == created:
        raise Wrong(f"{created} were acknowledged; {ready} are ready, {cluster['gateways_running']} places are taken")


@contextlib.contextmanager
def reference(directory: Path) -> Iterator[tuple[str, int]]:
    """The bare route in a process of its own: its URL and pid. Ended in any case."""
    argv = [str(PYTHON), "-m", "benchmarks.bare_post", str(directory / "bare.db")]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=sys.stderr, env=clean_environment(), text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise Wrong("the reference did not start")
        yield url, process.pid
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def ours(directory: Path) -> Iterator[tuple[str, int]]:
    with serve(directory, "--provisioner", "noop", "--local-gateways-max", str(PLACES)) as served:
        yield served.url, served.pid
        served.stop()


def measure(rounds: int, seconds: float) -> None:
    """Both sides in turn for every number in flight; medians, and the median of the rounds' own ratios."""
    sides = {"bare": ("POST conc={}", reference, bare), "api": ("create conc={}", ours, create)}
    taken: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for in_flight in IN_FLIGHT:
            for bench, (case, start, post) in sides.items():
                with scratch() as directory, start(directory) as (url, pid), Load() as load:
                    figures = asyncio.run(drive(url, pid, post, in_flight, seconds))
                taken.setdefault((bench, case.format(in_flight)), []).append(figures | {"other_cpu": load.other_cpu})
    for (bench, case), figures_ in taken.items():
        beside = taken["bare", case.replace("create", "POST")]
        ratio = median([mine["per_s"] / theirs["per_s"] for mine, theirs in zip(figures_, beside, strict=True)])
        emit(bench, case, rounds=rounds, **middle(figures_), per_s_x=ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one round of one side")
    a = parser.parse_args()
    bounded(60 + int(a.rounds * 4 * (a.seconds + 20)), lambda: measure(a.rounds, a.seconds))


if __name__ == "__main__":
    main()
