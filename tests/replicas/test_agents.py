"""Agents among several control planes: a channel counts wherever it is open, and is minded by who holds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from mcpg.engine.clocks import ORPHANED_S
from mcpg.machines.enrolment import STALE_AFTER_S, Event
from mcpg.store import reads
from mcpg.store.journal import Also, Line
from tests.agent.conftest import Gateway, Paper, Stream, ask_operator, mint, settled, status_of
from tests.bounds import BOUND_S
from tests.replicas.conftest import Replica, Start, time_passes

Dial = Callable[[Replica], Gateway]


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Makes gateways that dial the replica they are given."""
    made: list[Gateway] = []

    def to(replica: Replica) -> Gateway:
        made.append(Gateway(replica.grpc))
        return made[-1]

    yield to
    for one in made:
        await one.channel.close()


async def online(replica: Replica, one: Gateway) -> Stream:
    await one.register(await mint(replica))
    stream = await one.connect()
    await settled(replica, one.agent_id, "online")
    return stream


async def row_of(replica: Replica, one: Gateway) -> dict[str, Any]:
    row = await reads.find_agent(replica.db, one.agent_id)
    assert row is not None
    return row


async def held_by(replica: Replica, one: Gateway, epoch: str | None) -> None:
    async def look() -> bool:
        return bool((await row_of(replica, one))["session_epoch"] == epoch)

    await replica.until(look, f"its channel is held by {epoch}", BOUND_S)


async def silent_for(replica: Replica, one: Gateway, seconds: float) -> None:
    """As if nothing had been heard of it for so long, and every replica had been there all the time."""
    then = replica.engine.clock() - int(seconds * 1e6)
    await replica.db.writer.execute(
        Also("UPDATE agent SET last_seen_at=?,updated_at=? WHERE id=?", (then, then, one.agent_id))
    )


async def cut_off(stream: Stream) -> grpc.StatusCode:
    """How its channel was ended, whatever it was told before."""
    while True:
        try:
            await stream.hear()
        except grpc.aio.AioRpcError as end:
            return end.code()


async def events_of(replica: Replica, one: Gateway) -> list[str]:
    return [line.event for line in await reads.history(replica.db, one.agent_id)]


async def test_a_channel_counts_wherever_it_is_open(replicas: Start, dial: Dial) -> None:
    first, second = await replicas(2)
    one = dial(first)
    stream = await online(first, one)
    await held_by(second, one, first.epoch)
    await second.engine.leases._see_replicas()
    row = await row_of(second, one)
    assert not second.control.sessions.is_live(one.agent_id)
    assert second.control.sessions.is_connected(row)
    assert await second.control.sessions.connected(row["instance_id"]) == 1
    shown = (await second.client.get("/v1/instances")).json()[0]["agents"][0]
    assert shown["connected"] is True
    stream.call.cancel()
    await held_by(second, one, None)
    assert await second.control.sessions.connected(row["instance_id"]) == 0


async def test_what_was_connected_to_a_replica_that_died_is_not_connected(replicas: Start, dial: Dial) -> None:
    first, second = await replicas(2)
    one = dial(first)
    await online(first, one)
    await held_by(second, one, first.epoch)
    first.crash()
    await time_passes(second, first.epoch)
    assert not second.control.sessions.is_connected(await row_of(second, one))


async def enrolled(first: Replica, second: Replica, paper: Paper, dial: Dial) -> tuple[str, Stream]:
    """A create on the first replica, and its gateway's stream to the second."""
    operation = await first.ask("edge-1")
    async with asyncio.timeout(BOUND_S):
        uid, token = await paper.tokens.get()
    one = dial(second)
    await one.register(token, uid)
    return operation, await one.connect()


async def test_a_provision_is_confirmed_by_agents_of_another_replica(replicas: Start, dial: Dial) -> None:
    """Who drives it did not hear the acknowledgement: it is told that there is something to see, and looks."""
    papers = [Paper(), Paper()]
    first, second = await replicas(2, given=papers)
    operation, stream = await enrolled(first, second, papers[0], dial)
    update = await stream.hear_config()
    await stream.ack(update.config_hash)
    assert (await first.sees(operation, "ready"))["lease_owner"] is None
    assert operation not in second.engine._drivers


async def test_a_new_config_is_pushed_where_the_gateway_is_connected(replicas: Start, dial: Dial) -> None:
    papers = [Paper(), Paper()]
    first, second = await replicas(2, given=papers)
    operation, stream = await enrolled(first, second, papers[0], dial)
    old = await stream.hear_config()
    await stream.ack(old.config_hash)
    await first.sees(operation, "ready")
    update = await first.ask("edge-1", config_toml="logging: {level: debug}\n")
    new = await stream.hear_config()
    assert new.config_hash != old.config_hash
    await stream.ack(new.config_hash)
    await first.sees(update, "ready")


async def test_a_delete_cuts_the_channel_wherever_it_is_and_waits_for_that(replicas: Start, dial: Dial) -> None:
    """The provisioner here ends nothing, as if the gateway would not die: its channel is cut by who holds it."""
    papers = [Paper(), Paper()]
    first, second = await replicas(2, given=papers)
    operation, stream = await enrolled(first, second, papers[0], dial)
    await stream.ack((await stream.hear_config()).config_hash)
    instance = (await first.sees(operation, "ready"))["instance_id"]
    events = await first.delete(instance)
    assert events[-1]["state"] == "deleted"
    assert await cut_off(stream) == grpc.StatusCode.PERMISSION_DENIED


async def test_a_quarantine_cuts_the_channel_wherever_it_is(replicas: Start, dial: Dial) -> None:
    first, second = await replicas(2)
    one = dial(second)
    stream = await online(second, one)
    await ask_operator(first, one.agent_id, Event.QUARANTINE)
    assert await cut_off(stream) == grpc.StatusCode.PERMISSION_DENIED


async def test_a_quarantine_that_is_heard_after_the_revive_cuts_nothing(
    replicas: Start, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its line is another replica's, and the feed brings it late: revive and channel are of here, and newer."""
    first, second = await replicas(2)
    one = dial(second)
    old = await online(second, one)
    told = second.db.writer.listeners.heard
    late: list[Line] = []
    monkeypatch.setattr(second.db.writer.listeners, "heard", late.append)
    await ask_operator(first, one.agent_id, Event.QUARANTINE)

    async def read() -> bool:
        return [line.event for line in late] == ["quarantine"]

    await second.until(read, "the feed has read it", BOUND_S)
    await ask_operator(second, one.agent_id, Event.REVIVE)
    new = await one.connect()
    assert await cut_off(old) == grpc.StatusCode.ABORTED
    monkeypatch.undo()
    told(late[0])
    session = second.control.sessions.of(one.agent_id)
    assert session is not None
    assert session.outbox.empty()
    await ask_operator(first, one.agent_id, Event.QUARANTINE)
    assert await cut_off(new) == grpc.StatusCode.PERMISSION_DENIED


async def test_a_clone_with_older_credentials_is_refused_by_every_replica(replicas: Start, dial: Dial) -> None:
    """The newer one is connected to the first; the older one tries the second: it keeps its credentials and backs off."""
    first, second = await replicas(2)
    clone, token = dial(second), await mint(first)
    await clone.register(token)
    one = dial(first)
    await one.register(token)
    assert one.agent_id == clone.agent_id
    await one.connect()
    await held_by(second, one, first.epoch)
    await second.engine.leases._see_replicas()
    assert await status_of(_end(clone)) == grpc.StatusCode.PERMISSION_DENIED
    assert second.control.sessions.clones_refused == 1


async def _end(one: Gateway) -> None:
    stream = one.dial()
    async with asyncio.timeout(BOUND_S):
        await stream.hear()


async def test_a_gateway_that_connects_to_another_replica_leaves_the_first(replicas: Start, dial: Dial) -> None:
    first, second = await replicas(2)
    one = dial(first)
    old = await online(first, one)
    other = dial(second)
    other.jwt, other.agent_id = one.jwt, one.agent_id
    await other.connect()
    await held_by(first, one, second.epoch)
    await first.engine.leases._see_replicas()
    await first.control.sessions.settle()
    assert await cut_off(old) == grpc.StatusCode.ABORTED
    await first.engine.agents.sweep()
    assert (await row_of(first, one))["session_epoch"] == second.epoch  # the end of the old channel is not its end


async def test_an_agent_of_a_dead_replica_is_missed_once(replicas: Start, dial: Dial) -> None:
    """Its clock died with its replica: each other one finds it by its sweep, and one of them moves it."""
    first, second, third = await replicas(3)
    one = dial(first)
    await online(first, one)
    await held_by(second, one, first.epoch)
    first.crash()
    await time_passes(second, first.epoch)
    await time_passes(third, first.epoch)
    await silent_for(second, one, STALE_AFTER_S + ORPHANED_S + 1)
    for replica in (second, third):
        replica.engine.agents._clocks._began = 0
    await asyncio.gather(second.engine.agents.sweep(), third.engine.agents.sweep())
    assert await events_of(second, one) == ["register", "channel_opened", "missed"]


async def test_the_journal_never_says_missed_of_an_agent_that_is_connected_elsewhere(
    replicas: Start, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens its channel between the look of who would call it silent and the write: the write is refused."""
    first, second = await replicas(2)
    one = dial(first)
    stream = await online(first, one)
    stream.call.cancel()
    await held_by(second, one, None)
    await silent_for(first, one, STALE_AFTER_S + ORPHANED_S + 1)
    first.engine.agents._clocks._began = 0
    first.engine.agents._clocks.forget(one.agent_id)
    silent_agents = reads.silent_agents
    other = dial(second)
    other.jwt, other.agent_id = one.jwt, one.agent_id

    async def read_then_connect(*args: Any) -> list[dict[str, Any]]:
        found = await silent_agents(*args)
        if args[0] is first.db:
            assert [row["id"] for row in found] == [one.agent_id]
            await other.connect()
            await held_by(second, one, second.epoch)
        return found

    monkeypatch.setattr("mcpg.store.reads.silent_agents", read_then_connect)
    await first.engine.agents.sweep()
    assert await events_of(first, one) == ["register", "channel_opened"]


async def test_silence_is_counted_from_when_a_replica_could_have_listened(replicas: Start, dial: Dial) -> None:
    """All were away, for longer than any agent may be silent: whoever starts calls none of them silent for that."""
    [first] = await replicas(1)
    one = dial(first)
    stream = await online(first, one)
    stream.call.cancel()
    await held_by(first, one, None)
    first.engine.agents._clocks.forget(one.agent_id)
    await silent_for(first, one, 3600)
    [second] = await replicas(1)
    await second.engine.agents.sweep()
    assert await events_of(second, one) == ["register", "channel_opened"]


async def test_lesson_9_a_replica_that_can_start_gateways_again_says_so_by_itself(replicas: Start) -> None:
    """A cluster that one look found unreachable is reachable after the next good one, whichever replica made it."""
    papers = [Paper(), Paper()]
    first, second = await replicas(2, given=papers)

    async def cannot() -> str:
        return "no programme to start"

    papers[0].reach = cannot  # type: ignore[method-assign]
    await first.engine.reach.look()
    assert (await second.client.get("/v1/clusters")).json()[0]["reachable"] is False
    await second.engine.reach.look()
    assert (await first.client.get("/v1/clusters")).json()[0]["reachable"] is True
