"""The ten rules that gateways in the field impose on a control plane (agent.md, section 0), each as a test."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable

import grpc
import pytest

from mcpg.agent import control
from mcpg.agent.pb import agent_pb2 as pb
from mcpg.machines.enrolment import Event
from mcpg.store import reads
from tests.agent.conftest import (
    Core,
    Gateway,
    Paper,
    ask_operator,
    mint,
    settled,
    status_of,
    the_agent,
)
from tests.agent.http2 import RawHttp2
from tests.bounds import BOUND_S
from tests.conftest import Plane, StartPlane

Make = Callable[..., Gateway]
CONFIG = "mcp: {capabilities: {tools: []}}\n"
CODE = grpc.StatusCode


async def test_rule_1_headers_come_first(plane: Plane, gateway: Make) -> None:
    """The response headers of Channel arrive while neither side has sent a message."""
    one = gateway()
    await one.register(await mint(plane))
    stream = one.dial()
    async with asyncio.timeout(BOUND_S):
        assert await stream.call.initial_metadata() is not None


async def test_rule_2_pings_on_an_idle_stream_are_answered(plane: Plane, gateway: Make) -> None:
    """A hundred pings in a row, with an idle stream and without any, are answered and never lead to GOAWAY."""
    one = gateway()
    await one.register(await mint(plane))
    host, _, port = plane.grpc.rpartition(":")
    for with_stream in (False, True):
        reader, writer = await asyncio.open_connection(host, int(port))
        raw = RawHttp2(reader, writer)
        if with_stream:
            raw.open_channel(plane.grpc, one.jwt)
            await raw.until(RawHttp2.HEADERS)
            await settled(plane, one.agent_id, "online")
        for number in range(100):
            await raw.ping(number)
        assert plane.control.sessions.is_live(one.agent_id) is with_stream
        writer.close()
        await writer.wait_closed()


def test_rule_2_the_server_asks_too() -> None:
    """The server allows a ping every 5 s for ever, and pings by itself so that a frozen gateway is noticed."""
    options = dict(control.SERVER_OPTIONS)
    assert options["grpc.http2.min_recv_ping_interval_without_data_ms"] <= 5000
    assert options["grpc.http2.max_ping_strikes"] == 0
    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert options["grpc.keepalive_time_ms"] + options["grpc.keepalive_timeout_ms"] <= 60_000


async def test_rule_3_the_token_is_a_jwt_that_lives_long(plane: Plane, gateway: Make) -> None:
    """The instance token has three parts and a numeric `exp` far beyond max(300 s, 3 heartbeats)."""
    answer = await gateway().register(await mint(plane))
    header, claims, signature = answer.instance_jwt.split(".")
    assert signature
    assert json.loads(_unpadded(header))["alg"] == "HS256"
    exp = json.loads(_unpadded(claims))["exp"]
    assert isinstance(exp, int)
    day = 86400
    assert exp - time.time() > 3 * day
    assert time.time() < answer.credentials_refresh_at.seconds < exp


def _unpadded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


async def test_rule_4_turning_away_is_an_error(plane: Plane, gateway: Make) -> None:
    """Whoever is turned away, at the door or in the middle of a session, sees an error status and never OK."""
    stranger, replaced, garbled = gateway(), gateway(), gateway()
    stranger.jwt = "not.a.jwt"
    assert await stranger.dial().end() == CODE.UNAUTHENTICATED

    await replaced.register(await mint(plane), uid="replaced")
    old = await replaced.connect()
    await settled(plane, replaced.agent_id, "online")
    await replaced.connect()
    assert await old.end() == CODE.ABORTED

    await garbled.register(await mint(plane), uid="garbled")
    raw = garbled.channel.stream_stream("/mcpg.cp.v1.AgentControl/Channel")(metadata=garbled.metadata)
    await raw.initial_metadata()
    await raw.write(b"\xff\xff\xff\xff")
    async with asyncio.timeout(BOUND_S):
        assert await raw.code() == CODE.INVALID_ARGUMENT


async def test_rule_4_a_planned_stop_ends_with_ok(start_plane: StartPlane, dial: Make) -> None:
    """A control plane that is stopped ends every session with OK, which resets the gateways' backoff."""
    async with start_plane() as plane:
        gateways = [dial(plane.grpc) for _ in range(3)]
        streams = []
        for n, one in enumerate(gateways):
            await one.register(await mint(plane), uid=f"gw-{n}")
            streams.append(await one.connect())
            await settled(plane, one.agent_id, "online")
    assert [await s.end() for s in streams] == [CODE.OK] * 3


async def test_rule_5_config_on_every_open_and_on_change(start_plane: StartPlane, dial: Make) -> None:
    """The assigned config is pushed whenever a Channel opens, also to one that has it, and when it changes."""
    async with start_plane(given=(paper := Paper())) as plane:
        one, stream, first = await _managed(plane, paper, dial, CONFIG)
        pushed = await _assigned(plane)
        assert first.config_hash == pushed["rendered_sha256"]
        assert first.bundle.config_toml.decode() == pushed["rendered"]

        again = await one.connect()
        assert (await again.hear_config()).config_hash == first.config_hash
        assert await stream.end() == CODE.ABORTED

        update = asyncio.create_task(plane.publish("edge-1", config_toml="mcp: {capabilities: {prompts: []}}\n"))
        second = await again.hear_config()
        assert second.config_hash != first.config_hash
        await again.ack(second.config_hash)
        assert (await update)[-1]["_event"] == "ready"
        assert await plane.control.sessions.push((await plane.instances())[0]["id"]) == 0  # it has that one already
        await again.half_close()
        assert await again.end() == CODE.OK  # and nothing was sent twice: EOF came next
        with pytest.raises(EOFError):
            await again.hear()


async def _managed(plane: Plane, paper: Paper, dial: Make, config: str) -> tuple[Gateway, object, pb.ConfigUpdate]:
    """A managed gateway that acknowledged *config*, played by the test; its operation is ready."""
    create = asyncio.create_task(plane.publish("edge-1", config_toml=config))
    uid, token = await paper.tokens.get()
    one = dial(plane.grpc)
    await one.register(token, uid=uid)
    stream = await one.connect()
    first = await stream.hear_config()
    await stream.ack(first.config_hash)
    assert (await create)[-1]["_event"] == "ready"
    return one, stream, first


async def _assigned(plane: Plane) -> dict[str, str]:
    row = await reads.find_live_name(plane.db, "edge-1")
    assert row is not None
    found = await reads.find_config(plane.db, row["id"], row["config_version"])
    assert found is not None
    return found


async def test_rule_6_only_an_ack_makes_a_config_active(start_plane: StartPlane, dial: Make) -> None:
    """A StatusReport's hash is kept as received and believed by nobody; only ConfigAck `active` ends the operation."""
    async with start_plane(given=(paper := Paper())) as plane:
        create = asyncio.create_task(plane.publish("edge-1", config_toml=CONFIG))
        uid, token = await paper.tokens.get()
        one = dial(plane.grpc)
        await one.register(token, uid=uid)
        stream = await one.connect()
        pushed = await stream.hear_config()

        async def echoed() -> bool:
            return (await the_agent(plane, one.agent_id))["received_hash"] == pushed.config_hash

        await stream.say(status_report=pb.StatusReport(config_hash=pushed.config_hash))
        await plane.until(echoed, "the echo is stored")
        row = await the_agent(plane, one.agent_id)
        assert (row["state"], row["active_hash"]) == ("online", "")
        operation = (await plane.client.get("/v1/orgs/default/operations")).json()[0]
        assert (operation["state"], create.done()) == ("confirming", False)
        await stream.ack(pushed.config_hash)
        assert (await create)[-1]["_event"] == "ready"


async def test_rule_6_an_error_ack_is_not_active(start_plane: StartPlane, dial: Make) -> None:
    """An ack that is not `active` fails the operation with the gateway's own words."""
    async with start_plane(given=(paper := Paper())) as plane:
        create = asyncio.create_task(plane.publish("edge-1", config_toml=CONFIG))
        uid, token = await paper.tokens.get()
        one = dial(plane.grpc)
        await one.register(token, uid=uid)
        stream = await one.connect()
        paper.on_remove = stream.call.cancel
        await stream.ack((await stream.hear_config()).config_hash, "error", "hot-reload failed: no such key")
        last = (await create)[-1]
        assert last["_event"] == "failed"
        assert "hot-reload failed: no such key" in last["reason"]


BAD_TOKENS = {
    "none": "",
    "not a JWT": "opaque",
    "unsigned": "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJ4IiwiZ2VuIjoxLCJleHAiOjk5OTk5OTk5OTl9.",
    "header is a list": "W10.e30.AAAA",
    "half of it is missing": "a.b",
    "long": "a" * 4000,
}


@pytest.mark.parametrize("bad", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
async def test_rule_7_a_bad_token_is_unauthenticated(plane: Plane, gateway: Make, bad: str) -> None:
    """A token that is not ours is answered with UNAUTHENTICATED, by every call that needs one."""
    one = gateway()
    one.jwt = bad
    assert await one.dial().end() == CODE.UNAUTHENTICATED
    for method, request in (
        ("Heartbeat", pb.HeartbeatRequest()), ("PullConfig", pb.PullConfigRequest()),
        ("Deregister", pb.DeregisterRequest()),
    ):  # fmt: skip
        assert await status_of(one.call(method, request)) == CODE.UNAUTHENTICATED


async def test_rule_7_expired_foreign_replaced_and_deleted(core: Core, dial: Make) -> None:
    """Expired, signed by another key, replaced by a newer one, or of an agent that is no more: all UNAUTHENTICATED."""
    from mcpg.agent.tokens import LIFE_S, InstanceTokens

    token = await core.mint()
    one = dial(core.grpc)
    await one.register(token)
    agent = one.agent_id
    foreign = InstanceTokens("00" * 32, "mcpg-control-plane", core.clock)
    elsewhere = InstanceTokens("00" * 32, "another-issuer", core.clock)
    ours = await InstanceTokens.load(core.db, core.clock)
    other_issuer = await InstanceTokens.load(core.db, core.clock, "another-issuer")
    replaced = one.jwt
    await one.register(token)
    assert one.agent_id == agent
    for jwt in (
        foreign.issue(agent, 2)[0], elsewhere.issue(agent, 2)[0], other_issuer.issue(agent, 2)[0],
        ours.issue("01990000-0000-7000-8000-000000000000", 1)[0], replaced,
    ):  # fmt: skip
        other = dial(core.grpc)
        other.jwt = jwt
        assert await other.dial().end() == CODE.UNAUTHENTICATED
    await one.connect()  # the newest is good
    core.clock.now += LIFE_S * 1_000_000
    assert await one.dial().end() == CODE.UNAUTHENTICATED


async def test_rule_7_quarantine_and_clones_keep_their_credentials(plane: Plane, gateway: Make) -> None:
    """Who is refused for another reason than its credentials sees PERMISSION_DENIED, and so keeps them."""
    token = await mint(plane)
    clone, one = gateway(), gateway()
    await clone.register(token)
    await one.register(token)
    stream = await one.connect()
    await settled(plane, one.agent_id, "online")
    assert await clone.dial().end() == CODE.PERMISSION_DENIED
    assert plane.control.sessions.clones_refused == 1
    await stream.beat()

    await ask_operator(plane, one.agent_id, Event.QUARANTINE)
    told = await stream.hear()
    assert told.quarantine.reason == "seen misbehaving"
    assert await stream.end() == CODE.PERMISSION_DENIED
    assert await one.dial().end() == CODE.PERMISSION_DENIED
    for method, request in (
        ("Heartbeat", pb.HeartbeatRequest()), ("PullConfig", pb.PullConfigRequest()),
        ("Deregister", pb.DeregisterRequest()),
    ):  # fmt: skip
        assert await status_of(one.call(method, request)) == CODE.PERMISSION_DENIED
    assert await status_of(one.register(token)) == CODE.PERMISSION_DENIED
    assert (await the_agent(plane, one.agent_id))["state"] == "quarantined"

    await ask_operator(plane, one.agent_id, Event.REVIVE)
    await one.connect()
    await settled(plane, one.agent_id, "online")


async def test_rule_7_an_unwritable_database_is_no_verdict_on_credentials(plane: Plane, gateway: Make) -> None:
    """While the control plane cannot do its work, agents see an error that is not UNAUTHENTICATED."""
    one = gateway()
    await one.register(await mint(plane))
    await plane.db.writer.close()
    assert await one.dial().end() == CODE.UNAVAILABLE


async def test_rule_8_the_agent_that_used_a_token_may_use_it_again(core: Core, dial: Make) -> None:
    """A one-shot token is accepted again from its agent, with the same identity, also when it has expired."""
    token = await core.mint(ttl_s=60)
    first = await dial(core.grpc).register(token)
    second = await dial(core.grpc).register(token)
    core.clock.now += 61_000_000
    third = await dial(core.grpc).register(token)
    assert first.instance_id == second.instance_id == third.instance_id
    assert len({first.instance_jwt, second.instance_jwt, third.instance_jwt}) == 3
    assert len(await reads.instances(core.db, "default")) == 1


async def test_rule_8_refused_from_another(plane: Plane, gateway: Make) -> None:
    """A used-up token is refused from another gateway, and from one of the same name while its owner is connected."""
    token = await mint(plane)
    one = gateway()
    await one.register(token, uid="one")
    assert await status_of(gateway().register(token, uid="two")) == CODE.PERMISSION_DENIED
    await one.connect()
    await settled(plane, one.agent_id, "online")
    assert await status_of(gateway().register(token, uid="one")) == CODE.PERMISSION_DENIED
    assert len(await plane.instances()) == 1


async def test_rule_8_two_at_once(plane: Plane, gateway: Make) -> None:
    """Two Registers of one agent at once are both accepted as that one agent."""
    token = await mint(plane)
    answers = await asyncio.gather(*(gateway().register(token, uid="one") for _ in range(2)))
    assert len({a.instance_id for a in answers}) == 1
    assert len(await plane.instances()) == 1


async def test_rule_8_a_token_of_many_uses_counts_its_agents(plane: Plane, gateway: Make) -> None:
    """An agent that was connected a moment ago and enrols again with a token of many uses takes no second use."""
    token = await mint(plane, one_shot=False, max_uses=2)
    one = gateway()
    await one.register(token, uid="one")
    stream = await one.connect()
    await settled(plane, one.agent_id, "online")
    stream.call.cancel()

    async def gone() -> bool:
        return not plane.control.sessions.is_live(one.agent_id)

    await plane.until(gone, "the channel is closed")
    first = one.agent_id
    await one.register(token, uid="one")
    assert one.agent_id == first


async def test_rule_9_one_uid_five_gateways(plane: Plane, gateway: Make) -> None:
    """Five gateways of one uid with one token of five uses become five instances; a sixth is refused."""
    token = await mint(plane, one_shot=False, max_uses=5)
    answers = await asyncio.gather(*(gateway().register(token, uid="localhost-01a202c0") for _ in range(5)))
    assert len({a.instance_id for a in answers}) == 5
    instances = await plane.instances()
    assert len({i["instance_uid"] for i in instances}) == 5
    assert all(i["instance_uid"].startswith("localhost-01a202c0") for i in instances)
    assert await status_of(gateway().register(token, uid="localhost-01a202c0")) == CODE.PERMISSION_DENIED
    assert len(await plane.instances()) == 5


async def test_rule_10_a_delete_needs_no_obedience(start_plane: StartPlane, dial: Make) -> None:
    """An agent is asked to drain; that it does not even answer changes nothing: the gateway is deleted."""
    async with start_plane(given=(paper := Paper())) as plane:
        one, stream, _ = await _managed(plane, paper, dial, CONFIG)
        uid = (await plane.instances())[0]["instance_uid"]
        delete = asyncio.create_task(plane.delete(uid))
        assert (await stream.hear()).command.WhichOneof("kind") == "drain"
        assert (await delete)[-1]["_event"] == "deleted"
        assert paper.removed == [uid]
        assert await plane.instances() == []
        assert await one.dial().end() == CODE.UNAUTHENTICATED


async def test_a_gateway_is_sent_no_config_before_it_listens(start_plane: StartPlane, dial: Make) -> None:
    """A real one that hears its config sooner listens where that says. A push that comes meanwhile waits too."""
    async with start_plane(given=(paper := Paper())) as plane:
        paper.starting = {1}
        publishing = asyncio.create_task(plane.publish("edge-1", config_toml="mcp: {}\n"))
        uid, token = await paper.tokens.get()
        one = dial(plane.grpc)
        await one.register(token, uid=uid)
        stream = await one.connect()
        await settled(plane, one.agent_id, "online")
        instance = uid.partition(".")[0]
        assert await plane.control.sessions.push(instance) == 0
        session = plane.control.sessions.of(one.agent_id)
        assert session is not None
        assert (session.is_held, session.outbox.empty()) == (True, True)
        paper.starting = set()
        config = await stream.hear_config()
        await stream.ack(config.config_hash)
        assert (await publishing)[-1]["state"] == "ready"
