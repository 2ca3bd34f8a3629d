"""What is said on an open Channel, and the unary calls that say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from mcpg.agent.pb import agent_pb2 as pb
from mcpg.agent.sessions import Close, Session, Sessions
from mcpg.engine import clocks
from mcpg.engine.ports import Exited
from mcpg.errors import Forbidden, Unavailable
from mcpg.machines.enrolment import Event
from mcpg.store import reads, writes
from tests.agent.conftest import (
    Core,
    Gateway,
    Paper,
    Stream,
    ask_operator,
    mint,
    settled,
    status_of,
    the_agent,
)
from tests.bounds import BOUND_S
from tests.conftest import Plane, StartPlane

Make = Callable[..., Gateway]
CODE = grpc.StatusCode


async def enrolled(plane: Plane, one: Gateway) -> Stream:
    await one.register(await mint(plane))
    stream = await one.connect()
    await settled(plane, one.agent_id, "online")
    return stream


def counters(plane: Plane | Core, one: Gateway) -> Any:
    sessions = plane.control.sessions if isinstance(plane, Plane) else plane.sessions
    session = sessions.of(one.agent_id)
    assert session is not None
    return session.counters


async def heard(plane: Plane | Core, one: Gateway, heartbeats: int) -> None:
    """Everything sent before heartbeat number *heartbeats* has been taken too: a session is read in order."""

    async def look() -> bool:
        return bool(counters(plane, one).heartbeats >= heartbeats)

    await plane.until(look, "the heartbeat is taken", BOUND_S)


# ---- two of one


async def test_the_newest_of_equals_wins(plane: Plane, gateway: Make) -> None:
    """A second channel with the same credentials replaces the first, which sees ABORTED; no clone is counted."""
    one = gateway()
    old = await enrolled(plane, one)
    new = await one.connect()
    assert await old.end() == CODE.ABORTED
    await new.beat()
    await heard(plane, one, 1)
    assert (len(plane.control.sessions), plane.control.sessions.clones_refused) == (1, 0)
    assert (await plane.instances())[0]["agents"][0]["connected"] is True


async def test_newer_credentials_replace_and_older_ones_are_a_clone(plane: Plane, gateway: Make) -> None:
    """Newer credentials replace a live channel, and while they are connected older ones are refused and counted."""
    token = await mint(plane)
    older, newer = gateway(), gateway()
    await older.register(token)
    await newer.register(token)
    with_newer = await newer.connect()
    await settled(plane, newer.agent_id, "online")
    for _ in range(3):
        assert await older.dial().end() == CODE.PERMISSION_DENIED
    assert plane.control.sessions.clones_refused == 3
    with_newer.call.cancel()

    async def gone() -> bool:
        return len(plane.control.sessions) == 0

    await plane.until(gone, "the newer one left")
    assert await older.dial().end() == CODE.UNAUTHENTICATED  # nobody is there: now they are merely old


async def test_an_older_generation_never_replaces_a_newer(plane: Plane) -> None:
    """A channel that was let in before newer credentials were issued, and arrives after them, is refused."""
    sessions = Sessions(plane.db)
    newer, older = Session("a", "i", 2, 0), Session("a", "i", 1, 0)
    sessions.add(newer)
    with pytest.raises(Forbidden):
        sessions.add(older)
    assert (sessions.of("a"), sessions.clones_refused, newer.outbox.empty()) == (newer, 1, True)


# ---- config


class Gated:
    """A database whose first answer is held back until `gate` opens."""

    def __init__(self, db: Any) -> None:
        self.db = db
        self.asked, self.gate = asyncio.Event(), asyncio.Event()

    async def rows(self, sql: str, *params: Any) -> Any:
        return await self.db.rows(sql, *params)

    async def one(self, sql: str, *params: Any) -> Any:
        found = await self.db.one(sql, *params)
        if not self.asked.is_set():
            self.asked.set()
            await self.gate.wait()
        return found


async def test_a_slow_push_does_not_undo_a_later_one(plane: Plane) -> None:
    """A push that read the assignment before it changed sends nothing after the push of the change has sent."""
    await plane.publish("edge-1", config_toml="mcp: {}\n")
    await plane.publish("edge-1", config_toml="governance: {}\n")
    row = await reads.find_live_name(plane.db, "edge-1")
    assert row is not None
    old, new = sorted(await reads.config_versions(plane.db, row["id"]), key=lambda c: c["version"])
    await plane.db.writer.execute(writes.assign(row["id"], row["cluster_id"], row["spec"], 1, old["rendered_sha256"]))
    sessions = Sessions(gated := Gated(plane.db))  # type: ignore[arg-type]
    session = Session("a", row["id"], 1, 0)
    sessions.add(session)
    slow = asyncio.create_task(sessions.push(row["id"]))
    await gated.asked.wait()
    await plane.db.writer.execute(writes.assign(row["id"], row["cluster_id"], row["spec"], 2, new["rendered_sha256"]))
    assert await sessions.push(row["id"]) == 1
    gated.gate.set()
    assert await slow == 0
    sent = session.outbox.get_nowait()
    assert not isinstance(sent, Close)
    assert sent.config_update.config_hash == new["rendered_sha256"]
    assert session.outbox.empty()


async def test_words_of_a_refusal_are_cleaned_and_bounded(plane: Plane, gateway: Make) -> None:
    """A megabyte of control characters in ConfigAck is kept as a short printable text, and so is its hash."""
    one = gateway()
    stream = await enrolled(plane, one)
    words = "\x1b[2J\x00broken\r\nkey\x07 " + "\x08" * 10 + "y" * 1_000_000
    await stream.ack("\x1b[31m" + "f" * 1000, "error", words)
    await stream.beat()
    await heard(plane, one, 1)
    row = await the_agent(plane, one.agent_id)
    assert row["config_error"].startswith("[2J broken  key")
    assert len(row["config_error"]) <= 4000
    assert row["config_error"].isprintable()
    assert len(row["rejected_hash"]) <= 64
    assert row["rejected_hash"].isprintable()
    assert row["active_hash"] == ""


async def test_a_gateway_that_is_still_starting_is_sent_its_config_again(start_plane: StartPlane, dial: Make) -> None:
    """The real one then says so in a ConfigAck that looks like a refusal: a verdict on its start, not on the config."""
    async with start_plane(given=(paper := Paper())) as plane:
        create = asyncio.create_task(plane.publish("edge-1", config_toml="mcp: {}\n"))
        uid, token = await paper.tokens.get()
        one = dial(plane.grpc)
        await one.register(token, uid=uid)
        stream = await one.connect()
        first = await stream.hear_config()
        await stream.ack(first.config_hash, "error", "hot-reload failed: gateway AppState not yet bound")
        again = await stream.hear_config()
        await stream.ack(again.config_hash)
        assert (again, (await create)[-1]["phase"]) == (first, "ready")


# ---- telemetry


async def test_unknown_fields_are_accepted(plane: Plane, gateway: Make) -> None:
    """A StatusReport with the fields 6 and 7 of beta.48, which nobody has names for, is understood without them."""
    one = gateway()
    stream = await enrolled(plane, one)
    known = pb.StatusReport(config_hash="f00", plugins=[pb.PluginStatus(id="p", state="active")])
    more = b"\x32\x0d\x0a\x0bsingle_node" + b"\x3a\x01x"
    await stream.say(status_report=pb.StatusReport.FromString(known.SerializeToString() + more))
    await stream.beat()
    await heard(plane, one, 1)
    assert (await the_agent(plane, one.agent_id))["received_hash"] == "f00"


async def test_logs_and_samples_are_counted(plane: Plane, gateway: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log lines, tool samples and what was dropped are counted for the session; nothing of them is written."""
    monkeypatch.setattr(clocks, "FLUSH_S", BOUND_S)  # when it was heard is, after a while
    one = gateway()
    stream = await enrolled(plane, one)
    before = plane.db.writer.commits
    await stream.say(log_batch=pb.LogBatch(lines=[pb.LogLine(message="x")] * 500, dropped_overflow=7))
    await stream.say(metrics_report=pb.MetricsReport(invocations=[pb.ToolInvocationSample()] * 3, dropped_overflow=2))
    await stream.say(command_result=pb.CommandResult(command_id="?"))
    await stream.call.write(pb.AgentMessage())
    await stream.beat()
    await heard(plane, one, 1)
    seen = counters(plane, one)
    assert (seen.log_lines, seen.tool_calls, seen.dropped, seen.heartbeats) == (500, 3, 9, 1)
    assert plane.db.writer.commits == before


async def test_heartbeats_write_nothing(core: Core, dial: Make) -> None:
    """Heartbeats of agents that are online make no commit and no line; `last_seen_at` follows in one batch for all."""
    gateways = [dial(core.grpc) for _ in range(3)]
    streams = []
    for n, one in enumerate(gateways):
        await one.register(await core.mint(), uid=f"gw-{n}")
        streams.append(await one.connect())
        await settled(core, one.agent_id, "online")
    await core.advance(5)
    commits, lines = core.db.writer.commits, core.db.writer.lines
    core.clock.now += 1_000_000
    for one, stream in zip(gateways, streams, strict=True):
        for seq in range(20):
            await stream.beat(seq)
        await heard(core, one, 20)
    assert (core.db.writer.commits, core.db.writer.lines) == (commits, lines)
    now = core.clock.now
    await core.advance(5)
    assert (core.db.writer.commits, core.db.writer.lines) == (commits + 2, lines)  # the batch, and advance()'s own
    assert {(await the_agent(core, g.agent_id))["last_seen_at"] for g in gateways} == {now}


# ---- the end


async def test_a_gateway_that_says_it_has_finished(plane: Plane, gateway: Make) -> None:
    """Half-closing is a gateway's own planned end and is answered with OK; what it said before still counts."""
    one = gateway()
    stream = await enrolled(plane, one)
    await stream.ack("abc")
    await stream.half_close()
    assert await stream.end() == CODE.OK
    assert (await the_agent(plane, one.agent_id))["active_hash"] == "abc"


async def test_deregister(plane: Plane, gateway: Make) -> None:
    """Deregister makes the agent depart with its cleaned reason; its credentials stay good, and it may come back."""
    one = gateway()
    await (await enrolled(plane, one)).half_close()
    answer = await one.call("Deregister", pb.DeregisterRequest(reason="moving\x1b house"))
    assert answer.acknowledged
    row = await settled(plane, one.agent_id, "departed")
    assert row["reason"] == "moving  house"
    uid = (await plane.instances())[0]["instance_uid"]
    history = (await plane.client.get(f"/v1/orgs/default/instances/{uid}/history")).json()[0]["history"]
    assert [h["event"] for h in history] == ["register", "channel_opened", "deregistered"]
    assert history[-1]["reason"] == "moving  house"
    await one.connect()
    assert (await settled(plane, one.agent_id, "online"))["reason"] == ""


async def test_a_gateway_cannot_deregister_another(plane: Plane, gateway: Make) -> None:
    """A request that names another instance than its credentials do is refused, and neither of them departs."""
    one, other = gateway(), gateway()
    await enrolled(plane, one)
    await enrolled(plane, other)
    asked = one.call("Deregister", pb.DeregisterRequest(instance_id=other.agent_id))
    assert await status_of(asked) == CODE.PERMISSION_DENIED
    for each in (one, other):
        assert (await settled(plane, each.agent_id, "online"))["state"] == "online"
    assert (await one.call("Deregister", pb.DeregisterRequest(instance_id=one.agent_id))).acknowledged


async def test_what_a_dead_gateway_had_said(start_plane: StartPlane, dial: Make) -> None:
    """A heartbeat read after its gateway was seen to end does not bring the agent back; a new channel does."""
    async with start_plane(given=(paper := Paper())) as plane:
        create = asyncio.create_task(plane.publish("edge-1", config_toml="mcp: {}\n"))
        uid, token = await paper.tokens.get()
        one = dial(plane.grpc)
        await one.register(token, uid=uid)
        stream = await one.connect()
        await stream.ack((await stream.hear_config()).config_hash)
        assert (await create)[-1]["_event"] == "ready"
        paper.on_exit(Exited(uid.partition(".")[0], 1, 4711, "signal 9", ""))
        await settled(plane, one.agent_id, "departed")
        await stream.beat(1)
        await stream.beat(2)
        await heard(plane, one, 2)
        assert (await the_agent(plane, one.agent_id))["state"] == "departed"
        await one.connect()
        await settled(plane, one.agent_id, "online")


async def test_the_first_line_is_the_channel(plane: Plane, gateway: Make) -> None:
    """A gateway that speaks before it sees our headers is online because its channel opened, not for what it said."""
    for n in range(10):
        one = gateway()
        await one.register(await mint(plane), uid=f"gw-{n}")
        stream = one.dial()
        await stream.beat()
        await settled(plane, one.agent_id, "online")
        assert [line.event for line in await reads.history(plane.db, one.agent_id)] == ["register", "channel_opened"]


async def test_the_unary_way(start_plane: StartPlane, dial: Make) -> None:
    """PullConfig and Heartbeat say the same as a Channel: what is assigned, whether it is old, that the agent lives."""
    async with start_plane(given=(paper := Paper())) as plane:
        create = asyncio.create_task(plane.publish("edge-1", config_toml="mcp: {}\n"))
        uid, token = await paper.tokens.get()
        one = dial(plane.grpc)
        await one.register(token, uid=uid)
        beat = await one.call("Heartbeat", pb.HeartbeatRequest(current_config_hash="old"))
        assert (beat.ok, beat.config_dirty) == (True, True)
        await settled(plane, one.agent_id, "online")
        pulled = await one.call("PullConfig", pb.PullConfigRequest(current_config_hash="old"))
        assert pulled.changed
        row = await reads.find_config(plane.db, uid.partition(".")[0], 1)
        assert row is not None
        assert pulled.bundle.config_toml.decode() == row["rendered"]
        current = row["rendered_sha256"]
        assert beat.expected_config_hash == current
        assert not (await one.call("PullConfig", pb.PullConfigRequest(current_config_hash=current))).changed
        beat = await one.call("Heartbeat", pb.HeartbeatRequest(current_config_hash=current))
        assert (beat.ok, beat.config_dirty) == (True, False)
        create.cancel()


async def test_a_gateway_of_its_own_has_no_config(plane: Plane, gateway: Make) -> None:
    """A self-enrolled gateway is assigned nothing, so nothing is pushed, pulled or called dirty."""
    one = gateway()
    stream = await enrolled(plane, one)
    assert not (await one.call("PullConfig", pb.PullConfigRequest())).changed
    assert not (await one.call("Heartbeat", pb.HeartbeatRequest())).config_dirty
    await stream.half_close()
    with pytest.raises(EOFError):
        await stream.hear()


async def to_the_end(stream: Stream) -> None:
    """Hear everything; raises what the server ends the channel with."""
    while True:
        await stream.hear()


async def test_a_delete_cuts_a_stream_that_is_still_open(start_plane: StartPlane, dial: Make) -> None:
    """What still talks after its gateway was stopped is turned away with an error, and the delete ends once it is gone."""
    async with start_plane(given=(paper := Paper())) as plane:
        create = asyncio.create_task(plane.publish("edge-1", config_toml="mcp: {}\n"))
        uid, token = await paper.tokens.get()
        one = dial(plane.grpc)
        await one.register(token, uid=uid)
        stream = await one.connect()
        await stream.ack((await stream.hear_config()).config_hash)
        assert (await create)[-1]["_event"] == "ready"
        instance = uid.partition(".")[0]
        paper.on_exit(Exited(instance, 1, 4711, "signal 9", "last words"))
        row = await settled(plane, one.agent_id, "departed")
        assert row["reason"] == "process 4711 ended, signal 9"

        async with asyncio.timeout(BOUND_S):
            deleted = await plane.delete(instance)
            assert deleted[-1]["_event"] == "deleted"
            assert "deadline" not in [line["event"] for line in deleted]
            with pytest.raises(grpc.aio.AioRpcError) as cut:
                await to_the_end(stream)
        assert cut.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_ack_that_cannot_be_written_ends_the_session_so_that_it_is_said_again(
    plane: Plane, gateway: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway acknowledges once: it must come back, be given its config again, and say it again."""

    async def unwritable(*args: Any, **kwargs: Any) -> None:
        raise Unavailable("the database could not be written", cause="database is locked")

    stream = await enrolled(plane, gateway())
    monkeypatch.setattr(plane.engine.agents, "acked", unwritable)
    await stream.ack("some hash")
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await to_the_end(stream)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_quarantine_cuts_the_stream(plane: Plane, gateway: Make) -> None:
    """A quarantine is told on the open channel and ends it, without waiting for the gateway to say anything."""
    one = gateway()
    stream = await enrolled(plane, one)
    await ask_operator(plane, one.agent_id, Event.QUARANTINE, "leaks data")
    assert (await stream.hear()).quarantine.reason == "leaks data"
    assert await stream.end() == CODE.PERMISSION_DENIED
    assert (await plane.instances())[0]["state"] == "quarantined"
