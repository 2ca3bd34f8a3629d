"""
Taking back what an operation did, newest first: the list is derived from its journal.

`plan` reads it off the lines alone, so that `operation cancel --plan` shows what `compensate` will run. Each state that was
entered names its undo in the table; whether its effect came to an end does not matter, for every undo succeeds when there
is nothing to undo. In a state that only another version knows anything may have been done: all undos follow from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mcpg import faults
from mcpg.engine import allocator, rolling
from mcpg.engine.core import Core
from mcpg.engine.effects import Companions, count, departures, ended, need_of, not_created, room_of
from mcpg.engine.operation import Operation, Outcome
from mcpg.machines import provision
from mcpg.machines.table import Work
from mcpg.store import reads, writes
from mcpg.store.journal import Line

P, S = provision.Event, provision.State


@dataclass(frozen=True, slots=True)
class Undo:
    """One step back: `undo` takes back `effect`, which ran in the state that was first entered by line `from_seq`."""

    undo: str
    effect: str
    from_seq: int
    words: str  # what it will do


def plan(op: Operation, lines: Sequence[Line]) -> list[Undo]:
    """What a compensation does, newest first, each undo once. Pure."""
    entered: dict[str, tuple[str, int]] = {}  # undo: its effect, and the line that led to it
    works = {s.value: rest for s, rest in op.table.rests.items() if isinstance(rest, Work) and rest.undo}
    known = {s.value for s in op.table.states}
    order = [rest.undo for rest in works.values()]
    for line in lines:
        for rest in works.values() if line.dest not in known else filter(None, [works.get(line.dest)]):
            entered.setdefault(str(rest.undo), (rest.effect, line.seq))
    steps = sorted(entered.items(), key=lambda step: (step[1][1], order.index(step[0])), reverse=True)
    return [Undo(undo, effect, seq, FORESEEN[undo](op, lines)) for undo, (effect, seq) in steps]


async def compensate(engine: Core, op: Operation) -> Outcome:
    """Run the plan, and write down what each step of it did."""
    lines = await reads.history(engine.db, op.id)
    done: list[dict[str, Any]] = []
    also: Companions = ()
    for step in plan(op, lines):
        faults.reach(f"undo:before:{step.undo}")
        words, more = await RUN[step.undo](engine, op, lines)
        faults.reach(f"undo:after:{step.undo}")
        done.append({**asdict(step), "did": words})
        also += more
    cancelled = next((line for line in reversed(lines) if line.event == P.CANCEL.value), None)
    cause = cancelled or next(filter(_leads_here, reversed(lines)), None)
    why = cause.reason if cause else ""
    code = "cancelled" if cancelled else str(cause.data.get("code", "failed")) if cause else "failed"
    return Outcome(
        P.UNDONE,
        facts=provision.Seen(replicas=op.spec["replicas"], cancelled=cancelled is not None),
        reason=why,
        data={"code": code, "undone": [step["did"] for step in done if step["did"]], "steps": done}
        | await room_of(engine, op),
        sets=ended(engine, why or code, code),
        also=(*also, *not_created(engine, op)),
    )


def _leads_here(line: Line) -> bool:
    """Whether this line is why there is something to take back: not an attempt at it, nor a resume of it."""
    back = S.COMPENSATING.value
    return line.dest == back and line.source != back and line.event != P.RESUME.value


# ---- what each undo will do, and does


def _foresee_remove(op: Operation, lines: Sequence[Line]) -> str:
    if op.previous is None:
        return f"stop {op.name} ({count(op.spec['replicas'], 'replica')}) and delete its files, credentials and tokens"
    return rolling.foresee_back(op)


async def _remove(engine: Core, op: Operation, lines: Sequence[Line]) -> tuple[str, Companions]:
    """A create's replicas are removed; an update's gateway goes back to its previous spec and config."""
    assert engine.provisioner is not None  # noqa: S101 - nothing was applied without one
    if op.previous is None:
        removed = await engine.provisioner.remove(op.instance_id)
        return removed.detail, (
            writes.revoke_tokens_of(op.instance_id, engine.clock()),
            *await departures(engine, op),
        )
    old = op.previous
    words, placed = await rolling.back(engine, op, lines, undo_key(op, lines))
    row = await reads.find_instance(engine.db, op.instance_id) or {}
    return ", ".join(words), (
        writes.assign(op.instance_id, row["cluster_id"], old, old["config_version"], old["config_hash"]),
        writes.set_endpoints(op.instance_id, [e for p in placed for e in p.endpoints]),
    )


def undo_key(op: Operation, lines: Sequence[Line]) -> str:
    """
    The key of what a compensation orders: a replica that the operation started and that ended is started again, with
    its previous config. The same after a crash; another one after a resume.
    """
    entered = sum(line.dest == S.COMPENSATING.value and line.source != line.dest for line in lines)
    return f"{op.id}-undo-{entered}"


def _taken(lines: Sequence[Line]) -> dict[str, Any]:
    """What the reservation's line says; {} when nothing was reserved."""
    return next((line.data for line in lines if line.event == P.RESERVED.value), {})


def _foresee_release(op: Operation, lines: Sequence[Line]) -> str:
    taken = _taken(lines)
    if not taken:
        return "nothing was reserved"
    orphan = "orphaned_at" in taken
    keep = need_of(op.previous).places if op.previous is not None and not orphan else 0
    back = max(0, int(taken["places"]) - keep)
    words = f"release {count(back, 'place')} in {taken['cluster']}" if back else f"keep the room in {taken['cluster']}"
    return f"{words}, and leave it an orphan again" if orphan else words


async def _release(engine: Core, op: Operation, lines: Sequence[Line]) -> tuple[str, Companions]:
    """Exactly what was taken goes back. Of a create, `not_created` releases it; an orphan is one again."""
    held = await reads.find_reservation(engine.db, op.instance_id)
    taken = _taken(lines)
    orphan, keep = "orphaned_at" in taken, allocator.NOTHING
    if op.previous is not None and not orphan:
        keep = need_of(op.previous)
    back = (held["places"] if held else 0) - keep.places
    words = f"{count(back, 'place')} released" if back > 0 else ""
    if orphan:
        return words, writes.orphan_again(op.instance_id, taken["orphan_of"], taken["orphaned_at"])
    return words, writes.settle(op.instance_id, keep) if any(keep) else ()


Foresee = Callable[[Operation, Sequence[Line]], str]
Run = Callable[[Core, Operation, Sequence[Line]], Awaitable[tuple[str, Companions]]]
FORESEEN: dict[str, Foresee] = {"release": _foresee_release, "remove": _foresee_remove}
RUN: dict[str, Run] = {"release": _release, "remove": _remove}
