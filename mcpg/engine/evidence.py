"""
What was seen, as the facts of a guard: an operation's `confirming` ends on evidence, never on hope.

Called by the loop whenever something may have changed; answers with the event to raise, or with when to look again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mcpg.engine import adrift, effects, rollcall, rolling, supervision
from mcpg.engine.core import Core
from mcpg.engine.operation import Operation, Outcome
from mcpg.engine.ports import Answer
from mcpg.engine.rollcall import PROBE_AGAIN_S, Rollcall
from mcpg.machines import enrolment, provision, recovery, teardown
from mcpg.machines.table import Facts, Wait
from mcpg.store import reads, writes
from mcpg.store.journal import Fire

PATIENCE_S = (
    77.0  # a gateway's longest pause between two attempts to connect (60 s and a quarter), and what it then says
)


def patience_s(waited: float) -> float:
    """
    How long a wait that began *waited* seconds ago and was found, not made, is given: what its agents need to come back.

    A gateway doubles its pause with each attempt, from 1 s: its next comes within twice the time that it was alone, and 2 s.
    """
    return min(PATIENCE_S, 2.0 * max(0.0, waited) + 2.0)


@dataclass(slots=True)
class Look:
    """One look. Without an outcome, `again_s` says when the next is due if nothing wakes us before (None: only then)."""

    outcome: Outcome | None = None
    again_s: float | None = None
    summary: str = ""
    seen: provision.Seen | None = None


@dataclass(slots=True)
class Memory:
    """
    What the last look of one operation found, so that only news is written down. `served`: who did before it began, read
    once.
    """

    progress: tuple[int, int] = (0, 0)
    served: frozenset[int] | None = None
    held: frozenset[int] = frozenset()
    probes: int = 0
    trouble: bool = False  # a look failed, and was logged


async def look(engine: Core, op: Operation, memory: Memory) -> Look:
    if op.machine == teardown.MACHINE.name:
        return await _look_gone(engine, op)
    if op.machine == recovery.MACHINE.name:
        outcome, again, summary = await supervision.look(engine, op, memory.probes)
        memory.probes += 1
        return Look(outcome, again, summary)
    return await _look_serving(engine, op, memory)


async def late(engine: Core, op: Operation, rest: Wait, allowed: str, summary: str) -> Outcome:
    """The state's time has passed: the event that this is, and in which words."""
    if op.machine == recovery.MACHINE.name and (outcome := await supervision.late(engine, op, summary)) is not None:
        return outcome
    assert rest.late is not None  # noqa: S101 - a state without it has no deadline
    reason = f"not seen within {allowed}: {rest.for_}; seen: {summary}"
    return Outcome(rest.late, reason=reason, data={"code": "deadline", "seen": summary})


async def _look_gone(engine: Core, op: Operation) -> Look:
    connected = await engine.fleet.connected(op.instance_id)
    if connected:
        return Look(summary=f"{connected} agent stream(s) still open")
    return Look(await effects.gone(engine, op))


async def _look_serving(engine: Core, op: Operation, memory: Memory) -> Look:
    """
    Whether the step the operation is at has come to its end: all that were told serve what they were told, and all that
    served when it began do too. Of a create that is everything; an update then goes on with the next replica.
    """
    wanted, step, following = op.spec["replicas"], rolling.step_of(op), rolling.next_of(op)
    provisioner = engine.provisioner
    if provisioner is not None and not provisioner.observes:
        surplus = max(0, (op.previous or op.spec)["replicas"] - wanted) if following is not None else 0
        seen = provision.Seen(replicas=wanted, rolled=step.rolled, surplus=surplus, evidence=False)
        words = "nothing to observe: the no-op provisioner"
        return Look(_next(op, seen, words) if following else await _confirmed(engine, op, seen, words, ()))

    told = frozenset(range(1, step.rolled + 1))
    for number, ended in (await engine.ended(op.instance_id)).items():
        if number in told:
            return Look(
                Outcome(
                    provision.Event.FAIL,
                    reason=f"replica {number} ({ended.process}) did not stay up: {ended}",
                    data={"code": "gateway_exited", "replica": number, "pid": ended.pid, "words": ended.words},
                )
            )

    if memory.served is None:
        lines = await reads.history(engine.db, op.id) if op.previous is not None else []
        memory.served = rolling.served_before(lines)
    everyone = frozenset(range(1, wanted + 1))
    needed = told | (memory.served & everyone)
    now = await rollcall.call(engine, op.instance_id, needed)
    for agent in now.refused:
        if agent["replica"] in told:
            return Look(await _rejected(engine, op, agent))
    seen = _seen(engine, op, now, told, len(memory.served))
    summary = _summary(op, step, now, seen)
    lost = (engine.adrift(op.instance_id) - now.serving) | now.deaf
    if needed & lost and (outcome := await adrift.gather(engine, op, needed & lost, needed, now, seen)):
        return Look(outcome)
    if needed <= now.serving:
        if following is not None:
            return Look(_next(op, seen, summary))
        if provision.all_replicas_serve(seen):
            return Look(await _confirmed(engine, op, seen, summary, now.answers))
    if (news := _news(op, step, now, seen, needed - told, memory)) is not None:
        return Look(Outcome(provision.Event.OBSERVED, facts=seen, reason=news))
    again = None
    if needed <= now.active:
        again = PROBE_AGAIN_S[min(memory.probes, len(PROBE_AGAIN_S) - 1)]
        memory.probes += 1
    return Look(again_s=again, summary=summary, seen=seen)


async def unasked(engine: Core, op: Operation) -> Facts:
    """The facts that a look would begin with. Nobody is asked and nothing written: who answers is not known then."""
    if op.machine == teardown.MACHINE.name:
        return teardown.Seen(connected=await engine.fleet.connected(op.instance_id))
    now = await rollcall.call(engine, op.instance_id, rollcall.NOBODY)
    observes = engine.provisioner is None or engine.provisioner.observes
    if op.machine == recovery.MACHINE.name:
        return replace(await supervision.seen(engine, op, now), evidence=observes)
    told = frozenset(range(1, rolling.step_of(op).rolled + 1))
    served = rolling.served_before(await reads.history(engine.db, op.id) if op.previous is not None else [])
    return replace(_seen(engine, op, now, told, len(served)), evidence=observes)


def _seen(engine: Core, op: Operation, now: Rollcall, told: frozenset[int], before: int) -> provision.Seen:
    """The facts of the guards. `active` counts those that run the new spec's config: who was told and acknowledged it."""
    wanted = op.spec["replicas"]
    everyone = frozenset(range(1, wanted + 1))
    above = {n for n in now.online if n > wanted} | {a.replica for a in now.answers if a.replica > wanted}
    return provision.Seen(
        replicas=wanted, enrolled=len(now.online & everyone), active=len(now.active & told),
        answering=len(now.answering & everyone), rolled=len(told), before=before, surplus=len(above),
    )  # fmt: skip


def _summary(op: Operation, step: rolling.Step, now: Rollcall, seen: provision.Seen) -> str:
    short = op.spec["config_hash"][:6]
    if rolling.is_one_of_several(op, step):
        words = f"replica {step.rolled} of {seen.replicas}: config {short}"
        if step.rolled not in now.serving:
            return f"{words} sent, {now.words(step.rolled)}"
        return f"{words} active, {next(a.detail for a in now.answers if a.replica == step.rolled)}"
    words = f"{seen.enrolled} of {seen.replicas} enrolled, config {short} active on {seen.active}"
    if seen.active == seen.replicas:
        words += ", " + (now.answers[0].detail if now.answers else "nothing to probe")
    return words + (
        f", {rolling.replicas(seen.replicas + 1, seen.replicas + seen.surplus)} still there"
        if seen.surplus and step.stops
        else ""
    )


def _news(
    op: Operation, step: rolling.Step, now: Rollcall, seen: provision.Seen, others: frozenset[int], memory: Memory
) -> str | None:
    """What a line is written for: the evidence grew, or somebody else than who was told does not serve any more."""
    if rolling.is_one_of_several(op, step):
        held = others - now.serving if step.rolled in now.active and now.answers else others - now.active
        if held <= memory.held:
            return None
        memory.held |= held
        number = min(held)
        return f"the roll waits for replica {number}, which served before: {now.words(number)}"
    if (seen.enrolled, seen.active) > memory.progress:
        memory.progress = (seen.enrolled, seen.active)
        if seen.active < seen.replicas:  # what comes next is the confirmation: no line between
            return _summary(op, step, now, seen)
    return None


def _next(op: Operation, seen: provision.Seen, summary: str) -> Outcome:
    """On to the next step: what it touches is assigned in the same transaction."""
    step = rolling.steps_of(op)[op.step + 1]
    roll = (writes.roll(op.instance_id, op.id, step.rolled),) if rolling.changes_config(op) else ()
    data: dict[str, Any] = {"step": op.step + 1, "replicas": sorted(step.touches)}
    return Outcome(provision.Event.NEXT, facts=seen, reason=summary, data=data, sets={"step": op.step + 1}, also=roll)


async def _rejected(engine: Core, op: Operation, agent: dict[str, Any]) -> Outcome:
    """The gateway's own words, and what is known beyond them: a nack says that a config is wrong, rarely where."""
    words, where = agent["config_error"], ""
    config = await reads.find_config(engine.db, op.instance_id, op.spec["config_version"])
    if config is not None and engine.provisioner is not None:
        where = await engine.provisioner.explain(config["rendered"])
    return Outcome(
        provision.Event.REJECTED,
        reason=f"replica {agent['replica']} refused config {op.spec['config_hash'][:6]}: {words}"
        + (f" ({where})" if where else ""),
        data={"code": "config_rejected", "replica": agent["replica"], "words": words, "explained": where},
    )


async def _confirmed(
    engine: Core, op: Operation, seen: provision.Seen, summary: str, answers: tuple[Answer, ...]
) -> Outcome:
    endpoints = op.endpoints
    if endpoints is None:
        endpoints = (await reads.find_instance(engine.db, op.instance_id) or {}).get("endpoints", [])
    if engine.provisioner is not None and seen.evidence:
        config = await reads.find_config(engine.db, op.instance_id, op.spec["config_version"])
        if config is not None:
            await engine.provisioner.keep(op.instance_id, config["rendered"])
    surplus = tuple(
        Fire(
            enrolment.MACHINE, a["id"], enrolment.Event.REMOVED, "engine", reason=f"scaled down by {op.id}",
            sets={"reason": f"scaled down by {op.id}"},
        )
        for a in (await reads.agents(engine.db, op.instance_id) if op.previous is not None else ())
        if a["replica"] > op.spec["replicas"] and a["state"] != enrolment.State.DEPARTED.value
    )  # fmt: skip
    data: dict[str, Any] = {
        "instance_uid": op.instance_id,
        "endpoints": endpoints,
        "config_hash": op.spec["config_hash"],
        "probes": [{"replica": a.replica, "detail": a.detail, "ms": round(a.ms, 1)} for a in answers],
        **(await effects.room_of(engine, op) if op.previous is not None else {}),
    }
    return Outcome(
        provision.Event.CONFIRMED,
        facts=seen,
        reason=summary + (f" in {answers[0].ms:.0f} ms" if answers else ""),
        data=data,
        sets=effects.ended(engine),
        also=(
            *surplus,
            *(writes.settle(op.instance_id, effects.need_of(op.spec)) if op.previous is not None else ()),
            writes.mark_ready(op.instance_id, engine.clock()),
        ),
    )
