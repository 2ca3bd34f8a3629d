"""Machines whose clocks differ: who lives, who drives and who takes over is decided by the database's clock alone."""

from __future__ import annotations

import logging
import re

import pytest

from mcpg.engine.leases import CLOCKS_AGREE_S
from mcpg.store import journal
from mcpg.store.clock import now_us
from mcpg.store.journal import Also
from mcpg.store.postgres_writer import PostgresWriter
from mcpg.store.sqlite_writer import SqliteWriter
from tests.replicas.conftest import Replica, Start
from tests.replicas.test_leases import entered, held, let_go
from tests.replicas.test_stranded import asked

FAR = pytest.mark.parametrize("seconds", [300, -300], ids=["ahead", "behind"])


def skew(replica: Replica, seconds: float) -> None:
    """Its clock is *seconds* ahead of everybody else's from now on."""

    def clock() -> int:
        return now_us() + int(seconds * 1e6)

    writer = replica.db.writer
    assert isinstance(writer, PostgresWriter | SqliteWriter)
    writer._appender._scribe._clock = clock
    replica.engine.clock = replica.engine.leases._clock = clock


async def silent_for(replica: Replica, epoch: str, seconds: float) -> None:
    """As if *epoch* had last been heard so long ago, by the database's clock."""
    ago = f"{replica.db.clock_sql}-{int(seconds * 1e6)}"
    await replica.db.writer.execute(Also(f"UPDATE replica SET seen_at={ago} WHERE epoch=?", (epoch,)))  # noqa: S608
    await replica.engine.leases._see_replicas()


@FAR
async def test_a_clock_that_is_far_off_makes_nobody_dead_and_takes_nothing(replicas: Start, seconds: float) -> None:
    works = held(2)
    first, second = planes = await replicas(2, given=works)
    for one in planes:
        one.freeze()
    skew(second, seconds)
    for one, work in zip(planes, works, strict=True):
        await one.ask(f"edge-{one.epoch}")
        await entered(work)
    for _ in range(2):
        for one in planes:
            await one.engine.leases.renew()
    for one, other in ((first, second), (second, first)):
        leases = one.engine.leases
        assert leases.is_living(other.epoch)
        assert leases.serves(other.control.started.grpc_url)  # or its gateways would be started anew
        assert await leases.sweep() == 0
        assert [each["state"] for each in await asked(one, "replicas")] == ["living", "living"]
        assert await asked(one, "stranded") == []
    assert [len(work.orders) for work in works] == [1, 1]


@FAR
async def test_a_takeover_comes_a_lease_after_the_silence_whatever_the_dead_ones_clock(
    replicas: Start, seconds: float
) -> None:
    works = held(2)
    first, second = await replicas(2, given=works)
    second.freeze()  # it looks when it is told to
    skew(first, seconds)
    operation = await first.ask("edge-1")
    await entered(works[0])
    first.crash()
    await silent_for(second, first.epoch, journal.LEASE_S / 2)
    explained = f"/v1/operations/{operation}/explain"
    assert await second.engine.leases.sweep() == 0
    found = (await second.client.get(explained)).json()
    assert "), for another " in found["lease"]
    assert found["blocked"] == []
    await silent_for(second, first.epoch, journal.LEASE_S + 1)
    assert not second.engine.leases.is_living(first.epoch)
    found = (await second.client.get(explained)).json()
    assert re.search(r"; silent for 36\d\d s", found["lease"])
    assert found["blocked"] == ["whoever held it is gone, and the lease is over: the next sweep takes it"]
    assert await second.engine.leases.sweep() == 1
    let_go(works[1])
    await second.sees(operation, "ready")


async def test_a_clock_that_is_off_is_warned_of_once_and_shown(
    replicas: Start, caplog: pytest.LogCaptureFixture
) -> None:
    [one] = await replicas(1)
    one.freeze()

    async def warned() -> list[str]:
        caplog.clear()
        for _ in range(2):
            await one.engine.leases.renew()
        return [r.getMessage() for r in caplog.records if "clock" in r.getMessage() and r.levelno == logging.WARNING]

    assert await warned() == []
    for seconds, words in (
        (12.0, " s ahead of the database"),
        (0.0, ""),
        (-12.0, " s behind the database"),
        (-0.5, ""),
    ):
        skew(one, seconds)
        found = await warned()
        assert [words in each for each in found] == ([True] if words else [])
        [body] = await asked(one, "replicas")
        assert abs(body["clock_ahead_s"] - seconds) < CLOCKS_AGREE_S / 2


async def test_a_look_that_is_old_makes_nobody_dead(replicas: Start) -> None:
    """Who stood still knows nothing of the others: to start their gateways anew would end what serves."""
    first, second = await replicas(2, given=held(2))
    first.freeze()
    leases = first.engine.leases
    await leases.renew()
    leases._looked -= 6 * journal.LEASE_S
    assert leases.serves(second.control.started.grpc_url)
    await silent_for(first, second.epoch, journal.LEASE_S + 1)
    assert not leases.serves(second.control.started.grpc_url)


async def test_a_database_that_was_away_makes_nobody_dead(replicas: Start) -> None:
    """
    Nobody was heard while nobody could write. Who comes back first would else take over what the others drive, and start
    their gateways anew.
    """
    works = held(2)
    first, second = planes = await replicas(2, given=works)
    for one in planes:
        one.freeze()
    operation = await second.ask("edge-1")
    await entered(works[1])
    leases, theirs = first.engine.leases, second.control.started.grpc_url
    for one in planes:
        await silent_for(first, one.epoch, 3 * journal.LEASE_S)
    leases._trusted_until = 0.0
    await leases.renew()
    assert leases.is_living(second.epoch)
    assert leases.serves(theirs)
    assert await leases.sweep() == 0
    leases._back_at -= int((journal.LEASE_S + 0.1) * 1e6)  # it is not heard in the time of a lease
    await leases._see_replicas()
    assert not leases.is_living(second.epoch)
    assert not leases.serves(theirs)
    second.crash()
    assert await leases.sweep() == 1
    let_go(works[0])
    await first.sees(operation, "ready")


async def test_a_database_that_is_always_slow_keeps_nobody_alive_that_is_dead(replicas: Start) -> None:
    first, second = await replicas(2, given=held(2))
    first.freeze()
    second.crash()
    leases, seen = first.engine.leases, list[bool]()
    await silent_for(first, second.epoch, 6 * journal.LEASE_S)
    for _ in range(3):
        leases._trusted_until = 0.0  # each heartbeat of ours comes late
        await leases.renew()
        seen.append(leases.is_living(second.epoch))
        leases._back_at -= bool(leases._back_at) * int(journal.LEASE_S * 1e6)
    assert seen == [True, False, True]


async def test_who_left_as_planned_is_gone_also_after_the_database_was_away(replicas: Start) -> None:
    first, second = await replicas(2, given=held(2))
    first.freeze()
    await second.engine.leases.stop()
    leases = first.engine.leases
    leases._trusted_until = 0.0
    await leases.renew()
    assert not leases.is_living(second.epoch)
    assert not leases.serves(second.control.started.grpc_url)
