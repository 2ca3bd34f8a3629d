"""
`make soak`: hundreds of operations against control planes that are killed, frozen and cut off, and an inspection afterwards.

Clients create, update, scale and delete gateways, each request with an Idempotency-Key, asked again until it is answered,
each ladder followed to its end over every interruption. Meanwhile a hand at random kills -9 control planes and gateways,
freezes control planes, and cuts the network between them and a PostgreSQL. Then it stops, everything comes to rest, and
tests/crash/invariants.py looks at the database, the processes and the disk; every gateway is deleted, and it looks again.
A seed decides what is done; time decides the rest.

    python -m tools.soak --seed 7 --operations 500
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.bounds import BOUND_S
from tests.conftest import ROOT
from tests.crash.invariants import broken, read
from tests.crash.world import PLACE, PLAIN, Site, Zygote, gateways, killed_ones
from tests.postgres import Server as Database
from tests.postgres import serving
from tools.soak_ask import Unanswered, frames, json_of
from tools.soak_net import Wire

ECHO = (ROOT / "examples/echo.yaml").read_text()
CLIENTS = 6  # that ask at the same time
NAMES = 14  # gateways that they ask for
LONGEST = BOUND_S  # anything may take to come to rest, on a busy machine
STARTS = 20
AGAIN_S = 0.2  # before a request that was not answered is sent again


@dataclass
class Told:
    """What clients were told: `operations` by key; the seqs each saw of its own; and what was seen of all, in order."""

    operations: dict[str, str] = field(default_factory=dict)
    otherwise: dict[str, str] = field(
        default_factory=dict
    )  # by key, what was answered the second time, when not the same
    paused: set[str] = field(default_factory=set)
    ladders: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    everything: list[tuple[int, str, int]] = field(default_factory=list)  # journal id, operation, seq


class Soak:
    """`wires` lie between control planes and their database, one each, in their order; none with SQLite."""

    def __init__(self, sites: list[Site], wires: list[Wire], seed: int, operations: int, seconds: float) -> None:
        self.sites = sites
        self.wires = wires
        self.left = operations
        self.began = time.monotonic()
        self.ends_at = self.began + seconds
        self.random = random.Random(seed)  # noqa: S311 - a seed is the point
        self.told = Told()
        self.tally: Counter[str] = Counter()
        self.trouble: list[str] = []
        self.calm = asyncio.Event()
        self.is_over = False

    # ---- the clients

    async def client(self, number: int) -> None:
        chance = random.Random(self.random.random())  # noqa: S311
        while self.left > 0 and time.monotonic() < self.ends_at:
            self.left -= 1
            name, key = f"gw-{chance.randrange(NAMES)}", f"key-{number}-{self.left}"
            wish = chance.choices(("create", "scale", "delete"), (5, 2, 3))[0]
            if wish == "delete":
                await self.delete(key, name)
            elif wish == "scale":
                await self.publish(key, {"name": name, "replicas": chance.choice((1, 2))})
            else:
                config = f"{ECHO}# {chance.randrange(4)}\n" if chance.random() > 0.05 else "gateway: {no_such_key: 1}"
                await self.publish(key, {"name": name, "config_toml": config}, cancel=chance.random() < 0.1)

    async def publish(self, key: str, body: dict[str, Any], *, cancel: bool = False) -> None:
        await self.ask(key, "POST", f"{PLACE}/gateways", body, cancel=cancel)

    async def delete(self, key: str, name: str) -> None:
        instances = await self.patiently(lambda client: json_of(client, "/v1/orgs/default/instances"))
        uid = next((i["instance_uid"] for i in instances if i["name"] == name), "")
        if uid:
            await self.ask(key, "DELETE", f"{PLACE}/gateways/{uid}")
        else:
            self.tally["nothing to delete"] += 1

    async def ask(self, key: str, method: str, path: str, body: Any = None, *, cancel: bool = False) -> None:
        """Until it is answered: accepted, and then followed to where it rests; or refused."""

        async def once(client: httpx.AsyncClient) -> tuple[str, dict[str, Any]]:
            async with client.stream(method, path, json=body, headers={"Idempotency-Key": key}) as answer:
                if answer.status_code == 200:
                    return str(answer.headers["x-operation-id"]), {}
                refusal = json.loads(await answer.aread())
                if answer.status_code >= 500:
                    if answer.status_code != 503:
                        self.trouble.append(f"{method} {path}: {answer.status_code} {refusal}")
                    raise Unanswered
                return "", dict(refusal)

        operation, refusal = await self.patiently(once)
        if not operation:
            self.tally[f"refused: {refusal.get('code')}"] += 1
            return
        self.told.operations[key] = operation
        again, refusal = await self.patiently(once)  # as a client that never saw the answer
        if again != operation:
            self.told.otherwise[key] = again or str(refusal)
        if cancel:
            await self.patiently(lambda client: json_of(client, f"/v1/operations/{operation}/cancel", "POST"))
        state = await self.follow(operation, key)
        self.tally[f"{method.lower()}: {state}"] += 1

    async def follow(self, operation: str, key: str) -> str:
        """Every line, over every interruption, none missed and none twice; the state it rests in."""
        seqs = self.told.ladders.setdefault((operation, key), [])
        last = 0
        state = ""
        while not state:

            async def events(client: httpx.AsyncClient, after: int = last) -> tuple[int, str]:
                seen, rests = after, ""
                headers = {"Last-Event-ID": str(after)} if after else {}
                try:
                    async for event, data, number in frames(client, f"/v1/operations/{operation}/events", headers):
                        if event == "end":
                            rests = str(data["state"])
                        else:
                            seen = int(number)
                            seqs.append(seen)
                except httpx.HTTPError:
                    if seen == after:
                        raise
                return seen, rests

            last, state = await self.patiently(events)
        if state == "paused":  # who follows it has seen it rest; it was resumed later
            self.told.paused.add(operation)
        return state

    async def watch(self) -> None:
        """`/v1/events` from the first line to the last, over every interruption."""
        after = ""
        while not self.is_over:
            site = self.random.choice(self.sites)
            headers = {"Last-Event-ID": after} if after else {}
            with suppress(httpx.HTTPError):
                async with httpx.AsyncClient(
                    base_url=site.url, timeout=LONGEST, trust_env=False, verify=PLAIN
                ) as client:
                    async for event, data, number in frames(client, "/v1/events", headers):
                        after = number or after
                        if event:
                            self.told.everything.append((int(number), data["operation_id"], data["seq"]))
            await asyncio.sleep(AGAIN_S)

    async def patiently(self, once: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        """*once*, at one control plane or another, until one answers."""
        async with asyncio.timeout(LONGEST):
            while True:
                site = self.random.choice(self.sites)
                try:
                    async with httpx.AsyncClient(
                        base_url=site.url, timeout=LONGEST / 2, trust_env=False, verify=PLAIN
                    ) as client:
                        return await once(client)
                except (httpx.HTTPError, Unanswered):
                    self.tally["asked again"] += 1
                    await asyncio.sleep(AGAIN_S)

    # ---- what goes wrong

    async def chaos(self) -> None:
        """One thing after another until it is time to calm down; whatever it broke then is whole again."""
        what = {"kill": 5, "freeze": 2, "kill a gateway": 3} | (
            {"reset": 2, "refuse": 2, "stall": 2} if self.wires else {}
        )
        while not self.calm.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self.random.uniform(0.1, 1.5)):
                    await self.calm.wait()
            [mischief] = self.random.choices(list(what), list(what.values()))
            site = self.random.choice(self.sites)
            match mischief:
                case "kill":
                    if site.is_running:
                        await site.kill()
                        await asyncio.sleep(self.random.uniform(0, 0.3))
                    await self.start(site)
                case "freeze":
                    with suppress(ProcessLookupError):
                        os.kill(site.pid, signal.SIGSTOP)
                        await asyncio.sleep(self.random.uniform(0.1, 1.0))
                        os.kill(site.pid, signal.SIGCONT)
                case "reset" | "refuse" | "stall":
                    wire = self.random.choice(self.wires)
                    getattr(wire, mischief)()
                    await asyncio.sleep(self.random.uniform(0.1, 1.5))
                    wire.heal()
                case _:
                    running = gateways(site.gateways_dir)
                    if not running:
                        continue
                    pid, _ = self.random.choice(running)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            self.tally[f"chaos: {mischief}"] += 1

    async def start(self, site: Site) -> None:
        """As a supervisor does: once more when it refuses to start, which it may while its database is away."""
        for _ in range(STARTS):
            if site.is_running or await site.start():
                return
            self.tally["a start refused"] += 1
        self.trouble.append(f"a control plane did not start again:\n{site.said[-2000:]}")

    # ---- the whole

    async def run(self) -> None:
        for site in self.sites:
            await self.start(site)
        watching = asyncio.create_task(self.watch())
        storm = asyncio.create_task(self.chaos())
        try:
            await asyncio.gather(*(self.client(number) for number in range(CLIENTS)))
            self.calm.set()
            await storm
            await self.inspect("at rest")
            for instance in await self.sites[0].call("GET", "/v1/orgs/default/instances"):
                await self.ask(f"last-{instance['name']}", "DELETE", f"{PLACE}/gateways/{instance['instance_uid']}")
            await self.inspect("deleted")
            tables = await read(self.sites[0])
            self.trouble += [f"reservation left: {row}" for row in tables["reservation"]]
            self.trouble += [f"{mark} still runs as {pid}" for pid, mark in gateways(self.sites[0].gateways_dir)]
            for key, answer in self.told.otherwise.items():
                self.trouble.append(f"key {key} was told {self.told.operations[key]}, and asked again {answer}")
            self.tally["joined a running operation"] += len(tables["joined_key"])
            await self.compare(tables["journal"])
        finally:
            self.is_over = True
            await _ended(storm)
            await _ended(watching)
            for site in self.sites:
                with suppress(ProcessLookupError):
                    os.kill(site.pid, signal.SIGCONT)
                if site.is_running:
                    await site.kill()
                killed_ones(site.gateways_dir)

    def report(self) -> None:
        print(f"{len(self.told.operations)} operations acknowledged in {time.monotonic() - self.began:.0f} s")
        for what, count in sorted(self.tally.items()):
            print(f"  {count:5} {what}")
        for words in self.trouble:
            print(f"WRONG: {words}")

    async def inspect(self, when: str) -> None:
        """Once everything rests; what paused is resumed, for nothing hinders it any more."""
        for _ in range(3):
            paused = [op["id"] for op in await self.sites[0].settled() if op["state"] == "paused"]
            self.tally["paused, and resumed"] += len(paused)
            for operation in paused:
                await self.sites[0].call("POST", f"/v1/operations/{operation}/resume", {"reason": "the storm is over"})
            if not paused:
                break
        else:
            self.trouble.append(f"{when}: still paused: {paused}")
        self.sites[0].acked |= self.told.operations
        ends, wrong = time.monotonic() + LONGEST / 2, [""]
        while wrong and time.monotonic() < ends:  # an end may be seen by another control plane, at its next look round
            await self.sites[0].settled()
            wrong = await broken(self.sites[0])
        self.trouble += [f"{when}: {words}" for words in wrong]

    async def compare(self, journal: list[dict[str, Any]]) -> None:
        """What was shown is what was written: each line once."""
        lines = {(row["id"], row["subject"], row["seq"]) for row in journal if row["machine"] in _OPERATIONS}
        async with asyncio.timeout(LONGEST):
            while len(self.told.everything) < len(lines):  # noqa: ASYNC110 - the last of them are on their way
                await asyncio.sleep(AGAIN_S)
        if len(self.told.everything) != len(lines) or set(self.told.everything) != lines:
            twice = [line for line, count in Counter(self.told.everything).items() if count > 1]
            self.trouble.append(f"/v1/events: {len(lines - set(self.told.everything))} missed, {len(twice)} twice")
        for (operation, _), seqs in self.told.ladders.items():
            written = sorted(seq for _, subject, seq in lines if subject == operation)
            if seqs != written[: len(seqs)] or (operation not in self.told.paused and seqs != written):
                self.trouble.append(f"{operation}: shown {seqs}, written {written}")


_OPERATIONS = {"provision", "teardown", "recovery"}


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancelled and over; what it raised by itself is raised here."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def soak(given: argparse.Namespace, folder: Path, zygote: Zygote, database: Database | None) -> Soak:
    """The whole: control planes on *database*, each behind a wire of its own, or one on SQLite."""
    quick: dict[str, Any] = {"stop_grace_s": 2.0, "recovery_soak_s": 0.5, "recovery_pause_s": 1.0}
    async with AsyncExitStack() as stack:
        sites: list[Site] = []
        wires: list[Wire] = []
        direct = "" if database is None else database.fresh()
        for number in range(1 if database is None else given.replicas):
            url = direct
            if database is not None:
                wires.append(await stack.enter_async_context(Wire(("127.0.0.1", database.port))))
                url = direct.replace(f":{database.port}/", f":{wires[-1].port}/")
                quick["gateways_dir"] = str(folder / "gateways")
            (folder / f"{number}/state").mkdir(mode=0o700, parents=True)
            site = Site(zygote, folder / str(number), url, provisioner="local", local_gateways_max=3 * NAMES, **quick)
            site.inspected_url = direct
            sites.append(site)
        whole = Soak(sites, wires, given.seed, given.operations, given.seconds)
        try:
            await whole.run()
        finally:
            whole.report()
        return whole


def options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=str(__doc__).strip().splitlines()[0])
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="what is asked and broken")
    parser.add_argument("--operations", type=int, default=500, help="requests in all")
    parser.add_argument("--seconds", type=float, default=900.0, help="no request is begun after these")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite", help="postgres: cut off, too")
    parser.add_argument("--replicas", type=int, default=3, help="control planes on one PostgreSQL")
    parser.add_argument("--keep", action="store_true", help="keep the directory, also when all is well")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    given = options(argv)
    print(f"soak: seed {given.seed}, {given.operations} operations, {given.database}")
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    zygote = Zygote()
    try:
        with serving() if given.database == "postgres" else nullcontext() as database:
            whole = asyncio.run(soak(given, folder, zygote, database))
    finally:
        zygote.close()
    if whole.trouble or given.keep:
        print(f"seed {given.seed}; everything is in {folder}")
    else:
        shutil.rmtree(folder)
        print("nothing lost, nothing left, nothing twice")
    return 1 if whole.trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
