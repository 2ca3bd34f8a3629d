"""Which control planes are there, what nobody looks after, and who is started anew because nobody can reach it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcpg.engine import adrift, stranded
from mcpg.store import journal, lease
from mcpg.store.journal import Also
from tests.engine.fakes import Scripted
from tests.replicas.conftest import Replica, Start
from tests.replicas.test_leases import entered, held

GONE = "http://127.0.0.1:9"


async def asked(replica: Replica, what: str) -> list[dict[str, Any]]:
    answer = await replica.client.get(f"/v1/{what}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


async def states(replica: Replica) -> dict[str, tuple[str, bool]]:
    return {each["epoch"]: (each["state"], each["here"]) for each in await asked(replica, "replicas")}


async def heard(replica: Replica, epoch: str, at: int) -> None:
    await replica.db.writer.execute(Also("UPDATE replica SET seen_at=? WHERE epoch=?", (at, epoch)))
    await replica.engine.leases._see_replicas()


async def nobody_since(replica: Replica, operation: str, at: int, owner: str | None) -> None:
    """As if the lease of *owner* on it had ended at *at*, or as if it had been given back then."""
    await replica.db.writer.execute(
        Also(
            "UPDATE operation SET lease_owner=?,lease_until=?,updated_at=? WHERE id=?",
            (owner, at, at - 1_000_000, operation),
        )
    )


# ---- who is there


async def test_who_lives_who_is_late_and_who_left(replicas: Start) -> None:
    first, second, third, fourth = await replicas(4)
    now = first.engine.clock()
    for one in (second, third, fourth):
        one.freeze()
    await heard(first, third.epoch, now - int((journal.LEASE_S + 1) * 1e6))
    await first.db.writer.execute(*lease.leave(fourth.engine.leases.me, now))
    assert await states(first) == {
        first.epoch: ("living", True),
        second.epoch: ("living", False),
        third.epoch: ("late", False),
        fourth.epoch: ("left", False),
    }
    found = {each["epoch"]: each for each in await asked(first, "replicas")}
    assert found[fourth.epoch]["seen_at"] is None
    me = found[first.epoch]
    assert (me["http_url"], me["version"], me["id"]) == (
        first.control.started.http_url, first.control.started.version, first.engine.leases.me.id,
    )  # fmt: skip
    assert me["seen_at"] >= found[third.epoch]["seen_at"]


async def test_what_each_of_them_drives(replicas: Start) -> None:
    works = held(2)
    first, second = await replicas(2, given=works)
    await second.ask("edge-1")
    await entered(works[1])
    found = {each["epoch"]: each["operations"] for each in await asked(first, "replicas")}
    assert found == {first.epoch: 0, second.epoch: 1}


# ---- operations that nobody drives


async def test_an_operation_that_is_driven_is_not_stranded(replicas: Start) -> None:
    [work] = given = held(1)
    [one] = await replicas(1, given=given)
    operation = await one.ask("edge-1")
    await entered(work)
    one.freeze()
    long_ago = one.engine.clock() - 3_600_000_000
    await nobody_since(one, operation, long_ago, one.epoch)  # alone on its database it has no need of a term
    assert await asked(one, "stranded") == []


@pytest.mark.parametrize("owner", ["e-gone", None], ids=["its lease ended", "it was given back"])
async def test_an_operation_that_nobody_drives_is_stranded_since_its_lease_ended(
    replicas: Start, owner: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stranded, "UNDRIVEN_S", 3600.0)
    [work] = given = held(1)
    [one] = await replicas(1, given=given)
    operation = await one.ask("edge-1")
    await entered(work)
    one.freeze()  # no sweep takes it
    now = one.engine.clock()
    await nobody_since(one, operation, now - int(stranded.UNDRIVEN_S / 2 * 1e6), owner)
    assert await asked(one, "stranded") == []  # the next sweep may take it
    free = Also("UPDATE operation SET lease_until=0,lease_owner=NULL,updated_at=? WHERE id=?", (now, operation))
    await one.db.writer.execute(free)
    assert await asked(one, "stranded") == []  # it was moved a moment ago
    long_ago = now - int(2 * stranded.UNDRIVEN_S * 1e6)
    await nobody_since(one, operation, long_ago, owner)
    [found] = await stranded.stranded(one.engine)
    assert (found.kind, found.subject, found.since) == ("operation", operation, long_ago)
    why = "it is free" if owner is None else "the lease of a start that is over has ended"
    assert (
        found.words
        == f"{operation} (create edge-1) is in applying and nobody drives it: {why}, and no control plane takes it"
    )
    assert found.hint == f"mcpg-ctl operation explain {operation}"
    [body] = await asked(one, "stranded")
    assert (body["kind"], body["subject"], body["message"]) == (found.kind, found.subject, found.words)


async def test_where_no_control_plane_runs_gateways_that_is_said(replicas: Start) -> None:
    works = held(2)
    [none] = await replicas(1, provisioner="none")
    other, third = await replicas(2, given=works)
    third.freeze()  # it lives, and takes nothing
    operation = await other.ask("edge-1")
    await entered(works[0])
    other.crash()
    now = none.engine.clock()
    long_ago = now - int((stranded.UNDRIVEN_S + journal.LEASE_S + 5) * 1e6)
    assert await stranded.stranded(none.engine) == []
    await heard(none, other.epoch, long_ago)
    [found] = await stranded.stranded(none.engine)
    assert (found.subject, found.since) == (operation, long_ago + int(journal.LEASE_S * 1e6))  # whatever its term says
    assert "the lease of rep-" in found.words
    await heard(none, third.epoch, long_ago)
    [found] = await stranded.stranded(none.engine)
    assert found.words.endswith("nobody drives it: no control plane that runs gateways is alive")


# ---- gateways that dial a control plane that is gone


class Dialling(Scripted):
    """A provisioner whose gateways dial one address, and run."""

    url = GONE

    def dials(self, instance_id: str) -> dict[int, str]:
        return {1: self.url}

    async def alive(self, instance_id: str) -> frozenset[int] | None:
        return frozenset({1})


async def test_a_gateway_that_dials_a_control_plane_that_is_gone_is_stranded_and_started_anew(
    replicas: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a minute of that: its control plane may only be restarting. The patrol does it, by a recovery."""
    work = Dialling()
    [one] = await replicas(1, given=[work])
    work.url = one.control.started.grpc_url
    ready = (await one.publish("edge-1"))[-1]
    instance = (await one.says(ready["operation_id"]))["instance_id"]
    engine = one.engine
    assert await adrift.look(engine) == []
    assert (engine.adrift_since, await asked(one, "stranded")) == ({}, [])

    work.url, began = GONE, engine.clock()
    assert await adrift.look(engine) == []
    [found] = await asked(one, "stranded")
    assert [each["stranded"] for each in await asked(one, "instances")] == [found]
    assert found["brief"] == "dials nobody"
    words = f"edge-1 (replica 1) dials {GONE}, where no control plane lives;"
    words += " after 60 s of that it is started anew by itself; if it is not, publish it again"
    assert (found["kind"], found["message"]) == ("gateway", words)
    place = "--org default --workspace default --env default"
    assert found["hint"] == f"mcpg-ctl provision create {place} --name edge-1", "not what shows this very line"

    then = engine.clock
    assert engine.adrift_since[instance] >= began
    since = engine.adrift_since[instance] = then()
    monkeypatch.setattr(engine, "clock", lambda: since + int((adrift.STRANDED_S - 1) * 1e6))
    assert (await adrift.look(engine), engine.stranded) == ([], {})

    work.url = one.control.started.grpc_url  # it is back: all is forgotten
    assert (await adrift.look(engine), engine.adrift_since) == ([], {})

    work.url, work.observes = GONE, True
    engine.adrift_since[instance] = then() - int(adrift.STRANDED_S * 1e6)
    monkeypatch.setattr(adrift, "PATROL_S", 0.01)
    patrol = asyncio.create_task(adrift.patrol(engine))
    try:
        row = await one.until(lambda: _recovery(one), "a recovery of it")
    finally:
        patrol.cancel()
    assert row["instance_id"] == instance
    [asked_for] = [e for e in await _lines(one, row["id"]) if e["event"] == "accept"]
    assert "replica 1 dials a control plane that is gone" in asked_for["reason"]


async def _recovery(one: Replica) -> dict[str, Any] | None:
    found = await one.db.rows("SELECT * FROM operation WHERE kind='recover'")
    return dict(found[0]) if found else None


async def _lines(one: Replica, operation: str) -> list[dict[str, Any]]:
    return await one.db.rows("SELECT * FROM journal WHERE subject=? ORDER BY seq", operation)


async def test_a_patrol_outlives_a_database_that_is_away(replicas: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    [one] = await replicas(1, given=[Dialling()])
    looks: list[int] = []

    async def away(_: Any) -> list[str]:
        looks.append(1)
        if len(looks) < 3:
            raise OSError("the database is away")
        raise asyncio.CancelledError

    monkeypatch.setattr(adrift, "PATROL_S", 0.0)
    monkeypatch.setattr(adrift, "look", away)
    with pytest.raises(asyncio.CancelledError):
        await adrift.patrol(one.engine)
    assert len(looks) == 3
