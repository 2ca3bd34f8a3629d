"""
Room in clusters is never given twice and comes back exactly: whatever is created, scaled, failed, drained and deleted at
once, on the real engine and the real store.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpg.agent.sessions import Sessions
from mcpg.engine import clusters, orphans, requests
from mcpg.engine.agents import Agents
from mcpg.engine.clusters import Registration
from mcpg.engine.core import Scope
from mcpg.engine.loop import Engine
from mcpg.engine.operation import Operation
from mcpg.engine.requests import Publish
from mcpg.engine.seed import seed
from mcpg.engine.sizes import parse
from mcpg.errors import ClusterInUse, McpgError, PermanentError, TemporaryError
from mcpg.machines.cluster import Event
from mcpg.store import reads, writes
from mcpg.store.clock import now_us
from mcpg.store.database import Database
from mcpg.store.journal import Also, table_timeout
from tests.bounds import BOUND_S
from tests.conftest import NewDatabase
from tests.engine.fakes import Scripted

WHERE = Scope("default", "default", "default")
SIZES = parse("s=1m/1,m=2m/2,l=3m/3,xl=4m/4")
NAMES = ("aa", "bb", "cc", "dd")


@asynccontextmanager
async def engine(new_database: NewDatabase, scripted: Scripted) -> AsyncIterator[Engine]:
    """An engine on a database of its own, without HTTP, with no room but in the clusters a test registers."""
    db = await Database.open(new_database())
    await seed(db, now_us, local_gateways_max=0)
    built = Engine(db, scripted, timeout=table_timeout, sizes=SIZES)
    built.fleet = Sessions(db)
    built.agents = Agents(built, enrol_base=lambda: "http://127.0.0.1")
    built.mint = built.agents.mint_for_replica
    await built.start()
    try:
        yield built
    finally:
        await built.stop()
        await db.close()


async def register(on: Engine, name: str, places: int, cpu: int | None = None, memory: int | None = None) -> None:
    wish = Registration(name, "eu", places, "shared", cpu, memory, "local", "", "", "")
    await clusters.register(on, wish, actor="test")


@dataclass(frozen=True, slots=True)
class Do:
    """One thing that somebody asks for; `fails` makes the next apply fail."""

    what: str
    name: str
    replicas: int = 1
    size: str = "s"
    fails: bool = False


async def ended(on: Engine, op: Operation) -> None:
    table = op.table
    with on.bus.follow(op.id) as lines:
        row = await reads.find_operation(on.db, op.id)
        assert row is not None
        state = row["state"]
        async with asyncio.timeout(BOUND_S):
            while state not in table.final_values and state != "paused":
                state = (await lines.get()).dest


async def act(on: Engine, scripted: Scripted, do: Do) -> None:
    """Do it and wait for its end; a refusal is an end too."""
    if do.fails:
        scripted.problems.append(PermanentError("no"))
    living = {i["name"]: i for i in await reads.instances(on.db, None)}
    holder = living.get(do.name)
    try:
        match do.what:
            case "publish":
                wish = Publish(do.name, replicas=do.replicas, size=do.size)
                await ended(on, await requests.publish(on, WHERE, wish, actor="test", key=None))
            case "delete" if holder:
                await ended(on, await requests.delete(on, WHERE, holder["id"], actor="test", key=None))
            case "adopt" if holder:
                await ended(on, await orphans.adopt(on, "default", holder["id"], "", actor="test", key=None))
            case "drain" | "undrain" | "force":
                row = await clusters.find(on, "one" if do.replicas % 2 else "two")
                if do.what == "force":
                    await clusters.decommission(on, row, force=True, actor="test")
                    await register(on, row["name"], row["gateways_max"], row["cpu_millicores_total"])
                else:
                    await clusters.move(on, row, Event(do.what), actor="test", reason="")
    except McpgError:
        pass


async def check(db: Database) -> dict[str, tuple[int, int, int]]:
    """What is held where, after proving that the counters, the reservations and the specs say the same, within limits."""
    kinds = ("gateways", "cpu_millicores", "memory_bytes")
    held = {
        row["id"]: tuple(int(row[kind]) for kind in kinds)
        for row in await db.many(
            "SELECT c.id, COALESCE(sum(r.places),0) AS gateways, COALESCE(sum(r.cpu_millicores),0) AS cpu_millicores,"
            " COALESCE(sum(r.memory_bytes),0) AS memory_bytes"
            " FROM cluster c LEFT JOIN reservation r ON r.cluster_id=c.id GROUP BY c.id"
        )
    }
    for row in await db.many("SELECT *,gateways_max AS gateways_total FROM cluster"):
        assert tuple(row[f"{kind}_used"] for kind in kinds) == held[row["id"]], "the counters are the reservations' sum"
        for kind in kinds:
            used, total = row[f"{kind}_used"], row[f"{kind}_total"]
            assert 0 <= used <= (total if total is not None else used), "never oversubscribed"
        assert row["state"] != "decommissioned" or held[row["id"]] == (0, 0, 0)
    for row in await db.many("SELECT i.*, r.places FROM instance i LEFT JOIN reservation r ON r.instance_id=i.id"):
        if row["deleted_at"] is not None or row["orphaned_at"] is not None:
            assert row["places"] is None, "who is gone or lost its cluster holds nothing"
        elif row["operation_id"] is None and row["ready_at"] is not None:
            assert row["places"] == json.loads(row["spec"])["replicas"], "who rests holds what its spec says"
    return held  # type: ignore[return-value]


PUBLISH = st.builds(
    Do, st.just("publish"), st.sampled_from(NAMES), st.integers(1, 4), st.sampled_from(list(SIZES)), st.booleans()
)
OTHERS = st.builds(
    Do,
    st.sampled_from(["delete", "delete", "adopt", "drain", "undrain", "force"]),
    st.sampled_from(NAMES),
    st.integers(1, 2),
)
STORY = st.lists(st.lists(st.one_of(PUBLISH, PUBLISH, OTHERS), min_size=1, max_size=6), min_size=1, max_size=5)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(STORY)
@pytest.mark.long
def test_room_is_never_given_twice_and_comes_back_exactly(new_database: NewDatabase, story: list[list[Do]]) -> None:
    """Each list of a story happens at once; in the end everything is deleted, and nothing is held."""

    async def live() -> None:
        scripted = Scripted()
        async with engine(new_database, scripted) as on:
            await register(on, "one", 5, cpu=12)
            await register(on, "two", 4, memory=9)
            for at_once in story:
                await asyncio.gather(*(act(on, scripted, do) for do in at_once))
                (await check(on.db))
            scripted.problems.clear()
            for row in await reads.instances(on.db, None):
                await act(on, scripted, Do("delete", row["name"]))
            assert set((await check(on.db)).values()) == {(0, 0, 0)}

    asyncio.run(live())


@pytest.mark.parametrize("more", [(2, 0, 0), (0, 3, 0), (0, 0, 4)], ids=["gateways", "cpu", "memory"])
async def test_the_statement_itself_refuses_what_is_not_there(
    new_database: NewDatabase, more: tuple[int, int, int]
) -> None:
    """Whatever a hint said. 9 of 10, 8 of 10, 7 of 10 are taken: one of the first kind is left, two, three."""
    async with engine(new_database, Scripted()) as on:
        await register(on, "one", 10, cpu=10, memory=10)
        one = (await clusters.find(on, "one"))["id"]
        await on.db.writer.execute(*writes.reserve(one, "i-1", "op-1", (9, 8, 7)))
        with pytest.raises(TemporaryError):
            await on.db.writer.execute(*writes.reserve(one, "i-2", "op-2", more))
        least = tuple(amount and amount - 1 for amount in more)
        await on.db.writer.execute(*writes.reserve(one, "i-3", "op-3", least))  # type: ignore[arg-type]
        row = await clusters.find(on, "one")
        used = tuple(row[f"{kind}_used"] for kind in ("gateways", "cpu_millicores", "memory_bytes"))
        assert used == tuple(a + b for a, b in zip((9, 8, 7), least, strict=True))


async def test_gateways_that_grow_at_once_do_not_grow_beyond_their_cluster(new_database: NewDatabase) -> None:
    scripted = Scripted()
    async with engine(new_database, scripted) as on:
        await register(on, "one", 10, cpu=7)
        for name in NAMES:
            await act(on, scripted, Do("publish", name, 1, "s"))
        await asyncio.gather(*(act(on, scripted, Do("publish", name, 1, "xl")) for name in NAMES))
        assert (4, 7, 7) in (await check(on.db)).values(), "one of four found the three that were left"


async def test_a_failed_update_gives_back_what_it_took_and_keeps_what_there_was(new_database: NewDatabase) -> None:
    scripted = Scripted()
    async with engine(new_database, scripted) as on:
        await register(on, "one", 10, cpu=100, memory=100)
        await act(on, scripted, Do("publish", "aa", 2, "m"))
        before = await check(on.db)
        assert (2, 4, 4) in before.values()
        await act(on, scripted, Do("publish", "aa", 3, "xl", fails=True))
        assert (await check(on.db)) == before


async def test_a_smaller_size_is_given_back_when_it_is_ready(new_database: NewDatabase) -> None:
    """While it is under way the gateway holds the larger of both, of each kind."""
    scripted = Scripted()
    async with engine(new_database, scripted) as on:
        await register(on, "one", 10, cpu=100, memory=100)
        await act(on, scripted, Do("publish", "aa", 1, "xl"))
        scripted.hold, scripted.entered = asyncio.Event(), asyncio.Event()
        update = asyncio.create_task(act(on, scripted, Do("publish", "aa", 3, "s")))
        await scripted.entered.wait()
        assert (3, 4, 4) in (await check(on.db)).values()
        scripted.hold.set()
        await update
        assert (3, 3, 3) in (await check(on.db)).values()


async def test_a_gateway_keeps_what_its_size_took_when_the_classes_change(new_database: NewDatabase) -> None:
    scripted = Scripted()
    async with engine(new_database, scripted) as on:
        await register(on, "one", 10, cpu=100)
        await act(on, scripted, Do("publish", "aa", 1, "s"))
        on.sizes = parse("s=10m/10,m=20m/20,l=30m/30,xl=40m/40")
        await ended(on, await requests.publish(on, WHERE, Publish("aa", replicas=2), actor="test", key=None))
        assert (2, 2, 2) in (await check(on.db)).values()
        await act(on, scripted, Do("publish", "aa", 2, "s"))
        assert (2, 20, 20) in (await check(on.db)).values()


async def test_a_hint_that_was_wrong_costs_one_more_look(new_database: NewDatabase) -> None:
    """The pool believes there is room where there is none: the database decides, and the next cluster is tried."""
    scripted = Scripted()
    async with engine(new_database, scripted) as on:
        await register(on, "one", 2)
        await register(on, "two", 3)
        await act(on, scripted, Do("publish", "aa", 1))
        await on.db.writer.execute(Also("UPDATE cluster SET gateways_max=1 WHERE name='one'"))
        await act(on, scripted, Do("publish", "bb", 1))
        homes = {i["name"]: i["cluster"] for i in await reads.instances(on.db, None)}
        assert homes == {"aa": "one", "bb": "two"}


async def test_a_cluster_that_is_drained_while_a_create_chooses_it_is_not_used(new_database: NewDatabase) -> None:
    """A create and a drain at once: either way, no gateway is placed after the drain's line."""
    scripted = Scripted()
    async with engine(new_database, scripted) as on:
        await register(on, "one", 50)
        row = await clusters.find(on, "one")
        drain = clusters.move(on, row, Event.DRAIN, actor="test", reason="")
        await asyncio.gather(*(act(on, scripted, Do("publish", f"n{i}", 1)) for i in range(8)), drain)
        lines = await on.db.rows(
            "SELECT id,event,subject FROM journal WHERE (machine='cluster' AND event='drain') OR event='reserved' ORDER BY id"
        )
        assert lines[-1]["event"] == "drain"
        (await check(on.db))


async def test_a_create_that_races_a_decommission_loses_or_the_decommission_does(new_database: NewDatabase) -> None:
    """Never both: a gateway in a cluster that is gone. Tried often, with both orders seen."""
    scripted = Scripted()
    outcomes = set()
    async with engine(new_database, scripted) as on:
        accepted = asyncio.Event()
        on.db.writer.listen(lambda line: accepted.set() if line.event == "accept" else None)
        for number in range(40):
            await register(on, "one", 5)
            row = await clusters.find(on, "one")
            accepted.clear()
            create = asyncio.create_task(act(on, scripted, Do("publish", "aa", 1)))
            await accepted.wait()
            for _ in range(number % 20):  # its reservation is written some turns of the loop, or some answers, later
                await asyncio.sleep(0)
                await on.db.one("SELECT 1")
            try:
                await clusters.decommission(on, row, force=False, actor="test")
                decommissioned = True
            except ClusterInUse:
                decommissioned = False
            await create
            living = await reads.find_live_name(on.db, "aa")
            assert (living is None) == decommissioned
            (await check(on.db))
            outcomes.add(decommissioned)
            if living is not None:
                await act(on, scripted, Do("delete", "aa"))
                await clusters.decommission(on, row, force=False, actor="test")
    assert outcomes == {True, False}
