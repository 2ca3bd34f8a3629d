"""A rolling update of three real gateways: two of them answer at any moment, and one that is refused goes no further."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bounds import BOUND_S
from tests.conftest import Plane, StartPlane
from tests.peers.conftest import echo, gateways_of, mcp_client, only_instance, tool

pytestmark = pytest.mark.peer

# By itself the gateway lets anonymous callers make 600 calls a minute.
UNLIMITED = "gateway: {server: {anonymous_rate_limit_per_min: 1000000, anonymous_rate_limit_burst: 1000000}}\n"
REFUSED = "gateway: {server: {bind_address: 127.0.0.1:1}, no_such_key: 1}\n"


class Watched:
    """Asks every replica over and over whether it serves, all in one round; keeps the fewest of a round."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self.rounds = 0
        self.fewest = len(urls)
        self.failures: list[str] = []
        self._stop = asyncio.Event()

    async def _asks(self, client: httpx.AsyncClient, url: str) -> bool:
        body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        headers = {"accept": "application/json, text/event-stream"}
        try:
            health = await client.get(url.removesuffix("/mcp") + "/health")
            mcp = await client.post(url, json=body, headers=headers)
        except httpx.HTTPError as exc:
            self.failures.append(f"{url}: {exc!r}")
            return False
        if health.status_code != 200 or mcp.status_code >= 500:
            self.failures.append(f"{url}: {health.status_code}, {mcp.status_code} {mcp.text[:200]}")
            return False
        return True

    async def _run(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=BOUND_S) as client:
            while not self._stop.is_set():
                answers = await asyncio.gather(*(self._asks(client, url) for url in self.urls))
                self.fewest = min(self.fewest, sum(answers))
                self.rounds += 1

    @asynccontextmanager
    async def meanwhile(self) -> AsyncIterator[Watched]:
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            self._stop.set()
            async with asyncio.timeout(BOUND_S):
                await task


def one_each(endpoints: list[str]) -> list[str]:
    """The first replica has two names."""
    return [url for url in endpoints if "127.0.0.1" in url]


async def hashes(plane: Plane) -> dict[int, tuple[str, str]]:
    """What each replica should run, and what it said it runs."""
    return {a["replica"]: (a["assigned_hash"], a["active_hash"]) for a in (await only_instance(plane))["agents"]}


def turns(events: list[dict[str, Any]]) -> list[list[int]]:
    return [e["data"]["replicas"] for e in events if e["event"] == "applied"]


async def places(plane: Plane) -> int:
    return int((await plane.client.get("/v1/clusters")).json()[0]["gateways_running"])


async def test_three_gateways_take_a_new_config_one_by_one_while_two_always_answer(
    start_local: StartPlane, tmp_path: Path
) -> None:
    async with start_local() as plane:
        created = await plane.publish("edge-1", replicas=3, config_toml=UNLIMITED + tool("first"))
        assert created[-1]["_event"] == "ready", created[-1]["message"]
        urls = one_each(created[-1]["coords"]["endpoints"])
        pids = sorted(gateways_of(tmp_path))
        assert len(urls) == len(pids) == 3
        async with Watched(urls).meanwhile() as watched:
            updated = await plane.publish("edge-1", config_toml=UNLIMITED + tool("second"))
        assert updated[-1]["_event"] == "ready", updated[-1]["message"]
        assert turns(updated) == [[1], [2], [3]]
        assert [e["state"] for e in updated if e["event"] in ("next", "applied", "confirmed")] == [
            "confirming", "applying", "confirming", "applying", "confirming", "ready",
        ]  # fmt: skip
        assert watched.rounds > 0
        assert watched.fewest >= 2, watched.failures[:5]
        assert sorted(gateways_of(tmp_path)) == pids, "an update in place starts nothing"
        for url in urls:
            async with mcp_client(url) as session:
                assert '"from":"second"' in await echo(session)
        found = await hashes(plane)
        assert {active for _, active in found.values()} == {(await only_instance(plane))["assigned_hash"]}


async def test_a_config_that_the_gateway_refuses_stops_at_the_first_replica(
    start_local: StartPlane, tmp_path: Path
) -> None:
    async with start_local() as plane:
        created = await plane.publish("edge-1", replicas=3, config_toml=UNLIMITED + tool("first"))
        urls, before = one_each(created[-1]["coords"]["endpoints"]), await hashes(plane)
        async with Watched(urls).meanwhile() as watched:
            failed = await plane.publish("edge-1", config_toml=REFUSED)
        assert (failed[-1]["state"], failed[-1]["code"]) == ("failed", "config_rejected"), failed[-1]["message"]
        assert failed[-1]["message"].startswith("replica 1 refused config")
        assert turns(failed) == [[1]]
        assert failed[-1]["data"]["undone"][0] == "config version 1 put back on replica 1"
        assert watched.fewest >= 2, watched.failures[:5]
        assert await hashes(plane) == before
        for url in urls:
            async with mcp_client(url) as session:
                assert '"from":"first"' in await echo(session)


async def test_scaling_up_and_down_leaves_who_stays_alone_and_counts_the_room(
    start_local: StartPlane, tmp_path: Path
) -> None:
    async with start_local() as plane:
        created = await plane.publish("edge-1", replicas=1, config_toml=UNLIMITED + tool("first"))
        (first,) = gateways_of(tmp_path)
        urls = one_each(created[-1]["coords"]["endpoints"])
        async with Watched(urls).meanwhile() as watched:
            up = await plane.publish("edge-1", replicas=3)
            assert (up[-1]["_event"], await places(plane)) == ("ready", 3), up[-1]["message"]
            assert len(one_each(up[-1]["coords"]["endpoints"])) == len(gateways_of(tmp_path)) == 3
            down = await plane.publish("edge-1", replicas=2)
            assert (down[-1]["_event"], await places(plane)) == ("ready", 2), down[-1]["message"]
        assert [e["message"] for e in down if e["event"] == "applied"][-1] == "replica 3 stopped"
        left = gateways_of(tmp_path)
        assert (len(left), first in left) == (2, True)
        assert len(one_each(down[-1]["coords"]["endpoints"])) == 2
        assert (watched.fewest, watched.failures) == (1, [])
        again = await plane.publish("edge-1", config_toml=UNLIMITED + tool("second"), replicas=3)
        assert (again[-1]["_event"], turns(again)) == ("ready", [[1], [2], [3]]), again[-1]["message"]
        assert await places(plane) == 3
        for url in one_each(again[-1]["coords"]["endpoints"]):
            async with mcp_client(url) as session:
                assert '"from":"second"' in await echo(session)
