"""Register: who gets an identity for a token, and what a gateway may say of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest

from mcpg.agent.pb import agent_pb2 as pb
from mcpg.store.journal import Also
from tests.agent.conftest import Core, Gateway, mint, status_of, the_agent
from tests.conftest import Plane

Make = Callable[..., Gateway]
CODE = grpc.StatusCode


async def test_two_gateways_race_for_a_one_shot_token(plane: Plane, gateway: Make) -> None:
    """Of gateways with different uids that register with one one-shot token at once, exactly one gets an identity."""
    token = await mint(plane)
    answers = await asyncio.gather(
        *(gateway().register(token, uid=f"racer-{n}") for n in range(8)), return_exceptions=True
    )
    won = [a for a in answers if isinstance(a, pb.RegisterResponse)]
    lost = [a.code() for a in answers if isinstance(a, grpc.aio.AioRpcError)]
    assert (len(won), lost) == (1, [CODE.PERMISSION_DENIED] * 7)
    assert len(await plane.instances()) == 1


@pytest.mark.parametrize("token", ["", "ENROL-nobody-minted-this", "ENROL-" + "x" * 100_000])
async def test_unknown_token(plane: Plane, gateway: Make, token: str) -> None:
    """A token nobody minted is UNAUTHENTICATED, the empty one too; nothing is written."""
    before = plane.db.writer.commits
    assert await status_of(gateway().register(token)) == CODE.UNAUTHENTICATED
    assert plane.db.writer.commits == before


async def test_expired_token(core: Core, dial: Make) -> None:
    """An unused token is refused once its time has passed."""
    token = await core.mint(ttl_s=60)
    core.clock.now += 60_000_000
    assert await status_of(dial(core.grpc).register(token)) == CODE.PERMISSION_DENIED


async def test_revoked_token(plane: Plane, gateway: Make) -> None:
    """A revoked token is refused, also from the agent that enrolled with it."""
    token = await mint(plane)
    await gateway().register(token)
    await plane.db.writer.execute(Also("UPDATE bootstrap_token SET revoked_at=?", (1,)))
    assert await status_of(gateway().register(token)) == CODE.PERMISSION_DENIED


async def test_expected_instance_uid(plane: Plane, gateway: Make) -> None:
    """A token that is bound to a uid enrols that uid and no other, and a refusal does not use it up."""
    token = await mint(plane, expected_instance_uid="edge-7")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await gateway().register(token, uid="edge-8")
    assert (refused.value.code(), "edge-7" in refused.value.details()) == (CODE.PERMISSION_DENIED, True)
    await gateway().register(token, uid="edge-7")
    assert [i["instance_uid"] for i in await plane.instances()] == ["edge-7"]


async def test_a_uid_is_no_identity(plane: Plane, gateway: Make) -> None:
    """A gateway that calls itself by the uid of another becomes an instance of its own, told apart by name."""
    await gateway().register(await mint(plane), uid="same")
    await gateway().register(await mint(plane), uid="same")
    await gateway().register(await mint(plane), uid="")
    uids = sorted(i["instance_uid"] for i in await plane.instances())
    assert len(set(uids)) == 3
    assert all(uids)
    assert "same" in uids
    assert sum(u.startswith("same~") for u in uids) == 1


async def test_a_gateway_cannot_write_on_our_screen(plane: Plane, gateway: Make) -> None:
    """What a gateway says of itself is stored without control characters and bounded: uid, version and host."""
    evil = "\x1b]0;owned\x07" + "x" * 1_000_000
    one = gateway()
    request = pb.RegisterRequest(
        bootstrap_token=await mint(plane),
        instance_uid=evil,
        version=evil,
        host=pb.HostInfo(os=evil, hostname="h\x00st"),
    )
    answer = await one.stub.Register(request)
    row = await the_agent(plane, answer.instance_id)
    assert (len(row["instance_uid"]), len(row["software"])) == (200 - 1, 80 - 1)  # the first character became a space
    assert row["instance_uid"].isprintable()
    assert row["software"].isprintable()
    assert "\x1b" not in str(row["host"])
    assert "\\u00" not in str(row["host"])
    assert len(str(row["host"])) < 1000
    second = gateway()
    await second.register(await mint(plane), uid=evil)
    assert {len(i["instance_uid"]) <= 200 for i in await plane.instances()} == {True}


async def test_bytes_that_are_no_text(plane: Plane, gateway: Make) -> None:
    """A uid that is not UTF-8 is an error that is not UNAUTHENTICATED, and the server goes on."""
    one = gateway()
    raw = one.channel.unary_unary("/mcpg.cp.v1.AgentControl/Register")
    assert await status_of(raw(b"\x12\x02\xff\xfe")) == CODE.UNKNOWN
    await one.register(await mint(plane))


async def test_registers_that_are_given_up(plane: Plane, gateway: Make) -> None:
    """Two hundred Registers that time out or are cancelled under way leave a server that works, and no half agent."""
    token = await mint(plane, one_shot=False, max_uses=1000)
    gateways = [gateway() for _ in range(8)]
    request = pb.RegisterRequest(bootstrap_token=token, instance_uid="hasty")

    async def hasty(n: int) -> None:
        call = gateways[n % 8].stub.Register(request, timeout=0.002 * (n % 40) + 0.001)
        if n % 3 == 0:
            await asyncio.sleep(0)
            call.cancel()
        await call

    await asyncio.gather(*(hasty(n) for n in range(200)), return_exceptions=True)
    one = gateways[0]
    await one.register(token)
    await one.connect()

    async def counted() -> bool:
        (used,) = await plane.db.rows("SELECT use_count AS n FROM bootstrap_token")
        (born,) = await plane.db.rows("SELECT COUNT(*) AS n FROM agent")
        (made,) = await plane.db.rows("SELECT COUNT(*) AS n FROM instance")
        return bool(used["n"] == born["n"] == made["n"] > 0)

    await plane.until(counted, "every use of the token is an agent with an instance")


async def test_channels_that_are_given_up(plane: Plane, gateway: Make) -> None:
    """A gateway that vanishes at any moment of its call leaves no session behind."""
    one = gateway()
    await one.register(await mint(plane))
    for n in range(60):
        stream = one.dial()
        for _ in range(n):
            await asyncio.sleep(0)
        stream.call.cancel()

    async def empty() -> bool:
        return len(plane.control.sessions) == 0

    await plane.until(empty, "no session is left")
    await one.connect()
