"""What one control plane writes every other one hears: each line once, whichever of them a client asks."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from mcpg.errors import TemporaryError, Unavailable
from mcpg.store import reads
from mcpg.store.journal import Line
from mcpg.store.writer import Fate
from tests.bounds import BOUND_S
from tests.conftest import parse_events
from tests.engine.fakes import Scripted
from tests.replicas.conftest import Replica, Start


def heard_by(replica: Replica) -> list[Line]:
    """Every line it hears from now on, its own and the others'."""
    lines: list[Line] = []
    replica.db.writer.listen(lines.append)
    return lines


async def caught_up(replica: Replica, heard: list[Line], count: int) -> None:
    async def look() -> bool:
        return len(heard) >= count

    await replica.until(look, f"{count} lines heard", BOUND_S)


async def test_every_line_is_heard_once_by_every_replica(replicas: Start) -> None:
    planes = await replicas(3)
    heard = [heard_by(p) for p in planes]
    before = await reads.newest_line_id(planes[0].db)
    await asyncio.gather(*(p.publish(f"edge-{n}-{i}") for i, p in enumerate(planes) for n in range(5)))
    written = await reads.raw_lines(planes[0].db, before, 1000)
    for plane, lines in zip(planes, heard, strict=True):
        await caught_up(plane, lines, len(written))
        await plane.engine.feed.page()
        assert Counter((line.subject, line.seq) for line in lines) == Counter((w["subject"], w["seq"]) for w in written)


async def test_lines_of_others_come_in_the_order_of_the_journal(replicas: Start) -> None:
    first, second = await replicas(2)
    heard = heard_by(second)
    before = await reads.newest_line_id(first.db)
    await asyncio.gather(*(first.publish(f"edge-{n}") for n in range(5)))
    written = await reads.raw_lines(first.db, before, 1000)
    await caught_up(second, heard, len(written))
    assert [(line.subject, line.seq) for line in heard] == [(w["subject"], w["seq"]) for w in written]


async def accepted_with_the_feed_faster(one: Replica, heard: list[Line]) -> str:
    """An operation whose acceptance the feed read before *one* was told of its commit; *heard* is what is heard there."""
    deliver = one.db.writer._deliver
    late: list[list[Fate]] = []
    one.db.writer._deliver = late.append  # type: ignore[method-assign]
    asking = asyncio.create_task(one.ask("edge-1"))

    async def read() -> bool:
        await one.engine.feed.page()
        return len(heard) >= 2

    await one.until(read, "the feed was faster", BOUND_S)
    one.db.writer._deliver = deliver  # type: ignore[method-assign]
    while late:
        deliver(late.pop(0))
    return await asking


async def test_a_line_that_the_feed_reads_before_its_own_commit_is_heard_is_not_heard_twice(replicas: Start) -> None:
    """The commit is seen by a read before the loop is told of it: whichever comes first tells, the other does not."""
    [one] = await replicas(1)
    heard = heard_by(one)
    operation = await accepted_with_the_feed_faster(one, heard)
    await one.sees(operation, "ready")
    await one.engine.feed.page()
    assert [line.seq for line in heard if line.subject == operation] == [1, 2, 3, 4, 5]


async def test_what_was_accepted_is_driven_at_once_though_the_feed_read_its_line_first(replicas: Start) -> None:
    """A late answer to COMMIT: no heartbeat and no sweep is there to find the row, only the line itself."""
    [one] = await replicas(1)
    one.freeze()
    told = asyncio.Event()
    one.db.writer.listeners.add(lambda _: told.set(), lambda _: told.clear())
    operation = await accepted_with_the_feed_faster(one, heard_by(one))
    assert told.is_set()
    assert one.engine.accepted == {}
    await one.sees(operation, "ready")


@pytest.mark.parametrize("asked", ["first", "second", "third"])
async def test_a_ladder_can_be_followed_on_any_replica(replicas: Start, asked: str) -> None:
    """Accepted on the first, watched by its events wherever somebody asks: the same lines, to the end."""
    works = [Scripted(), Scripted(), Scripted()]
    works[0].hold = asyncio.Event()
    planes = await replicas(3, given=works)
    operation = await planes[0].ask("edge-1")
    watcher = planes[["first", "second", "third"].index(asked)]
    answer = asyncio.create_task(watcher.client.get(f"/v1/operations/{operation}/events"))
    async with asyncio.timeout(BOUND_S):
        await works[0].entered.wait()
    works[0].hold.set()
    events = parse_events((await answer).text)
    assert [e["_id"] for e in events[:-1]] == ["1", "2", "3", "4", "5"]
    assert (events[-1]["_event"], events[-2]["state"]) == ("end", "ready")


async def test_a_line_that_overtakes_those_of_another_leaves_no_gap_in_a_stream(
    replicas: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second replica's own line is heard at its commit, before its feed has read what the first wrote earlier."""
    works = [Scripted(), Scripted()]
    works[0].hold = asyncio.Event()
    works[0].problems = [TemporaryError("the registry is down", delay=1200)]
    first, second = await replicas(2, given=works)
    operation = await first.ask("edge-1")
    async with asyncio.timeout(BOUND_S):
        await works[0].entered.wait()
    raw_lines, may_read = reads.raw_lines, asyncio.Event()

    async def late(db: Any, *args: Any) -> list[dict[str, Any]]:
        if db is second.db:
            await may_read.wait()
        return await raw_lines(db, *args)

    monkeypatch.setattr("mcpg.store.reads.raw_lines", late)
    seen: list[int] = []
    async with (
        asyncio.timeout(BOUND_S),
        second.client.stream("GET", f"/v1/operations/{operation}/events") as answer,
    ):
        async for line in answer.aiter_lines():
            if not line.startswith("id: "):
                continue
            seen.append(int(line[4:]))
            if len(seen) == 3:
                works[0].hold.set()
                written = await first.until(lambda: _line(first, operation, 4), "the first went on")
                assert written["event"] == "retry"
                cancel = f"/v1/operations/{operation}/cancel"
                assert (await second.client.post(cancel, json={"reason": "not wanted"})).status_code == 200
            if len(seen) > 3:
                may_read.set()
    assert seen == [line.seq for line in await reads.history(first.db, operation)]


async def _line(replica: Replica, subject: str, seq: int) -> dict[str, Any] | None:
    return await replica.db.one("SELECT * FROM journal WHERE subject=? AND seq=?", subject, seq)


async def test_the_events_of_all_are_those_of_every_replica(replicas: Start) -> None:
    first, second = await replicas(2)
    seen: list[str] = []
    async with second.client.stream("GET", "/v1/events") as answer:
        lines = answer.aiter_lines()
        async with asyncio.timeout(BOUND_S):
            asked = [await first.ask("edge-1"), await second.ask("edge-2")]
            async for line in lines:
                if line.startswith("data: ") and json.loads(line[6:]).get("state") == "ready":
                    seen.append(json.loads(line[6:])["operation_id"])
                if len(seen) == 2:
                    break
    assert sorted(seen) == sorted(asked)


async def test_a_cancel_on_one_replica_interrupts_the_work_of_another(replicas: Start) -> None:
    works = [Scripted(), Scripted()]
    works[0].hold = asyncio.Event()
    first, second = await replicas(2, given=works)
    operation = await first.ask("edge-1")
    async with asyncio.timeout(BOUND_S):
        await works[0].entered.wait()
    answer = await second.client.post(f"/v1/operations/{operation}/cancel", json={"reason": "not wanted"})
    assert answer.status_code == 200, answer.text
    await second.sees(operation, "cancelled")
    assert (works[0].removed, works[1].removed) == ([works[0].orders[0].instance_id], [])  # undone by who drove it


async def test_who_lost_the_database_catches_up_from_where_it_was(
    replicas: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await replicas(2)
    heard = heard_by(second)
    raw_lines, away, tried = reads.raw_lines, [True], asyncio.Event()

    async def blip(db: Any, *args: Any) -> list[dict[str, Any]]:
        if away and db is second.db:
            tried.set()
            raise Unavailable("the database could not be read", cause="a cut")
        return await raw_lines(db, *args)

    monkeypatch.setattr("mcpg.store.reads.raw_lines", blip)
    async with asyncio.timeout(BOUND_S):
        await tried.wait()  # the read that was under way when the database went is over
    operation = (await first.publish("edge-1"))[-1]["operation_id"]
    assert heard == []
    away.clear()
    await caught_up(second, heard, 5)
    assert [line.seq for line in heard if line.subject == operation] == [1, 2, 3, 4, 5]


async def test_room_that_one_replica_took_is_not_offered_by_another(replicas: Start) -> None:
    """The pool of places is a hint: two replicas fill a cluster to its last place, and the next is refused by both."""
    first, second = await replicas(2, local_gateways_max=6)
    ends = await asyncio.gather(*((first, second)[n % 2].publish(f"edge-{n}") for n in range(8)))
    assert Counter(events[-1]["state"] for events in ends) == {"ready": 6, "failed": 2}
    assert {events[-1]["code"] for events in ends if events[-1]["state"] == "failed"} == {"no_capacity"}
