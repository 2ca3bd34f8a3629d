"""One driver an operation: leases, fences, take-overs, and what happens to who was left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcpg.errors import Conflict, Unavailable
from mcpg.machines import provision
from mcpg.store import journal, lease, reads
from mcpg.store.journal import Also, Fire
from mcpg.store.lease import AT_ONCE
from tests.bounds import BOUND_S
from tests.engine.fakes import Scripted
from tests.replicas.conftest import Replica, Start, time_passes


def held(count: int) -> list[Scripted]:
    """Provisioners whose applies wait until they are let go."""
    made = [Scripted() for _ in range(count)]
    for one in made:
        one.hold = asyncio.Event()
    return made


def let_go(provisioner: Scripted) -> None:
    """Whoever waits goes on, and nobody waits from now on: the one that is to take over may have been faster than we are."""
    if provisioner.hold is not None:
        provisioner.hold.set()
    provisioner.hold = None


async def story(replica: Replica, operation_id: str) -> list[str]:
    return [line.event for line in await reads.history(replica.db, operation_id)]


async def entered(provisioner: Scripted) -> None:
    async with asyncio.timeout(BOUND_S):
        await provisioner.entered.wait()


SHIPPED = (journal.LEASE_S, lease.TRUST_S, lease.RENEW_S, lease.SWEEP_S)  # the tests here stretch the first two


def test_the_arithmetic_of_leases() -> None:
    """Two heartbeats in a row may fail, and who is cut off stops a second before anybody may take what is his."""
    assert SHIPPED == (10.0, 9.0, 3.0, 1.0)
    assert (journal.LEASE_S, lease.TRUST_S) == (3600.0, 3599.0)


async def test_who_accepts_a_request_drives_it_and_nobody_else_does(replicas: Start) -> None:
    works = [Scripted(), Scripted(), Scripted()]
    first, second, third = await replicas(3, given=works)
    events = await second.publish("edge-1")
    assert events[-1]["state"] == "ready"
    assert [len(w.orders) for w in works] == [0, 1, 0]
    row = await first.says(events[-1]["operation_id"])
    assert (row["lease_owner"], row["lease_until"]) == (None, None)
    assert (first.epoch, third.epoch) != (second.epoch, second.epoch)


async def test_an_open_row_is_leased_wherever_an_engine_moves_it_on(replicas: Start) -> None:
    [work] = given = held(1)
    [one] = await replicas(1, given=given)
    operation = await one.ask("edge-1")
    await entered(work)
    row = await one.says(operation)
    assert (row["state"], row["lease_owner"]) == ("applying", one.epoch)
    assert row["lease_until"] > row["updated_at"]


async def test_what_a_killed_replica_drove_another_finishes_and_starts_nothing_twice(replicas: Start) -> None:
    works = held(2)
    first, second = await replicas(2, given=works)
    operation = await first.ask("edge-1")
    await entered(works[0])
    first.crash()
    await time_passes(second, first.epoch)
    let_go(works[1])
    await second.sees(operation, "ready")
    assert await story(second, operation) == ["request", "accept", "reserved", "applied", "confirmed"]
    assert {o.operation_id for w in works for o in w.orders} == {operation}


async def test_lesson_4_only_who_wins_the_compare_and_set_drives(
    replicas: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recovery that acts on a stale read runs work it does not own: two that saw one free row, and one takes it."""
    works = held(3)
    first, second, third = await replicas(3, given=works)
    operation = await first.ask("edge-1")
    await entered(works[0])
    first.crash()
    both_have_read = asyncio.Barrier(2)
    claimable = reads.claimable

    async def read_then_wait(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        found = await claimable(*args, **kwargs)
        if found:
            async with asyncio.timeout(BOUND_S):
                await both_have_read.wait()
        return found

    second.freeze()
    third.freeze()
    await time_passes(second, first.epoch)
    monkeypatch.setattr("mcpg.store.reads.claimable", read_then_wait)
    found = await asyncio.gather(second.engine.leases.sweep(), third.engine.leases.sweep())
    assert found == [1, 1]  # both saw it
    drivers = [replica.epoch for replica in (second, third) if operation in replica.engine._drivers]
    assert drivers == [(await second.says(operation))["lease_owner"]]


async def overtaken(replicas: Start, works: list[Scripted]) -> tuple[Replica, Replica, str]:
    """A replica that stood still for longer than its lease while it worked, the one that works now, and on what."""
    first, second = await replicas(2, given=works)
    operation = await first.ask("edge-1")
    await entered(works[0])
    first.freeze()
    await time_passes(second, first.epoch)
    await entered(works[1])
    return first, second, operation


async def test_lesson_3_an_old_epoch_that_still_drains_cannot_write(replicas: Start) -> None:
    """A process that was replaced while it worked comes back to its row: the fence refuses it, and it lets go."""
    works = held(2)
    first, second, operation = await overtaken(replicas, works)
    version = (await second.says(operation))["version"]
    with pytest.raises(Conflict, match="not ours to move"):
        await first.db.writer.fire(
            Fire(
                provision.MACHINE, operation, provision.Event.APPLIED, "engine", expect=version, claim=first.epoch,
                fence=first.epoch,
            )
        )  # fmt: skip
    assert works[0].hold is not None
    works[0].hold.set()  # the old one's effect ends: what it says of it is refused
    await first.until(lambda: _gone(first, operation), "the old driver is gone")
    assert (await second.says(operation))["version"] == version
    assert works[1].hold is not None
    works[1].hold.set()
    await second.sees(operation, "ready")
    assert await story(second, operation) == ["request", "accept", "reserved", "applied", "confirmed"]


async def _gone(replica: Replica, operation: str) -> bool:
    return operation not in replica.engine._drivers


async def test_who_cannot_renew_stops_driving_and_goes_on_with_what_is_still_its_own(
    replicas: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is away for longer than a lease is trusted: nothing is driven until it says what is still ours."""
    [work] = given = held(1)
    [one] = await replicas(1, given=given)
    operation = await one.ask("edge-1")
    await entered(work)
    leases = one.engine.leases
    leases._trusted_until = 0.0  # as after nine seconds without a heartbeat
    leases._left_behind()
    await one.until(lambda: _gone(one, operation), "let go")
    let_go(work)
    await leases.renew()
    await one.sees(operation, "ready")
    assert [o.operation_id for o in work.orders] == [operation, operation]


async def test_a_replica_drops_what_another_took_while_it_was_away(replicas: Start) -> None:
    works = held(2)
    first, second, operation = await overtaken(replicas, works)
    driving = first.engine._drivers[operation].task
    assert driving is not None
    await first.engine.leases.renew()
    assert driving.cancelling()
    await first.until(lambda: _gone(first, operation), "let go")
    assert operation in second.engine._drivers


async def test_a_planned_stop_gives_back_at_once_what_it_drove(replicas: Start) -> None:
    works = held(2)
    first, second = await replicas(2, given=works)
    operation = await first.ask("edge-1")
    await entered(works[0])
    await first.engine.stop()
    row = await second.says(operation)
    assert row["lease_owner"] in (None, second.epoch)  # not after its term: now
    let_go(works[1])
    await second.sees(operation, "ready")
    await second.engine.leases.renew()
    assert not second.engine.leases.is_living(first.epoch)


async def test_lesson_36_a_restart_takes_its_predecessors_rows_at_once(replicas: Start) -> None:
    """Leases that outlive a crash block what they protect: the same state directory waits for nobody."""
    works = held(2)
    first, second = await replicas(2, given=works)
    operation = await first.ask("edge-1")
    await entered(works[0])
    first.crash()
    old = await first.says(operation)
    me = lease.Myself(first.engine.leases.me.id, "e-next", "here", 1, "1", "", "", "scripted")
    await second.db.writer.execute(*lease.introduce(me, old["updated_at"], old["lease_until"] + 1, second.db.clock_sql))
    row = await second.says(operation)
    assert (row["lease_owner"], row["version"]) == ("e-next", old["version"])


async def test_lesson_1_a_row_that_nobody_drives_is_found_whatever_became_of_its_driver(replicas: Start) -> None:
    """Every open row has a lease or is free: one whose driver was lost, with its process alive, is taken up again."""
    [work] = given = held(1)
    [one] = await replicas(1, given=given)
    operation = await one.ask("edge-1")
    await entered(work)
    task = one.engine._drivers[operation].task
    assert task is not None
    task.cancel()
    await one.until(lambda: _gone(one, operation), "lost")
    let_go(work)
    await one.engine.leases.renew()
    await one.sees(operation, "ready")


async def test_lesson_2_a_database_that_is_away_during_the_sweep_loses_nothing(
    replicas: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recovery is a sweep that is always running: the first looks fail, a later one finds what they would have found."""
    works = held(2)
    first, second = await replicas(2, given=works)
    operation = await first.ask("edge-1")
    await entered(works[0])
    first.crash()
    claimable, failures = reads.claimable, []

    async def blip(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        if len(failures) < 2:
            failures.append(1)
            second.engine.leases.hurry()
            raise Unavailable("the database could not be read", cause="a blip")
        return await claimable(*args, **kwargs)

    monkeypatch.setattr("mcpg.store.reads.claimable", blip)
    await time_passes(second, first.epoch)
    let_go(works[1])
    await second.sees(operation, "ready")
    assert len(failures) == 2


async def test_many_free_rows_are_shared_out(replicas: Start) -> None:
    works = held(3)
    first, second, third = await replicas(3, given=works, local_gateways_max=1000)
    asked = [await first.ask(f"edge-{n}") for n in range(AT_ONCE + 4)]
    first.crash()
    for work in works[1:]:
        let_go(work)
    await time_passes(second, first.epoch)
    for operation in asked:
        await third.sees(operation, "ready")
    for operation in asked:
        assert (await story(second, operation)).count("applied") == 1


async def test_a_replica_without_a_provisioner_leaves_that_work_to_others(replicas: Start) -> None:
    [none] = await replicas(1, provisioner="none")
    [noop] = await replicas(1)
    ready = await noop.publish("edge-1")
    uid = ready[-1]["data"]["instance_uid"]
    events = await none.delete(uid)  # accepted there, driven where gateways can be stopped
    assert events[-1]["state"] == "deleted"
    lines = await reads.history(none.db, events[-1]["operation_id"])
    assert [line.dest for line in lines] == ["requested", "draining", "deleting", "confirming", "deleted"]


async def test_a_copied_state_directory_gets_a_name_of_its_own(replicas: Start) -> None:
    """Two that live must not be one replica: the one whose row is another start's goes on under a new id."""
    first, second = await replicas(2)
    was = first.engine.leases.me.id
    twin = lease.Myself(was, "e-twin", "there", 1, "1", "", "", "noop")
    now = first.engine.clock()
    await second.db.writer.execute(*lease.introduce(twin, now, now + 10_000_000, second.db.clock_sql))
    await first.engine.leases.renew()
    assert first.engine.leases.me.id != was
    assert (first.state_dir / "replica-id").read_text().strip() == first.engine.leases.me.id
    assert {r["epoch"] for r in await reads.replicas(second.db)} == {first.epoch, second.epoch, "e-twin"}


@pytest.mark.damages
async def test_a_sweep_takes_what_can_be_read(replicas: Start) -> None:
    works = held(2)
    first, second = await replicas(2, given=works)
    lost, whole = [await first.ask(name) for name in ("edge-1", "edge-2")]
    await entered(works[0])
    first.crash()
    await second.db.writer.execute(Also("UPDATE operation SET spec='{' WHERE id=?", (lost,), expect=1))
    await time_passes(second, first.epoch)
    let_go(works[1])
    await second.sees(whole, "ready")
    assert (await second.says(lost))["lease_owner"] == first.epoch
