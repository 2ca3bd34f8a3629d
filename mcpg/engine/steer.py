"""
What an operator does to an operation: resume what paused, try again, cancel.

Called by mcpg/api/operations.py. Each is one move, decided on the row as it is and written by compare-and-set; when the
engine moved the row meanwhile, it is decided again. What cannot be done is refused with the state and what can. The engine
hears the line like any other, in this process or in the one that drives the operation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from mcpg.engine import anew
from mcpg.engine.compensation import Undo, plan
from mcpg.engine.core import Core
from mcpg.engine.effects import ended
from mcpg.engine.operation import Operation
from mcpg.errors import Conflict, Refused
from mcpg.machines import TABLES, provision, recovery, teardown
from mcpg.machines.table import NO_FACTS, Facts
from mcpg.store import reads, writes
from mcpg.store.journal import Also, Fire

Row = dict[str, Any]
PAUSED, COMPENSATING = provision.State.PAUSED.value, provision.State.COMPENSATING.value
TRIES = 8  # decisions, while somebody else moves the row in between


@dataclass(frozen=True, slots=True)
class CancelPlan:
    """What a cancel would do now: where the operation goes, what is taken back there, newest first, and in words."""

    goes_to: str
    words: str
    steps: list[Undo]


async def resume(engine: Core, operation_id: str, *, actor: str, reason: str) -> str:
    """From `paused` back to where it was, with a fresh deadline. Answers with the operation's id; raises Refused."""
    return await _decided(engine, operation_id, lambda row: _resume(engine, row, actor, reason))


async def cancel(engine: Core, operation_id: str, *, actor: str, reason: str) -> str:
    """Stop it and take back what it did. Answers with its id; raises Refused."""
    return await _decided(engine, operation_id, lambda row: _cancel(engine, row, actor, reason))


async def retry(engine: Core, operation_id: str, *, actor: str, reason: str) -> str:
    """
    The attempt that was put off is made now; what paused is resumed; what failed or was cancelled is asked for anew: the
    id is then the new operation's. Raises Refused, and what the request itself is refused with.
    """
    return await _decided(engine, operation_id, lambda row: _retry(engine, row, actor, reason))


async def cancel_plan(engine: Core, operation_id: str) -> CancelPlan:
    """What `cancel` would do. Raises what it would raise; writes nothing."""
    row = await _row(engine, operation_id)
    dest = _cancelled_to(engine, row)
    if dest != COMPENSATING:
        words = _WATCHED if _is_watched(row) else _STAYS.get(row["machine"], "nothing was begun")
        return CancelPlan(dest, words, [])
    steps = plan(Operation.of(row), await reads.history(engine.db, operation_id))
    words = "what it did is taken back, newest first" if steps else "nothing was begun, so nothing is taken back"
    return CancelPlan(dest, words, steps)


_STAYS = {
    teardown.MACHINE.name: "nothing was stopped yet: the gateway stays",
    recovery.MACHINE.name: "the gateway is left as it is: whatever of it ends, now or later, is not started again until it is"
    " published or this is retried",
}
_WATCHED = "every replica serves: it is not watched any longer, and is brought back as before when it ends"


def _is_watched(row: Row) -> bool:
    return (row["machine"], row["state"]) == (recovery.MACHINE.name, recovery.State.WATCHING.value)


async def _decided(engine: Core, operation_id: str, decide: Callable[[Row], Awaitable[str]]) -> str:
    raced: Conflict | None = None
    for _ in range(TRIES):
        row = await _row(engine, operation_id)
        try:
            return await decide(row)
        except Conflict as exc:  # moved between our look and our write: look again
            raced = exc
    assert raced is not None  # noqa: S101 - the loop ran
    raise raced


async def _row(engine: Core, operation_id: str) -> Row:
    row = await reads.find_operation(engine.db, operation_id)
    assert row is not None  # noqa: S101 - the caller found it, and operations are never deleted
    return row


async def _resume(engine: Core, row: Row, actor: str, reason: str) -> str:
    if row["state"] != PAUSED:
        _refuse(engine, row, "resumed", "only what waits for an operator is resumed")
    words = _words("resumed", actor, reason)
    sets = {"error": "", "code": ""}
    await _fire(engine, row, "resume", actor, words, facts=_facts(row, bool(row["cancelled"])), sets=sets)
    return str(row["id"])


async def _retry(engine: Core, row: Row, actor: str, reason: str) -> str:
    if row["state"] == PAUSED:
        return await _resume(engine, row, actor, reason)
    if row["state"] in TABLES[row["machine"]].failure_values:
        words = _words("asked for anew", actor, reason) if reason else ""
        return (await anew.again(engine, row, actor=actor, words=words)).id
    if not is_put_off(row, engine.clock()):
        is_over = row["state"] in TABLES[row["machine"]].final_values
        _refuse(
            engine,
            row,
            "retried",
            "it is over, and did not fail" if is_over else "no attempt is put off: it is at work, or waits to see",
        )
    await _fire(engine, row, "retry", actor, _words("tried again now", actor, reason), data={"now": True})
    return str(row["id"])


async def _cancel(engine: Core, row: Row, actor: str, reason: str) -> str:
    dest, words = _cancelled_to(engine, row), _words("cancelled", actor, reason)
    sets: dict[str, Any] = {"cancelled": 1}
    also: tuple[Also, ...] = ()
    if dest in TABLES[row["machine"]].final_values:
        sets |= ended(engine, words, "cancelled")
        also = (writes.end_operation(row["instance_id"]),)
        if row["machine"] == recovery.MACHINE.name and not _is_watched(row):
            left = f"left down, {words}; it is started again by: mcpg-ctl operation retry {row['id']}, or a publish"
            also += (writes.left_down(row["instance_id"], left),)
    await _fire(
        engine, row, "cancel", actor, words, facts=_facts(row, True), data={"code": "cancelled"}, sets=sets, also=also
    )
    return str(row["id"])


def _cancelled_to(engine: Core, row: Row) -> str:
    """Where a cancel leads. Raises Refused."""
    table = TABLES[row["machine"]]
    if "cancel" not in table.allowed(row["state"]):
        is_over = row["state"] in table.final_values
        late = "what was deleted does not come back; it goes on until the gateway is seen gone"
        _refuse(engine, row, "cancelled", "it is over" if is_over else late)
    if row["state"] == COMPENSATING and row["cancelled"]:
        _refuse(engine, row, "cancelled", "it is being cancelled already: what it did is being taken back")
    return str(table.step(row["state"], table.events("cancel"), _facts(row, True)).value)


def _refuse(engine: Core, row: Row, what: str, cause: str) -> NoReturn:
    ways = allowed(row, engine.clock())
    look = f"mcpg-ctl operation show {row['id']}"
    raise Refused(
        f"operation {row['id']} ({row['kind']} {row['name']}) cannot be {what}: it is {row['state']}",
        cause=f"{cause}; possible now: {', '.join(ways) or 'nothing'}",
        hint="      or: ".join(f"mcpg-ctl operation {way} {row['id']}" for way in ways) or look,
        operation_id=row["id"],
        state=row["state"],
        allowed=ways,
    )


def allowed(row: Row, now: int) -> list[str]:
    """What an operator may do to it as it is, at *now* (microseconds): of resume, retry and cancel."""
    table, state = TABLES[row["machine"]], row["state"]
    ways = ["resume"] if state == PAUSED else []
    if state == PAUSED or is_put_off(row, now) or (state in table.failure_values and anew.is_known(row)):
        ways.append("retry")
    if "cancel" in table.allowed(state) and not (state == COMPENSATING and row["cancelled"]):
        ways.append("cancel")
    return ways


def is_put_off(row: Row, now: int) -> bool:
    """Whether an attempt failed and the next one is not due yet."""
    return row["next_attempt_at"] is not None and row["next_attempt_at"] > now


def _facts(row: Row, is_cancelled: bool) -> Facts:
    if row["machine"] == provision.MACHINE.name:
        return provision.Seen(replicas=row["spec"]["replicas"], cancelled=is_cancelled, paused_in=row["paused_in"])
    return TABLES[row["machine"]].facts()


def _words(done: str, actor: str, reason: str) -> str:
    return f"{done} by {actor}" + (f": {reason}" if reason else "")


async def _fire(
    engine: Core, row: Row, event: str, actor: str, words: str, *, facts: Facts = NO_FACTS,
    data: dict[str, Any] | None = None, sets: dict[str, Any] | None = None, also: tuple[Also, ...] = (),
) -> None:  # fmt: skip
    """Whoever drives the row goes on driving it: its lease stays."""
    table = TABLES[row["machine"]]
    fire = Fire(
        table, row["id"], table.events(event), actor, facts=facts, expect=row["version"], reason=words,
        data=data or {}, sets=sets or {}, claim=engine.leases.claim,
    )  # fmt: skip
    await engine.db.writer.fire(fire, *also)
