"""Silence and its consequences, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mcpg.agent.pb import agent_pb2 as pb
from mcpg.agent.tokens import LIFE_S
from mcpg.machines.enrolment import Event
from tests.agent.conftest import Core, Gateway, Stream, ask_operator, settled, the_agent

Make = Callable[..., Gateway]
DAY_US = 86400 * 1_000_000


async def online(core: Core, one: Gateway) -> Stream:
    await one.register(await core.mint())
    stream = await one.connect()
    await settled(core, one.agent_id, "online")
    return stream


def _live(core: Core, one: Gateway) -> Callable[[], Any]:
    async def look() -> bool:
        return core.sessions.is_live(one.agent_id)

    return look


async def hung_up(core: Core, one: Gateway, stream: Stream) -> None:
    stream.call.cancel()

    async def gone() -> bool:
        return not core.sessions.is_live(one.agent_id)

    await core.until(gone, "the channel is closed")


async def state(core: Core, one: Gateway) -> str:
    await core.quiet()
    return str((await the_agent(core, one.agent_id))["state"])


async def test_silence_makes_stale_then_departed(core: Core, dial: Make) -> None:
    """90 s after the last sign of life an agent is stale, after 300 s departed; the journal says how long it was so."""
    one = dial(core.grpc)
    await hung_up(core, one, await online(core, one))
    seen = []
    for seconds in (89.9, 0.2, 209.7, 0.3):
        await core.advance(seconds)
        seen.append(await state(core, one))
    assert seen == ["online", "stale", "stale", "departed"]
    assert [line.reason for line in core.lines[-2:]] == ["nothing heard for 90 s", "nothing heard for 300 s"]


async def test_one_that_is_online_was_seen_also_by_who_starts_after_a_kill(core: Core, dial: Make) -> None:
    """What was heard is flushed after a few seconds, and nothing is flushed by a kill: the channel's opening is written."""
    one = dial(core.grpc)
    await online(core, one)
    await core.quiet()
    assert (await the_agent(core, one.agent_id))["last_seen_at"] == core.clock.now


async def test_while_it_is_saved_when_one_was_heard_it_is_still_known(
    core: Core, dial: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = dial(core.grpc)
    await online(core, one)
    real, known = core.db.writer.execute, []

    async def execute(*steps: Any) -> Any:
        known.append(core.engine.agents.last_heard(one.agent_id))
        return await real(*steps)

    monkeypatch.setattr(core.db.writer, "execute", execute)
    heard = core.clock.now
    await core.advance(5.1)
    assert known[0] == heard
    assert core.engine.agents.last_heard(one.agent_id) is None, "the row has it"


async def test_a_sign_of_life_sets_the_clock_anew(core: Core, dial: Make) -> None:
    """Each heartbeat counts the 90 s from itself, by the unary way too; a stale or departed agent is online again."""
    one = dial(core.grpc)
    await hung_up(core, one, await online(core, one))
    for _ in range(3):
        await core.advance(80)
        await one.call("Heartbeat", pb.HeartbeatRequest())
        assert await state(core, one) == "online"
    assert "missed" not in [line.event for line in core.lines]
    await core.advance(91)
    assert await state(core, one) == "stale"
    await one.call("Heartbeat", pb.HeartbeatRequest())
    assert await state(core, one) == "online"
    await core.advance(301)
    assert await state(core, one) == "departed"
    await one.connect()
    row = await settled(core, one.agent_id, "online")
    assert row["reason"] == ""


async def test_an_open_channel_is_presence(core: Core, dial: Make) -> None:
    """An agent whose channel is open stays online however little it says; the clock starts when it closes."""
    one = dial(core.grpc)
    stream = await online(core, one)
    await core.advance(3600)
    assert await state(core, one) == "online"
    await one.call("Heartbeat", pb.HeartbeatRequest())
    await hung_up(core, one, stream)
    await core.advance(89)
    assert await state(core, one) == "online"
    await core.advance(91)
    assert await state(core, one) == "stale"


async def test_an_enrolment_that_leads_nowhere_ends(core: Core, dial: Make) -> None:
    """An agent that registered and is never seen on a channel has departed after ten minutes, and may still come."""
    one = dial(core.grpc)
    await one.register(await core.mint())
    await core.advance(599)
    assert await state(core, one) == "enrolling"
    await core.advance(1)
    assert await state(core, one) == "departed"
    await one.connect()
    await settled(core, one.agent_id, "online")


async def test_a_restart_does_not_call_its_fleet_dead(cores: Callable[[], Any], dial: Make) -> None:
    """After an hour's absence of the control plane every agent is as it was, and has its full time to be heard again."""
    core = await cores()
    comes, stays_away, was_stale = dial(core.grpc), dial(core.grpc), dial(core.grpc)
    await hung_up(core, was_stale, await online(core, was_stale))
    await core.advance(91)
    await online(core, comes)
    await online(core, stays_away)
    assert [await state(core, g) for g in (comes, stays_away, was_stale)] == ["online", "online", "stale"]
    core.clock.now += 3600 * 1_000_000
    core = await cores()
    await core.advance(89)
    assert [await state(core, g) for g in (comes, stays_away, was_stale)] == ["online", "online", "stale"]
    assert core.lines == []

    again = dial(core.grpc)
    again.jwt, again.agent_id = comes.jwt, comes.agent_id
    await again.connect()
    await core.until(_live(core, comes), "the agent is back")
    await core.advance(2)
    assert [await state(core, g) for g in (comes, stays_away, was_stale)] == ["online", "stale", "stale"]
    await core.advance(210)
    assert [await state(core, g) for g in (comes, stays_away, was_stale)] == ["online", "departed", "departed"]
    assert {line.event for line in core.lines} == {"missed"}


async def test_a_revived_agent_has_its_clock(core: Core, dial: Make) -> None:
    """An agent that comes out of quarantine is stale and departs like any other unless it is heard."""
    one = dial(core.grpc)
    await online(core, one)
    await ask_operator(core, one.agent_id, Event.QUARANTINE)
    await core.advance(1000)
    assert await state(core, one) == "quarantined"
    await ask_operator(core, one.agent_id, Event.REVIVE)
    assert await state(core, one) == "stale"
    await core.advance(301)
    assert await state(core, one) == "departed"


async def test_rotation(core: Core, dial: Make) -> None:
    """New credentials are offered once less than half of the token's life is left, and work for a life of their own."""
    one = dial(core.grpc)
    stream = await online(core, one)
    core.clock.now += LIFE_S * 1_000_000 // 2 - DAY_US
    await stream.beat(1)
    await stream.ack("x")

    async def taken() -> bool:
        return bool((await the_agent(core, one.agent_id))["active_hash"] == "x")

    await core.until(taken, "everything so far is dealt with")
    session = core.sessions.of(one.agent_id)
    assert session is not None
    assert session.outbox.empty()

    core.clock.now += 2 * DAY_US
    await stream.beat(2)
    await stream.beat(3)
    rotation = (await stream.hear()).credential_rotation
    assert rotation.instance_jwt.count(".") == 2
    assert rotation.expires_at.seconds == core.clock.now // 1_000_000 + LIFE_S
    await stream.half_close()
    try:
        extra = await stream.hear()
    except EOFError:
        extra = None
    assert extra is None

    at_open = await one.connect()  # with the old token, which is still good: it is told again
    assert (await at_open.hear()).WhichOneof("kind") == "credential_rotation"
    core.clock.now += LIFE_S * 1_000_000 // 2
    assert (await one.dial().end()).name == "UNAUTHENTICATED"
    one.jwt = rotation.instance_jwt
    await one.connect()
